"""Train every cell of a grid, blocks x widths x seeds x vocabularies, each in a run directory of its own.

python launch/sweep.py --dir runs/sweep --blocks attention,ssd,"ssd ssd ssd attention" --widths 64,128,256
python launch/sweep.py --dir runs/sweep ... --emit slurm > sweep.sbatch     print a Slurm array instead

Finished cells are skipped, broken ones go on: start the same command again after anything, or one with more blocks,
widths, seeds or vocabularies. Every block gets the MLP that gives it the parameters of the first block at the same
width (--match). Further options are launch/train.py's, for
all cells; context mixing is left out unless --model.ngram_orders asks for it. At the end the runs are compared, as
by launch/report.py.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
from launch import entry

entry.begin(__name__)

import argparse
import json
import math
import os
import shlex
import signal
import subprocess
import time
from typing import Literal

import torch
from tqdm import tqdm

from data.errors import UsageError
from data.files import write_file
from data.streams import publish, publishing
from studies.scaling.cells import Cell, grid
from studies.scaling.runs import read_sweep
from train.command_line import parse_config
from train.config import Config
from train.engine import free_port

TRAIN = Path(sys.path[0]) / "launch/train.py"
GRACE_SECS = 120.0
# What a launcher that this was started by would pass on.
LAUNCHED = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_SIZE", "CROSS_RANK", "CROSS_SIZE", "MASTER_ADDR", "MASTER_PORT"}


# Options of launch/train.py that the sweep sets for each cell, and what to give instead.
OWNED = {
    "model.block": "give --blocks",
    "model.width": "give --widths",
    "train.seed": "give --seeds",
    "run.dir": "give --dir",
    "run.resume": "start the same command again, and broken cells go on",
    "run.stop_after_steps": "cells run to their end; stop the sweep with Ctrl-C",
}
OWNED_BY_VOCABULARIES = {"data.vocabulary": "--vocabularies sets it", "data.tokenizer": "--vocabularies sets it"}


def numbers(text: str) -> list[int]:
    parts = different(text)
    try:
        return [int(part) for part in parts]
    except ValueError:
        raise UsageError("give whole numbers, by commas") from None


def vocabulary_sizes(text: str) -> list[int | Literal["bytes"]]:
    return ["bytes" if part == "bytes" else numbers(part)[0] for part in different(text)]


def block_patterns(text: str) -> list[str]:
    """Without spaces that make no difference."""
    return different(",".join(" ".join(block.split()) for block in text.split(",")))


def different(text: str) -> list[str]:
    """What stands between commas. Raises UsageError for what is there twice, as two cells would share a directory."""
    parts = text.split(",")
    if len(set(parts)) < len(parts) or not all(parts):
        raise UsageError("give different values, by commas")
    return parts


def main(arguments: list[str]) -> int:
    """Returns the exit status: 0 done, 1 a cell failed, 2 bad arguments, 128 + signal after a clean stop."""
    return entry.exit_status(lambda: sweep(arguments, *parse(arguments)))


def parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The sweep's options, and those of launch/train.py. Raises UsageError for what can have no effect."""
    parser = entry.Parser(alone=False, description=__doc__)
    parser.add_argument("--dir", type=Path, required=True, help="where the run directories are made")
    parser.add_argument(
        "--blocks",
        type=block_patterns,
        required=True,
        help="names from model/registry.py, or patterns of them, by commas",
    )
    parser.add_argument("--widths", type=numbers, required=True, help="values of model.width, by commas")
    parser.add_argument("--seeds", type=numbers, default=[0], help="values of train.seed, by commas (default: 0)")
    parser.add_argument(
        "--vocabularies", type=vocabulary_sizes, default=[], help="values of data.vocabulary, or `bytes`, by commas"
    )
    parser.add_argument(
        "--match",
        choices=["parameters", "flops", "none"],
        default="parameters",
        help="what all blocks of a width share with the first, which keeps model.expansion, by the size of their MLPs "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--jobs",
        type=int,
        help=f"cells at once, a GPU each if there are any (default: {torch.cuda.device_count() or 1})",
    )
    parser.add_argument("--emit", choices=["slurm"], help="print a job script of all cells, and stop")
    parser.add_argument("--cell", type=int, help="run this cell alone, by its number from 0, as tasks of an array do")
    parser.add_argument("--local_rank", help=argparse.SUPPRESS)
    # launch/train.py's have a section and a dot, with these exceptions.
    for argument in arguments:
        name = argument.split("=")[0]
        known = name in parser.options() or name in ("--local_rank", "--config", "--print_config")
        if name.startswith("--") and "." not in name and not known and name[2:] not in Config().to_dict():
            raise UsageError(f"unknown option {name}. {entry.meant(name, parser.options())}")
    options, given = parser.parse_known_args(arguments)
    entry.refuse_owned(given, OWNED | (OWNED_BY_VOCABULARIES if options.vocabularies else {}), "a sweep")
    if options.jobs is not None and options.jobs < 1:
        raise UsageError(f"--jobs is {options.jobs}: it must be 1 or more")
    if options.emit and options.cell is not None:
        raise UsageError(f"--emit prints a script of all cells, so --cell {options.cell} has no effect: leave it out")
    if options.emit and options.jobs is not None:
        raise UsageError(
            f"--jobs {options.jobs} has no effect in a Slurm array, of which a task is a cell: leave it out"
        )
    return options, given


def sweep(arguments: list[str], options: argparse.Namespace, given: list[str]) -> int:
    """Returns the exit status. `given` are the options of all cells, `arguments` what the command line said."""
    jobs = options.jobs or torch.cuda.device_count() or 1
    # Comparisons of architectures leave context mixing out, unless they are asked not to.
    given = ["--model.ngram_orders=[]", *given]
    if not any("engine.threads" in option for option in given):
        given.append(f"--engine.threads={max(1, len(os.sched_getaffinity(0)) // jobs)}")
    with publishing():
        run = parse_config("", given).run
    if run.resume or run.stop_after_steps:
        raise UsageError(
            "the file of --config sets run.resume or run.stop_after_steps: cells run to their end; remove it"
        )
    cells = grid(given, options.blocks, options.widths, options.seeds, options.vocabularies, options.match, options.dir)
    if options.cell is not None and not 0 <= options.cell < len(cells):
        raise UsageError(f"--cell is {options.cell}: there are {len(cells)}, from 0")
    if options.emit:
        publish(slurm_array(arguments, len(cells)))
        return 0
    options.dir.mkdir(parents=True, exist_ok=True)
    tell(options.dir, [cell.name for cell in cells])
    if options.cell is not None:
        return run_cells([cells[options.cell]], 1, options.dir)
    status = run_cells(cells, jobs, options.dir)
    if any(cell.finished for cell in cells) and status in (0, 1):
        command = [sys.executable, str(TRAIN.with_name("report.py")), str(options.dir)]
        publish(subprocess.run(command, check=False, stdout=subprocess.PIPE).stdout)
    return status


def tell(folder: Path, names: list[str]) -> None:
    """Write sweep.json: all cells that were ever asked for here, since the best of them is one of so many."""
    path = folder / "sweep.json"
    before = read_sweep(path)["names"] if path.exists() else []
    names = list(dict.fromkeys([*before, *names]))
    told = {"format": 1, "cells": len(names), "side_bits": math.log2(len(names)), "names": names}
    write_file(path, json.dumps(told, indent=1).encode())


def run_cells(cells: list[Cell], jobs: int, folder: Path) -> int:
    """Run what is not finished, `jobs` at once. Returns the exit status."""
    stop: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: stop.append(number))
    waiting = [cell for cell in cells if not cell.finished]
    running: dict[int, tuple[Cell, subprocess.Popen[bytes]]] = {}
    failed: list[str] = []
    # A log file gets a line a minute.
    shown, pause_secs = 0.0, 0.5 if sys.stderr.isatty() else 60.0
    with tqdm(total=len(cells), initial=len(cells) - len(waiting), unit="cell", desc="sweep") as bar:
        while (waiting or running) and not stop:
            for slot in range(jobs):
                if slot not in running and waiting:
                    cell = waiting.pop(0)
                    running[slot] = cell, start(cell, slot, folder)
            time.sleep(0.5)
            for slot, (cell, process) in list(running.items()):
                if process.poll() is None:
                    continue
                del running[slot]
                bar.update()
                # The launcher's exit status is not to be trusted; the report is.
                if not cell.finished:
                    failed.append(cell.name)
                    bar.write(f"onepass: {cell.name} failed; see {log_file(cell, folder)}", file=sys.stderr)
            if time.monotonic() - shown > pause_secs:
                shown = time.monotonic()
                progress = ", ".join(f"{cell.name} {cell.coded_bytes:,} bytes" for cell, _ in running.values())
                bar.set_postfix_str(progress)
    for _, process in running.values():
        end(process)
    if stop:
        print("onepass: stopped; start the same command again to go on", file=sys.stderr)
        return 128 + stop[0]
    return 1 if failed else 0


def start(cell: Cell, slot: int, folder: Path) -> subprocess.Popen[bytes]:
    """Start a cell through DeepSpeed's launcher, in a process group of its own, its output going to a log."""
    where = ["--include", f"localhost:{slot}"] if torch.cuda.is_available() else ["--num_accelerators", "1"]
    launcher = [sys.executable, "-m", "deepspeed.launcher.runner", *where, "--master_port", str(free_port())]
    log = log_file(cell, folder)
    log.parent.mkdir(exist_ok=True)
    with log.open("ab") as file:
        return subprocess.Popen(
            [*launcher, str(TRAIN), *cell.arguments],
            env={name: value for name, value in os.environ.items() if name not in LAUNCHED},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def log_file(cell: Cell, folder: Path) -> Path:
    return folder / "logs" / f"{cell.name}.log"


def end(process: subprocess.Popen[bytes]) -> None:
    """Let all processes of a cell checkpoint and leave. The launcher does not wait for its ranks, so the group is."""
    deadline = time.monotonic() + GRACE_SECS
    os.killpg(process.pid, signal.SIGTERM)
    while time.monotonic() < deadline:
        process.poll()
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGKILL)


def slurm_array(arguments: list[str], cells: int) -> str:
    """A job script with a task for each of the `cells` of a sweep that these `arguments` ask for."""
    kept = [argument for argument in arguments if argument not in ("--emit", "slurm", "--emit=slurm")]
    command = shlex.join([sys.executable, str(TRAIN.with_name("sweep.py")), *kept])
    return f"""#!/bin/bash
#SBATCH --job-name=onepass-sweep
#SBATCH --array=0-{cells - 1}
#SBATCH --nodes=1 --ntasks=1 --cpus-per-task=8 --gres=gpu:1
#SBATCH --signal=B:TERM@180
# Submit it again after anything: finished cells end at once, broken ones go on.
cd {shlex.quote(str(Path.cwd()))}
exec {command} --jobs 1 --cell $SLURM_ARRAY_TASK_ID"""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
