"""Train every cell of a grid, blocks x widths x seeds x tokenizers, each in a run directory of its own.

python launch/sweep.py --dir runs/sweep --blocks attention,ssd,"ssd ssd ssd attention" --widths 64,128,256
python launch/sweep.py --dir runs/sweep ... --emit slurm > sweep.sbatch     print a Slurm array instead

Finished cells are skipped, broken ones go on: start the same command again after anything, or one with more blocks,
widths, seeds or tokenizers. Every block gets the MLP that gives it the parameters of the first block at the same
width (--match). Further options are launch/train.py's, for all cells; context mixing is left out unless
--model.ngram_orders asks for it. At the end the runs are compared, as by launch/report.py.

--depths 4,8 and --learning_rates 0.5,1,2 multiply the grid: by depths, and by factors on the three learning rates.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
from launch import entry

entry.begin(__name__)

import argparse
import re
from typing import Literal

from data.errors import UsageError

# Commas, except those before a field of a network, NAME=VALUE, or inside of its value.
BETWEEN_BLOCKS = r",(?!\w+=)(?![^\[{]*[\]}])"


def read_numbers(text: str) -> list[int]:
    parts = split_different(text)
    try:
        return [int(part) for part in parts]
    except ValueError:
        raise UsageError("give whole numbers, by commas") from None


def read_factors(text: str) -> list[float]:
    try:
        factors = [float(part) for part in split_different(text)]
    except ValueError:
        raise UsageError("give numbers, by commas") from None
    # Six digits are what names of cells tell apart.
    if not all(1e-3 <= factor <= 1e3 for factor in factors) or len({f"{factor:g}" for factor in factors}) < len(
        factors
    ):
        raise UsageError("give different factors from 0.001 to 1000")
    return factors


def read_vocabularies(text: str) -> list[int | Literal["bytes"]]:
    return ["bytes" if part == "bytes" else read_numbers(part)[0] for part in split_different(text)]


def read_blocks(text: str) -> list[str]:
    """Without spaces that make no difference."""
    return refuse_twice([" ".join(block.split()) for block in re.split(BETWEEN_BLOCKS, text)])


def split_different(text: str) -> list[str]:
    """What is between commas, as in refuse_twice."""
    return refuse_twice(text.split(","))


def refuse_twice(parts: list[str]) -> list[str]:
    """The same. Raises UsageError for what is there twice, as two cells would share a directory."""
    if len(set(parts)) < len(parts) or not all(parts):
        raise UsageError("give different values, by commas")
    return parts


def make_parser() -> entry.Parser:
    parser = entry.Parser(alone=False, description=__doc__)
    parser.add_argument("--dir", type=Path, required=True, help="where the run directories are made")
    parser.add_argument(
        "--blocks",
        type=read_blocks,
        required=True,
        help="names as --model.block takes them, patterns of them, or networks as --model.network does, by commas",
    )
    parser.add_argument("--widths", type=read_numbers, required=True, help="values of model.width, by commas")
    parser.add_argument("--depths", type=read_numbers, default=[], help="values of model.depth, by commas")
    parser.add_argument(
        "--learning_rates", type=read_factors, default=[], help="factors on all three learning rates, by commas"
    )
    parser.add_argument("--seeds", type=read_numbers, default=[0], help="values of train.seed, by commas (default: 0)")
    parser.add_argument(
        "--vocabularies", type=read_vocabularies, default=[], help="values of data.vocabulary, or `bytes`, by commas"
    )
    parser.add_argument(
        "--tokenizers",
        type=split_different,
        default=[],
        help="`bytes`, `bpe:PIECES`, and files as data.tokenizer takes them, by commas, in place of --vocabularies",
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
        help="cells at once, a GPU each if there are any (default: as many as there are GPUs, or 1)",
    )
    parser.add_argument("--gpus_per_cell", type=int, default=1, help="GPUs of each cell (default: %(default)s)")
    parser.add_argument("--emit", choices=["slurm"], help="print a job script of all cells, and stop")
    parser.add_argument("--cell", type=int, help="run this cell alone, by its number from 0, as tasks of an array do")
    parser.add_argument("--local_rank", help=argparse.SUPPRESS)
    return parser


entry.answer_help(__name__, lambda: make_parser().format_help().rstrip())

import os

import torch

from archive.pins import PINS
from data.streams import publish, publish_help
from launch.report import report
from studies.scaling.axes import multiply
from studies.scaling.cells import Grid
from studies.scaling.sweep import record_cells, run_cells, slurm_script
from train.command_line import parse_config
from train.config import Config

# Options of launch/train.py that the sweep sets for each cell, and what to give instead.
OWNED = {
    "model.block": "give --blocks",
    "model.network": "give it in --blocks",
    "model.width": "give --widths",
    "train.seed": "give --seeds",
    "run.dir": "give --dir",
    "run.resume": "start the same command again, and broken cells go on",
    "run.stop_after_steps": "cells run to their end; stop the sweep with Ctrl-C",
}
OWNED_BY_TOKENIZERS = ("data.vocabulary", "data.tokenizer")


def main(arguments: list[str]) -> int:
    """Returns the exit status: 0 done, 1 a cell failed, 2 bad arguments, 128 + signal after a clean stop."""
    return entry.exit_status(lambda: sweep(arguments, *parse(arguments)))


def parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The sweep's options, and those of launch/train.py. Raises UsageError for what can have no effect."""
    parser = make_parser()
    # launch/train.py's have a section and a dot, with these exceptions.
    for argument in arguments:
        name = argument.split("=")[0]
        known = name in parser.options() or name in ("--local_rank", "--config", "--print_config")
        if name.startswith("--") and "." not in name and not known and name[2:] not in Config().to_dict():
            raise UsageError(f"unknown option {name}. {entry.meant(name, parser.options())}")
    options, given = parser.parse_known_args(arguments)
    axis = "--tokenizers" if options.tokenizers else "--vocabularies" if options.vocabularies else ""
    entry.refuse_owned(
        given, OWNED | (dict.fromkeys(OWNED_BY_TOKENIZERS, f"{axis} sets it") if axis else {}), "a sweep"
    )
    if options.tokenizers and options.vocabularies:
        raise UsageError("--tokenizers takes bpe:PIECES, so --vocabularies has no effect beside it: leave it out")
    if options.depths:
        entry.refuse_owned(given, {"model.depth": "--depths sets it"}, "a sweep")
    if options.jobs is not None and options.jobs < 1:
        raise UsageError(f"--jobs is {options.jobs}: it must be 1 or more")
    if options.gpus_per_cell < 1:
        raise UsageError(f"--gpus_per_cell is {options.gpus_per_cell}: it must be 1 or more")
    if options.emit and options.cell is not None:
        raise UsageError(f"--emit prints a script of all cells, so --cell {options.cell} has no effect: leave it out")
    if options.emit and options.jobs is not None:
        raise UsageError(
            f"--jobs {options.jobs} has no effect in a Slurm array, of which a task is a cell: leave it out"
        )
    return options, given


def sweep(arguments: list[str], options: argparse.Namespace, given: list[str]) -> int:
    """Returns the exit status. `given` are the options of all cells, `arguments` what the command line said."""
    gpus, devices = options.gpus_per_cell, torch.cuda.device_count()
    jobs = options.jobs or max(1, devices // gpus)
    if not options.emit and gpus > 1 and gpus * jobs > devices:
        raise UsageError(f"--gpus_per_cell is {gpus} for {jobs} cells at once, and this machine has {devices} GPUs")
    # Comparisons of architectures leave context mixing out, unless they are asked not to.
    given = ["--model.ngram_orders=[]", *given]
    if not any("engine.threads" in option for option in given):
        given.append(f"--engine.threads={max(1, len(os.sched_getaffinity(0)) // jobs)}")
    with publish_help():
        config = parse_config("", given)
    run, environment = config.run, PINS if config.engine.portable else {}
    if run.resume or run.stop_after_steps:
        raise UsageError(
            "the file of --config sets run.resume or run.stop_after_steps: cells run to their end; remove it"
        )
    axes = options.blocks, options.widths, options.seeds, options.vocabularies
    grid = Grid(options.dir, given, *axes, options.match, options.tokenizers)
    cells = multiply(grid, options.depths, options.learning_rates)
    if options.cell is not None and not 0 <= options.cell < len(cells):
        raise UsageError(f"--cell is {options.cell}: there are {len(cells)}, from 0")
    if options.emit:
        publish(slurm_script(arguments, len(cells), gpus))
        return 0
    options.dir.mkdir(parents=True, exist_ok=True)
    record_cells(options.dir, [cell.name for cell in cells])
    if options.cell is not None:
        return run_cells([cells[options.cell]], 1, gpus)
    status = run_cells(cells, jobs, gpus, environment)
    if any(cell.finished for cell in cells) and status in (0, 1):
        entry.exit_status(lambda: report(options.dir, options.dir, ""))
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
