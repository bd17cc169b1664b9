"""What the default chooses, against the best of the configurations that it could have chosen.

    python benchmarks/default_choice.py FOLDER [--only NAME:BYTES,...] [--configs pieces,...]
    python benchmarks/default_choice.py FOLDER --regret

FOLDER holds enwik8.xz, and the other corpora once they are made (benchmarks/choice_corpora.py). Appends a row a corpus,
size and configuration to benchmarks/results/default_choice.csv, on one thread; what is there already is skipped, so
start the same command again after anything.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)
from launch import entry

entry.begin(__name__)

import csv
import tempfile

from benchmarks.choice_corpora import CORPORA
from benchmarks.defaults import measure
from benchmarks.ladder import cpu_secs
from benchmarks.published import processor_name
from benchmarks.result_rows import appended, commit

RESULTS = ROOT / "benchmarks" / "results" / "default_choice.csv"
COLUMNS = ["date", "commit", "processor", "corpus", "bytes", "configuration", "options", "total_bytes", "data_bytes"]
COLUMNS += ["code_bytes", "tokenizer_bytes", "cpu_secs", "threads"]
BYTES = ["--config=configs/bytes.yaml"]
CONFIGS = {
    "default": ["--run.budget_minutes=3"],
    "pieces": ["--data.tokenizer=bpe"],
    "pieces, replay": ["--data.tokenizer=bpe", "--train.replay=1"],
    "bytes": BYTES,
    "bytes, replay": [*BYTES, "--train.replay=1"],
    "enwik7": ["--config=configs/enwik7.yaml"],
}


def rows() -> list[dict[str, str]]:
    if not RESULTS.exists():
        return []
    with RESULTS.open(newline="") as file:
        return list(csv.DictReader(file))


def main() -> None:
    parser = entry.Parser(alone=False, description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", required=True, help="corpora and sizes, NAME:BYTES by semicolons; 0 takes all")
    parser.add_argument("--configs", default="pieces;bytes", help="by semicolons (default: %(default)s)")
    options, rest = parser.parse_known_args()
    for cell in options.only.split(";"):
        corpus, _, size = cell.rpartition(":")
        content = CORPORA[corpus](options.folder)
        content = content[: int(size) or len(content)]
        for name in options.configs.split(";"):
            done = {(row["corpus"], int(row["bytes"]), row["configuration"]) for row in rows()}
            if (corpus, len(content), name) in done:
                continue
            given = [*CONFIGS[name], "--engine.threads=1", *rest]
            with tempfile.TemporaryDirectory(prefix="onepass-") as temporary, appended(RESULTS, COLUMNS) as write:
                path = Path(temporary, "corpus")
                path.write_bytes(content)
                before = cpu_secs()
                found = measure(f"raw:{path}", corpus, given)
                about = {"commit": commit(), "processor": processor_name(), "configuration": name}
                found |= about | {"options": " ".join(given), "cpu_secs": round(cpu_secs() - before)}
                write({column: found[column] for column in COLUMNS})
            said = f"{corpus} {len(content):,} {name}: {found['total_bytes']:,} in {found['cpu_secs']:,} CPU s"
            entry.publish(said)


if __name__ == "__main__":
    sys.exit(entry.exit_status(main))
