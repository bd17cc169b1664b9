"""Compare finished runs over one corpus: a table here, and comparison.html with its pictures and tables in RUNS_DIR.

    python launch/report.py runs                    every finished run at or below runs/, shortest description first
    python launch/report.py runs/sweep --out docs   the files go to docs/ instead

Runs are compared by the total description length in their report.json; the picture overlays their live curves
(curve.csv) and the baselines. Runs that are not finished are left out. Runs over different corpora are refused: their
lengths say nothing about each other. Exit status 2: bad arguments, nothing written.

Where runs differ in width, as those of launch/sweep.py do, the page also shows how their lengths change with it: power
laws with 95 % intervals, the best width of each architecture and vocabulary, and where architectures cross. That is in
scaling.png, scaling.csv (a row a cell), scaling.json (fits), and for TensorBoard in RUNS_DIR/tensorboard. Runs that
differ in anything but width and seed are never put on one line.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
from launch import entry

entry.begin(__name__)

from eval.compare import comparison_table, load_runs, selection_of, write_comparison
from eval.scaling_analysis import analyse
from eval.scaling_files import scaling_text


def main(arguments: list[str]) -> int:
    """Returns the exit status: 0 done, 1 the files could not be written, 2 bad arguments."""
    return entry.exit_status(lambda: start(arguments))


def start(arguments: list[str]) -> None:
    parser = entry.Parser(description=__doc__)
    parser.add_argument(
        "runs_dir", metavar="RUNS_DIR", type=Path, help="directory that holds run directories, at any depth"
    )
    parser.add_argument("--out", metavar="DIR", type=Path, help="where the files are written (default: RUNS_DIR)")
    options = parser.parse_args(arguments)
    report(options.runs_dir, options.out or options.runs_dir)


def report(runs_dir: Path, out: Path) -> None:
    runs = load_runs(runs_dir)
    selection = selection_of(runs_dir, runs)
    entry.publish(comparison_table(runs, selection))
    scaling = analyse([run.point for run in runs])
    if scaling:
        entry.publish(scaling_text(scaling))
    for path in write_comparison(runs, out, scaling, selection):
        print(f"wrote {path}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
