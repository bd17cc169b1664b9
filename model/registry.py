"""Architectures by name. A new one is a file in blocks/ and a line here, or `PACKAGE.MODULE:CLASS` from anywhere."""

import re
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
    runs. Unknown names are refused before (train/own_blocks.py)."""
    if ":" in name:
        from model.adapter import adapt

        return adapt(name)
    return getattr(import_module(f"model.blocks.{name}"), BLOCKS[name])


def block_names(pattern: str) -> list[str]:
    """The blocks that a pattern names, each once: "ssd attention @64 | lstm" names three (model/mixture.py)."""
    return list(dict.fromkeys(re.sub(r"@\s*\d+\s*(?=\||$)|\|", " ", pattern).split()))


def display_names(patterns: Iterable[str]) -> dict[str, str]:
    """The patterns as people read them, by pattern: `GatedConv` for `mypkg.blocks:GatedConv`, unless another block
    among these patterns would have the same name."""
    patterns = dict.fromkeys(patterns)
    names = {name for pattern in patterns for name in block_names(pattern)}
    short = [name.rpartition(":")[2] for name in names]
    shown = {name: last if short.count(last) == 1 else name for name, last in zip(names, short, strict=True)}
    apart = {pattern: re.sub(r"([@|])", r" \1 ", pattern).split() for pattern in patterns}
    found = {pattern: " ".join(shown.get(name, name) for name in parts) for pattern, parts in apart.items()}
    return {pattern: text.replace(" @ ", "@") for pattern, text in found.items()}


def block_folder(shown: str) -> str:
    """A pattern as people read it, as a part of a folder's name: "ssd+attention", "ssd~lstm@64"."""
    return shown.replace(" | ", "~").replace(" ", "+").replace(":", ".")


def display_name(pattern: str) -> str:
    """The same of one pattern."""
    return display_names([pattern])[pattern]
