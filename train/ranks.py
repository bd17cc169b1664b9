"""Ranks that wait for rank 0: to find it, to prepare a corpus, to name a directory."""

import atexit
import itertools
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from torch import distributed as dist

from data.files import write_file
from train.engine import Place, free_port

# What the launcher gives to every run that asks for no other.
LAUNCHERS_PORT = "29500"
PORT_SECS = 120.0

Result = TypeVar("Result")

# Of what the ranks, which all do the same in the same order, tell each other through their store, where nothing is ever
# forgotten: a second run of the same ranks must not find what the first one said.
_NUMBERS = itertools.count()


def new_key(name: str) -> str:
    return f"onepass/{next(_NUMBERS)}-{name}"


def meet_apart() -> None:
    """Let the ranks that one `deepspeed` started on this host alone meet at a port of their own.

    The launcher names the same port every time, so that two runs on one host would get into each other's way.
    """
    env, parent = os.environ, Path(f"/proc/{os.getppid()}/stat")
    chosen = env.get("MASTER_PORT") != LAUNCHERS_PORT
    if chosen or env.get("CROSS_SIZE") != "1" or env["WORLD_SIZE"] == "1" or not parent.exists():
        return
    # The ranks share their parent, the launcher, which its number and its start (field 22) tell from any other. Rank 0
    # leaves the port where the others look.
    start = parent.read_text().rpartition(")")[2].split()[19]
    note = Path(tempfile.gettempdir()) / f"onepass-{os.getppid()}-{start}"
    if env["RANK"] == "0":
        env["MASTER_PORT"] = str(free_port())
        write_file(note, env["MASTER_PORT"].encode())
        atexit.register(note.unlink, missing_ok=True)
        return
    deadline = time.monotonic() + PORT_SECS
    while not note.exists() or note.stat().st_uid != os.getuid():
        if time.monotonic() > deadline:
            raise OSError(f"rank 0 left no port in {note} within {PORT_SECS} s: it has not come up")
        time.sleep(0.05)
    env["MASTER_PORT"] = note.read_text()


def from_rank_0(place: Place, name: str, value: str) -> str:
    """Rank 0's `value`, on every rank."""
    if place.world_size == 1:
        return value
    store, key = dist.distributed_c10d._get_default_store(), new_key(name)
    if place.rank == 0:
        store.set(key, value)
    return store.get(key).decode()


def after_rank_0(place: Place, name: str, work: Callable[[], Result]) -> Result:
    """`work()` on rank 0, and then, on the other ranks, which by then find it done and cached.

    They wait without a collective, which would time out. Raises ChildProcessError there if rank 0 failed.
    """
    if place.world_size == 1:
        return work()
    store, key = dist.distributed_c10d._get_default_store(), new_key(name)
    if place.rank == 0:
        outcome = "failed"
        try:
            result = work()
            outcome = "done"
            return result
        finally:
            store.set(key, outcome)
    try:
        while not store.check([key]):
            time.sleep(0.1)
        outcome = store.get(key).decode()
    except RuntimeError:
        outcome = "failed"
    if outcome == "failed":
        raise ChildProcessError(f"rank 0 failed, or was lost, at: {name}")
    return work()
