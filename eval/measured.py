"""What is measured on the bytes of a corpus: on the first LIMIT_BYTES at most, once, and kept in a file beside it."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, create_model

from data.errors import UsageError
from data.files import read_json, write_file

LIMIT_BYTES = 100_000_000
BLOCK_BYTES = 1 << 20

Measured = TypeVar("Measured")


@dataclass(frozen=True)
class CorpusBytes:
    """A prepared corpus: its folder, its checksum, and its bytes in chunks, from the start at each call."""

    directory: Path
    sha256: str
    chunks: Callable[[], Iterator[bytes]]
    total_bytes: int
    limit_bytes: int = LIMIT_BYTES


@dataclass(frozen=True)
class MeasuredSizes:
    """Bytes of the corpus by several codes. Beyond the limit, they are those of the first `measured_bytes`, scaled."""

    sizes: dict[str, int | float]
    measured_bytes: int
    total_bytes: int

    @property
    def extrapolated(self) -> bool:
        return self.measured_bytes < self.total_bytes

    def sections(self, name: str) -> dict[str, Any]:
        """As the sections of a report: the sizes, and what they were measured on if that is not the whole corpus."""
        part = {f"{name}_measured_bytes": self.measured_bytes} if self.extrapolated else {}
        return {name: self.sizes, **part}


def first_blocks(chunks: Iterator[bytes], total_bytes: int, limit_bytes: int) -> Iterator[bytes]:
    """The first `limit_bytes` of a corpus of `total_bytes`, in blocks of a mebibyte, however long the chunks are.

    Raises UsageError when `chunks` come to another number of bytes, before any block that would be too much.
    """
    wanted_bytes = min(total_bytes, limit_bytes)
    block, read_bytes = bytearray(), 0
    for chunk in chunks:
        content = chunk[: limit_bytes - read_bytes]
        read_bytes += len(content)
        block += content
        if read_bytes > wanted_bytes:
            break
        while len(block) >= BLOCK_BYTES:
            yield bytes(block[:BLOCK_BYTES])
            del block[:BLOCK_BYTES]
        if read_bytes == limit_bytes:
            break
    if read_bytes != wanted_bytes:
        found = "more" if read_bytes > wanted_bytes else f"only {read_bytes:,}"
        raise UsageError(
            f"the prepared corpus has {total_bytes:,} bytes and the source yields {found}: "
            "it changed since it was prepared; remove the prepared corpus and run again"
        )
    if block:
        yield bytes(block)


def remember(corpus: CorpusBytes, name: str, how: dict[str, Any], shape: type[Measured], measure: Any) -> Measured:
    """`measure(chunks, total_bytes, limit_bytes)`, which returns the dataclass `shape`, or what name.json beside the
    corpus keeps of it for the same corpus, limit, and `how` it was measured.

    Raises UsageError, one line naming the file, if it is damaged.
    """
    path = corpus.directory / f"{name}.json"
    key = {"corpus_sha256": corpus.sha256, "total_bytes": corpus.total_bytes, "limit_bytes": corpus.limit_bytes, **how}
    fields: dict[str, Any] = {"key": (dict[str, Any], ...), name: (shape, ...)}
    if path.exists():
        kept = read_json(path, TypeAdapter(create_model("Kept", **fields)), limit_bytes=100_000)
        if kept.key == key:
            return getattr(kept, name)
    value = measure(corpus.chunks, corpus.total_bytes, corpus.limit_bytes)
    write_file(path, json.dumps({"key": key, name: asdict(value)}, indent=1).encode())
    return value
