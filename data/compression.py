"""Compressed files as streams: all that was written into them, or an error that says that it is not there.

The usual readers end silently where a file was cut (zstandard) or where its next member is damaged (bz2, lzma), which
would shorten a corpus. Here a file ends only where a member ends.
"""

import bz2
import io
import lzma
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO

import zstandard

KINDS = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd", ".bz2": "bzip2", ".xz": "xz"}
# What zstd --long=31 writes, as public dumps have it.
MAX_WINDOW_BYTES = 1 << 31
# Decompressed at once, so that little comes out at once: four bytes of zstd may stand for 128 KiB, one of gzip for 1.
FEED_BYTES = {"gzip": 1 << 12, "zstd": 512, "bzip2": 1 << 14, "xz": 1 << 14}
PIECE_BYTES = 1 << 16

_OPEN: dict[str, Callable[[], Any]] = {
    "gzip": lambda: zlib.decompressobj(31),
    "zstd": lambda: zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES).decompressobj(),
    "bzip2": bz2.BZ2Decompressor,
    "xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ),
}
# These can be told how much may come out at once.
_LIMITED = ("bzip2", "xz")
# Zeros between members, or behind the last, mean nothing in these.
_PADDED = ("gzip", "xz")


class Decompressed(io.RawIOBase):
    """What a compressed file holds. Reading raises OSError where the file is empty, damaged, or ends too early."""

    def __init__(self, file: BinaryIO, kind: str):
        self._file, self._kind = file, kind
        # Read from the file and not yet decompressed; decompressed and not yet read.
        self._input, self._output = b"", memoryview(b"")
        self._member: Any = None
        self._members = 0

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        if not self._output:
            try:
                self._output = memoryview(self._next())
            except (zlib.error, lzma.LZMAError, zstandard.ZstdError, EOFError) as error:
                raise OSError(f"damaged {self._kind} data: {error}") from error
        taken = self._output[: len(buffer)]
        self._output = self._output[len(taken) :]
        buffer[: len(taken)] = taken
        return len(taken)

    def _next(self) -> bytes:
        """Some bytes; none at the file's end."""
        while True:
            if self._member is None:
                if not self._at_member():
                    return b""
                self._member, self._members = _OPEN[self._kind](), self._members + 1
            piece = b""
            if getattr(self._member, "needs_input", True):
                piece, self._input = self._input or self._file.read(FEED_BYTES[self._kind]), b""
                if not piece:
                    raise OSError(f"it ends in the middle of its {self._kind} data")
            data = self._member.decompress(piece, *([PIECE_BYTES] if self._kind in _LIMITED else []))
            if self._member.eof:
                self._input, self._member = self._member.unused_data, None
            if data:
                return data

    def _at_member(self) -> bool:
        """Whether another member begins here; the file ends if not."""
        while True:
            self._input = self._input or self._file.read(FEED_BYTES[self._kind])
            if not self._input and not self._members:
                raise OSError(f"it is empty, which no {self._kind} file is")
            if self._members and self._kind in _PADDED and self._input:
                self._input = self._input.lstrip(b"\0")
                if not self._input:
                    continue
            return bool(self._input)
