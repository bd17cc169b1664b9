"""The instruction sets that a run pins, so that its archive decodes on other processors, too."""

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
