"""Running the cells of a sweep: processes on this machine, or a job script for Slurm.

Not by submitit: its local executor starts all jobs at once, gives them no GPU each, and kills a job a second after it
has asked it to stop; for Slurm it submits pickled functions, where we print a script that people can read and change.
"""

import json
import math
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
from tqdm import tqdm

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


def run_cells(cells: list[Cell], jobs: int) -> int:
    """Run what is not finished, `jobs` at once. Returns the exit status: 128 + signal after a stop."""
    stop: list[int] = []
    waiting = [cell for cell in cells if not cell.finished]
    running: dict[int, tuple[Cell, subprocess.Popen[bytes]]] = {}
    failed = False
    # A log file gets a line a minute.
    shown, pause_secs = 0.0, 0.5 if sys.stderr.isatty() else 60.0
    with (
        restore_signals(),
        tqdm(total=len(cells), initial=len(cells) - len(waiting), unit="cell", desc="sweep") as bar,
    ):
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _: stop.append(number))
        while (waiting or running) and not stop:
            for slot in range(jobs):
                if slot not in running and waiting:
                    cell = waiting.pop(0)
                    running[slot] = cell, start_cell(cell, slot)
            time.sleep(0.5)
            for slot, (cell, process) in list(running.items()):
                if process.poll() is None:
                    continue
                del running[slot]
                bar.update()
                # The launcher's exit status says little; the report, which is written last, says all.
                if not cell.finished:
                    failed = True
                    bar.write(f"onepass: {cell.name} failed; see {cell.log}", file=sys.stderr)
            if time.monotonic() - shown > pause_secs:
                shown = time.monotonic()
                bar.set_postfix_str(
                    ", ".join(f"{cell.name} {cell.coded_bytes:,} bytes" for cell, _ in running.values())
                )
        for _, process in running.values():
            end_group(process)
    if stop:
        print("onepass: stopped; start the same command again to go on", file=sys.stderr)
        return 128 + stop[0]
    return int(failed)


def start_cell(cell: Cell, slot: int) -> subprocess.Popen[bytes]:
    """Start a cell through DeepSpeed's launcher, in a process group of its own, its output going to a log."""
    where = ["--include", f"localhost:{slot}"] if torch.cuda.is_available() else ["--num_accelerators", "1"]
    launcher = [sys.executable, "-m", "deepspeed.launcher.runner", *where, "--master_port", str(free_port())]
    environment = {name: value for name, value in os.environ.items() if name not in LAUNCHED}
    command = [*launcher, str(LAUNCH / "train.py"), *cell.arguments]
    cell.log.parent.mkdir(exist_ok=True)
    with cell.log.open("ab") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)


def end_group(process: subprocess.Popen[bytes], number: int = signal.SIGTERM, grace_secs: float = GRACE_SECS) -> None:
    """Send a signal to all processes of a run, and wait until they have left: to its group, because the launcher does
    not wait for its ranks. After `grace_secs` they are killed."""
    deadline = time.monotonic() + grace_secs
    os.killpg(process.pid, number)
    while time.monotonic() < deadline:
        process.poll()
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGKILL)


def slurm_script(arguments: list[str], cells: int) -> str:
    """A job script with a task for each of the `cells` of a sweep that these `arguments` ask for."""
    kept = [argument for argument in arguments if argument not in ("--emit", "slurm", "--emit=slurm")]
    command = shlex.join([sys.executable, str(LAUNCH / "sweep.py"), *kept])
    return f"""#!/bin/bash
#SBATCH --job-name=onepass-sweep
#SBATCH --array=0-{cells - 1}
#SBATCH --nodes=1 --ntasks=1 --cpus-per-task=8 --gres=gpu:1
#SBATCH --signal=B:TERM@180
# Submit it again after anything: finished cells end at once, broken ones go on.
cd {shlex.quote(str(Path.cwd()))}
exec {command} --jobs 1 --cell $SLURM_ARRAY_TASK_ID"""
