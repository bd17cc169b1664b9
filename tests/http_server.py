"""A web server on 127.0.0.1 whose faults are scripted, request by request, and what reading from it gives."""

import contextlib
import hashlib
import os
import re
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from data.documents import Source, open_source
from data.readers import CHUNK_BYTES

MONDAY = "Mon, 05 Jan 2026 10:00:00 GMT"


@dataclass(frozen=True)
class Manner:
    """How a request is answered. The defaults are a sound server's that knows ETags."""

    status: int | None = None
    """Answer with this and no body."""
    location: str | None = None
    """Redirect there."""
    protocol: str = "HTTP/1.1"
    etag: str | None = "of content"
    modified: str | None = None
    length: int | str | None = "true"
    """Content-Length; None leaves it out."""
    chunked: bool = False
    body_bytes: int | None = None
    """How much of the body is sent, or of a chunked one before its end is missing."""
    ending: str = "close"
    """What follows: `close`, `reset`, or `silence` on an open connection."""
    piece_bytes: int = 1 << 20
    headers: dict[str, str] = field(default_factory=dict)
    content: bytes | None = None
    """Sent in place of the file."""


SOUND = {
    "ETag": Manner(),
    "Last-Modified": Manner(etag=None, modified=MONDAY),
    "weak ETag": Manner(etag='W/"x"', modified=MONDAY),
    "neither": Manner(etag=None),
    "chunks": Manner(chunked=True, piece_bytes=7000),
    "chunks, neither": Manner(chunked=True, etag=None),
    "HTTP/1.0": Manner(protocol="HTTP/1.0", etag=None, modified=MONDAY),
    "small pieces": Manner(piece_bytes=1000),
}


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.manner = Manner()
        self.faults: list[Manner] = []
        """Manners of the next requests; those after them get `manner`."""
        self.requests = 0
        self.stopped = threading.Event()
        self.lock = threading.Lock()

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"


@contextmanager
def serve() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.stopped.set()
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        server = self.server
        with server.lock:
            manner = server.faults.pop(0) if server.faults else server.manner
            server.requests += 1
            content = manner.content or server.files.get(self.path.partition("?")[0].removeprefix("/"))
        self.protocol_version = manner.protocol
        self.close_connection = True
        with contextlib.suppress(OSError):  # the client has read enough
            if manner.location:
                self._head(302, {"Location": manner.location, "Content-Length": "0"})
            elif manner.status or content is None:
                self._head(manner.status or 404, {"Content-Length": "0"} | manner.headers)
            else:
                self._answer(content, manner)

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in ({"Connection": "close"} | headers).items():
            self.send_header(name, value)
        self.end_headers()

    def _answer(self, content: bytes, manner: Manner) -> None:
        headers = {"Connection": "keep-alive"} if manner.ending == "silence" else {}
        if manner.etag == "of content":
            headers["ETag"] = f'"{hashlib.sha256(content).hexdigest()}"'
        elif manner.etag:
            headers["ETag"] = manner.etag
        if manner.modified:
            headers["Last-Modified"] = manner.modified
        if manner.chunked:
            headers["Transfer-Encoding"] = "chunked"
        elif manner.length is not None:
            headers["Content-Length"] = str(len(content) if manner.length == "true" else manner.length)
        self._head(200, headers | manner.headers)
        body = memoryview(content)[: manner.body_bytes]
        for first in range(0, len(body), manner.piece_bytes):
            piece = body[first : first + manner.piece_bytes]
            if manner.chunked:
                self.wfile.write(f"{len(piece):x}\r\n".encode())
            self.wfile.write(piece)
            if manner.chunked:
                self.wfile.write(b"\r\n")
        if manner.chunked and manner.body_bytes is None:
            self.wfile.write(b"0\r\n\r\n")
        if manner.ending == "silence":
            self.server.stopped.wait()
        elif manner.ending == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(self.connection.detach())


def read_documents(source: str, **options) -> list[bytes]:
    found, parts = [], []
    for chunk, ends in open_source(source, **options).chunks():
        assert isinstance(chunk, bytes) and len(chunk) <= CHUNK_BYTES
        parts.append(chunk)
        if ends:
            found.append(b"".join(parts))
            parts = []
    assert not parts
    return found


def check_refused(source: str | Source, *words: str) -> None:
    """Reading fails with one line that has these words, in order."""
    with pytest.raises(ValueError) as caught:
        [*(open_source(source) if isinstance(source, str) else source).chunks()]
    message = str(caught.value)
    assert "\n" not in message and re.search(".*".join(map(re.escape, words)), message), message
