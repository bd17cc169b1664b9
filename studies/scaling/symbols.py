"""The tokenizers of a sweep: `bytes`, `bpe:PIECES`, or a file, each by what its cells are called and started with."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from data.errors import UsageError
from data.file_encoder import usable_pieces
from data.tokenizer_files import read_tokenizer_file
from train.config import BYTE_SYMBOLS, Config, DataConfig, RunConfig

OPTION = "--tokenizers"


@dataclass(frozen=True)
class Symbols:
    """A tokenizer, as cells have it. `name` is part of theirs, and does not depend on what other tokenizers there are:
    two files may have one name, so it holds a part of the SHA-256 too. `identity` tells tokenizers apart."""

    name: str
    identity: str
    vocabulary: int
    data: DataConfig
    run: RunConfig

    @property
    def varied(self) -> dict[str, Any]:
        """The options that differ between tokenizers."""
        fields = ("tokenizer", "vocabulary", "tokenizer_sample_bytes")
        options = {f"data.{name}": getattr(self.data, name) for name in fields}
        return options | {"run.reference_tokenizer": str(self.run.reference_tokenizer).lower()}


def read_symbols(config: Config, text: str, option: str) -> Symbols:
    """The tokenizer that `text`, of an option, names. A file is read, and opened by its package.

    Raises UsageError if it cannot be used. Only a file can be part of the reference machine.
    """
    data, run = config.data, replace(config.run, reference_tokenizer=False)
    if text == "bytes":
        chosen = replace(data, tokenizer="bytes", vocabulary=DataConfig.vocabulary)
        return Symbols("bytes", "bytes", BYTE_SYMBOLS, chosen, run)
    kind, _, number = text.partition(":")
    if kind == "bpe" and re.fullmatch("[0-9]{1,9}|", number):
        vocabulary = int(number or data.vocabulary)
        chosen = replace(data, tokenizer="bpe", vocabulary=vocabulary)
        return Symbols(str(vocabulary), str(vocabulary), vocabulary, chosen, run)
    file = read_tokenizer_file(text, option)
    vocabulary = BYTE_SYMBOLS + len(usable_pieces(file, file.open()))
    name = re.sub(r"[^\w.-]+", "_", file.path.name, flags=re.ASCII)
    # Pieces that are learned have a size and a sample. A file has its own pieces.
    defaults = {name: getattr(DataConfig, name) for name in ("vocabulary", "tokenizer_sample_bytes")}
    chosen = replace(data, tokenizer=text, **defaults)
    return Symbols(f"{name}-{file.sha256[:8]}", file.sha256, vocabulary, chosen, config.run)


def tokenizer_axis(config: Config, texts: Sequence[str]) -> list[Symbols]:
    """The tokenizers of a sweep; that of the configuration alone if it names none. Raises UsageError if one cannot be
    used, or is there twice."""
    if not texts:
        return [read_symbols(config, config.data.tokenizer, "data.tokenizer")]
    if config.data.source.startswith("tokens:"):
        given = f"data.source {config.data.source} is cut already"
        raise UsageError(f"{OPTION} and --vocabularies are ways to cut a text, and {given}: leave them out")
    axis: dict[str, tuple[str, Symbols]] = {}
    for text in texts:
        symbols = read_symbols(config, text, OPTION)
        if symbols.identity in axis:
            twice = f"{axis[symbols.identity][0]} and {text}"
            raise UsageError(f"{OPTION} {twice} are the same tokenizer: leave one out")
        axis[symbols.identity] = text, symbols
    return [symbols for _, symbols in axis.values()]
