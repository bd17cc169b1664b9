"""Stands for the Python interpreter in what a forked program starts: `fork_python.py SOCKET PYTHON ARGUMENTS...`.

It asks the server of tests/fork_server.py for a fork that is the program, in the environment and with the output of
this process, passes signals on to it, and ends with its exit status. If this process is killed, the server kills the
fork. The server refuses where its libraries, loaded in that environment, would differ: then PYTHON itself runs.
"""

import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any


def ask(connection: socket.socket, request: dict[str, Any], streams: list[int]) -> int:
    """Ask the server for a fork. Returns its process number, or 0 if the server refuses."""
    content = json.dumps(request).encode()
    socket.send_fds(connection, [len(content).to_bytes(4, "big")], streams)
    connection.sendall(content)
    return receive(connection)


def receive(connection: socket.socket) -> int:
    """The next number that the server says."""
    content = b""
    while len(content) < 4:
        part = connection.recv(4 - len(content))
        if not part:
            raise RuntimeError("the server of forked programs has ended")
        content += part
    return int.from_bytes(content, "big", signed=True)


def main(address: str, python: str, *arguments: str) -> None:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(address)
    request = {"argv": arguments, "ranks": 1, "cwd": str(Path.cwd()), "environment": dict(os.environ)}
    request["parent"] = os.getppid()
    # Signals that arrive before there is a fork wait for it.
    passed_on = {signal.SIGTERM, signal.SIGINT, signal.SIGUSR1}
    signal.pthread_sigmask(signal.SIG_BLOCK, passed_on)
    pid = ask(connection, request, [1, 2])
    if not pid:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, passed_on)
        os.execv(python, [python, *arguments])

    def pass_on(number: int, _: Any) -> None:
        # To all that it started, as a signal to this process's group would reach them.
        os.killpg(pid, number)

    for number in passed_on:
        signal.signal(number, pass_on)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, passed_on)
    status = receive(connection)
    if status >= 0:
        os._exit(status)
    signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)


if __name__ == "__main__":
    main(*sys.argv[1:])
