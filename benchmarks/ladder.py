"""The ladder: how short a description of a corpus' first bytes, at how many CPU seconds, through launch/train.py.

    python benchmarks/ladder.py ENWIK8 [--bytes 100000,1000000] [--label "what is tried"] [options of launch/train.py]

ENWIK8 is a file, .xz or plain; the rungs are prefixes of it. Appends a row a rung to benchmarks/results/ladder.csv: the
commit, the options, the terms of the description length, CPU seconds of all processes (start and preparation included)
and those by the clock. Budgets and goals of enwik8 are in GOALS; the note in research/ says what other programs make of
it. CPU seconds depend a little on what else the machine does, sizes do not.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)
from launch import entry

entry.begin(__name__)

import lzma
import resource
import tempfile
import time
from typing import Any

from benchmarks.defaults import measure
from benchmarks.result_rows import appended, commit

RESULTS = ROOT / "benchmarks" / "results" / "ladder.csv"
COLUMNS = ["date", "commit", "corpus", "bytes", "label", "options", "total_bytes", "data_bytes", "code_bytes"]
COLUMNS += ["tokenizer_bytes", "cpu_secs", "elapsed_secs", "threads"]
# Of enwik8's first bytes: (CPU seconds, total bytes).
GOALS = {1_000_000: (300, 226_000), 10_000_000: (7200, 1_890_000)}


def first_bytes(path: Path, size: int) -> bytes:
    """The start of a file, unpacked if it is .xz."""
    with lzma.open(path) if path.suffix == ".xz" else path.open("rb") as file:
        return file.read(size)


def cpu_secs() -> float:
    """Of all processes that this one started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def climb(corpus: Path, size: int, options: list[str]) -> dict[str, Any]:
    """One rung, as a row of the table but for the names of what was tried."""
    with tempfile.TemporaryDirectory(prefix="onepass-") as folder:
        prefix = Path(folder, "prefix")
        prefix.write_bytes(first_bytes(corpus, size))
        before, start = cpu_secs(), time.monotonic()
        row = measure(f"raw:{prefix}", corpus.stem, options)
    return row | {"cpu_secs": round(cpu_secs() - before), "elapsed_secs": round(time.monotonic() - start)}


def main() -> None:
    parser = entry.Parser(alone=False, description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--bytes", default="100000,1000000", help="rungs, by commas (default: %(default)s)")
    parser.add_argument("--label", default="", help="what is tried, for the table")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options, rest = parser.parse_known_args()
    with appended(options.out, COLUMNS) as write:
        for size in map(int, options.bytes.split(",")):
            row = climb(options.corpus, size, rest)
            write(row | {"commit": commit(), "label": options.label, "options": " ".join(rest)})
            said = f"{row['bytes']:,} bytes: {row['total_bytes']:,} in {row['cpu_secs']:,} CPU s"
            if options.corpus.stem == "enwik8" and size in GOALS:
                secs, total = GOALS[size]
                met = row["total_bytes"] <= total and row["cpu_secs"] <= secs
                said += f" (goal {total:,} in {secs:,}: {'met' if met else 'missed'})"
            entry.publish(said)


if __name__ == "__main__":
    sys.exit(entry.exit_status(main))
