"""What other libraries log or warn of: in a file of the run, so that a person sees the run, and errors last.

Only our programs collect notices. Who imports us keeps their own logging.
"""

import logging
import sys
from pathlib import Path

FORMAT = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")


class Notices:
    """Keeps notices until there is a file for them."""

    def __init__(self) -> None:
        self.waiting: list[str] = []
        self.file: Path | None = None
        self.verbose = False

    def collect(self) -> None:
        """From now on, take what is logged by loggers that are made later, which are all of other libraries, and what
        is warned of."""
        logging.setLoggerClass(NoticeLogger)
        logging.captureWarnings(True)

    def take(self, text: str) -> None:
        if self.verbose:
            print(text, file=sys.stderr)
        if self.file is None:
            self.waiting.append(text)
            return
        with self.file.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text + "\n")

    def write_to(self, file: Path, verbose: bool) -> None:
        """Write notices to the end of `file`, those included that wait; if `verbose`, to standard error as well."""
        self.file, self.verbose = file, verbose
        waiting, self.waiting = self.waiting, []
        for text in waiting:
            self.take(text)

    def release(self) -> None:
        """Print what waits: the program ends without a file for it."""
        for text in self.waiting:
            print(text, file=sys.stderr)
        self.waiting = []


NOTICES = Notices()


class NoticeLogger(logging.Logger):
    """Passes on its records to NOTICES, and not to handlers that other libraries have set up."""

    def callHandlers(self, record: logging.LogRecord) -> None:
        NOTICES.take(FORMAT.format(record))
