"""Architectures by name. A new one is a file in blocks/ and a line here."""

from importlib import import_module
from typing import Any

BLOCKS = {
    "attention": "Attention",
    "gated_delta": "GatedDelta",
    "gru": "GRU",
    "lstm": "LSTM",
    "mamba": "Mamba",
    "rglru": "RGLRU",
    "s4": "S4",
    "s4d": "S4D",
    "ssd": "SSD",
}


def load_block(name: str) -> Any:
    """The class of block `name`. Only its own file is imported, so a decoder is charged for what it runs.

    Raises ValueError for an unknown name.
    """
    if name not in BLOCKS:
        raise ValueError(f"unknown block {name!r}: model.block takes names from {', '.join(sorted(BLOCKS))}")
    return getattr(import_module(f"model.blocks.{name}"), BLOCKS[name])
