"""What attention buys over SSD, LSTM and GRU, and pieces over bytes, and where: launch/report.py diff over a corpus.

    python benchmarks/diff_study.py DIR [--cache_dir DIR]                         over the King James Bible
    python benchmarks/diff_study.py DIR --source FILE --results diff_enwik8       over another corpus

Trains five runs into DIR by launch/sweep.py, which skips finished ones: the settings of the study of architectures
(configs/architectures.yaml), no context mixing, equal parameters at a width. Then writes a row for each pair of runs
and class to benchmarks/results, and without --source the pictures of docs/differences.md. Half an hour on
two idle cores.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)
from launch import entry

entry.begin(__name__)

import csv
import datetime
import shutil
import subprocess
from collections.abc import Sequence

import torch

from benchmarks.result_rows import appended, commit
from data.errors import RunFailed
from eval.provenance import commit_text
from eval.schema import finished_report
from train.cost import device_name

RESULTS = ROOT / "benchmarks" / "results"
COLUMNS = ["commit", "date", "device", "torch", "trained", "a", "b", "group", "class", "bytes", "a_bits_per_byte",
           "b_bits_per_byte", "saved_bytes", "half_width_bytes"]  # fmt: skip
# Of each call of launch/sweep.py.
GRIDS = [
    ("--blocks", "attention,ssd,lstm,gru", "--widths", "64", "--vocabularies", "1024"),
    ("--blocks", "attention", "--widths", "64", "--vocabularies", "bytes"),
]
# By the name of their folder; the second run of each is what the bits are saved by.
PAIRS = {
    "attention": ("ssd-64-1024", "attention-64-1024"),
    "lstm": ("lstm-64-1024", "attention-64-1024"),
    "gru": ("gru-64-1024", "attention-64-1024"),
    "pieces": ("attention-64-bytes", "attention-64-1024"),
}
# What docs/differences.md shows.
PICTURED, PICTURES = ("attention", "pieces"), ("evidence", "where")


def start(*arguments: str | Path) -> None:
    ended = subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, check=False, stdout=sys.stderr)
    if ended.returncode:
        raise RunFailed(f"{' '.join(map(str, arguments))} ended with status {ended.returncode}")


def train(folder: Path, cache_dir: str, grids: Sequence[tuple[str, ...]], source: str = "kjv") -> None:
    """Train the cells of the `grids` into `folder`, two at a time."""
    for grid in grids:
        start(
            "launch/sweep.py", "--config", "configs/architectures.yaml", "--dir", folder, "--data.source", source,
            "--data.cache_dir", cache_dir, "--run.baselines", "false", "--jobs", "2", "--engine.threads", "1", *grid,
        )  # fmt: skip


def main() -> None:
    parser = entry.Parser(description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="where runs and comparisons are kept")
    parser.add_argument("--cache_dir", default="~/.cache/onepass", help="where prepared tokens are kept")
    parser.add_argument("--source", default="kjv", help="the corpus, as data.source says it")
    parser.add_argument("--results", default="diff", metavar="NAME", help="of the file in benchmarks/results")
    options = parser.parse_args()
    results = RESULTS / f"{options.results}.csv"
    train(options.folder, options.cache_dir, GRIDS, options.source)
    results.unlink(missing_ok=True)
    stamp = [commit(), datetime.date.today().isoformat(), device_name(torch.device("cpu")), torch.__version__]
    for name, pair in PAIRS.items():
        out = options.folder / f"diff-{name}"
        start("launch/report.py", "diff", *(options.folder / run for run in pair), "--out", out)
        trained = " ".join(dict.fromkeys(commit_text(finished_report(options.folder / run).commit) for run in pair))
        with (out / "diff.csv").open(newline="") as file, appended(results, COLUMNS) as write:
            for row in csv.DictReader(file):
                if row["group"] == "document":
                    continue
                rates = [f"{float(row[bits]) / int(row['bytes']):.4f}" for bits in ("a_bits", "b_bits")]
                saved = [f"{float(row[bits]) / 8:.0f}" for bits in ("saved_bits", "saved_half_width_bits")]
                values = [*stamp, trained, *pair, row["group"], row["class"], row["bytes"], *rates, *saved]
                write(dict(zip(COLUMNS, values, strict=True)))
        for picture in PICTURES if options.source == "kjv" and name in PICTURED else ():
            for theme in ("light", "dark"):
                shutil.copy(
                    out / f"diff-{picture}-{theme}.png", ROOT / f"docs/differences-{name}-{picture}-{theme}.png"
                )


if __name__ == "__main__":
    sys.exit(entry.exit_status(main))
