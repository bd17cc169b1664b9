"""Compare finished runs: a table here, and comparison.html with its pictures and tables in RUNS_DIR.

    python launch/report.py runs                    every finished run at or below runs/, shortest description first
    python launch/report.py runs --corpus kjv       those over one corpus, by its name or the start of its SHA-256
    python launch/report.py runs/sweep --out docs   the files go to docs/ instead
    python launch/report.py diff RUN_A RUN_B        where one of two codes is shorter, byte by byte; diff --help
    python launch/report.py verify RUN              run spans of a run again, and compare to the last bit; verify --help

Runs are compared by the total description length in their report.json, and by its data term; the picture overlays their
live curves (curve.csv) and the baselines. What the runs do not show is called not distinguishable: intervals are from
seeds where there are several, else from how the difference varies over the corpus. Runs that are not finished are left
out. Runs over different corpora are not compared: each corpus has a section of its own, and where there are several, a
folder comparison-NAME for its files. Exit status 2: bad arguments, nothing written.

Where runs differ in width, as those of launch/sweep.py do, the page also shows how their lengths change with it: power
laws with 95 % intervals, the best width of each architecture and vocabulary, and where architectures cross. That is in
scaling.png and .pdf, scaling.csv (a row a cell), scaling.json (fits), and for TensorBoard in RUNS_DIR/tensorboard. Runs
that differ in anything except width and seed are never put on one line.
"""

import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
from launch import entry

entry.begin(__name__)

from studies.common import add_arguments, execute
from studies.diff.options import Diff
from studies.verify.options import Verify

COMMANDS: dict[str, Any] = {"diff": Diff, "verify": Verify}


def make_parser() -> entry.Parser:
    parser = entry.Parser(description=__doc__)
    parser.add_argument(
        "runs_dir", metavar="RUNS_DIR", type=Path, help="directory that holds run directories, at any depth"
    )
    parser.add_argument("--out", metavar="DIR", type=Path, help="where the files are written (default: RUNS_DIR)")
    parser.add_argument("--corpus", metavar="NAME", default="", help="only runs over it: a name, or a SHA-256's start")
    return parser


def find_command(arguments: list[str]) -> tuple[str, list[str]]:
    """The command among COMMANDS, or none, and its arguments. A folder of runs with such a name is ./diff."""
    # The launcher's --local_rank may stand before the word.
    words = [word for word in arguments if not word.startswith("--local_rank=")]
    return (words[0], words[1:]) if words and words[0] in COMMANDS else ("", arguments)


def make_command_parser(name: str) -> entry.Parser:
    command = COMMANDS[name]
    parser = entry.Parser(prog=f"report.py {name}", description=sys.modules[command.__module__].__doc__)
    add_arguments(parser, command)
    return parser


def help_text() -> str:
    name, _ = find_command(sys.argv[1:])
    return (make_command_parser(name) if name else make_parser()).format_help().rstrip()


entry.answer_help(__name__, help_text)

from data.streams import publish
from studies.scaling.pages import write_comparison
from studies.scaling.rates import read_rates
from studies.scaling.runs import charge_selection, group_by_corpus, load_runs
from studies.scaling.tables import compare_runs, comparison_text, scaling_text
from studies.verify.command import is_portable


def main(arguments: list[str]) -> int:
    """Returns the exit status: 0 done, 1 the files could not be written, 2 bad arguments."""
    return entry.exit_status(lambda: start(arguments))


def start(arguments: list[str]) -> None:
    name, rest = find_command(arguments)
    if name:
        options = COMMANDS[name](**vars(make_command_parser(name).parse_args(rest)))
        if isinstance(options, Verify):
            entry.pin(is_portable(options.run))
        execute(options)
        return
    options = make_parser().parse_args(arguments)
    report(options.runs_dir, options.out or options.runs_dir, options.corpus)


def report(runs_dir: Path, out: Path, corpus: str) -> None:
    found = load_runs(runs_dir)
    comparisons = []
    for runs in group_by_corpus(found, corpus):
        elsewhere = [run for run in found if run.report.corpus.sha256 != runs[0].report.corpus.sha256]
        selection = charge_selection(runs_dir, runs, elsewhere)
        comparisons.append(compare_runs(runs, selection, read_rates(runs_dir, runs)))
    for comparison in comparisons:
        publish(comparison_text(comparison))
        if comparison.scaling:
            publish(scaling_text(comparison.scaling))
    for path in write_comparison(comparisons, out):
        print(f"wrote {path}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
