"""What ordinary compressors make of the first bytes of a file, beside which docs set description lengths.

    python benchmarks/baselines.py ENWIK8 [--bytes 1000000,3000000,10000000,100000000]

ENWIK8 is a file, .xz or plain. Settings are those of every report (eval/baselines.py). Appends a row for each length to
benchmarks/results/baselines.csv: the commit, and bytes by compressor. The whole of enwik8 takes five minutes.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)
from launch import entry

entry.begin(__name__)

import datetime

from benchmarks.ladder import first_bytes
from benchmarks.result_rows import appended, commit
from eval.baselines import NAMES, measure_baselines

RESULTS = ROOT / "benchmarks" / "results" / "baselines.csv"
COLUMNS = ["date", "commit", "corpus", "bytes", *NAMES]


def main() -> None:
    parser = entry.Parser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument(
        "--bytes", default="1000000,3000000,10000000,100000000", help="by commas (default: %(default)s)"
    )
    options = parser.parse_args()
    with appended(RESULTS, COLUMNS) as write:
        for size in map(int, options.bytes.split(",")):
            content = first_bytes(options.corpus, size)
            sizes = measure_baselines(lambda content=content: iter([content]), len(content)).sizes
            stamp = {"date": datetime.date.today().isoformat(), "commit": commit(), "corpus": options.corpus.stem}
            write({**stamp, "bytes": len(content), **sizes})
            entry.publish(f"{len(content):>11,}  " + "  ".join(f"{name} {size:,}" for name, size in sizes.items()))


if __name__ == "__main__":
    sys.exit(entry.exit_status(main))
