"""What large vocabularies cost: CPU seconds and peak memory of the same text with output layers of different sizes.

    python benchmarks/vocabularies.py [--vocabularies 2048,50257,128256,262144] [--steps 12] [--engine.threads=1]

The tokens are those of the first bytes of the King James Bible, 2,048 pieces; a larger vocabulary has more symbols that
do not occur. So all rows do the same work except in tables and output. `whole` computes the logits of all tokens of a
step at once, `parts` does not (model/parts.py): training takes parts where a step has more than 2^26 logits, as 131,073
symbols make of the default 16 lanes of 32 tokens. A process of its own measures each row, after two steps. Further
options are those of launch/train.py.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)
from launch import entry

entry.begin(__name__)

import datetime
import json
import resource
import subprocess
import tempfile
import time
from statistics import median
from typing import Any

import train.loop
from benchmarks.result_rows import appended, commit
from data.documents import open_source
from data.lanes import Lanes
from data.prepare import prepare
from eval.layout import markdown_table
from train.command_line import parse_config
from train.cost import processor_name
from train.engine import connect
from train.ledger import Ledger
from train.loop import Learner, one_epoch

RESULTS = ROOT / "benchmarks" / "results" / "vocabularies.csv"
COLUMNS = [
    "date", "commit", "machine", "options", "bytes", "tokens", "vocabulary", "form", "parameters", "steps",
    "median_step_cpu_secs", "bytes_per_cpu_sec", "peak_memory_bytes",
]  # fmt: skip
FORMS = ("whole", "parts")
WARM_STEPS = 2


def measure(source: Path, vocabulary: int, form: str, steps: int, rest: list[str]) -> dict[str, Any]:
    """A row, of this process, which must be fresh."""
    import numpy as np

    config = parse_config("", rest)
    corpus = prepare(f"raw:{source}", tokenizer="bpe", vocabulary=2048, cache_dir=source.parent / "cache", workers=1)
    place = connect(config.engine.threads, config.engine.timeout_secs)
    # Which of the forms there is depends on this alone.
    train.loop.WHOLE_LOGITS = -1 if form == "parts" else 1 << 62
    learner = Learner(config, vocabulary, corpus.tokenizer.end_of_document, place)
    lanes = Lanes(len(corpus.tokens), config.train.lanes, config.train.segment_tokens)
    lengths = np.zeros(vocabulary, np.int64)
    lengths[: corpus.tokenizer.vocabulary] = [len(piece) for piece in corpus.tokenizer.pieces]
    ledger, times = Ledger(config.train.lanes, lengths, place), [time.process_time()]

    class Source:
        def segment(self, step: int, _: Learner) -> np.ndarray:
            return lanes.targets(step, range(lanes.lanes), corpus.tokens.read)

    for done in one_epoch(learner, lanes, Source(), ledger):
        times.append(time.process_time())
        if done == WARM_STEPS + steps:
            break
    _, tokens, coded_bytes = ledger.totals()
    secs = median(after - before for before, after in zip(times[WARM_STEPS:-1], times[WARM_STEPS + 1 :], strict=True))
    step_bytes = coded_bytes / (len(times) - 1)
    return {
        "bytes": int(coded_bytes),
        "tokens": int(tokens),
        "parameters": sum(tensor.numel() for tensor in learner.model.parameters()),
        "median_step_cpu_secs": round(secs, 4),
        "bytes_per_cpu_sec": round(step_bytes / secs),
        "peak_memory_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }


def main() -> None:
    parser = entry.Parser(alone=False, description=__doc__)
    parser.add_argument("--vocabularies", default="2048,50257,128256,262144")
    parser.add_argument("--bytes", type=int, default=300_000)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--one", nargs=3, metavar=("SOURCE", "VOCABULARY", "FORM"), help="measure in this process")
    options, rest = parser.parse_known_args()
    if options.one:
        source, vocabulary, form = options.one
        entry.publish(json.dumps(measure(Path(source), int(vocabulary), form, options.steps, rest)))
        return
    # A sweep's cells leave context mixing out, and its tables of counts are no part of the question.
    rest = ["--model.ngram_orders=[]", *rest]
    rows = []
    with tempfile.TemporaryDirectory(prefix="onepass-") as folder, appended(RESULTS, COLUMNS) as write:
        source = Path(folder, "kjv")
        source.write_bytes(b"".join(chunk for chunk, _ in open_source("kjv").chunks())[: options.bytes])
        for vocabulary in map(int, options.vocabularies.split(",")):
            for form in FORMS:
                command = [sys.executable, __file__, f"--steps={options.steps}", "--one", str(source), str(vocabulary)]
                done = subprocess.run([*command, form, *rest], check=True, stdout=subprocess.PIPE, text=True)
                row = {"vocabulary": vocabulary, "form": form, **json.loads(done.stdout.splitlines()[-1])}
                rows.append(row)
                about = {"date": datetime.date.today().isoformat(), "commit": commit(), "machine": processor_name()}
                write(about | {"options": " ".join(rest), "steps": options.steps} | row)
    shown = ("parameters", "median_step_cpu_secs", "bytes_per_cpu_sec", "peak_memory_bytes")
    cells = [(f"{row['vocabulary']:,}", row["form"], *(f"{row[name]:,}" for name in shown)) for row in rows]
    entry.publish(markdown_table(("vocabulary", "form", *(name.replace("_", " ") for name in shown)), cells) + "\n")


if __name__ == "__main__":
    sys.exit(entry.exit_status(main))
