"""Two ranks of one thread against one rank of two threads: what data parallelism costs on one machine of two cores.

    python benchmarks/ranks.py CORPUS_FILE [--bytes 300000] [--rounds 3] [any option of launch/train.py]

Whole runs of `deepspeed launch/train.py` in turns. Prints the seconds of training of each and the median of the ratios
of neighbouring runs: 1 means that two ranks are as fast, more that they are faster. Needs two idle cores.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])
from launch import entry

entry.begin(__name__)

import statistics
import tempfile

from benchmarks.defaults import measure
from benchmarks.ladder import first_bytes

# Ranks, threads of each.
WAYS = [(1, 2), (2, 1)]


def main() -> None:
    parser = entry.Parser(alone=False, description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument(
        "--bytes", type=int, default=300_000, help="length of the prefix that is used (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="runs of each (default: %(default)s)")
    options, rest = parser.parse_known_args()
    secs: dict[int, list[float]] = {ranks: [] for ranks, _ in WAYS}
    with tempfile.TemporaryDirectory(prefix="onepass-") as folder:
        prefix = Path(folder, "prefix")
        prefix.write_bytes(first_bytes(options.corpus, options.bytes))
        for turn in range(options.rounds):
            for ranks, threads in WAYS[:: 1 - 2 * (turn % 2)]:
                launcher = ["deepspeed", "--num_accelerators", str(ranks)]
                row = measure(f"raw:{prefix}", options.corpus.stem, [*rest, f"--engine.threads={threads}"], launcher)
                secs[ranks].append(row["elapsed_secs"])
                entry.publish(
                    f"{ranks} ranks, {threads} threads: {row['elapsed_secs']} s, {row['data_bytes']:,} bytes",
                    flush=True,
                )
    ratios = [one / two for one, two in zip(secs[1], secs[2], strict=True)]
    spread = f"from {min(ratios):.3f} to {max(ratios):.3f}"
    entry.publish(f"seconds of one rank / of two: median {statistics.median(ratios):.3f}, {spread}")


if __name__ == "__main__":
    sys.exit(entry.exit_status(main))
