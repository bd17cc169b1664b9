"""Programs that start without loading PyTorch and DeepSpeed each time: forked from a process that has loaded them.

    process = fork_program(["launch/train.py", "--help"], cwd, environment)     like subprocess.Popen, with both pipes

A server is started at the first call, and ends with the process that started it. It has imported packages of others
alone, so that a program takes ours from where it lies. Beside it waits a second, whose children stand in for the fresh
interpreter in which eval/decoder_imports.py looks at what a decoder imports: it has loaded the reference machine and
nothing else.

What a forked program starts by `sys.executable` is forked, too: DeepSpeed's launcher and its ranks, the cells of a
sweep. Its `sys.executable` is a script that runs tests/fork_python.py. `REAL_STARTS=1` in the environment turns all of
this off.
"""

import atexit
import contextlib
import gc
import io
import json
import os
import runpy
import selectors
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import types
from pathlib import Path
from typing import Any

from fork_python import ask, receive

REFERENCE = ("numpy", "torch", "torch._dynamo", "torch._inductor.config", "torch._meta_registrations", "pydantic")
ENTRY = (
    *REFERENCE, "deepspeed", "deepspeed.comm.mori", "deepspeed.launcher.launch", "deepspeed.launcher.runner",
    "deepspeed.module_inject.auto_ep_layer", "deepspeed.runtime.engine", "deepspeed.runtime.zero.muon.muon_optimizer",
    "deepspeed.runtime.zero.stage3", "deepspeed.runtime.zero.stage_1_and_2", "filelock", "fontTools.subset",
    "fontTools.ttLib.tables.otTables", "fontTools.varLib", "jinja2", "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_pdf", "matplotlib.backends.backend_svg", "matplotlib.figure", "PIL.JpegImagePlugin",
    "pyarrow", "pydantic.dataclasses", "scipy.interpolate", "scipy.optimize", "scipy.special", "scipy.stats",
    "sentencepiece", "sentencepiece.sentencepiece_model_pb2", "tensorboard.plugins.hparams.api_pb2",
    "torch.distributed.checkpoint", "torch.utils.flop_counter", "torch.utils.tensorboard", "tqdm", "yaml", "zstandard",
    "brotli", "pyppmd",
)  # fmt: skip
DECODER = ["-P", "-m", "eval.decoder_imports"]
CLIENT = Path(__file__).with_name("fork_python.py")
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
            # As every entry point sets it before it loads PyTorch.
            environment = {"GOMP_SPINCOUNT": "5000", **os.environ}
            command = [sys.executable, __file__, self.folder]
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


def write_interpreter(folder: Path) -> None:
    """Write the script `python`, which is what forked programs start."""
    given = map(shlex.quote, (sys.executable, str(CLIENT), str(folder / "entry"), sys.executable))
    path = folder / "python"
    path.write_text('#!/bin/sh\nexec {} -ISs {} {} {} "$@"\n'.format(*given))
    path.chmod(0o755)


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


def run_program(argv: list[str]) -> int:
    """Be this program. Returns its exit status."""
    try:
        flags = 0
        while argv[flags] in ("-P", "-u"):
            flags += 1
        alone, sys.argv = "-P" in argv[:flags], argv[flags:]
        if "eval.decoder_imports" not in sys.argv:
            sys.meta_path.insert(0, ForkDecoder())
        if sys.argv[0] == "-m":
            sys.path[:0] = [] if alone else [str(Path.cwd())]
            sys.argv = sys.argv[1:]
            runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        elif sys.argv[0] == "-c":
            sys.path[:0] = [] if alone else [""]
            program, sys.argv = sys.argv[1], ["-c", *sys.argv[2:]]
            sys.modules["__main__"] = types.ModuleType("__main__")
            exec(program, vars(sys.modules["__main__"]))
        else:
            sys.path[:0] = [] if alone else [str(Path(sys.argv[0]).resolve().parent)]
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as leaving:
        if leaving.code is None or isinstance(leaving.code, int):
            return leaving.code or 0
        print(leaving.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


class ForkDecoder:
    """Lets eval.decoder_imports, once it is imported, start its interpreter by a fork."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != "eval.decoder_imports":
            return None
        sys.meta_path.remove(self)
        from importlib.util import find_spec

        spec = find_spec(name)
        assert spec is not None and spec.loader is not None
        execute = spec.loader.exec_module

        def patched(module: Any) -> None:
            execute(module)
            fork_decoder(module)

        spec.loader.exec_module = patched  # type: ignore[method-assign]
        return spec


def run_ranks(argv: list[str], ranks: int) -> int:
    """Be so many ranks of this program on this host, as DeepSpeed's launcher starts them. Returns the exit status: that
    of the first rank that fails, upon which the others are stopped."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    world = {"WORLD_SIZE": ranks, "LOCAL_SIZE": ranks, "CROSS_RANK": 0, "CROSS_SIZE": 1, "MASTER_PORT": port}
    running = set()
    for rank in range(ranks):
        pid = os.fork()
        if pid == 0:
            os.environ.update(
                {name: str(value) for name, value in (world | {"RANK": rank, "LOCAL_RANK": rank}).items()}
            )
            os.environ["MASTER_ADDR"] = "127.0.0.1"
            leave(run_program([argv[0], f"--local_rank={rank}", *argv[1:]]))
        running.add(pid)
    failed = 0
    while running:
        pid, status = os.wait()
        running.remove(pid)
        code = os.waitstatus_to_exitcode(status)
        if code and not failed:
            failed = code
            for other in running:
                os.kill(other, signal.SIGTERM)
    return failed


def leave(status: int) -> None:
    """End this process as an interpreter ends."""
    with contextlib.suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    with contextlib.suppress(BaseException):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status & 0xFF)


def be_child(
    argv: list[str], ranks: int, cwd: str, environment: dict[str, str], parent: int, streams: list[int], connection: Any
) -> None:
    """What the child of a fork does. Does not return."""
    os.setsid()
    # Ranks know each other by the launcher that they share (train/ranks.py).
    os.getppid = lambda: parent
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, stream in zip((1, 2), streams, strict=True):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = [part for part in environment.get("PYTHONPATH", "").split(os.pathsep) if part]
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.__stdout__, sys.__stderr__ = sys.stdout, sys.stderr  # type: ignore[misc]
    connection.sendall(os.getpid().to_bytes(4, "big"))
    connection.close()
    sys.executable = str(Path(sys.argv[1], "python"))
    os.environ[REFERENCE_SOCKET] = str(Path(sys.argv[1], "reference"))
    leave(run_program(argv) if ranks == 1 else run_ranks(argv, ranks))


def serve(path: Path, modules: tuple[str, ...]) -> None:
    """Load `modules`, and fork a program for each request, until the process that started this one ends."""
    parent = os.getppid()
    for name in modules:
        with contextlib.suppress(ImportError):
            __import__(name)
    if "deepspeed" in sys.modules:
        # It asks all of its extensions whether they could be built, at the first look.
        len(sys.modules["deepspeed"].ops.__compatible_ops__)
    # What is never collected stays in pages that are shared with the forks.
    gc.collect()
    gc.freeze()
    listener = socket.socket(socket.AF_UNIX)
    new = path.with_suffix(".new")
    listener.bind(str(new))
    listener.listen(64)
    path.with_suffix(".pid").write_text(str(os.getpid()))
    new.rename(path)
    waiting: dict[int, socket.socket] = {}
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    while os.getppid() == parent:
        for _ in selector.select(0.01 if waiting else 1.0):
            connection, _ = listener.accept()
            size, streams, *_ = socket.recv_fds(connection, 4, 2)
            content = b""
            while len(content) < int.from_bytes(size, "big"):
                content += connection.recv(1 << 16)
            request = json.loads(content)
            pid = os.fork() if same_at_loading(request["environment"]) else None
            if pid == 0:
                listener.close()
                be_child(**request, streams=streams, connection=connection)
            for stream in streams:
                os.close(stream)
            if pid:
                waiting[pid] = connection
            else:
                connection.sendall(bytes(4))
                connection.close()
        for pid in list(waiting):
            if is_gone(waiting[pid]):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                connection = waiting.pop(pid)
                with contextlib.suppress(OSError):
                    connection.sendall(os.waitstatus_to_exitcode(status).to_bytes(4, "big", signed=True))
                connection.close()


def is_gone(connection: socket.socket) -> bool:
    """Whether whoever asked for a fork has ended."""
    try:
        return not connection.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True


if __name__ == "__main__":
    where = Path(sys.argv[1])
    # Forked programs shall find ours where they look for it themselves.
    sys.path.remove(str(Path(__file__).resolve().parent))
    del sys.modules["fork_python"]
    if os.fork() == 0:
        serve(where / "reference", REFERENCE)
    else:
        write_interpreter(where)
        serve(where / "entry", ENTRY)
