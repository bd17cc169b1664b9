"""Programs that start without loading PyTorch and DeepSpeed each time: forked from a process that has loaded them.

    process = fork_program(["launch/train.py", "--help"], cwd, environment)     like subprocess.Popen, with both pipes

The two servers of tests/fork_server.py are started at the first call, and end with the process that started them.
`REAL_STARTS=1` in the environment turns all of this off.
"""

import atexit
import contextlib
import io
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from fork_python import ask, receive

DECODER = ["-P", "-m", "eval.decoder_imports"]
# In the environment of a forked program: the socket of the server that has loaded the reference machine alone.
REFERENCE_SOCKET = "ONEPASS_TEST_REFERENCE_SOCKET"
# Read when a library is loaded, so a program that is given another value needs a start of its own.
READ_AT_LOADING = ("ATEN_CPU_CAPABILITY", "MKL_CBWR", "ONEDNN_MAX_CPU_ISA", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
START_SECS = 900.0


class ForkedProcess:
    """What the tests need of a subprocess.Popen in text mode with pipes."""

    def __init__(self, address: str, argv: list[str], cwd: Path | str, environment: dict[str, str], ranks: int = 1):
        self.args, self.returncode = argv, None
        self.connection = socket.socket(socket.AF_UNIX)
        self.connection.connect(address)
        (out, out_end), (err, err_end) = os.pipe(), os.pipe()
        request = {"argv": argv, "ranks": ranks, "cwd": str(cwd), "environment": environment, "parent": os.getpid()}
        self.pid = ask(self.connection, request, [out_end, err_end])
        os.close(out_end)
        os.close(err_end)
        self.stdout = open(out, errors="surrogateescape", newline="")  # noqa: PTH123, SIM115
        self.stderr = open(err, errors="surrogateescape", newline="")  # noqa: PTH123, SIM115

    returncode: int | None

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            self.connection.settimeout(timeout)
            try:
                self.returncode = receive(self.connection)
            except TimeoutError:
                raise subprocess.TimeoutExpired(self.args, timeout or 0) from None
            self.connection.close()
        return self.returncode

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(1e-3)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        found = ["", ""]

        def read(place: int, stream: io.TextIOBase) -> None:
            found[place] = "" if stream.closed else stream.read()

        streams: tuple[Any, Any] = (self.stdout, self.stderr)
        threads = [threading.Thread(target=read, args=pair, daemon=True) for pair in enumerate(streams)]
        deadline = None if timeout is None else time.monotonic() + timeout
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
        self.wait(None if deadline is None else max(1.0, deadline - time.monotonic()))
        for stream in streams:
            stream.close()
        return found[0], found[1]

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Server:
    """The two servers of this process."""

    folder: str | None = None
    process: subprocess.Popen[bytes] | None = None

    def address(self, name: str) -> str:
        if self.process is None:
            self.folder = tempfile.mkdtemp(prefix="onepass-fork-")
            # As every entry point sets it before it loads PyTorch. The servers import this module, and nothing of ours.
            from launch.entry import FOR_TORCH

            environment = {**FOR_TORCH, **os.environ}
            command = [sys.executable, str(Path(__file__).with_name("fork_server.py")), self.folder]
            self.process = subprocess.Popen(
                command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            atexit.register(self.process.terminate)
        path = Path(str(self.folder), name)
        deadline = time.monotonic() + START_SECS
        while not path.exists():
            assert self.process.poll() is None and time.monotonic() < deadline, "no server of forked programs came up"
            time.sleep(0.02)
        return str(path)

    def pids(self) -> list[int]:
        """Those of the servers that run."""
        return [int(path.read_text()) for path in Path(self.folder).glob("*.pid")] if self.folder else []


SERVER = Server()


def fork_program(argv: list[str], cwd: Path | str, environment: dict[str, str], ranks: int = 1) -> ForkedProcess:
    """Start a Python program, given as one would give it to python (a path and its arguments), or `ranks` of it."""
    # Both must be up: what is forked by the one asks the other.
    _, entry = SERVER.address("reference"), SERVER.address("entry")
    return ForkedProcess(entry, argv, cwd, environment, ranks)


def interpreter() -> Path:
    """What stands for python where a script starts it."""
    return Path(SERVER.address("entry")).with_name("python") if can_fork(dict(os.environ)) else Path(sys.executable)


def can_fork(environment: dict[str, str]) -> bool:
    """Whether a program of this environment needs no start of its own."""
    return environment.get("REAL_STARTS", "") in ("", "0") and same_at_loading(environment)


def same_at_loading(environment: dict[str, str]) -> bool:
    """Whether libraries that this process has loaded would be the same in that environment."""
    names = set(READ_AT_LOADING)
    if not Path("/proc/driver/nvidia").exists():
        # DeepSpeed's launcher sets CUDA_VISIBLE_DEVICES on machines without a GPU, too.
        names.remove("CUDA_VISIBLE_DEVICES")
    return all(environment.get(name) == os.environ.get(name) for name in names)


def run_decoder(command: Any, **settings: Any) -> Any:
    """subprocess.run, except that the decoder's interpreter is forked."""
    if list(command[:4]) != [sys.executable, *DECODER] or not can_fork(settings["env"]):
        return subprocess.run(command, **settings)
    where = os.environ.get(REFERENCE_SOCKET) or SERVER.address("reference")
    process = ForkedProcess(where, [*DECODER, *command[4:]], Path.cwd(), dict(settings["env"]))
    if not process.pid:
        return subprocess.run(command, **settings)
    out, err = process.communicate()
    return subprocess.CompletedProcess(command, process.returncode or 0, out, err)


class ForkingSubprocess:
    """Stands for the module `subprocess` in eval/decoder_imports.py."""

    run = staticmethod(run_decoder)


def fork_decoder(module: Any) -> None:
    """Let eval.decoder_imports, which is `module`, start its interpreter by a fork, when it is asked for."""
    module.subprocess = ForkingSubprocess
    if can_fork(dict(os.environ)):
        module.start_ahead = lambda: None
