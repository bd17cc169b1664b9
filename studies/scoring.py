"""One pass over tokens with a model that no longer learns, over new files or over the corpus that a run coded."""

import copy
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from archive.points import Point
from archive.weights import pack, parameters, unpack
from data.batches import Position, encode_source
from data.documents import open_source
from data.errors import UsageError
from data.lanes import Lanes, longest_segment
from data.prepare import PreparedCorpus
from data.tokenizer import Tokenizer
from eval.schema import Report, finished_report
from model.lm import LanguageModel
from train.config import Config
from train.corpus import CorpusSource, prepare_data
from train.engine import Place, connect, disconnect
from train.frozen import FrozenLearner, load_frozen
from train.ledger import Ledger
from train.loop import TokenSource, one_epoch
from train.progress import Progress

# Tokens of a step when nothing is learned after it: any number gives the same probabilities, more are faster.
SEGMENT_TOKENS = 256
# Of a vector, in entries.
SMALL = 4096

# A finished model and what it was trained with, as load_frozen returns them.
Frozen = tuple[Config, LanguageModel, Tokenizer]


@contextmanager
def connect_alone(threads: int) -> Iterator[Place]:
    """Where a fixed model runs: in this process alone."""
    if int(os.environ.get("WORLD_SIZE", 1)) != 1:
        raise UsageError("a fixed model is run by one process: start it with python")
    try:
        yield connect(threads, timeout_secs=1800)
    finally:
        disconnect()


def tokenize(file: Path, tokenizer: Tokenizer, own: str = "") -> tuple[str, np.ndarray, Position]:
    """Name, tokens [N] and end (documents, bytes, SHA-256) of a file as one document of raw bytes, by the tokenizer of
    a run, whose data.tokenizer is `own`.

    Raises UsageError if it is no file, or cannot be opened.
    """
    if file.is_dir():
        raise UsageError(f"{file} is a folder: give a file, or take launch/compress.py")
    source = open_source(f"raw:{file}")
    end, parts = Position(), [np.empty(0, np.uint32)]
    for work, encoded in encode_source(source, tokenizer, lambda _: True, 1, own):
        assert encoded
        end = work.position
        parts.append(encoded.tokens.astype(np.uint32))
    return source.name, np.concatenate(parts), end


def source_of(tokens: np.ndarray, lanes: Lanes, sha256: str = "") -> CorpusSource:
    """Tokens [N] in memory as what one process reads in these lanes."""
    read = lambda start, stop: tokens[start:stop].astype(np.int64)  # noqa: E731
    return CorpusSource(lanes, lanes.share(0, 1), read, {"corpus": sha256})


def one_pass(
    frozen: Frozen,
    lanes: Lanes,
    source: TokenSource,
    place: Place,
    corpus_bytes: int,
    shown: bool = True,
    own: bool = False,
) -> float:
    """One pass over `source` without learning. Returns its bits by the parallel form. The progress may be hidden. `own`
    says that the model was trained on it, in these lanes."""
    config, model, tokenizer = frozen
    # For the loop it is a Learner.
    learner: Any = FrozenLearner(config, model, tokenizer.end_of_document, lanes.lanes, place, own)
    ledger = Ledger(lanes.lanes, np.array([len(piece) for piece in tokenizer.pieces]), place)
    start = time.monotonic()
    with Progress(corpus_bytes, 0, 0.0, shown) as progress:
        progress.set_description("one pass", refresh=False)
        for _ in one_epoch(learner, lanes, source, ledger):
            bits, coded_tokens, coded_bytes = ledger.totals()
            progress.show(bits, coded_bytes, coded_tokens / (time.monotonic() - start))
    return ledger.totals()[0]


def held_out_bits(file: Path, frozen: Frozen, place: Place, shown: bool = True) -> float:
    """Bits of a file as one document, its end included, in one lane from its first byte to its last, by a model that
    does not learn from it. Raises UsageError if it cannot be opened."""
    _, tokens, end = tokenize(file, frozen[2], frozen[0].data.tokenizer)
    config = frozen[0]
    # A network knows positions as far as its own segments.
    segment_tokens = longest_segment(config.train.segment_tokens) if config.model.network else SEGMENT_TOKENS
    lanes = Lanes(len(tokens), 1, segment_tokens)
    return one_pass(frozen, lanes, source_of(tokens, lanes), place, end.bytes, shown)


@dataclass(frozen=True)
class FinishedRun:
    """A run.dir, opened."""

    folder: Path
    config: Config
    model: LanguageModel
    tokenizer: Tokenizer
    report: Report
    corpus: PreparedCorpus

    @property
    def fixed_bits(self) -> float:
        """Code, tokenizer and side information: the same for every code with this model."""
        return self.report.description_length.fixed_bits

    @property
    def lanes(self) -> Lanes:
        """Those that it trained in."""
        return Lanes(self.corpus.manifest.tokens, self.config.train.lanes, self.config.train.segment_tokens)

    @property
    def source(self) -> CorpusSource:
        return CorpusSource(self.lanes, self.lanes.share(0, 1), self.corpus.tokens.read, {})

    def corpus_bits(self, model: LanguageModel, place: Place, source: TokenSource | None = None) -> float:
        """Bits of the run's corpus given `model`, which learns nothing: the parallel form, in the run's lanes."""
        frozen, corpus_bytes = (self.config, model, self.tokenizer), self.corpus.manifest.bytes
        return one_pass(frozen, self.lanes, source or self.source, place, corpus_bytes, own=True)


def open_run(folder: Path, corpus: str | None) -> FinishedRun:
    """A finished run and its corpus, from `corpus` or, if None, from the data.source that it was trained on.

    Raises UsageError if the run is not finished, or if the corpus is not, to the byte and the token, the run's.
    """
    config, model, tokenizer = load_frozen(folder)
    report = finished_report(folder)
    found = find_corpus(folder, config, report, tokenizer.encoding, corpus)
    return FinishedRun(folder, config, model, tokenizer, report, found)


def find_corpus(folder: Path, config: Config, report: Report, encoding: bytes, given: str | None) -> PreparedCorpus:
    """The corpus that the run in `folder` coded with the tokenizer `encoding`: from `given`, a data.source, or if None
    from where the run had it. Raises UsageError if that is not, to the byte and the token, the run's."""
    source, wanted = given or config.data.source, report.corpus
    found = prepare_data(replace(config.data, source=source), progress=True)
    for name in ("sha256", "bytes", "documents", "tokens"):
        if (here := getattr(found.manifest, name)) != (there := getattr(wanted, name)):
            raise UsageError(f"{source} has {name} {here} and the corpus of {folder} had {there}: name that corpus")
    if found.tokenizer.encoding != encoding:
        raise UsageError(f"{source} is cut into other pieces than those of {folder}: name the corpus that it coded")
    return found


def code_weights(model: LanguageModel, point: Point, group: int) -> tuple[int, LanguageModel]:
    """Bytes of the weights as a point of a two-part code, and the model with what they decode to. Biases, gains, decays
    and whatever else is neither a matrix nor a table nor large stay in fp16 where weights are quantised."""
    packed = pack(parameters(model), point, group, small_vectors(model))
    coded = copy_model(model)
    with torch.no_grad():
        for parameter, tensor in zip(coded.parameters(), unpack(packed), strict=True):
            parameter.copy_(torch.from_numpy(tensor))
    return len(packed), coded


def small_vectors(model: LanguageModel) -> set[str]:
    return {name for name, p in model.named_parameters() if p.role == "vector" and p.numel() < SMALL}  # type: ignore[attr-defined]


def tables(model: LanguageModel) -> list[Tensor]:
    """What context mixing keeps of the corpus: counts, and the latest tokens."""
    return [] if model.mixing is None else [model.mixing.counts, model.mixing.latest]


def copy_model(model: LanguageModel) -> LanguageModel:
    """A model with parameters of its own, and the same tables."""
    made = copy.deepcopy(model, {id(table): table for table in tables(model)})
    for new, old in zip(made.parameters(), model.parameters(), strict=True):
        # Roles and rates are attributes, which a copy of a parameter does not have.
        vars(new).update(vars(old))
    return made
