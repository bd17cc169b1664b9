"""Architectures by name. A new one is a file in blocks/ and a line here, or `PACKAGE.MODULE:CLASS` from anywhere."""

from collections.abc import Iterable
from importlib import import_module
from typing import Any

BLOCKS = {
    "attention": "Attention",
    "gated_delta": "GatedDelta",
    "gru": "GRU",
    "kda": "KDA",
    "lstm": "LSTM",
    "mamba": "Mamba",
    "mamba3": "Mamba3",
    "mlstm": "MLSTM",
    "rglru": "RGLRU",
    "rwkv7": "RWKV7",
    "s4": "S4",
    "s4d": "S4D",
    "ssd": "SSD",
}


def load_block(name: str) -> Any:
    """What makes block `name` from a ModelConfig. Only its own file is imported, so a decoder is charged for what it
    runs.

    Raises ValueError for an unknown name.
    """
    if ":" in name:
        from model.adapter import adapt

        return adapt(name)
    if name not in BLOCKS:
        raise ValueError(f"unknown block {name!r}: model.block takes names from {', '.join(sorted(BLOCKS))}")
    return getattr(import_module(f"model.blocks.{name}"), BLOCKS[name])


def display_names(patterns: Iterable[str]) -> dict[str, str]:
    """The patterns as people read them, by pattern: `GatedConv` for `mypkg.blocks:GatedConv`, unless another block
    among these patterns would have the same name."""
    patterns = dict.fromkeys(patterns)
    names = {name for pattern in patterns for name in pattern.split()}
    short = [name.rpartition(":")[2] for name in names]
    shown = {name: last if short.count(last) == 1 else name for name, last in zip(names, short, strict=True)}
    return {pattern: " ".join(shown[name] for name in pattern.split()) for pattern in patterns}


def display_name(pattern: str) -> str:
    """The same of one pattern."""
    return display_names([pattern])[pattern]
