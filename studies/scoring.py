"""One pass over tokens with a model that no longer learns, over new files or over the corpus that a run coded."""

import copy
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.batches import Position, encode_source
from data.documents import open_source
from data.errors import UsageError
from data.lanes import Lanes
from data.prepare import PreparedCorpus
from data.tokenizer import Tokenizer
from eval.schema import Report, finished_report
from model.lm import LanguageModel
from train.config import Config
from train.corpus import CorpusSource, prepared
from train.engine import Place, connect
from train.frozen import FrozenLearner, load_frozen
from train.ledger import Ledger
from train.loop import TokenSource, one_epoch
from train.progress import Progress

# Tokens of a step when nothing is learned after it: any number gives the same probabilities, more go faster.
SEGMENT_TOKENS = 256


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


# A vector of fewer entries stays in fp16 where weights are quantised.
SMALL = 4096


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
        """Code, tokenizer and side information, which every code with this model pays alike."""
        return self.report.description_length.fixed_bits


def open_run(folder: Path, corpus: str | None) -> FinishedRun:
    """A finished run and its corpus, from `corpus` or, if None, from the data.source that it was trained on.

    Raises UsageError if the run is not finished, or if the corpus is not, to the byte and the token, the run's.
    """
    config, model, tokenizer = load_frozen(folder)
    report = finished_report(folder)
    source, wanted = corpus or config.data.source, report.corpus
    found = prepared(replace(config.data, source=source), progress=True)
    for name in ("sha256", "bytes", "documents", "tokens"):
        if (here := getattr(found.manifest, name)) != getattr(wanted, name):
            raise UsageError(
                f"{source} has {name} {here} and the corpus of {folder} had {getattr(wanted, name)}: name that corpus"
            )
    if found.tokenizer.encoding != tokenizer.encoding:
        raise UsageError(f"{source} is cut into other pieces than those of {folder}: name the corpus that it coded")
    return FinishedRun(folder, config, model, tokenizer, report, found)


def corpus_bits(
    run: FinishedRun, model: LanguageModel, place: Place, wrap: Callable[[TokenSource], TokenSource] = lambda s: s
) -> float:
    """Bits of the run's corpus given `model`, which learns nothing: the parallel form, lanes and segments the run's."""
    manifest = run.corpus.manifest
    lanes = Lanes(manifest.tokens, run.config.train.lanes, run.config.train.segment_tokens)
    source = CorpusSource(lanes, lanes.share(0, 1), run.corpus.tokens.read, {})
    return one_pass(run.config, model, run.tokenizer, lanes, wrap(source), place, manifest.bytes)


def small_vectors(model: LanguageModel) -> set[str]:
    """Biases, gains, decays and what else is neither matrix nor table, but for large ones."""
    return {name for name, p in model.named_parameters() if p.role == "vector" and p.numel() < SMALL}  # type: ignore[attr-defined]


def copied(model: LanguageModel) -> LanguageModel:
    """A model with parameters of its own, and the same tables."""
    memo: dict[int, Tensor] = {} if model.mixing is None else {id(model.mixing.counts): model.mixing.counts}
    made = copy.deepcopy(model, memo)
    for new, old in zip(made.parameters(), model.parameters(), strict=True):
        # Roles and rates are attributes, which a copy of a parameter does not have.
        vars(new).update(vars(old))
    return made


def with_parameters(model: LanguageModel, tensors: list[np.ndarray]) -> LanguageModel:
    """A copy of `model` with these tensors, in the order of `parameters`."""
    made = copied(model)
    with torch.no_grad():
        for parameter, tensor in zip(made.parameters(), tensors, strict=True):
            parameter.copy_(torch.from_numpy(tensor))
    return made
