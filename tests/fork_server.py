"""The two servers that fork the programs of tests (tests/fork_program.py).

The first has imported packages of others alone, so that a program takes ours from where it lies. The children of the
second stand in for the fresh interpreter in which eval/decoder_imports.py looks at what a decoder imports: it has
loaded the reference machine and nothing else.

What a forked program starts by `sys.executable` is forked, too: DeepSpeed's launcher and its ranks, the cells of a
sweep. Its `sys.executable` is a script that runs tests/fork_python.py.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import selectors
import shlex
import signal
import socket
import sys
import threading
import traceback
import types
from pathlib import Path
from typing import Any

from fork_program import REFERENCE_SOCKET, fork_decoder, same_at_loading

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
# Loaded for the first program that names one of its networks.
NETWORKS = ("transformers", "transformers.models.llama.modeling_llama")
CLIENT = Path(__file__).with_name("fork_python.py")


def write_interpreter(folder: Path) -> None:
    """Write the script `python`, which is what forked programs start."""
    given = map(shlex.quote, (sys.executable, str(CLIENT), str(folder / "entry"), sys.executable))
    path = folder / "python"
    path.write_text('#!/bin/sh\nexec {} -ISs {} {} {} "$@"\n'.format(*given))
    path.chmod(0o755)


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


def load(modules: tuple[str, ...]) -> None:
    for name in modules:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def serve(path: Path, modules: tuple[str, ...]) -> None:
    """Load `modules`, and fork a program for each request, until the process that started this one ends."""
    parent = os.getppid()
    load(modules)
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
            if "deepspeed" in sys.modules and "transformers:" in " ".join(request["argv"]):
                os.environ["USE_HUB_KERNELS"] = "NO"
                load(NETWORKS)
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
    del sys.modules["fork_python"], sys.modules["fork_program"]
    rooms = {package.parent.name for package in Path(__file__).resolve().parents[1].glob("*/__init__.py")}
    assert not rooms & set(sys.modules), "forks would take modules of ours from here, not from where they look"
    # Each source is compiled once, not by every fork.
    sys.dont_write_bytecode = False
    if os.fork() == 0:
        serve(where / "reference", REFERENCE)
    else:
        write_interpreter(where)
        serve(where / "entry", ENTRY)
