"""The archive of what a model coded, by re-trainable training (launch/compress.py) or frozen (launch/evaluate.py)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.archive import block_count, end_content, header_content
from data.header import current_pins
from data.lanes import Lanes
from data.tokenizer import Tokenizer
from eval.code_size import reference_machine
from train.encoding import BLOCK_STEPS, block_file


def coded_frames(
    about: dict[str, Any],
    lanes: Lanes,
    threads: int,
    world_size: int,
    tokenizer: Tokenizer,
    program: bytes,
    folder: Path,
    sha256: str,
    data_bits: float,
    packages: dict[str, str] | None = None,
    names: bytes = b"",
) -> Iterator[tuple[bytes, bytes]]:
    """The frames of an archive, for data.archive.write_archive: the payloads that train.encoding left in `folder`, and
    what this process says of itself. `about` are the fields of the header that depend on the method, `names` what
    data.names.pack_names made of the documents' names."""
    header = {
        "tokenizer": tokenizer.kind,
        "lanes": lanes.lanes,
        "segment_tokens": lanes.segment_tokens,
        "block_steps": BLOCK_STEPS,
        "world_size": world_size,
        "threads": threads,
        "machine": reference_machine() | (packages or {}),
        "pins": current_pins(),
        **about,
    }
    yield b"H", header_content(header)
    yield b"T", tokenizer.encoding
    yield b"P", program
    for block in range(block_count(header)):
        yield b"B", block_file(folder, block).read_bytes()
    if names:
        yield b"N", names
    yield b"E", end_content(sha256, data_bits)
