"""Epochs over the bytes of a short file, in this process, and their results as rows of a table that is committed."""

import argparse
import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from benchmarks.result_rows import appended
from data.lanes import Lanes
from studies.scaling.cells import match
from train.command_line import parse_config
from train.config import BYTE_SYMBOLS, Config, ModelConfig
from train.corpus import CorpusSource
from train.engine import Place, connect
from train.ledger import Ledger
from train.loop import Learner, one_epoch

Row = dict[str, str]


def matched(model: ModelConfig, block: str, width: int) -> ModelConfig:
    """`model` with this block and width, and the MLP that gives it as many parameters as attention has."""
    reference = replace(model, width=width, block="attention")
    return match(replace(reference, block=block), reference, BYTE_SYMBOLS, "parameters")


def bits_per_byte(config: Config, tokens: np.ndarray, place: Place, carry: bool = True) -> float:
    """Bits of one epoch over the bytes `tokens`, a byte; without `carry`, every segment starts from an empty state."""
    lanes = Lanes(len(tokens), config.train.lanes, config.train.segment_tokens)
    source = CorpusSource(lanes, range(config.train.lanes), lambda start, stop: tokens[start:stop], {})
    learner = Learner(config, BYTE_SYMBOLS, BYTE_SYMBOLS - 1, place)
    ledger = Ledger(config.train.lanes, np.ones(BYTE_SYMBOLS, np.int64), place)
    for _ in tqdm(one_epoch(learner, lanes, source, ledger), total=lanes.steps, leave=False, unit="step", disable=None):
        if not carry:
            learner.states = [learner.model.init_state(config.train.lanes)]
    bits, coded_tokens, _ = ledger.totals()
    return bits / coded_tokens


class Table:
    """Rows of one corpus and one set of options, in a CSV file that holds those of others too."""

    def __init__(self, path: Path, columns: list[str], common: Row):
        self.path, self.columns, self.common = path, [*common, *columns, "bits_per_byte"], common

    @property
    def rows(self) -> list[Row]:
        if not self.path.exists():
            return []
        with self.path.open(newline="") as file:
            return [row for row in csv.DictReader(file) if self.common.items() <= row.items()]

    def row(self, key: Row, measure: Callable[[], float]) -> float:
        """Bits a byte of the row with this key, which is measured and appended if it is not there."""
        for row in self.rows:
            if key.items() <= row.items():
                return float(row["bits_per_byte"])
        made = self.common | key | {"bits_per_byte": f"{measure():.5f}"}
        with appended(self.path, self.columns) as write:
            write(made)
        return float(made["bits_per_byte"])


def begin(
    parser: argparse.ArgumentParser, path: Path, columns: list[str]
) -> tuple[argparse.Namespace, Config, np.ndarray, Place, Table]:
    """Read the arguments that such benchmarks share, and join the engine."""
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--bytes", type=int, default=500_000, help="length of the prefix that is used")
    parser.add_argument("--png", help="draw all rows of this corpus and these options here")
    options, rest = parser.parse_known_args()
    config = parse_config("", ["--model.ngram_orders=[]", *rest])
    place = connect(config.engine.threads, config.engine.timeout_secs)
    config = replace(config, engine=replace(config.engine, precision="fp32"))
    tokens = np.frombuffer(options.corpus.read_bytes()[: options.bytes], np.uint8).astype(np.int64)
    common = {"corpus": options.corpus.name, "bytes": str(len(tokens)), "options": " ".join(rest)}
    return options, config, tokens, place, Table(path, columns, common)
