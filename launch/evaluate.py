"""What a finished run knows, and what its number says. Each command has a --help of its own.

python launch/evaluate.py encode FILE ARCHIVE --checkpoint RUN    code a file with the frozen model of a run
python launch/evaluate.py decode ARCHIVE FILE --checkpoint RUN    bring it back, given the same run
python launch/evaluate.py two-part RUN ...                        bits of the weights and of the corpus given them
python launch/evaluate.py prune RUN --held_out FILE               take out what its contexts do not need, and measure
python launch/evaluate.py sample RUN --prompt TEXT                draw text from a run
python launch/evaluate.py held-out RUN FILE...                    score files that it has not seen
python launch/evaluate.py generalisation RUNS_DIR FILE            do shorter descriptions go with better held-out rates?
python launch/evaluate.py mixture RUNS_DIR                        one code from all runs, and which counts when
python launch/evaluate.py curve FILE                              what a training curve stands for, with bounds
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
from launch import entry

entry.begin(__name__)

import argparse
from typing import Any

from studies.common import add_arguments, execute
from studies.fixed_model import options as fixed_model
from studies.generalisation import options as generalisation
from studies.held_out import options as held_out
from studies.loss_curve import options as curve
from studies.mixture import options as mixture
from studies.pruning import options as prune
from studies.sampling import options as sampling
from studies.two_part import options as two_part

# By name: a dataclass whose fields are what it takes.
COMMANDS: dict[str, type[Any]] = {
    "encode": fixed_model.Encode,
    "decode": fixed_model.Decode,
    "sample": sampling.Sample,
    "two-part": two_part.TwoPart,
    "prune": prune.Prune,
    "held-out": held_out.HeldOut,
    "generalisation": generalisation.Generalisation,
    "mixture": mixture.Mixture,
    "curve": curve.Curve,
}


def main(arguments: list[str]) -> int:
    """Returns the exit status: 0 done, 1 it failed, 2 bad arguments."""
    return entry.exit_status(lambda: evaluate(arguments))


def evaluate(arguments: list[str]) -> None:
    parser = entry.Parser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, command in COMMANDS.items():
        description = sys.modules[command.__module__].__doc__
        add_arguments(commands.add_parser(name, help=command.__doc__, description=description), command)
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)
    given = vars(parser.parse_args(arguments))
    del given["local_rank"]
    execute(COMMANDS[given.pop("command")](**given))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
