"""The cells of a sweep, each in a fork of this process, which has imported what they need: launch/sweep.py starts it.

python launch/cells.py SOCKET      listens there, and ends when the connection does
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
from launch import entry

entry.begin(__name__)
entry.measure_ahead(__name__)

import importlib
import json
import os
import signal
import socket
import traceback

import launch.train
from data.streams import STREAMS
from train.command_line import parse_config

# What a run imports between its start and its end. None of them may start a thread: a fork has only the first one.
NEEDED = (
    "deepspeed.runtime.engine",
    "matplotlib.figure",
    *(f"matplotlib.backends.backend_{k}" for k in ("agg", "pdf", "svg")),
)


def main(address: str) -> None:
    """Fork a cell for each request, a line of JSON with `arguments` of launch/train.py and the name of a `log`. The
    answer is a line with its process number, which is also that of its process group."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen(1)
        for name in NEEDED:
            importlib.import_module(name)
        # A cell that has ended leaves nothing behind: its process number is free, which is how launch/sweep.py knows.
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        connection, _ = listening.accept()
    with connection, connection.makefile("rw") as lines:
        for line in lines:
            request = json.loads(line)
            pid = os.fork()
            if pid == 0:
                os.close(connection.fileno())
                os._exit(run_cell(**request))
            print(pid, file=lines, flush=True)


def run_cell(arguments: list[str], log: str) -> int:
    """Be a cell, as launch/train.py with these `arguments` would be. Returns the exit status."""
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    nothing, written = os.open(os.devnull, os.O_RDONLY), os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    for number, file in enumerate((nothing, written, written)):
        os.dup2(file, number)
    STREAMS.separate()
    sys.argv = [str(launch.train.__file__), *arguments]
    try:
        return entry.exit_status(lambda: train_cell(arguments))
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stderr.flush()


def train_cell(arguments: list[str]) -> None:
    launch.train.train(parse_config("", arguments))


if __name__ == "__main__":
    main(sys.argv[1])
