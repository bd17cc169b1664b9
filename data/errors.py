"""Our own errors: what a person can correct. Everything else is a bug, and shows its traceback.

Every entry point turns them into one line on stderr, `onepass: what is wrong. remedy`, and an exit status.
"""


class UsageError(ValueError):
    """The arguments, or the files that they name, are wrong. Exit status 2, before any work."""


class RunFailed(Exception):
    """The run cannot continue. The message says where it stopped and what it left. Exit status 1."""


class Stopped(Exception):
    """A clean stop on a signal, with a checkpoint to resume from. `status` is the exit status to return."""

    def __init__(self, status: int, run_dir: str):
        super().__init__(f"stopped; go on with --run.dir {run_dir} --run.resume")
        self.status = status
