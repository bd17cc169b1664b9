"""Train every cell of a grid, blocks x widths x seeds x tokenizers, each in a run directory of its own.

python launch/sweep.py --dir runs/sweep --blocks attention,ssd,"ssd ssd ssd attention" --widths 64,128,256
python launch/sweep.py --dir runs/sweep ... --emit slurm > sweep.sbatch     print a Slurm array instead

Finished cells are skipped, broken ones go on: start the same command again after anything, or one with more blocks,
widths, seeds or tokenizers. Every block gets the MLP that gives it the parameters of the first block at the same
width (--match). Further options are launch/train.py's, for all cells; context mixing is left out unless
--model.ngram_orders asks for it. At the end the runs are compared, as by launch/report.py.

--depths 4,8 and --learning_rates 0.5,1,2 multiply the grid: by depths, and by factors on the three learning rates.
With --tune_width 32 the factors are tried at that width alone, and each block's other widths get its best. All cells
that try one count among those that the best is chosen of.

python launch/sweep.py --dir runs/sweep --status         how far it is, whoever runs it: on this machine, or in Slurm
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
from launch import entry

entry.begin(__name__)

import argparse
import re
from collections.abc import Sequence
from typing import Literal

from data.errors import UsageError
from data.streams import publish
from studies.scaling.status import status_text

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


def print_status() -> None:
    """Answer --status, which only --dir stands beside."""
    options, others = make_parser().parse_known_args()
    given = [argument for argument in sys.argv[1:] if argument.startswith("--")]
    others += [one for one in given if one.split("=")[0] not in ("--status", "--dir")]
    if others:
        raise UsageError(f"--status looks at what is in --dir, and {others[0]} has no effect: leave it out")
    publish(status_text(options.dir))


def make_parser() -> entry.Parser:
    parser = entry.Parser(alone=False, description=__doc__)
    parser.add_argument("--dir", type=Path, required=True, help="where the run directories are made")
    parser.add_argument("--status", action="store_true", help="print what is done and what is left, and stop")
    parser.add_argument(
        "--blocks",
        type=read_blocks,
        required="--status" not in sys.argv,
        help="names as --model.block takes them, patterns of them, or networks as --model.network does, by commas",
    )
    parser.add_argument(
        "--widths",
        type=read_numbers,
        required="--status" not in sys.argv,
        help="values of model.width, by commas",
    )
    parser.add_argument("--depths", type=read_numbers, default=[], help="values of model.depth, by commas")
    parser.add_argument(
        "--learning_rates", type=read_factors, default=[], help="factors on all three learning rates, by commas"
    )
    parser.add_argument(
        "--tune_width",
        type=int,
        help="try --learning_rates at this width alone, with the first seed, and give each block's widths the best",
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
if __name__ == "__main__" and "--status" in sys.argv:
    # Before what takes seconds is imported.
    sys.exit(entry.exit_status(print_status))

import os

import torch

from archive.pins import PINS
from data.streams import publish_help
from launch.report import report
from studies.scaling.axes import multiply
from studies.scaling.cells import Cell, Grid
from studies.scaling.record import Tuned
from studies.scaling.sweep import record_cells, run_cells, slurm_script
from studies.scaling.tuning import Tuning, plan_tuning
from train.command_line import parse_config
from train.config import Config, ModelConfig

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
    if options.tune_width is not None and len(options.learning_rates) < 2:
        raise UsageError(f"--tune_width {options.tune_width} has no effect alone: give --learning_rates 0.5,1,2")
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
    # Comparisons of architectures leave context mixing out, and what a file says of it, unless they are asked not to.
    if not any(option.startswith("--model.ngram_orders") for option in given):
        given = [*(f"--model.{name}=[]" for name in ModelConfig().context_lists), *given]
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
    tuning = None
    if options.tune_width is not None:
        tuning = plan_tuning(grid, options.depths, options.learning_rates, options.tune_width)
    trials = tuning.trials if tuning else []
    cells = tuning.plain() if tuning else multiply(grid, options.depths, options.learning_rates)
    if options.cell is not None and not 0 <= options.cell < len(trials) + len(cells):
        raise UsageError(f"--cell is {options.cell}: there are {len(trials) + len(cells)}, from 0")
    if options.emit:
        publish(slurm_script(arguments, len(cells), gpus, len(trials)))
        return 0
    options.dir.mkdir(parents=True, exist_ok=True)

    def run_stage(chosen: list[Cell], later: Sequence[Cell] = (), before: Sequence[Cell] = ()) -> int:
        return run_cells(chosen, jobs, gpus, environment, [cell.place for cell in later], before)

    problems = 0
    if tuning:
        record_cells(options.dir, trials)
        if options.cell is None or options.cell < len(trials):
            status = run_stage(trials, tuning.later()) if options.cell is None else run_stage([trials[options.cell]])
            if options.cell is not None or status > 1:
                return status
        found, tuned, problems = choose_rates(tuning)
        record_cells(options.dir, [cell for cell in found if cell], tuned)
    else:
        found = [*cells]
        record_cells(options.dir, cells)
    if options.cell is not None:
        own = found[options.cell - len(trials)]
        return run_stage([own]) if own else 1
    status = max(problems, run_stage([cell for cell in found if cell], before=trials))
    if any(cell and cell.finished for cell in found) and status in (0, 1):
        entry.exit_status(lambda: report(options.dir, options.dir, ""))
    return status


def choose_rates(tuning: Tuning) -> tuple[list[Cell | None], dict[str, Tuned], int]:
    """The cells that come after the trials, None for those that cannot be run; the rates that lines got; and 1 if some
    got none, and else 0."""
    tuned, problems = tuning.choose()
    for line, one in tuned.items():
        tried = f"best of {len(one.tried)} at width {one.width}{one.edge}"
        print(f"onepass: {line}: learning rates x {one.factor:g}, {tried}", file=sys.stderr)
    for problem in problems:
        print(f"onepass: {problem}", file=sys.stderr)
    return tuning.rest(tuned), tuned, int(bool(problems))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
