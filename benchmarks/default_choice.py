"""What the default chooses, against the best of the configurations that it could have chosen.

    python benchmarks/default_choice.py FOLDER --only NAME:BYTES;... [--configs NAME;...] [any option of a run]
    python benchmarks/default_choice.py FOLDER --table [--minutes 3]

FOLDER holds enwik8.xz, and the other corpora once they are made (benchmarks/choice_corpora.py). The first form appends
a row a corpus, size and configuration to benchmarks/results/default_choice.csv, on one thread. What is there already is
skipped, so start the same command again after anything; `--again` measures it anew. The second prints what is there in
Markdown, with the regret of the choice: how far the total of what is chosen, where so many minutes are allowed, is
above the smallest. A choice is taken for the configuration that differs from it in the rows of tables alone.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)
from launch import entry

entry.begin(__name__)

import csv
import datetime
import os
import tempfile
from typing import Any

from benchmarks.choice_corpora import CORPORA, SEEN
from benchmarks.defaults import measure
from benchmarks.ladder import cpu_secs
from benchmarks.published import processor_name
from benchmarks.result_rows import appended, commit
from eval.baselines import measure_baselines
from train.choice import BYTES, HEAD_BYTES, MANY_PIECES, PIECES, SHORT, WIDE, choose, rows_log2
from train.command_line import parse_config
from train.config import flatten
from train.options import DEFAULTS

RESULTS = ROOT / "benchmarks" / "results" / "default_choice.csv"
COLUMNS = ["date", "commit", "processor", "corpus", "bytes", "configuration", "options", "total_bytes", "data_bytes"]
COLUMNS += ["code_bytes", "tokenizer_bytes", "cpu_secs", "threads"]


def options(fields: dict[str, Any], *more: str) -> list[str]:
    """Of launch/train.py, for what a Setting has."""
    return [*(f"--{name}={value}" for name, value in fields.items()), *more]


IN_PIECES, IN_BYTES = "--data.tokenizer=bpe", "--data.tokenizer=bytes"
REPLAY = "--train.replay=1@0,0@0.7"
# Pieces of each number, and bytes, narrow and wide: the settings of the choice, and the default without one.
CONFIGS = {
    "2,048": [IN_PIECES, REPLAY],
    "2,048, wide": options(PIECES, IN_PIECES, REPLAY),
    "4,096, wide": options(MANY_PIECES, IN_PIECES, REPLAY),
    "bytes": options(BYTES),
    "bytes, short steps": options(SHORT),
    "bytes, wide": options(WIDE, REPLAY),
}
# What a run without options chooses, and the coder that it should beat.
CHOSEN, PPMD = "default", "ppmd"
Cell = tuple[str, int]


def measured() -> dict[Cell, dict[str, dict[str, str]]]:
    """The last row of each configuration, by corpus and bytes."""
    found: dict[Cell, dict[str, dict[str, str]]] = {}
    if RESULTS.exists():
        with RESULTS.open(newline="") as file:
            for row in csv.DictReader(file):
                found.setdefault((row["corpus"], int(row["bytes"])), {})[row["configuration"]] = row
    return found


def run(corpus: str, content: bytes, name: str, rest: list[str]) -> dict[str, Any]:
    """A row of the table."""
    about = {"commit": commit(), "processor": processor_name(), "configuration": name}
    if name == PPMD:
        sizes = measure_baselines(lambda: iter([content]), len(content)).sizes
        about |= {"date": datetime.date.today().isoformat(), "corpus": corpus, "bytes": len(content)}
        return about | {"total_bytes": sizes[PPMD]}
    given = ["--run.budget_minutes=3"]
    if name != CHOSEN:
        rows = rows_log2(len(content), {"data.tokenizer": "bytes"} if IN_BYTES in CONFIGS[name] else {})
        given = [*CONFIGS[name], f"--model.ngram_rows_log2={rows}"]
    given += ["--engine.threads=1", *rest]
    with tempfile.TemporaryDirectory(prefix="onepass-") as temporary:
        path = Path(temporary, "corpus")
        path.write_bytes(content)
        before = cpu_secs()
        found = measure(f"raw:{path}", corpus, given)
    return found | about | {"options": " ".join(given), "cpu_secs": round(cpu_secs() - before)}


def chosen_of(corpus: str, size: int, head: bytes, minutes: float) -> str:
    """The configuration that is chosen; the default itself where no other is like it."""
    free = "model.ngram_rows_log2"

    def changed(fields: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in fields.items() if value != DEFAULTS[name]}

    chosen = changed(choose(size, head, minutes, {free}).fields)
    for name, given in CONFIGS.items():
        config = changed(flatten(parse_config("", given).to_dict()))
        if {field: value for field, value in config.items() if field not in (free, "run.dir")} == chosen:
            return name
    return CHOSEN


def table(folder: Path, minutes: float) -> str:
    names = [*CONFIGS, CHOSEN]
    head = ["corpus", "bytes", *names, "PPMd", f"chosen in {minutes:g} minutes", "regret"]
    lines = [head, ["---", "---:", *["---:"] * (len(names) + 1), "---", "---:"]]
    cells = measured()
    for corpus, size in sorted(cells, key=lambda cell: (cell[0] not in SEEN, [*CORPORA].index(cell[0]), cell[1])):
        totals = {name: int(row["total_bytes"]) for name, row in cells[corpus, size].items()}
        ours = {name: total for name, total in totals.items() if name != PPMD}
        chosen = chosen_of(corpus, size, CORPORA[corpus](folder)[: min(size, HEAD_BYTES)], minutes)
        best = min(ours.values())
        regret = f"{100 * (ours[chosen] / best - 1):.1f} %" if chosen in ours else ""
        shown = [
            f"{'**' * (totals[n] == best)}{totals[n]:,}{'**' * (totals[n] == best)}" if n in totals else ""
            for n in names
        ]
        ppmd = f"{totals[PPMD]:,}" if PPMD in totals else ""
        lines.append([f"{corpus}{'' if corpus in SEEN else ' (held out)'}", f"{size:,}", *shown, ppmd, chosen, regret])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = entry.Parser(alone=False, description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="", help="corpora and sizes, NAME:BYTES by semicolons; 0 takes all bytes")
    parser.add_argument("--configs", default="2,048, wide;bytes, wide", help="by semicolons (default: %(default)s)")
    parser.add_argument("--again", action="store_true", help="measure what is there already, too")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--minutes", type=float, default=3.0, help="budget of the choice (default: %(default)s)")
    options, rest = parser.parse_known_args()
    os.chdir(ROOT)
    if options.table:
        entry.publish(table(options.folder, options.minutes))
        return
    for cell in options.only.split(";"):
        corpus, _, size = cell.rpartition(":")
        content = CORPORA[corpus](options.folder)
        content = content[: int(size) or len(content)]
        for name in options.configs.split(";"):
            if not options.again and name in measured().get((corpus, len(content)), {}):
                continue
            found = run(corpus, content, name, rest)
            with appended(RESULTS, COLUMNS) as write:
                write({column: found.get(column, "") for column in COLUMNS})
            entry.publish(f"{corpus} {len(content):,} {name}: {found['total_bytes']:,} bytes")


if __name__ == "__main__":
    sys.exit(entry.exit_status(main))
