"""What every process of ours begins with: what its launcher says in the environment, and how it keeps memory. Imports
nothing that reads the environment."""

import ctypes
import os

from data.errors import UsageError

REMEDY = "unset RANK, LOCAL_RANK and WORLD_SIZE to run alone, or start all ranks with deepspeed or torchrun"


def read_rank() -> int:
    """The rank of this process; 0 if it runs alone.

    Raises UsageError if the environment has only a part of what a launcher sets, or values that cannot be right.
    """
    numbers = {}
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        text = os.environ.get(name)
        if text is not None:
            if not (text.isascii() and text.isdigit()):
                raise UsageError(f"{name} is {text!r} in the environment, which is not a number: {REMEDY}")
            numbers[name] = int(text)
    rank, world_size = numbers.get("RANK", 0), numbers.get("WORLD_SIZE", 1)
    if world_size != 1 or rank:
        for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            if not os.environ.get(name):
                others = f"RANK is {rank}" if "RANK" in numbers else f"WORLD_SIZE is {world_size}"
                raise UsageError(f"{others} in the environment and {name} is missing: {REMEDY}")
    if not 0 <= rank < world_size:
        raise UsageError(f"RANK is {rank} and WORLD_SIZE is {world_size} in the environment: {REMEDY}")
    return rank


def is_rank_0() -> bool:
    rank = os.environ.get("RANK", "")
    return not rank.isdigit() or int(rank) == 0


def keep_memory() -> None:
    """Keep memory that a step frees for the next step: asking the system again costs a tenth of the time, or more in
    small models. Only glibc has these settings, M_TRIM_THRESHOLD and M_MMAP_THRESHOLD."""
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(-1, 2**31 - 1)
        mallopt(-3, 2**30)
