"""Starting our own programs the way users do: one process, or N ranks over gloo on a free port.

All of them are forked from a server that has loaded PyTorch (tests/fork_program.py), unless REAL_STARTS=1 is set.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fork_program import can_fork, fork_program

from train.ranks import free_port

ROOT = Path(__file__).parents[1]


def run(
    program: str,
    *arguments: str,
    ranks: int = 1,
    timeout_secs: int = 600,
    cwd: Path = ROOT,
    launcher: bool = False,
    **env: str,
) -> subprocess.CompletedProcess[str]:
    """Run to the end, output captured. Several ranks are forked, unless they are to have DeepSpeed's `launcher`.

    A process group that outstays its time is killed.
    """
    process = start(program, *arguments, ranks=ranks, cwd=cwd, launcher=launcher, **env)
    try:
        out, err = process.communicate(timeout=timeout_secs)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def wait_until(condition: Callable[[], bool], process: Any, timeout_secs: int = 120) -> None:
    """Wait for something that a running `process` does. Fails if it ends, or takes too long."""
    deadline = time.monotonic() + timeout_secs
    while not condition():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)


def start(program: str, *arguments: str, ranks: int = 1, cwd: Path = ROOT, launcher: bool = True, **env: str) -> Any:
    """Start a program of ours in the background, as a process group of its own: in `cwd`, and with `env` added to the
    environment. Several ranks are started by DeepSpeed's `launcher`, or forked without it."""
    command = [str(ROOT / program), *arguments]
    if ranks > 1 and (launcher or not can_fork(os.environ | env)):
        where = ["--num_accelerators", str(ranks), "--master_port", str(free_port())]
        command, ranks = ["-m", "deepspeed.launcher.runner", *where, *command], 1
    return start_python(command, cwd, ranks, **env)


def start_python(command: list[str], cwd: Path, ranks: int = 1, **env: str) -> Any:
    """Start what `command` would be to python. More `ranks` than one have to be forked."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    if can_fork(inherited | env):
        return fork_program(command, cwd, inherited | env, ranks)
    return subprocess.Popen(
        [sys.executable, *command], cwd=cwd, env=inherited | env, text=True, errors="surrogateescape",
        start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def start_rank(rank: int, port: int, program: str, *arguments: str) -> Any:
    """One of two ranks on this host that no launcher looks after; they meet at `port`."""
    where: dict[str, Any] = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": str(rank)}
    return start(program, *arguments, **where, RANK=str(rank), WORLD_SIZE="2")
