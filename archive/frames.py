"""An archive's frames as a decoder reads them: without a check, since archive/checked_frames.py has verified them.

An archive carries its decoder along and pays for it, so this is all that it reads with.
"""

import json
import zlib
from collections.abc import Iterator
from typing import BinaryIO

MAGIC = b"ONEPASS\1"


def read_frames(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """Yield (kind, content) of every frame, in order."""
    file.seek(len(MAGIC))
    while head := file.read(5):
        yield head[:1], file.read(int.from_bytes(head[1:], "little") + 4)[:-4]


def read_header(content: bytes) -> dict:
    """The header from the content of an H frame."""
    return json.loads(zlib.decompress(content))


def rank_payload(block: bytes, rank: int) -> bytes:
    """What rank `rank` coded, from the content of a B frame."""
    for _ in range(rank + 1):
        stop = 4 + int.from_bytes(block[:4], "little")
        payload, block = block[4:stop], block[stop:]
    return payload
