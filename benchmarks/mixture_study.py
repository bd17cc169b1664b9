"""One code from runs over a corpus, and several models side by side in one run.

    python benchmarks/mixture_study.py DIR [--cache_dir DIR]                                 over the King James Bible
    python benchmarks/mixture_study.py DIR --alone --source FILE --results mixture_enwik8    over another corpus

Trains six runs, three blocks at two widths, into DIR unless they are there, and one of three models side by side at
width 64, which --alone leaves out. Writes their codes (launch/evaluate.py mixture) to benchmarks/results, and
without --source the picture of docs/mixtures.md. An hour on two idle cores.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)
from launch import entry

entry.begin(__name__)

import datetime
import json
import shutil

import torch

from benchmarks.diff_study import start, train
from benchmarks.result_rows import appended, commit
from eval.schema import finished_report
from train.cost import device_name

RESULTS = ROOT / "benchmarks" / "results"
COLUMNS = ["commit", "date", "device", "torch", "code", "data_bytes", "program_bytes", "total_bytes", "secs"]
ALONE = ("--blocks", "attention,ssd,lstm", "--widths", "32,64", "--vocabularies", "1024")
# The members have the MLPs of a run alone.
SIDE_BY_SIDE = ("--blocks", "ssd | attention | lstm", "--widths", "64", "--vocabularies", "1024", "--match", "none")


def main() -> None:
    parser = entry.Parser(description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="where runs and pictures are kept")
    parser.add_argument("--cache_dir", default="~/.cache/onepass", help="where prepared tokens are kept")
    parser.add_argument("--source", default="kjv", help="the corpus, as data.source says it")
    parser.add_argument("--results", default="mixture", metavar="NAME", help="of the file in benchmarks/results")
    parser.add_argument("--alone", action="store_true", help="train no models side by side")
    options = parser.parse_args()
    train(options.folder / "alone", options.cache_dir, [ALONE], options.source)
    if not options.alone:
        train(options.folder / "together", options.cache_dir, [SIDE_BY_SIDE], options.source)
    codes, picture = options.folder / "codes.json", options.folder / "mixture"
    start("launch/evaluate.py", "mixture", options.folder / "alone", "--json", codes, "--png", picture)
    reports = {path.parent: finished_report(path.parent) for path in options.folder.rglob("report.json")}
    secs = {folder.name: report.cost.elapsed_secs for folder, report in reports.items()}
    rows = json.loads(codes.read_text())["codes"]
    for folder, report in reports.items():
        length = report.description_length
        if "|" in report.model.block:
            sizes = (length.data_bits, length.code_bits, length.total_bits)
            names = ("data_bytes", "program_bytes", "total_bytes")
            rows.append({"code": folder.name} | {name: bits / 8 for name, bits in zip(names, sizes, strict=True)})
    stamp = [
        commit(),
        datetime.date.today().isoformat(),
        device_name(torch.device("cpu")),
        torch.__version__,
    ]
    results = RESULTS / f"{options.results}.csv"
    results.unlink(missing_ok=True)
    with appended(results, COLUMNS) as write:
        for row in rows:
            numbers = [f"{row[name]:.0f}" for name in COLUMNS[5:8]]
            write(dict(zip(COLUMNS, [*stamp, row["code"], *numbers, f"{secs.get(row['code'], 0):.0f}"], strict=True)))
    for theme in ("light", "dark") if options.source == "kjv" else ():
        shutil.copy(f"{picture}-{theme}.png", ROOT / f"docs/mixture-{theme}.png")


if __name__ == "__main__":
    sys.exit(entry.exit_status(main))
