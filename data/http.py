"""Shards on web servers: streamed in bounded memory, resumed where a connection broke, never a shorter corpus.

HTTP lets a body end without saying whether it was whole, and lets a file change between two requests. So bytes count
only up to an end that the server proved (see data/http_reply.py), and only if they are of the version that was seen
first. What may pass (a broken connection, silence, 5xx) is tried again; everything else is refused with the URL, the
byte, the reason and the remedy.
"""

import hashlib
import io
import itertools
import re
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import PurePosixPath
from typing import Any, TypeVar

import urllib3
from urllib3.exceptions import HTTPError, MaxRetryError, ProtocolError

from data.errors import UsageError
from data.http_reply import DOWNLOAD, Reply, Version, ask, refusal

# Between the tries for one byte. A try that brings a byte is followed by as many again.
DELAYS_SECS = (1.0, 2.0, 4.0, 8.0, 16.0)
PIECE_BYTES = 1 << 16
READ_AHEAD_BYTES = 1 << 20
MOST_SHARDS = 100_000

T = TypeVar("T")


def open_urls(pattern: str, random_access: bool) -> list["RemoteFile"]:
    """The files of a URL, in which {000..099} stands for a count. Raises UsageError on what is no such URL."""
    *texts, last = re.split(r"\{(\d+)\.\.(\d+)\}", pattern)
    counts = [_count(*ends) for ends in zip(texts[1::3], texts[2::3], strict=True)]
    chosen = itertools.islice(itertools.product(*counts), MOST_SHARDS + 1)
    urls = ["".join([*itertools.chain(*zip(texts[::3], numbers, strict=True)), last]) for numbers in chosen]
    if not 0 < len(urls) <= MOST_SHARDS:
        found = f"more than {MOST_SHARDS:,} shards" if urls else "no shard"
        raise UsageError(f"data.source {pattern!r} names {found}: count upwards, as in {{000..099}}")
    if re.search(r"[{}\s]", urls[0]):
        raise UsageError(f"data.source {pattern!r} has spaces, or braces that are no range such as {{000..099}}")
    try:
        parts = urllib3.util.parse_url(urls[0])
    except HTTPError as error:
        raise UsageError(f"data.source {pattern!r} is no URL ({error})") from error
    if not parts.host or parts.auth:
        reason = "names a user, and no password is ever sent" if parts.auth else "names no host"
        raise UsageError(f"data.source {pattern!r} {reason}: give a URL that opens without a login, or {DOWNLOAD}")
    return [RemoteFile(url, random_access) for url in urls]


def _count(first: str, last: str) -> list[str]:
    """The numbers from first to last, all as wide as the wider one where one of them is padded."""
    padded = any(end.startswith("0") and len(end) > 1 for end in (first, last))
    width = max(len(first), len(last)) if padded else 0
    numbers = itertools.islice(range(int(first), int(last) + 1), MOST_SHARDS + 1)
    return [str(number).zfill(width) for number in numbers]


def url_name(url: str) -> str:
    """The last part of a URL's path, else its host."""
    return re.split("[?#]", url.partition("://")[2])[0].rstrip("/").rpartition("/")[2]


class RemoteFile:
    """One file on a server. The first reply fixes its version; what is read later is of that version, or refused.

    Has of a Path what data/documents.py needs. `random_access` is for formats that are not read from start to end.
    """

    def __init__(self, url: str, random_access: bool):
        self.url, self.random_access = url, random_access
        self.name = url_name(url)
        self.suffix = PurePosixPath(self.name).suffix
        self.version: Version | None = None
        self._sha256: str | None = None

    def __str__(self) -> str:
        return self.url

    def open(self, mode: str) -> io.BufferedReader:
        assert mode == "rb"
        return io.BufferedReader(_Body(self), READ_AHEAD_BYTES)

    def identity(self) -> list:
        """URL, size and validator. Where the server gives no validator the file is read, and its SHA-256 stands in."""
        with closing(_Body(self)) as body:
            version = body.connect()
            while version.validator is None and body.read(PIECE_BYTES):
                pass
        return [self.url, version.size_bytes, version.validator or self._sha256]

    def is_vouched_for(self) -> bool:
        """Whether `identity` changes with the bytes. Last-Modified does not: it counts seconds, and is set at will."""
        assert self.version
        return self.version.validator is None or self.version.validator.startswith("ETag ")

    def ask(self, offset: int) -> Reply:
        """Ask for what follows `offset`; the reply may begin before. Raises as http_reply.ask does."""
        # Without a validator, a range could be another version's: the file is then sent anew, and compared.
        validated = self.version is not None and self.version.validator is not None
        reply = ask(self.url, offset, ranged=offset > 0 and validated)
        try:
            if self.random_access:
                _check_random_access(self.url, offset, reply)
            self.version = self.version or reply.version
            if not reply.version.may_be(self.version):
                raise self.changed(offset, f"{self.version}", f"{reply.version}")
        except ValueError:
            reply.response.close()
            raise
        return reply

    def check_end(self, size_bytes: int, sha256: str) -> None:
        """Hold what was read from start to end against what is known of the file."""
        assert self.version
        if self.version.size_bytes not in (None, size_bytes):
            raise self.changed(size_bytes, f"{self.version}", f"{size_bytes:,} bytes")
        if self.version.validator is None:
            self._sha256 = self._sha256 or sha256
            if self._sha256 != sha256:
                raise self.changed(size_bytes, f"SHA-256 {self._sha256}", f"SHA-256 {sha256}")

    def changed(self, offset: int, before: str, now: str) -> UsageError:
        reason = f"the file was changed on the server since it was first read (then {before}; now {now})"
        return refusal(self.url, offset, reason, f"run again once it stays as it is, or {DOWNLOAD}")


def _check_random_access(url: str, offset: int, reply: Reply) -> None:
    lacking = [
        ("Content-Length", reply.version.size_bytes is None),
        ("ETag or Last-Modified", reply.version.validator is None),
        ("ranges", reply.first != offset),
    ]
    if missing := [name for name, lacks in lacking if lacks]:
        raise refusal(url, offset, f"the server gives no {missing[0]}, which reading .parquet takes", DOWNLOAD)


class _Body(io.RawIOBase):
    """A remote file's bytes from start to end, or from anywhere on if the file has random access."""

    def __init__(self, file: RemoteFile):
        self._file = file
        self._offset = 0
        # Of all bytes before the offset; not kept up with random access.
        self._digest = hashlib.sha256()
        self._reply: Reply | None = None
        # How far the reply was received: not where the reader is, after a seek or while a file is sent anew.
        self._received_to = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._file.random_access

    def tell(self) -> int:
        return self._offset

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        size_bytes = (self._file.version or self.connect()).size_bytes
        assert self._file.random_access and size_bytes is not None
        self._offset = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._offset, io.SEEK_END: size_bytes}[whence]
        return self._offset

    def readinto(self, buffer: Any) -> int:
        data = self._tried(lambda: self._next(min(len(buffer), PIECE_BYTES)))
        buffer[: len(data)] = data
        return len(data)

    def connect(self) -> Version:
        """Open a reply, and tell the version that it is of."""
        self._tried(self._connect)
        assert self._file.version
        return self._file.version

    def close(self) -> None:
        self._drop()
        super().close()

    def _drop(self) -> None:
        if self._reply:
            self._reply.response.close()
        self._reply = None

    def _tried(self, step: Callable[[], T]) -> T:
        """What `step` returns, tried again after what may pass."""
        delays_secs = iter(DELAYS_SECS)
        while True:
            try:
                return step()
            except HTTPError as error:
                self._drop()
                delay_secs = next(delays_secs, None)
                if delay_secs is None:
                    cause = error.reason if isinstance(error, MaxRetryError) and error.reason else error
                    last = " ".join(str(cause.args[0] if cause.args else cause).split())
                    reason = f"{len(DELAYS_SECS) + 1} tries failed, the last with: {last}"
                    raise refusal(self._file.url, self._offset, reason, f"run again later, or {DOWNLOAD}") from error
                time.sleep(delay_secs)

    def _connect(self) -> Reply:
        """Open a reply that continues at the offset. Where the file is sent anew, what was read must come again."""
        self._drop()
        self._reply = self._file.ask(self._offset)
        self._received_to = self._reply.first
        if self._reply.first < self._offset:
            again = hashlib.sha256()
            while missing_bytes := self._offset - self._received_to:
                data = self._receive(self._reply, min(PIECE_BYTES, missing_bytes))
                if not data:
                    break
                again.update(data)
            if again.digest() != self._digest.digest():
                before, now = self._digest.hexdigest(), again.hexdigest()
                raise self._file.changed(self._offset, f"SHA-256 {before} up to here", f"SHA-256 {now}")
        return self._reply

    def _next(self, most_bytes: int) -> bytes:
        """The bytes that follow the offset, as many as have come; none at the file's proven end."""
        version = self._file.version
        if self._file.random_access and version and self._offset == version.size_bytes:
            return b""
        while True:
            reply = self._reply if self._reply and self._received_to == self._offset else self._connect()
            data = self._receive(reply, most_bytes)
            self._offset += len(data)
            if data:
                if not self._file.random_access:
                    self._digest.update(data)
                return data
            # A server may answer with less than was asked for; then the next reply goes on.
            if self._offset >= (reply.version.size_bytes or 0):
                self._file.check_end(self._offset, self._digest.hexdigest())
                return b""
            self._drop()

    def _receive(self, reply: Reply, most_bytes: int) -> bytes:
        try:
            data = reply.response.read1(most_bytes, decode_content=False)
        except HTTPError:
            # All is there, and a server that leaves its connection open, or breaks it, has sent no more.
            if self._received_to != reply.end:
                raise
            data = b""
        self._received_to += len(data)
        if reply.end is not None and self._received_to > reply.end:
            reason = "the server sends more bytes than its Content-Length or Content-Range says"
            raise refusal(self._file.url, reply.end, reason, DOWNLOAD)
        if reply.end is not None and not data and self._received_to < reply.end:
            raise ProtocolError(f"the body ended {reply.end - self._received_to:,} bytes early")
        return data
