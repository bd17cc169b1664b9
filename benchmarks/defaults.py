"""How the defaults were chosen: one knob at a time, over the first megabyte of two corpora, through launch/train.py.

    python benchmarks/defaults.py CORPUS_FILE [--bytes 1000000] [--only width,lanes] [options of launch/train.py]

Appends a row a run to benchmarks/results/defaults.csv: corpus, what was changed, the terms of the description length
and the seconds taken. Totals do not depend on what else the machine does; seconds do. About a minute a row.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)
from launch import entry

entry.begin(__name__)

import datetime
import json
import subprocess
import tempfile
from collections.abc import Sequence
from typing import Any

from benchmarks.result_rows import appended
from train.command_line import CONFIG_FILE, load_config

RESULTS = ROOT / "benchmarks" / "results" / "defaults.csv"
COLUMNS = ["date", "corpus", "bytes", "changed", "total_bytes", "data_bytes", "code_bytes", "tokenizer_bytes"]
COLUMNS += ["elapsed_secs", "threads"]
KNOBS = {
    "none": [""],
    "block": [f"--model.block={block}" for block in ("attention", "gru", "lstm", "ssd", "ssd attention")],
    "width": ["--model.width=64", "--model.width=128", "--model.width=192"],
    "depth": ["--model.depth=1", "--model.depth=3", "--model.depth=4"],
    "window": ["--model.window=32", "--model.window=128"],
    "vocabulary": [f"--data.tokenizer=bpe --data.vocabulary={size}" for size in (512, 1024, 2048)],
    "lanes": ["--train.lanes=8", "--train.lanes=32"],
    "segment": ["--train.segment_tokens=16", "--train.segment_tokens=64"],
    "optimizer": ["--train.optimizer=adamw", "--train.optimizer=adamw --train.matrix_lr=0.04"],
    "rates": ["--train.matrix_lr=0.01", "--train.matrix_lr=0.04", "--train.table_lr=0.01", "--train.table_lr=0.04"],
    "vector_rate": ["--train.vector_lr=0.005", "--train.vector_lr=0.02"],
    "moments": ["--train.momentum=0.6", "--train.momentum=0.95", "--train.beta2=0.95", "--train.beta2=0.999"],
    "schedule": ["--train.flat_fraction=0", "--train.flat_fraction=0.6"],
    "mixing": [
        "--model.ngram_orders=[]",
        "--model.ngram_orders=[1,2,3,4,5,6]",
        "--model.ngram_orders=[1,2,3,4,5,6,7,8,10,14,20]",
        "--model.ngram_words=0",
        "--model.ngram_words=1",
        "--model.ngram_rows_log2=18",
        "--model.ngram_rows_log2=22",
    ],
    "embeddings": [f"--model.ngram_embeddings={orders}" for orders in ("[]", "[2]", "[2,3]", "[2,3,4,0]")],
    "logit_cap": ["--model.logit_cap=0"],
    "replay": ["--train.replay=1", "--train.replay=2", "--model.ngram_orders=[] --train.replay=1"],
}


def measure(source: str, name: str, options: list[str], launcher: Sequence[str] = (sys.executable,)) -> dict[str, Any]:
    """One run in processes of its own, preparation included, as a row of the table. Its progress goes to stderr.
    Nothing is chosen for the corpus, unless `options` have run.budget_minutes."""
    with tempfile.TemporaryDirectory(prefix="onepass-") as folder:
        run_dir = Path(folder) / "run"
        fixed = [f"--data.source={source}", f"--data.cache_dir={folder}/cache", f"--run.dir={run_dir}"]
        fixed += ["--run.baselines=false", "--run.checkpoint_secs=0", "--run.budget_minutes=0"]
        command = [*launcher, "launch/train.py", *fixed, *options]
        if status := subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.DEVNULL).returncode:
            raise SystemExit(f"{' '.join(command)} failed with status {status}")
        report = json.loads((run_dir / "report.json").read_text())
        threads = load_config(run_dir / CONFIG_FILE).engine.threads
    length = report["description_length"]
    terms = {f"{term}_bytes": round(length[f"{term}_bits"] / 8) for term in ("total", "data", "code", "tokenizer")}
    row = {"date": datetime.date.today().isoformat(), "corpus": name, "bytes": report["corpus"]["bytes"], **terms}
    return row | {"elapsed_secs": round(report["cost"]["elapsed_secs"], 1), "threads": threads}


def main() -> None:
    parser = entry.Parser(alone=False, description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--bytes", type=int, default=1_000_000, help="length of the prefix that is used; 0 for all")
    parser.add_argument("--only", default=",".join(KNOBS), help="comma-separated knobs")
    options, rest = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder, appended(RESULTS, COLUMNS) as write:
        prefix = Path(folder) / options.corpus.name
        prefix.write_bytes(options.corpus.read_bytes()[: options.bytes or None])
        for knob in options.only.split(","):
            for setting in KNOBS[knob]:
                row = measure(str(prefix), options.corpus.name, [*rest, *setting.split()])
                row["changed"] = " ".join([*rest, setting]).strip() or "nothing"
                write(row)
                entry.publish(f"{row['total_bytes']:>9,} bytes {row['elapsed_secs']:>7} s  {row['changed']}")


if __name__ == "__main__":
    sys.exit(entry.exit_status(main))
