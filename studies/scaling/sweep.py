"""Running the cells of a sweep: processes on this machine, or a job script for Slurm.

Without a GPU, cells are forks of one process that has imported what they need (launch/cells.py): a small cell trains in
less time than a start takes. A fork has memory, signals and an end of its own, so its bits are those of a process of
its own, and nothing that happens to it happens to another. CUDA works in no fork of a process that has looked for it.

Not by submitit: its local executor starts all jobs at once, gives them no GPU each, and kills a job a second after it
has asked it to stop; for Slurm it submits pickled functions, where we print a script that people can read and change.
"""

import json
import math
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Self

import torch
from tqdm import tqdm

from data.errors import RunFailed
from data.files import write_file
from studies.scaling.cells import Cell
from studies.scaling.runs import read_sweep
from train.engine import free_port
from train.run import restore_signals

LAUNCH = Path(__file__).parents[2] / "launch"
GRACE_SECS = 120.0
# What a launcher that started the sweep would pass on.
LAUNCHED = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_SIZE", "CROSS_RANK", "CROSS_SIZE", "MASTER_ADDR", "MASTER_PORT"}


def record_cells(folder: Path, names: list[str]) -> None:
    """Write sweep.json: all cells that were ever asked for here, since the best of them is one of so many."""
    path = folder / "sweep.json"
    before = read_sweep(path).names if path.exists() else []
    names = list(dict.fromkeys([*before, *names]))
    values = {"format": 1, "cells": len(names), "side_bits": math.log2(len(names)), "names": names}
    write_file(path, json.dumps(values, indent=1).encode())


class ForkedCell:
    """What run_cells needs of a subprocess.Popen, of a process that is not our child."""

    def __init__(self, pid: int):
        self.pid = pid

    def poll(self) -> int | None:
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return 0
        return None


class CellServer:
    """launch/cells.py, started when the first cell is."""

    process: subprocess.Popen[bytes] | None = None

    def __init__(self, environment: Mapping[str, str]):
        self.environment = {name: value for name, value in os.environ.items() if name not in LAUNCHED} | {**environment}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self.process:
            self.lines.close()
            self.connection.close()
            self.process.terminate()
            self.process.wait()
            shutil.rmtree(self.folder)

    def start_cell(self, cell: Cell) -> ForkedCell:
        if self.process is None:
            self._start()
        cell.log.parent.mkdir(exist_ok=True)
        print(json.dumps({"arguments": cell.arguments, "log": str(cell.log)}), file=self.lines, flush=True)
        if not (answer := self.lines.readline()):
            raise RunFailed("launch/cells.py, which starts the cells, has ended. Start the same command again to go on")
        return ForkedCell(int(answer))

    def _start(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="onepass-cells-")
        address = f"{self.folder}/socket"
        command = [sys.executable, str(LAUNCH / "cells.py"), address]
        self.process = subprocess.Popen(
            command, env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
        )
        self.connection = socket.socket(socket.AF_UNIX)
        while True:
            try:
                self.connection.connect(address)
                break
            except (FileNotFoundError, ConnectionRefusedError):
                if self.process.poll() is not None:
                    raise RunFailed("launch/cells.py, which starts the cells, does not start") from None
                time.sleep(0.05)
        self.lines = self.connection.makefile("rw")


def run_cells(cells: list[Cell], jobs: int, gpus: int = 1, environment: Mapping[str, str] | None = None) -> int:
    """Run what is not finished, `jobs` at once, each on so many GPUs if there are any, with more in the `environment`.
    Returns the exit status: 128 + signal after a stop."""
    stop: list[int] = []
    waiting = [cell for cell in cells if not cell.finished]
    running: dict[int, tuple[Cell, subprocess.Popen[bytes] | ForkedCell]] = {}
    forked = len(waiting) > 1 and not torch.cuda.is_available()
    failed = False
    # A log file gets a line a minute.
    shown, pause_secs = 0.0, 0.5 if sys.stderr.isatty() else 60.0
    with (
        restore_signals(),
        CellServer(environment or {}) as server,
        tqdm(total=len(cells), initial=len(cells) - len(waiting), unit="cell", desc="sweep") as bar,
    ):
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _: stop.append(number))
        while (waiting or running) and not stop:
            for slot in range(jobs):
                if slot not in running and waiting:
                    cell = waiting.pop(0)
                    running[slot] = cell, server.start_cell(cell) if forked else start_cell(cell, slot, gpus)
            time.sleep(0.5)
            for slot, (cell, process) in list(running.items()):
                if process.poll() is None:
                    continue
                del running[slot]
                bar.update()
                bar.set_postfix_str("")
                # The launcher's exit status says little; the report, which is written last, says all.
                if not cell.finished:
                    failed = True
                    bar.write(f"onepass: {cell.name} failed; see {cell.log}", file=sys.stderr)
            if time.monotonic() - shown > pause_secs:
                shown = time.monotonic()
                now = ", ".join(f"{cell.name} {cell.coded_bytes:,} bytes" for cell, _ in running.values())
                bar.set_postfix_str(f"{len(waiting)} waiting; {now}")
        for _, process in running.values():
            end_group(process)
    if stop:
        print("onepass: stopped; start the same command again to go on", file=sys.stderr)
        return 128 + stop[0]
    return int(failed)


def start_cell(cell: Cell, slot: int, gpus: int) -> subprocess.Popen[bytes]:
    """Start a cell through DeepSpeed's launcher, in a process group of its own, its output going to a log. With GPUs,
    it gets the `gpus` of its slot."""
    own = ",".join(map(str, range(slot * gpus, (slot + 1) * gpus)))
    where = ["--include", f"localhost:{own}"] if torch.cuda.is_available() else ["--num_accelerators", "1"]
    launcher = [sys.executable, "-m", "deepspeed.launcher.runner", *where, "--master_port", str(free_port())]
    environment = {name: value for name, value in os.environ.items() if name not in LAUNCHED}
    command = [*launcher, str(LAUNCH / "train.py"), *cell.arguments]
    cell.log.parent.mkdir(exist_ok=True)
    with cell.log.open("ab") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)


def end_group(
    process: subprocess.Popen[bytes] | ForkedCell, number: int = signal.SIGTERM, grace_secs: float = GRACE_SECS
) -> None:
    """Send a signal to all processes of a run, and wait until they have left: to its group, because the launcher does
    not wait for its ranks. After `grace_secs` they are killed."""
    deadline = time.monotonic() + grace_secs
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)
    while time.monotonic() < deadline:
        process.poll()
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGKILL)


def slurm_script(arguments: list[str], cells: int, gpus: int = 1) -> str:
    """A job script with a task for each of the `cells` of a sweep that these `arguments` ask for."""
    kept = [argument for argument in arguments if argument not in ("--emit", "slurm", "--emit=slurm")]
    command = shlex.join([sys.executable, str(LAUNCH / "sweep.py"), *kept])
    return f"""#!/bin/bash
#SBATCH --job-name=onepass-sweep
#SBATCH --array=0-{cells - 1}
#SBATCH --nodes=1 --ntasks=1 --cpus-per-task=8 --gres=gpu:{gpus}
#SBATCH --signal=B:TERM@180
# Submit it again after anything: finished cells end at once, broken ones go on.
cd {shlex.quote(str(Path.cwd()))}
exec {command} --jobs 1 --cell $SLURM_ARRAY_TASK_ID"""
