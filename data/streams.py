"""Standard output gets only what `publish` writes: what a person may pipe, such as a table or a script.

Everything else that this process, its libraries or its children print goes to standard error. Neither a closed pipe nor
a full disk at the other end stops the work.
"""

import contextlib
import io
import os
import sys
from typing import Any, TextIO


class Outlet(io.FileIO):
    """A file descriptor whose errors do not stop a run: it keeps the first one, and writes nothing after it."""

    error: OSError | None = None

    def write(self, content: Any) -> int:
        try:
            if self.error is None:
                return super().write(content)
        except OSError as error:
            self.error = error
        return memoryview(content).nbytes


class Streams:
    """Where this process publishes: on sys.stdout until `separate` is called, which only our entry points do."""

    outlet: Outlet | None = None
    published: TextIO | None = None
    closed = False

    def separate(self) -> None:
        """Keep standard output for what is published; all else, from C++ and children too, goes to standard error."""
        self.closed = sys.__stdout__ is None
        encoding = "utf-8" if sys.stdout is None else sys.stdout.encoding
        for number in range(3):
            try:
                os.fstat(number)
            except OSError:
                # Otherwise the next file that is opened gets this number, and everything that is written to it.
                os.open(os.devnull, os.O_RDWR)
        self.outlet = Outlet(os.dup(1), "w")
        self.published = text_to(self.outlet, encoding)
        os.dup2(2, 1)
        sys.stdout = sys.stderr = text_to(Outlet(2, "w", closefd=False), encoding)


def text_to(outlet: Outlet, encoding: str) -> TextIO:
    """A stream that writes text to `outlet` line by line; what the encoding cannot express becomes an escape."""
    return io.TextIOWrapper(io.BufferedWriter(outlet), encoding, "backslashreplace", line_buffering=True)


STREAMS = Streams()


def publish(content: str | bytes) -> None:
    """Write a text, and a line feed after it, or bytes as they are, to standard output."""
    stream = STREAMS.published or sys.stdout
    if stream is None:  # a program that imports us has closed it
        return
    if isinstance(content, str):
        stream.write(content + "\n")
    else:
        stream.flush()
        stream.buffer.write(content)
    stream.flush()


def publish_help() -> Any:
    """A context in which `print` publishes: for a parser that prints its own help."""
    return contextlib.redirect_stdout(STREAMS.published or sys.stdout)
