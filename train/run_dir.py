"""A run's directory: the names of its files, its lock, and its last good checkpoint."""

import json
import sys
from pathlib import Path

from filelock import FileLock, Timeout

from data.errors import UsageError
from train.checkpoint import POINTER

CHECKPOINTS = "checkpoints"
RECORD = "record"
# The packed code that the run began with.
CODE_FILE = "code.lzma"
# What was chosen for the corpus (train/choice.py).
CHOICE_FILE = "choice.json"
LOCK_FILE = ".lock"
# What other libraries have to say.
NOTICES_FILE = "notices.log"
TOKENIZER_FILE = "tokenizer.bin"


def claim(folder: Path) -> FileLock:
    """Make `folder` this process' own until it ends, however it ends. Raises UsageError if it is another's."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK_FILE)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UsageError(f"{folder} is in use by another process: wait for its end, or name another folder") from None
    except NotImplementedError:
        print(f"onepass: no file in {folder} can be locked: see to it that no two runs use it at once", file=sys.stderr)
    return lock


def last_good(folder: Path) -> str:
    """A sentence that names the last good checkpoint. One that was being written does not count."""
    pointer = folder / POINTER
    if not pointer.exists():
        return "No checkpoint had been saved yet."
    return f"The last good checkpoint is {folder / json.loads(pointer.read_text())['tag']}."


def record_steps(steps: int, spans: int, log_steps: int) -> set[int]:
    """After which of the `steps` of an epoch its state is kept for the record: where the curve has points, so that
    about `spans` spans of about the same length are between them. Empty for 0 spans."""
    points = (round(number * steps / spans / log_steps) * log_steps for number in range(1, spans))
    return {step for step in points if 0 < step < steps} | ({steps} if spans else set())


def record_folder(run_dir: Path, step: int) -> Path:
    """Where the state after `step` steps is, as a folder of checkpoints that has only this one."""
    return run_dir / RECORD / f"{step:09d}"
