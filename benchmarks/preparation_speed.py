"""How fast a corpus is tokenised: MB/s a core by tokenizer, and where more processes stop helping.

    python benchmarks/preparation_speed.py --tokenizers bytes,bpe,gpt2.json,gpt2.tiktoken,mistral-v1.model [--runs 3]

The corpus is the first 40 MB of enwik8: workers start at 32 MiB. Every preparation runs in processes of its own, as
benchmarks/preparation.py watches them. A description of a tokenizer, which is made once, is made before. `tokens` are
ids of two bytes that nobody has to tokenise: nanoGPT's `ids.bin`, which is read where it is, and the same in
`ids.parquet`, which becomes shards. Each row is the median of --runs, which take turns; MB/s a core counts the CPU
seconds of all processes, their start included, so it is what a machine that others use says, too.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)
from launch import entry

entry.begin(__name__)

import argparse
import itertools
import shutil
import statistics
import tempfile
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

from benchmarks.preparation import measure, repeat, write_corpus
from benchmarks.result_rows import appended

RESULTS = ROOT / "benchmarks" / "results" / "preparation_speed.csv"
COLUMNS = ["commit", "corpus", "tokenizer", "workers", "runs", "megabytes", "seconds", "mb_per_sec", "mb_per_core_sec"]
MEASURED = ("seconds", "mb_per_sec", "mb_per_core_sec")
RECORD_IDS = 1 << 16


def write_ids(folder: Path, total_bytes: int) -> list[Path]:
    """The same ids below 50,257 as a bare file and as records."""
    ids = np.random.default_rng(0).integers(0, 50_257, total_bytes // 2, np.uint16)
    ids.tofile(folder / "ids.bin")
    rows = [ids[start : start + RECORD_IDS] for start in range(0, len(ids), RECORD_IDS)]
    pyarrow.parquet.write_table(pyarrow.table({"text": rows}), folder / "ids.parquet", row_group_size=16)
    return [folder / "ids.bin", folder / "ids.parquet"]


def prepare_once(source: str, tokenizer: str, workers: int, cache: Path, vocabulary: int) -> dict[str, Any]:
    """One preparation into an empty cache, except for descriptions of tokenizers, as a row of one run."""
    for left in cache.glob("*"):
        if left.is_dir() and not left.name.startswith("tokenizer-"):
            shutil.rmtree(left)
    options = argparse.Namespace(vocabulary=vocabulary, workers=workers)
    found = measure(source, tokenizer, "prepared", cache, options)
    return found | {"corpus": Path(source).name, "tokenizer": Path(tokenizer).name, "workers": workers}


def main() -> None:
    parser = entry.Parser(description=__doc__)
    parser.add_argument("--enwik8", type=Path, default=ROOT.parent / "shared" / "corpora" / "enwik8.xz")
    parser.add_argument("--vocabulary", type=int, default=2048)
    parser.add_argument("--tokenizers", default="bytes,bpe", help="of these, or files, by commas")
    parser.add_argument("--workers", default="1,2,4", help="processes, by commas")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--megabytes", type=int, default=40)
    options = parser.parse_args()
    workers = [int(number) for number in options.workers.split(",")]
    with tempfile.TemporaryDirectory() as name, appended(RESULTS, COLUMNS) as write:
        folder, cache = Path(name), Path(name) / "cache"
        text = folder / "enwik8"
        write_corpus(text, repeat(options.enwik8, options.megabytes * 1_000_000))
        # `bytes` has nothing to encode, and token files neither: they take one process.
        cells = [
            (f"raw:{text}", tokenizer, number)
            for tokenizer in options.tokenizers.split(",")
            for number in (workers if tokenizer != "bytes" else [1])
        ]
        cells += [(f"tokens:{path}", "bytes", 1) for path in write_ids(folder, options.megabytes * 1_000_000)]
        for tokenizer in {cell[1] for cell in cells} - {"bytes", "bpe"}:
            small = folder / "small"
            small.write_bytes(text.read_bytes()[:100_000])
            prepare_once(f"raw:{small}", tokenizer, 1, cache, options.vocabulary)
        found: list[list[dict[str, Any]]] = [[] for _ in cells]
        for _, (runs, cell) in itertools.product(range(options.runs), zip(found, cells, strict=True)):
            runs.append(prepare_once(*cell, cache, options.vocabulary))
            entry.publish("  ".join(f"{runs[-1][column]}" for column in COLUMNS if column != "runs"))
        for runs in found:
            middle = {column: f"{statistics.median(float(run[column]) for run in runs):.1f}" for column in MEASURED}
            row = runs[0] | middle | {"runs": len(runs)}
            if row["corpus"].startswith("ids"):
                row["tokenizer"] = "tokens"
            write({column: row[column] for column in COLUMNS})


if __name__ == "__main__":
    sys.exit(entry.exit_status(main))
