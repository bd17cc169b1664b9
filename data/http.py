"""Files on web servers: streamed in bounded memory, read again where a connection breaks, never a shorter corpus.

HTTP lets a body end without saying whether it was whole, and lets a file change between two requests. So a reader gets
one reply's body from start to end, as long as the server says it is. If a connection breaks, the file is read again
from the start, and the bytes that the reader has must come again, with the same SHA-256. What may pass (a broken
connection, silence, 5xx) is tried again; everything else is refused with the URL, the byte, the reason and the remedy.
"""

import hashlib
import io
import itertools
import re
import string
import time
import urllib.request
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import PurePosixPath
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit

from data.compression import BUFFER_BYTES, KINDS, PieceReader
from data.errors import UsageError

# Between the tries for one byte. A try that brings a byte is followed by as many again.
DELAYS_SECS = (1.0, 2.0, 4.0, 8.0, 16.0)
SILENCE_SECS = 30.0
REDIRECTS = 5
PIECE_BYTES = 1 << 16
MOST_SHARDS = 100_000
DOWNLOAD = "download it and give the file"


def open_urls(pattern: str) -> list["RemoteFile"]:
    """The files of a URL, in which {000..099} stands for a count. Raises UsageError if it is not a URL of files."""
    *texts, last = re.split(r"\{(\d+)\.\.(\d+)\}", pattern)
    counts = [_count(*ends) for ends in zip(texts[1::3], texts[2::3], strict=True)]
    chosen = itertools.islice(itertools.product(*counts), MOST_SHARDS + 1)
    urls = ["".join([*itertools.chain(*zip(texts[::3], numbers, strict=True)), last]) for numbers in chosen]
    if not 0 < len(urls) <= MOST_SHARDS:
        found = f"more than {MOST_SHARDS:,} shards" if urls else "no shard"
        raise UsageError(f"data.source {pattern!r} names {found}: count upwards, as in {{000..099}}")
    if re.search(r"[{}\s]", urls[0]):
        raise UsageError(f"data.source {pattern!r} has spaces, or braces that are not a range such as {{000..099}}")
    try:
        parts = urlsplit(urls[0])
        host, user, _ = parts.hostname, parts.username, parts.port
    except ValueError as error:
        raise UsageError(f"data.source {pattern!r} is not a URL ({error}): check it") from error
    if not host or user is not None:
        reason = "names a user, and no password is ever sent" if host else "names no host"
        raise UsageError(f"data.source {pattern!r} {reason}: give a URL that opens without a login, or {DOWNLOAD}")
    return [RemoteFile(url) for url in urls]


def _count(first: str, last: str) -> list[str]:
    """The numbers from first to last, all as wide as the wider one if either is padded."""
    padded = any(end.startswith("0") and len(end) > 1 for end in (first, last))
    width = max(len(first), len(last)) if padded else 0
    numbers = itertools.islice(range(int(first), int(last) + 1), MOST_SHARDS + 1)
    return [str(number).zfill(width) for number in numbers]


def file_name(url: str) -> str:
    """The last part of a URL's path, else its host."""
    return re.split("[?#]", url.partition("://")[2])[0].rstrip("/").rpartition("/")[2]


@dataclass(frozen=True)
class Version:
    """What tells a file from its next version."""

    size_bytes: int | None
    validator: str | None
    """A strong ETag, else Last-Modified, with the header's name; None if the server gives neither."""

    def __str__(self) -> str:
        size = "of unknown length" if self.size_bytes is None else f"{self.size_bytes:,} bytes"
        return f"{size}, {self.validator or 'without ETag or Last-Modified'}"


class RemoteFile:
    """One file on a server. The first reply fixes its version; what is read later is of that version, or refused.

    It has the parts of a Path that data/documents.py needs.
    """

    def __init__(self, url: str):
        self.url, self.name = url, file_name(url)
        self.suffix = PurePosixPath(self.name).suffix
        self.version: Version | None = None
        self._sha256: str | None = None

    def __str__(self) -> str:
        return self.url

    def open(self, mode: str) -> io.BufferedReader:
        assert mode == "rb"
        return io.BufferedReader(PieceReader(self.pieces()), BUFFER_BYTES)

    def identity(self) -> list:
        """URL, size and validator. Without a validator the whole file is read, and its SHA-256 stands in."""
        with closing(self.pieces()) as pieces:
            for _ in pieces:
                if self.version and self.version.validator:
                    break
        assert self.version
        return [self.url, self.version.size_bytes, self.version.validator or self._sha256]

    def is_vouched_for(self) -> bool:
        """Whether `identity` changes with the bytes. Last-Modified does not: it counts seconds, and anybody sets it."""
        assert self.version
        return self.version.validator is None or self.version.validator.startswith("ETag ")

    def pieces(self) -> Generator[bytes]:
        """Yield the file from start to end. If the connection breaks, ask again, as long as that brings new bytes."""
        offset, digest, delays_secs = 0, hashlib.sha256(), iter(DELAYS_SECS)
        while True:
            try:
                with self._ask(offset) as response:
                    end = self._check(response, offset)
                    # Otherwise the response ends at Content-Length, and drops what the server sends after it.
                    response.length = None
                    again, repeated_bytes = hashlib.sha256(), 0
                    while missing_bytes := offset - repeated_bytes:
                        data = self._receive(response, repeated_bytes, end, missing_bytes)
                        again.update(data)
                        repeated_bytes += len(data)
                        if not data:
                            break
                    if again.digest() != digest.digest():
                        before, now = digest.hexdigest(), again.hexdigest()
                        raise self._changed(offset, f"SHA-256 {before} up to here", f"SHA-256 {now}")
                    while data := self._receive(response, offset, end, PIECE_BYTES):
                        offset += len(data)
                        digest.update(data)
                        delays_secs = iter(DELAYS_SECS)
                        yield data
                break
            except (OSError, HTTPException) as error:
                delay_secs = next(delays_secs, None)
                if delay_secs is None:
                    last = " ".join(f"{getattr(error, 'reason', error)}".split())
                    reason = f"{len(DELAYS_SECS) + 1} tries failed, the last with: {last}"
                    raise self._refusal(offset, reason, f"run again later, or {DOWNLOAD}") from error
            time.sleep(delay_secs)
        assert self.version
        if self.version.size_bytes not in (None, offset):
            raise self._changed(offset, f"{self.version}", f"{offset:,} bytes")
        self._sha256 = self._sha256 or digest.hexdigest()
        if self._sha256 != digest.hexdigest():
            raise self._changed(offset, f"SHA-256 {self._sha256}", f"SHA-256 {digest.hexdigest()}")

    def _refusal(self, offset: int, reason: str, remedy: str = DOWNLOAD) -> UsageError:
        return UsageError(f"data.source {self.url}, byte {offset:,}: {reason}; {remedy}")

    def _changed(self, offset: int, before: str, now: str) -> UsageError:
        reason = f"the file was changed on the server since it was first read (then {before}; now {now})"
        return self._refusal(offset, reason, f"run again once it stays as it is, or {DOWNLOAD}")

    def _ask(self, offset: int) -> HTTPResponse:
        """Ask for the file. Raises OSError for what may pass, and UsageError for what will not."""
        # urllib.request asks for each connection to be closed after the reply, which shows a body that is too long.
        headers = {"User-Agent": "onepass", "Accept-Encoding": "identity"}
        try:
            request = urllib.request.Request(quote(self.url, safe=string.punctuation), headers=headers)
            response = _OPENER.open(request, timeout=SILENCE_SECS)
        except HTTPError as error:
            response = error
        except ValueError as error:
            reason = f"it is not a web address, or redirects to one that is not ({error})"
            raise self._refusal(offset, reason, "check the URL") from error
        if response.status == 200:
            return response
        response.close()
        answer = f"the server answers {response.status} {response.reason or ''}".rstrip()
        if response.status >= 500 or response.status in (408, 425, 429):
            raise OSError(answer)
        if 300 <= response.status < 400 and "Location" in response.headers:
            raise self._refusal(offset, f"there are more than {REDIRECTS} redirects", "give the final URL")
        raise self._refusal(offset, answer, "check the URL, and that it opens without a login")

    def _check(self, response: HTTPResponse, offset: int) -> int | None:
        """Refuse a reply that is of another version, or does not say how long it is. Returns its Content-Length."""
        headers = response.headers
        encoding = headers.get("Content-Encoding", "identity").lower().removeprefix("x-")
        # Some servers call the compression of a .gz file an encoding; any other is the server's own, whatever we ask.
        if encoding not in ("identity", KINDS.get(self.suffix.lower())):
            raise self._refusal(offset, f"the server sends Content-Encoding {encoding}, which was not asked for")
        transfer = headers.get("Transfer-Encoding", "").lower()
        if transfer not in ("", "chunked"):
            raise self._refusal(offset, f"the server sends Transfer-Encoding {transfer}")
        length = headers.get("Content-Length", "missing")
        if not transfer and not re.fullmatch(r"[0-9]+", length):
            reason = f"Content-Length is {length}, so a body that was cut could not be told from a whole one"
            raise self._refusal(offset, reason)
        # A weak ETag (W/) stays the same for bytes that differ.
        tags = [(name, headers.get(name)) for name in ("ETag", "Last-Modified")]
        validator = next((f"{name} {tag}" for name, tag in tags if tag and not tag.startswith("W/")), None)
        now = Version(None if transfer else int(length), validator)
        first = self.version = self.version or now
        if now.validator != first.validator or len({now.size_bytes, first.size_bytes} - {None}) > 1:
            raise self._changed(offset, f"{first}", f"{now}")
        return now.size_bytes

    def _receive(self, response: HTTPResponse, start: int, end: int | None, most_bytes: int) -> bytes:
        """Some bytes from `start` on; empty at the body's proven end, which is `end` unless it comes in chunks."""
        try:
            data = response.read1(min(most_bytes, PIECE_BYTES))
        except (OSError, HTTPException):
            # The body is complete; the server left its connection open, or broke it.
            if start != end:
                raise
            data = b""
        if end is not None and start + len(data) > end:
            raise self._refusal(end, "the server sends more bytes than its Content-Length says")
        if end is not None and not data and start < end:
            raise OSError(f"the body ended {end - start:,} bytes early")
        return data


class _Redirects(urllib.request.HTTPRedirectHandler):
    max_redirections = max_repeats = REDIRECTS

    def redirect_request(self, *values: Any) -> urllib.request.Request | None:
        if not re.match("https?://", values[-1]):
            raise ValueError(values[-1])
        return super().redirect_request(*values)


_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}), _Redirects)
