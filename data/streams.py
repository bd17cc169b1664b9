"""Standard output holds what a person may pipe, a table, a configuration or a script: what `publish` is given.

Everything else that this process or its children write there, as libraries do, goes to standard error. Neither a closed
pipe nor a full disk behind them ends the work.
"""

import contextlib
import io
import os
import sys
from typing import Any, TextIO


class Outlet(io.FileIO):
    """A file descriptor for text that is not worth a run: after the first error, which it keeps, nothing is written."""

    error: OSError | None = None

    def write(self, content: Any) -> int:
        try:
            if self.error is None:
                return super().write(content)
        except OSError as error:
            self.error = error
        return memoryview(content).nbytes


class Streams:
    """Where this process publishes. Before `separate`, as for whoever imports us, that is sys.stdout."""

    outlet: Outlet | None = None
    published: TextIO | None = None
    closed = False

    def separate(self) -> None:
        """Keep standard output for what is published, and give standard error to all else, C++ and children too."""
        self.closed = sys.__stdout__ is None
        encoding = "utf-8" if sys.stdout is None else sys.stdout.encoding
        for number in range(3):
            try:
                os.fstat(number)
            except OSError:
                # Else the next file that is opened would get this number, and all that is written to it.
                os.open(os.devnull, os.O_RDWR)
        self.outlet = Outlet(os.dup(1), "w")
        self.published = text_to(self.outlet, encoding)
        os.dup2(2, 1)
        sys.stdout = sys.stderr = text_to(Outlet(2, "w", closefd=False), encoding)


def text_to(outlet: Outlet, encoding: str) -> TextIO:
    """Text in whole lines to `outlet`; what the encoding lacks is written as an escape."""
    return io.TextIOWrapper(io.BufferedWriter(outlet), encoding, "backslashreplace", line_buffering=True)


STREAMS = Streams()


def publish(content: str | bytes) -> None:
    """Write a text, and a line feed after it, or bytes as they are, to standard output."""
    stream = STREAMS.published or sys.stdout
    if stream is None:  # closed, in a program that is not ours
        return
    if isinstance(content, str):
        stream.write(content + "\n")
    else:
        stream.flush()
        stream.buffer.write(content)
    stream.flush()


def publishing() -> Any:
    """A context in which `print` publishes: for a parser that prints its own help."""
    return contextlib.redirect_stdout(STREAMS.published or sys.stdout)
