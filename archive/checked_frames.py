"""One frame of an archive: as it is written, and as it is read with every check. archive/format.py has their order."""

import os
import zlib
from pathlib import Path
from typing import BinaryIO

from archive.frames import MAGIC
from data.errors import UsageError
from data.names import MAX_CONTENT_BYTES
from data.readers import CHUNK_BYTES
from data.shards import MAX_ENCODING_BYTES

MAX_HEADER_BYTES = 1 << 16
# With names of documents an archive is of format 2, else of format 1, which earlier releases read.
FORMAT, NAMED_FORMAT = MAGIC[-1], MAGIC[-1] + 1
END_BYTES = 40
# Of a frame's content, by kind.
MAX_BYTES = {
    b"H": MAX_HEADER_BYTES,
    b"T": MAX_ENCODING_BYTES,
    b"P": 4 << 20,
    b"B": (1 << 32) - 1,
    b"S": 1 + CHUNK_BYTES,
    b"N": MAX_CONTENT_BYTES,
    b"E": END_BYTES,
}


class ArchiveError(UsageError):
    """A file is no archive of ours, or not as we wrote it: which file, which frame at which byte, and what is wrong."""


def frame(number: int, kind: bytes, content: bytes) -> bytes:
    """Frame `number`, counted from 0, as it stands in the file."""
    body = kind + len(content).to_bytes(4, "little") + content
    return body + zlib.crc32(body, _seed(number)).to_bytes(4, "little")


def _seed(number: int) -> int:
    """CRC-32 of a frame's number, which is under its checksum but not in the file."""
    return zlib.crc32((number % (1 << 32)).to_bytes(4, "little"))


class CheckedFrames:
    """Reads frames in order, checks each, and knows where it is when something is wrong.

    `name` and `offset` (in bytes, from the file's start) are those of the frame that was read last.
    """

    def __init__(self, path: Path, file: BinaryIO):
        self.path, self.file = path, file
        self.file_bytes = os.fstat(file.fileno()).st_size
        self.name, self.offset, self._number = "magic", 0, 0

    def error(self, what: str, remedy: str = "fetch the archive again") -> ArchiveError:
        """What is wrong with the frame that was read last."""
        return ArchiveError(f"{self.path}: {self.name} at byte {self.offset}: {what}; {remedy}")

    def read(self, length: int) -> bytes:
        """The next `length` bytes. Raises ArchiveError where the file ends before."""
        content = self.file.read(length)
        if len(content) < length:
            raise self.error(f"the file ends {self.file_bytes - self.offset} bytes into it")
        return content

    def next(self, names: dict[bytes, str]) -> tuple[bytes, bytes]:
        """Kind and content of the next frame; of a block, whose length has no bound, not the content but b"".

        `names` has the kinds that may come and what to call them. Raises ArchiveError.
        """
        self.name, self.offset = " or ".join(names.values()), self.file.tell()
        head = self.read(5)
        kind, length = head[:1], int.from_bytes(head[1:], "little")
        if kind not in names:
            raise self.error(f"its kind is {kind!r}, not {' or '.join(map(repr, names))}")
        self.name = names[kind]
        if length > MAX_BYTES[kind]:
            raise self.error(f"it claims {length} bytes, but may have {MAX_BYTES[kind]} at most")
        checksum = zlib.crc32(head, _seed(self._number))
        content = b""
        for start in range(0, length, CHUNK_BYTES):
            piece = self.read(min(CHUNK_BYTES, length - start))
            checksum = zlib.crc32(piece, checksum)
            content += piece if kind != b"B" else b""
        recorded = int.from_bytes(self.read(4), "little")
        if recorded != checksum:
            raise self.error(f"its checksum is {recorded:#010x}, its content's {checksum:#010x}")
        self._number += 1
        return kind, content

    def next_block(self, name: str, ranks: int) -> int:
        """Check the next frame, a block; return the length of its ranks' payloads, in bytes. Raises ArchiveError."""
        self.next({b"B": name})
        after = self.file.tell()
        start, stop = self.offset + 5, after - 4
        position = start
        for _ in range(ranks):
            self.file.seek(position)
            position += 4 + int.from_bytes(self.file.read(4), "little")
        if position != stop:
            raise self.error(f"its {ranks} payloads claim {position - start} bytes, but it has {stop - start}")
        self.file.seek(after)
        return stop - start - 4 * ranks
