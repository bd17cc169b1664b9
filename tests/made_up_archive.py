"""Small archives for the tests of archives, and the check that a file is refused as one."""

import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from archive.checked_frames import frame
from archive.format import ArchiveError, block_content, end_content, header_content, open_archive, stored_frames
from archive.frames import MAGIC

HEADER: dict[str, Any] = {
    "method": "model",
    "corpus": {"name": "made-up", "bytes": 1000, "documents": 3, "tokens": 301},
    "tokenizer": "bpe",
    "lanes": 4,
    "segment_tokens": 10,
    "block_steps": 3,
    "world_size": 2,
    "threads": 1,
    "machine": {"python": "3.11.7", "torch": "2.13.0"},
    "pins": {"ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "COMPATIBLE"},
    "code": "c0de" * 16,
}

Frames = list[tuple[bytes, bytes]]


def made_up_frames(header: dict[str, Any] = HEADER, program: bytes = b"program") -> Frames:
    """Frames of an archive of about 700 bytes that opens: 301 tokens in 4 lanes are 76 a lane, 8 steps, 3 blocks."""
    random = Random(1)
    blocks = [block_content([random.randbytes(20 + 7 * rank) for rank in range(2)]) for _ in range(3)]
    end = end_content(hashlib.sha256(b"corpus").hexdigest(), 8 * 141.5)
    return [
        (b"H", header_content(header)),
        (b"T", random.randbytes(19)),
        (b"P", program),
        *((b"B", block) for block in blocks),
        (b"E", end),
    ]


def magic_of(frames: Frames) -> bytes:
    """How a file of these frames begins: format 2 has names."""
    return MAGIC[:-1] + (b"\2" if any(kind == b"N" for kind, _ in frames) else b"\1")


def seal(frames: Frames) -> bytes:
    """The file of these frames."""
    return magic_of(frames) + b"".join(frame(number, *parts) for number, parts in enumerate(frames))


def chunks_of(documents: list[list[bytes]]) -> Iterator[tuple[bytes, bool]]:
    for document in documents:
        for number, chunk in enumerate(document, 1):
            yield chunk, number == len(document)


def stored_header(documents: list[list[bytes]]) -> dict[str, Any]:
    counts = {"bytes": sum(map(len, itertools.chain(*documents))), "documents": len(documents), "tokens": 0}
    return {"method": "stored", "corpus": {"name": "raw", **counts}}


def stored(documents: list[list[bytes]], names: tuple[str, ...] = ()) -> Frames:
    return list(stored_frames(stored_header(documents), chunks_of(documents), names))


def with_names(frames: Frames, content: bytes) -> Frames:
    """The same with an N frame of this content before the last."""
    return [*frames[:-1], (b"N", content), frames[-1]]


def refused(path: Path, content: bytes, message: str | None = None) -> None:
    """Check that a file of this content is refused by an ArchiveError of this message."""
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match=message) as error:
        open_archive(path)
    assert str(error.value).startswith(f"{path}: ") and " at byte " in str(error.value)
