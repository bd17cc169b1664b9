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
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

import torch

from data.errors import RunFailed
from data.files import write_file
from studies.scaling.board import Board
from studies.scaling.cells import Cell
from studies.scaling.record import SWEEP_FILE, Place, Sweep, Tuned, read_sweep
from train.ranks import free_port
from train.run import restore_signals

LAUNCH = Path(__file__).parents[2] / "launch"
GRACE_SECS = 120.0
# What a launcher that started the sweep would pass on.
LAUNCHED = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_SIZE", "CROSS_RANK", "CROSS_SIZE", "MASTER_ADDR", "MASTER_PORT"}


def record_cells(folder: Path, cells: Iterable[Cell], tuned: dict[str, Tuned] | None = None) -> None:
    """Add cells to sweep.json, which keeps all that were ever asked for, since the best of them is one of so many, and
    the rates that lines got."""
    path, places, tuned = folder / SWEEP_FILE, {cell.name: cell.place for cell in cells}, tuned or {}
    before = read_sweep(path) if path.exists() else None
    names = list(dict.fromkeys([*(before.names if before else ()), *places]))
    if before:
        places, tuned = before.places | places, before.tuned | tuned
    sweep = Sweep(cells=len(names), side_bits=math.log2(len(names)), names=names, places=places, tuned=tuned)
    write_file(path, json.dumps(sweep.model_dump(), indent=1).encode())


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


def run_cells(
    cells: list[Cell],
    jobs: int,
    gpus: int = 1,
    environment: Mapping[str, str] | None = None,
    later: Sequence[Place] = (),
    before: Sequence[Cell] = (),
) -> int:
    """Run what is not finished, `jobs` at once, each on so many GPUs if there are any, with more in the `environment`.
    What is known to diverge is left out. `later` are the places of cells that another call will run, `before` are those
    that one has run.

    Returns the exit status: 128 + signal after a stop.
    """
    stop: list[int] = []
    waiting = [cell for cell in cells if not cell.finished and not cell.diverged]
    running: dict[int, tuple[Cell, subprocess.Popen[bytes] | ForkedCell]] = {}
    forked = len(waiting) > 1 and not torch.cuda.is_available()
    board = Board([*before, *cells], later, jobs)
    with restore_signals(), CellServer(environment or {}) as server:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _: stop.append(number))
        while (waiting or running) and not stop:
            for slot in range(jobs):
                if slot not in running and waiting:
                    cell = waiting.pop(0)
                    running[slot] = cell, server.start_cell(cell) if forked else start_cell(cell, slot, gpus)
            time.sleep(0.5)
            # The launcher's exit status says little; the report, which is written last, says all.
            ended = [slot for slot, (_, process) in running.items() if process.poll() is not None]
            left = [running.pop(slot)[0] for slot in ended]
            names = [cell.name for cell in waiting], [cell.name for cell, _ in running.values()]
            for cell in left:
                board.end(cell, *names)
            board.show(*names)
        for _, process in running.values():
            end_group(process)
    board.close()
    if stop:
        print("onepass: stopped; start the same command again to go on", file=sys.stderr)
        return 128 + stop[0]
    return int(not all(cell.finished for cell in cells))


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


def slurm_script(arguments: list[str], cells: int, gpus: int = 1, trials: int = 0) -> str:
    """A job script with a task for each of the `cells` of a sweep that these `arguments` ask for. With `trials`, which
    are cells before those, a script that submits both: an array that depends on another one."""
    kept = [argument for argument in arguments if argument not in ("--emit", "slurm", "--emit=slurm")]
    command = shlex.join([sys.executable, str(LAUNCH / "sweep.py"), *kept]) + " --jobs 1 --cell $SLURM_ARRAY_TASK_ID"
    settings = ["--job-name=onepass-sweep", f"--nodes=1 --ntasks=1 --cpus-per-task=8 --gres=gpu:{gpus}"]
    settings += ["--signal=B:TERM@180"]
    folder = shlex.quote(str(Path.cwd()))
    if not trials:
        head = "\n".join(f"#SBATCH {one}" for one in [f"--array=0-{cells - 1}", *settings])
        again = "# Submit it again after anything: finished cells end at once, broken ones go on."
        return f"#!/bin/bash\n{head}\n{again}\ncd {folder}\nexec {command}"
    return f"""#!/bin/bash
# Start it with bash, and again after anything. It submits the cells that try learning rates and, after them, the rest.
set -e
cd {folder}
submit() {{
    sbatch --parsable {" ".join(settings)} "$@" --wrap {shlex.quote(f"exec {command}")}
}}
trials=$(submit --array=0-{trials - 1})
submit --array={trials}-{trials + cells - 1} --dependency=afterany:${{trials%%;*}}"""
