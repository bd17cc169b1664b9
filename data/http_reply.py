"""One HTTP reply, taken only if it says what it holds: which bytes of a file, up to where, and of which version."""

import re
from dataclasses import dataclass

import urllib3
from urllib3.exceptions import MaxRetryError, ResponseError

from data.compression import KINDS
from data.errors import UsageError

CONNECT_SECS = 30.0
SILENCE_SECS = 30.0
REDIRECTS = 5
DOWNLOAD = "download it and give the file"
# As one request, without urllib3's own tries: a file has its count of tries, whether a request fails or a body.
_ONCE = urllib3.Retry(
    total=REDIRECTS, redirect=REDIRECTS, connect=False, read=False, status=0, other=0, respect_retry_after_header=False
)
_POOL = urllib3.PoolManager()


@dataclass(frozen=True)
class Version:
    """What tells a file from its next version."""

    size_bytes: int | None
    validator: str | None
    """A strong ETag, else Last-Modified, with the header's name; None where the server gives neither."""

    def __str__(self) -> str:
        size = "of unknown length" if self.size_bytes is None else f"{self.size_bytes:,} bytes"
        return f"{size}, {self.validator or 'without ETag or Last-Modified'}"

    def may_be(self, other: "Version") -> bool:
        """Whether nothing says that they differ. A size that is not known does not."""
        same_size = self.size_bytes == other.size_bytes or None in (self.size_bytes, other.size_bytes)
        return same_size and self.validator == other.validator


@dataclass(frozen=True)
class Reply:
    """A body about to be read: bytes `first` to `end` of the file, or to its last chunk where `end` is None."""

    response: urllib3.HTTPResponse
    version: Version
    first: int
    end: int | None


def refusal(url: str, offset: int, reason: str, remedy: str) -> UsageError:
    return UsageError(f"data.source {url}, byte {offset:,}: {reason}; {remedy}")


def ask(url: str, offset: int, ranged: bool) -> Reply:
    """Ask for a file, or if `ranged` for what follows `offset`; which of the two the server sends, the reply tells.

    Raises urllib3's HTTPError for what may pass, and UsageError for what will not. Messages name `offset`.
    """
    # With the connection closed behind it, a body that is longer than the server says can be told from one that is not.
    headers = {"Accept-Encoding": "identity", "Connection": "close"} | ({"Range": f"bytes={offset}-"} if ranged else {})
    timeout = urllib3.Timeout(connect=CONNECT_SECS, read=SILENCE_SECS)
    try:
        response = _POOL.request("GET", url, headers=headers, timeout=timeout, retries=_ONCE, preload_content=False)
    except MaxRetryError as error:
        if not isinstance(error.reason, ResponseError):
            raise
        raise refusal(url, offset, f"there are more than {REDIRECTS} redirects", "give the final URL") from error
    except ValueError as error:
        raise refusal(url, offset, f"it is, or redirects to, no web address ({error})", "check the URL") from error
    assert isinstance(response, urllib3.HTTPResponse)
    try:
        reply = _checked(response, url, offset, ranged)
    except BaseException:
        response.close()
        raise
    # Both would end the body at Content-Length and drop whatever the server sends after it. Ours to count (Reply.end).
    assert response._original_response
    response.length_remaining = response._original_response.length = None
    return reply


def _checked(response: urllib3.HTTPResponse, url: str, offset: int, ranged: bool) -> Reply:
    status, headers = response.status, response.headers
    answer = f"the server answers {status} {response.reason or ''}".rstrip()
    if status >= 500 or status in (408, 425, 429):
        raise ResponseError(answer)
    if status == 416:
        raise refusal(url, offset, f"{answer}: there are no such bytes", f"run again, or {DOWNLOAD}")
    if status != 200 and not (status == 206 and ranged):
        raise refusal(url, offset, answer, "check the URL, and that it opens without a login")
    encoding = headers.get("Content-Encoding", "identity").lower().removeprefix("x-")
    # Some servers call the compression of a .gz file an encoding; any other is the server's own, whatever we ask for.
    if encoding not in ("identity", KINDS.get("." + url.partition("?")[0].rpartition(".")[2].lower())):
        raise refusal(url, offset, f"the server sends Content-Encoding {encoding}, which was not asked for", DOWNLOAD)
    chunked = headers.get("Transfer-Encoding", "").lower()
    if chunked not in ("", "chunked"):
        raise refusal(url, offset, f"the server sends Transfer-Encoding {chunked}", DOWNLOAD)

    tags = [("ETag", headers.get("ETag")), ("Last-Modified", headers.get("Last-Modified"))]
    # A weak ETag (W/) stays the same for bytes that differ.
    validator = next((f"{name} {tag}" for name, tag in tags if tag and not tag.startswith("W/")), None)
    if status == 206:
        given = headers.get("Content-Range", "none")
        found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", given.strip())
        first, last, size_bytes = map(int, found.groups()) if found else (0, 0, 0)
        if not first == offset <= last < size_bytes:
            raise refusal(url, offset, f"asked from here on, the server sends Content-Range {given}", DOWNLOAD)
        return Reply(response, Version(size_bytes, validator), first, last + 1)
    if chunked:
        return Reply(response, Version(None, validator), 0, None)
    length = headers.get("Content-Length", "missing")
    if not re.fullmatch(r"[0-9]+", length):
        reason = f"Content-Length is {length}, so a body that was cut could not be told from a whole one"
        raise refusal(url, offset, reason, DOWNLOAD)
    return Reply(response, Version(int(length), validator), 0, int(length))
