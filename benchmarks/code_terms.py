"""The code term of every block and of the configurations that we ship, as today's tree has it.

    python benchmarks/code_terms.py [--out FILE]

Blocks are measured alone, over raw bytes and without context mixing. Appends rows to
benchmarks/results/code_terms.csv, with the commit. Takes a minute.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)
from launch import entry

entry.begin(__name__)

from benchmarks.result_rows import appended, commit
from eval.code_size import measure_code
from model.registry import BLOCKS
from train.config import Config, DataConfig, ModelConfig, TrainConfig

RESULTS = ROOT / "benchmarks" / "results" / "code_terms.csv"
COLUMNS = ["commit", "configuration", "code_bytes", "canonical_bytes", "modules"]


def configurations() -> dict[str, Config]:
    """What is measured, by name."""
    bytes_ = DataConfig(tokenizer="bytes")
    alone = {name: Config(bytes_, ModelConfig(block=name, ngram_orders=[])) for name in sorted(BLOCKS)}
    return {
        "default": Config(),
        "default, raw bytes": Config(bytes_),
        "default with replay": Config(train=TrainConfig(replay=1)),
        **alone,
    }


def main() -> None:
    parser = entry.Parser(description=__doc__)
    parser.add_argument(
        "--out",
        type=Path,
        default=RESULTS,
        help=f"table that rows are appended to (default: {RESULTS.relative_to(ROOT)})",
    )
    options = parser.parse_args()
    entry.publish(f"{'configuration':<24}{'code bytes':>12}{'canonical':>12}{'modules':>9}")
    with appended(options.out, COLUMNS) as write:
        for name, config in configurations().items():
            code = measure_code(config.to_dict())
            entry.publish(f"{name:<24}{code.xz_bytes:>12,}{code.canonical_bytes:>12,}{len(code.modules):>9}")
            values = [commit(), name, code.xz_bytes, code.canonical_bytes, len(code.modules)]
            write(dict(zip(COLUMNS, values, strict=True)))


if __name__ == "__main__":
    sys.exit(entry.exit_status(main))
