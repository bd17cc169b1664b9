"""One pass over tokens with a model that does not learn: what the commands of launch/evaluate.py share."""

import os
import time
from pathlib import Path

import numpy as np

from data.batches import Position, encode_source
from data.documents import open_source
from data.errors import UsageError
from data.lanes import Lanes
from data.tokenizer import Tokenizer
from eval.schema import Report, load_report
from model.lm import LanguageModel
from train.config import Config
from train.engine import Place, connect
from train.frozen import FrozenLearner
from train.ledger import Ledger
from train.loop import TokenSource, one_epoch
from train.progress import Progress
from train.run import CorpusSource

# Tokens of a step when nothing is learned after it: any number gives the same probabilities, more go faster.
SEGMENT_TOKENS = 256


def finished_report(run: Path) -> Report:
    """The report of a run.dir. Raises UsageError if the run is not finished, or its report is damaged."""
    if not (run / "report.json").exists():
        raise UsageError(f"{run} holds no finished run: a run has a report.json once its epoch is done")
    return load_report(run / "report.json")


def tokenize(file: Path, tokenizer: Tokenizer) -> tuple[str, np.ndarray, Position]:
    """Name, tokens [N] and end (documents, bytes, SHA-256) of a file as one document of raw bytes.

    Raises UsageError if it is no file, or cannot be opened.
    """
    if file.is_dir():
        raise UsageError(f"{file} is a folder: give a file, or take launch/compress.py")
    source = open_source(f"raw:{file}")
    end, parts = Position(), [np.empty(0, np.uint32)]
    for position, part in encode_source(source, tokenizer, Position(), 1, lambda _: None):
        end = position
        parts.append(part.astype(np.uint32))
    return source.name, np.concatenate(parts), end


def source_of(tokens: np.ndarray, lanes: Lanes, sha256: str = "") -> CorpusSource:
    """Tokens [N] in memory as what one process reads in these lanes."""
    read = lambda start, stop: tokens[start:stop].astype(np.int64)  # noqa: E731
    return CorpusSource(lanes, lanes.share(0, 1), read, {"corpus": sha256})


def connect_alone(threads: int) -> Place:
    if int(os.environ.get("WORLD_SIZE", 1)) != 1:
        raise UsageError("a fixed model is run by one process: start it with python")
    return connect(threads, timeout_secs=1800)


def one_pass(
    config: Config,
    model: LanguageModel,
    tokenizer: Tokenizer,
    lanes: Lanes,
    source: TokenSource,
    place: Place,
    corpus_bytes: int,
    shown: bool = True,
) -> float:
    """One pass over `source` without learning. Returns the bits it took by the parallel form. The bar may be hidden."""
    learner = FrozenLearner(config, model, tokenizer.end_of_document, lanes.lanes, place)
    ledger = Ledger(lanes.lanes, np.array([len(piece) for piece in tokenizer.pieces]), place)
    start = time.monotonic()
    with Progress(corpus_bytes, 0, 0.0, shown) as progress:
        progress.set_description("one pass", refresh=False)
        for _ in one_epoch(learner, lanes, source, ledger):
            bits, coded_tokens, coded_bytes = ledger.totals()
            progress.show(bits, coded_bytes, coded_tokens / (time.monotonic() - start))
    return ledger.totals()[0]


def held_out_bits(
    file: Path, config: Config, model: LanguageModel, tokenizer: Tokenizer, place: Place, shown: bool = True
) -> float:
    """Bits of a file as one document, its end included, by a model that does not learn from it, read in one lane from
    its first byte to its last. Raises UsageError if it cannot be opened."""
    _, tokens, end = tokenize(file, tokenizer)
    lanes = Lanes(len(tokens), 1, SEGMENT_TOKENS)
    return one_pass(config, model, tokenizer, lanes, source_of(tokens, lanes), place, end.bytes, shown)
