"""A finished run with the corpus that it coded: what the commands that score it again need."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.errors import UsageError
from data.lanes import Lanes
from data.prepare import PreparedCorpus
from data.tokenizer import Tokenizer
from eval.schema import Report
from launch.corpus import prepared
from launch.evaluation.scoring import finished_report, one_pass
from model.lm import LanguageModel
from train.config import Config
from train.engine import Place
from train.frozen import load_frozen
from train.loop import TokenSource
from train.run import CorpusSource

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
        length = self.report["description_length"]
        return length["code_bits"] + length["tokenizer_bits"] + length["side_bits"]


def open_run(folder: Path, corpus: str | None) -> FinishedRun:
    """A finished run and its corpus, from `corpus` or, if None, from the data.source that it was trained on.

    Raises UsageError if the run is not finished, or if the corpus is not, to the byte and the token, the run's.
    """
    config, model, tokenizer = load_frozen(folder)
    report = finished_report(folder)
    source, wanted = corpus or config.data.source, report["corpus"]
    found = prepared(replace(config.data, source=source), progress=True)
    for name in ("sha256", "bytes", "documents", "tokens"):
        if (here := getattr(found.manifest, name)) != wanted[name]:
            raise UsageError(
                f"{source} has {name} {here} and the corpus of {folder} had {wanted[name]}: name that corpus"
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


def parameters(model: LanguageModel) -> dict[str, np.ndarray]:
    """The trained tensors by name, float32; the tables of context mixing are none of them."""
    return {name: tensor.detach().cpu().numpy() for name, tensor in model.named_parameters()}


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
