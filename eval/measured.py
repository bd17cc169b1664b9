"""What is measured on a corpus' own bytes: the first LIMIT_BYTES of them at most, once, and remembered beside it."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, create_model

from data.errors import UsageError
from data.files import read_json, write_file

LIMIT_BYTES = 100_000_000
BLOCK_BYTES = 1 << 20

Measured = TypeVar("Measured")


def first_blocks(chunks: Iterator[bytes], total_bytes: int, limit_bytes: int) -> Iterator[bytes]:
    """The first `limit_bytes` of a corpus of `total_bytes`, in blocks of a mebibyte whatever the chunks.

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


def remembered(path: Path, key: dict[str, Any], shape: type[Measured], measure: Callable[[], Measured]) -> Measured:
    """`measure()`, a dataclass `shape`, or what the JSON file at `path` remembers of it for the same `key`: both of
    them, the value under the file's name.

    Raises UsageError, one line naming the file, when that is damaged.
    """
    name = path.stem
    fields: dict[str, Any] = {"key": (dict[str, Any], ...), name: (shape, ...)}
    if path.exists():
        kept = read_json(path, TypeAdapter(create_model("Kept", **fields)), limit_bytes=100_000)
        if kept.key == key:
            return getattr(kept, name)
    value: Any = measure()
    write_file(path, json.dumps({"key": key, name: asdict(value)}, indent=1).encode())
    return value
