"""Which forgeries launch/report.py verify finds, and how many of a run's spans show them.

    python benchmarks/tampering.py FILE DIR [--spans 20] [--ranks 1 2]

For each number of ranks, trains a small model over FILE with a record, copies the run once for each forgery, and
verifies every copy with all spans. A last forgery is a run of its own, in which no parameter learned in one span.
Appends a row a forgery to benchmarks/results/tampering.csv: whether the files alone show it, else how many spans do,
and the probability that 1 or 5 drawn spans miss it. Ten minutes on two cores.
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
import subprocess

import torch

from benchmarks.forgeries import FORGERIES, open_copy
from benchmarks.result_rows import appended, commit
from data.errors import RunFailed
from studies.verify.spans import missed
from train.cost import device_name

RESULTS = ROOT / "benchmarks" / "results" / "tampering.csv"
DRAWS = (1, 5)
COLUMNS = ["commit", "date", "device", "torch", "ranks", "forgery", "spans", "found_by", "spans_that_show_it",
           *(f"missed_by_{count}" for count in DRAWS), "said"]  # fmt: skip
SMALL = [
    "--model.width=32", "--model.head_width=16", "--model.depth=2", "--model.window=32", "--model.ngram_orders=[1,2,3]",
    "--model.ngram_rows_log2=12", "--train.segment_tokens=32", "--train.lanes=8", "--engine.threads=1",
    "--data.tokenizer=bytes", "--run.log_steps=1", "--run.baselines=false",
]  # fmt: skip
NOTHING, LAZY = "nothing", "a span in which no parameter learned"


def start(ranks: int, *words: str | Path) -> subprocess.CompletedProcess[str]:
    command = ["deepspeed", "--num_accelerators", str(ranks)] if ranks > 1 else [sys.executable]
    return subprocess.run([*command, *map(str, words)], cwd=ROOT, check=False, capture_output=True, text=True)


def train(ranks: int, file: Path, folder: Path, name: str, spans: int, *lazy: str) -> Path:
    program = ["benchmarks/lazy_run.py", *lazy] if lazy else ["launch/train.py"]
    given = [f"--data.source={file}", f"--data.cache_dir={folder / 'cache'}", f"--run.record_spans={spans}"]
    done = start(ranks, *program, *given, f"--run.dir={folder / name}", *SMALL)
    if done.returncode:
        raise RunFailed(done.stderr[-2000:])
    return folder / name


def verify(ranks: int, run: Path, forgery: str) -> dict[str, object]:
    """The columns from `forgery` on, of a run that is verified with all spans."""
    found = run.with_suffix(".json")
    found.unlink(missing_ok=True)
    done = start(ranks, "launch/report.py", "verify", run, "--spans", "1000000", "--seed", "0", "--json", found)
    if done.returncode not in (0, 1):
        raise RunFailed(done.stderr[-2000:])
    lines = [line.removeprefix("onepass: ") for line in done.stderr.splitlines() if line.startswith("onepass: ")]
    said = lines[0].replace(f"{run}/", "") if lines else ""
    row: dict[str, object] = {"ranks": ranks, "forgery": forgery, "said": said}
    if not found.exists():
        return row | {"found_by": "files"}
    result = json.loads(found.read_text())
    spans = result["spans"]
    showing = sum(bool(one["first"] or one["state"]) for one in result["checked"])
    row |= {f"missed_by_{count}": f"{missed(spans, min(count, spans), showing):.4f}" for count in DRAWS}
    return row | {"spans": spans, "found_by": "spans" if showing else "", "spans_that_show_it": showing}


def main() -> None:
    parser = entry.Parser(description=__doc__)
    parser.add_argument("file", type=Path, metavar="FILE", help="the corpus")
    parser.add_argument("folder", type=Path, metavar="DIR", help="where runs are kept")
    parser.add_argument("--spans", type=int, default=20, help="of each run")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2], help="of runs and verifications")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    stamp = {"commit": commit(), "date": datetime.date.today().isoformat(), "torch": torch.__version__}
    stamp["device"] = device_name(torch.device("cpu"))
    with appended(RESULTS, COLUMNS) as write:
        for ranks in options.ranks:
            honest = train(ranks, options.file, options.folder, f"honest-{ranks}", options.spans)
            write(stamp | verify(ranks, honest, NOTHING))
            middle = open_copy(honest).middle
            for number, (forgery, change) in enumerate(FORGERIES.items()):
                copy = shutil.copytree(honest, options.folder / f"forged-{ranks}-{number}")
                change(open_copy(copy))
                write(stamp | verify(ranks, copy, forgery))
                shutil.rmtree(copy)
            steps = str(middle.start), str(middle.stop)
            lazy = train(ranks, options.file, options.folder, f"lazy-{ranks}", options.spans, *steps)
            write(stamp | verify(ranks, lazy, LAZY))


if __name__ == "__main__":
    sys.exit(entry.exit_status(main))
