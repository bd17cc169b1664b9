"""What all entry points share: how an end, good or bad, is told to a person and to a launcher."""

import io
import os
import socket
import sys
import time
from collections.abc import Callable

from data.errors import RunFailed, Stopped, UsageError


def print_any_name() -> None:
    """Let stdout print file names that are not UTF-8, as escapes, which stderr does by itself."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def exit_status(work: Callable[[], int | None]) -> int:
    """Run `work()` and return the exit status: what it returns or 0, 1 it failed, 2 bad arguments, 128 + signal after a
    clean stop. Errors of our own, and of the system, become one line on stderr; anything else is a bug and is raised.
    """
    rank = int(os.environ.get("RANK", 0))
    print_any_name()
    try:
        return work() or 0
    except (RunFailed, OSError, UsageError) as error:
        # Rank 0 says what is wrong, and its exit status is the one that a launcher should see first. Another host adds
        # a line, because it may lack what rank 0's has; and whoever lost its peers may be the only one left to say so.
        if rank == 0 or isinstance(error, ConnectionError):
            print(f"onepass: {error}", file=sys.stderr)
        else:
            time.sleep(3)
            if int(os.environ["LOCAL_RANK"]) == 0:
                print(f"onepass: rank {rank} on {socket.gethostname()}: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except Stopped as stop:
        if rank == 0:
            print(f"onepass: {stop}", file=sys.stderr)
        return stop.status
