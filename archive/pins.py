"""What a process needs before it loads PyTorch, so that an archive decodes: instruction sets, ranks, threads."""

import os

from data.errors import UsageError

# Environment variables that PyTorch and its libraries read when they are loaded, as engine.portable sets them.
PINS = {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE", "ONEDNN_MAX_CPU_ISA": "SSE41"}


def current_pins() -> dict[str, str]:
    """The pins of this process."""
    return {name: os.environ[name] for name in PINS if name in os.environ}


def pinned() -> bool:
    return current_pins() == PINS


def refuse_unpinned(portable: bool) -> None:
    """Raise UsageError where a caller from Python asks for what comes too late."""
    if portable and not pinned():
        wanted = " ".join(f"{name}={value}" for name, value in PINS.items())
        raise UsageError(
            f"engine.portable is true, but PyTorch was loaded without it. Start the program with {wanted} in its "
            "environment, or launch/train.py, which does so"
        )


def refuse_other_world(header: dict, threads: int | None) -> None:
    """Raise UsageError unless this process was started as those were that wrote the archive."""
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    if world_size != header["world_size"]:
        wanted = f"deepspeed --num_accelerators {header['world_size']} launch/decompress.py"
        raise UsageError(
            f"the archive was written by {header['world_size']} ranks and this is a run of {world_size}: start {wanted}"
        )
    if threads not in (None, header["threads"]):
        raise UsageError(
            f"the archive was written with {header['threads']} threads a rank and --threads is {threads}: the order of "
            "sums, and so every bit, depends on it; leave it out"
        )
    for name, value in header["pins"].items():
        if name not in PINS:
            raise UsageError(f"the archive wants {name} set in the environment, which pins no instruction set")
        if os.environ.get(name, value) != value:
            raise UsageError(f"the archive was written with {name}={value} and it is {os.environ[name]} here: unset it")
