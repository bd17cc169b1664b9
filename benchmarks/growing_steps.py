"""What does it buy to begin with short segments and to go on with longer ones?

    python benchmarks/growing_steps.py [--tokens 300000] [--segments 16 32 16@0,32@0.1] [any option of launch/train.py]

Trains one epoch over the corpus, or its first --tokens tokens, with each value of train.segment_tokens. All epochs run
in one process, in turns of a hundredth of the epoch, so that whatever else the machine does hits all. Appends a row an
epoch to benchmarks/results/growing_steps.csv and prints them all, with what one length would give in the same time:
bytes between those of the two nearest lengths, by the logarithm of the time. Time is CPU seconds, on CUDA seconds.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)
from launch import entry

entry.begin(__name__)

import datetime
import math
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from benchmarks.overhead import Corpus, finish
from benchmarks.result_rows import appended, commit
from data.lanes import read_schedule
from train.command_line import parse_config
from train.config import Config
from train.cost import device_name
from train.engine import Place, connect, disconnect
from train.loop import one_epoch

RESULTS = ROOT / "benchmarks" / "results" / "growing_steps.csv"
TURNS = 100
SEGMENTS = ["16", "24", "32", "48", "64", "16@0,32@0.1", "16@0,32@0.25,64@0.5", "16@0,64@0.25", "8@0,16@0.05,32@0.2"]


class Epoch:
    """One epoch, a part at a time, and what it took so far."""

    def __init__(self, config: Config, segment_tokens: int | str, tokens: int, place: Place):
        config = replace(config, train=replace(config.train, segment_tokens=segment_tokens))
        corpus = Corpus(config, place, tokens)
        learner, self.lanes, source, self.ledger = corpus.start(corpus.source())
        self.loop = one_epoch(learner, self.lanes, source, self.ledger)
        self.segment_tokens, self.done, self.secs = segment_tokens, 0, 0.0

    def go_on(self, part: float) -> None:
        """Train up to this part of the epoch."""
        clock = time.perf_counter if torch.cuda.is_available() else time.process_time
        finish()
        start = clock()
        while self.done < self.lanes.steps and self.lanes.segment(self.done)[0] < part * self.lanes.lane_tokens:
            self.done = next(self.loop)
        finish()
        self.secs += clock() - start

    def row(self) -> dict[str, Any]:
        bits, tokens, _ = self.ledger.totals()
        found = {"tokens": tokens, "segment_tokens": self.segment_tokens, "steps": self.done}
        return found | {"data_bytes": round(bits / 8), "secs": round(self.secs, 1)}


def at_equal_time(rows: list[dict[str, Any]], secs: float) -> float:
    """Bytes of one length that takes so many seconds; NaN beyond the lengths that were measured."""
    fixed = sorted((row["secs"], row["data_bytes"]) for row in rows if isinstance(row["segment_tokens"], int))
    if not fixed:
        return math.nan
    times, sizes = np.log([time for time, _ in fixed]), [size for _, size in fixed]
    return float(np.interp(math.log(secs), times, sizes, math.nan, math.nan))


def main() -> None:
    parser = entry.Parser(alone=False, description=__doc__)
    parser.add_argument("--tokens", type=int, default=0, help="length of the prefix that is used; 0 for all")
    parser.add_argument("--segments", nargs="+", default=SEGMENTS, help="values of train.segment_tokens")
    options, rest = parser.parse_known_args()
    config = parse_config("", rest)
    place = connect(config.engine.threads, config.engine.timeout_secs)
    about = {"date": datetime.date.today().isoformat(), "commit": commit(), "corpus": config.data.source}
    about |= {"options": " ".join(rest), "device": device_name(place.device)}
    epochs = [Epoch(config, read_schedule(text), options.tokens, place) for text in options.segments]
    for turn in range(TURNS):
        for epoch in epochs[:: -1 if turn % 2 else 1]:
            epoch.go_on((turn + 1) / TURNS)
    rows = [epoch.row() for epoch in epochs]
    with appended(RESULTS, [*about, *rows[0]]) as write:
        for row in rows:
            write(about | row)
            cost = f"{row['steps']:7,} steps {row['secs']:8.1f} s {row['data_bytes']:11,} bytes"
            equal = f"{at_equal_time(rows, row['secs']):11,.0f}"
            entry.publish(f"{row['segment_tokens']!s:24} {cost}; one length in that time {equal}")
    disconnect()


if __name__ == "__main__":
    main()
