"""Compressed files as streams: the whole content, or an error.

The usual readers end silently where a file was cut (zstandard) or where its next member is damaged (bz2, lzma), which
would shorten a corpus. Here a file ends only where a member ends.
"""

import bz2
import io
import lzma
import zlib
from collections.abc import Callable, Generator
from typing import Any, BinaryIO

import zstandard

KINDS = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd", ".bz2": "bzip2", ".xz": "xz"}
# What zstd --long=31 writes, as public dumps have it.
MAX_WINDOW_BYTES = 1 << 31
# How much goes into a decompressor at once: little, because four bytes of zstd may expand to 128 KiB.
FEED_BYTES = {"gzip": 1 << 12, "zstd": 512, "bzip2": 1 << 14, "xz": 1 << 14}
# How much comes out of it at once, where it takes such a limit.
LIMITS = {"bzip2": [1 << 16], "xz": [1 << 16]}
BUFFER_BYTES = 1 << 20

_OPEN: dict[str, Callable[[], Any]] = {
    "gzip": lambda: zlib.decompressobj(31),
    "zstd": lambda: zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES).decompressobj(),
    "bzip2": bz2.BZ2Decompressor,
    "xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ),
}


class PieceReader(io.RawIOBase):
    """A generator of bytes as a file to read. No piece may be empty."""

    def __init__(self, pieces: Generator[bytes]):
        self._pieces, self._rest = pieces, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._rest or memoryview(next(self._pieces, b""))
        taken, self._rest = data[: len(buffer)], data[len(buffer) :]
        buffer[: len(taken)] = taken
        return len(taken)

    def close(self) -> None:
        self._pieces.close()
        super().close()


def decompress(file: BinaryIO, kind: str) -> io.BufferedReader:
    """The content of a compressed file. Reading raises OSError if the file is empty, damaged, or ends too early."""
    return io.BufferedReader(PieceReader(_decompress(file, kind)), BUFFER_BYTES)


def _decompress(file: BinaryIO, kind: str) -> Generator[bytes]:
    data = file.read(FEED_BYTES[kind])
    if not data:
        raise OSError(f"it is empty, which no {kind} file is")
    try:
        while data:
            member = _OPEN[kind]()
            while not member.eof:
                piece = b""
                if getattr(member, "needs_input", True):
                    piece, data = data or file.read(FEED_BYTES[kind]), b""
                    if not piece:
                        raise OSError(f"it ends in the middle of its {kind} data")
                if content := member.decompress(piece, *LIMITS.get(kind, [])):
                    yield content
            data = member.unused_data or file.read(FEED_BYTES[kind])
            # In these, zeros between members, or behind the last, mean nothing.
            while kind in ("gzip", "xz") and data and not (data := data.lstrip(b"\0")):
                data = file.read(FEED_BYTES[kind])
    except (zlib.error, lzma.LZMAError, zstandard.ZstdError, EOFError) as error:
        raise OSError(f"damaged {kind} data: {error}") from error
