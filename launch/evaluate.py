"""What a finished run knows, and what its number says. Each command has a --help of its own.

python launch/evaluate.py encode FILE ARCHIVE --checkpoint RUN    code a file with the frozen model of a run
python launch/evaluate.py decode ARCHIVE FILE --checkpoint RUN    bring it back, given the same run
python launch/evaluate.py two-part RUN ...                        bits of the weights and of the corpus given them
python launch/evaluate.py prune RUN --held_out FILE               take out what its contexts do not need, and measure
python launch/evaluate.py sample RUN --prompt TEXT                draw text from a run
python launch/evaluate.py held-out RUN FILE...                    score files that it has not seen
python launch/evaluate.py generalisation RUNS_DIR FILE            do shorter descriptions go with better held-out rates?
python launch/evaluate.py curve FILE                              what a training curve stands for, with bounds
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
from launch import entry

entry.begin(__name__)

import argparse
from collections.abc import Callable

from studies.fixed_model import command as fixed_model
from studies.generalisation import command as generalisation
from studies.held_out import command as held_out
from studies.loss_curve import command as curve
from studies.pruning import command as prune
from studies.sampling import command as sampling
from studies.two_part import command as two_part

# By name: what it takes, what it does with it, and a line of help.
COMMANDS: dict[str, tuple[Callable[[argparse.ArgumentParser], None], Callable[..., None], str]] = {
    "encode": (fixed_model.encode_arguments, fixed_model.encode, "code a file with the frozen model of a run"),
    "decode": (fixed_model.decode_arguments, fixed_model.decode, "bring back what encode wrote, given the same run"),
    "sample": (sampling.sample_arguments, sampling.sample, "draw text from a run, by decoding random bits"),
    "two-part": (two_part.two_part_arguments, two_part.two_part, "send the weights, then the corpus given the weights"),
    "prune": (prune.prune_arguments, prune.prune, "take out what its contexts do not need, and measure"),
    "held-out": (
        held_out.held_out_arguments,
        held_out.held_out,
        "score files that a run has not seen, and see to that",
    ),
    "generalisation": (
        generalisation.generalisation_arguments,
        generalisation.generalisation,
        "hold the runs of a folder against text that they have not seen",
    ),
    "curve": (curve.curve_arguments, curve.curve, "turn a training curve into a description length, with bounds"),
}


def main(arguments: list[str]) -> int:
    """Returns the exit status: 0 done, 1 it failed, 2 bad arguments."""
    return entry.exit_status(lambda: evaluate(arguments))


def evaluate(arguments: list[str]) -> None:
    parser = entry.Parser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (describe, work, line) in COMMANDS.items():
        describe(commands.add_parser(name, help=line, description=sys.modules[work.__module__].__doc__))
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)
    options = vars(parser.parse_args(arguments))
    del options["local_rank"]
    _, work, _ = COMMANDS[options.pop("command")]
    work(**options)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
