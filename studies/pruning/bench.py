"""What a pruned model is measured on, and what it takes to run: seconds, and bytes alive at once."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from archive.weights import Point, pack, parameters, unpack
from data.errors import UsageError
from data.lanes import Lanes
from data.streams import publish
from model.lm import LanguageModel
from studies.pruning.surgery import prunable, size
from studies.pruning.terms import Coded, Stage, line
from studies.scoring import (
    SEGMENT_TOKENS,
    FinishedRun,
    corpus_bits,
    one_pass,
    small_vectors,
    source_of,
    tokenize,
    with_parameters,
)
from train.engine import Place

# Lanes in which held-out text is read.
HELD_OUT_LANES = 8


class Bench:
    """What a model is measured on: the run's corpus, and text that it has not seen."""

    def __init__(
        self, run: FinishedRun, held_out: Path, place: Place, points: list[Point], group: int, corpus_lanes: int | None
    ):
        self.run, self.place, self.points, self.group = run, place, points, group
        _, self.tokens, end = tokenize(held_out, run.tokenizer)
        if not end.bytes:
            raise UsageError(f"{held_out} is empty: there is nothing to measure on")
        self.held_out_bytes = end.bytes
        self.corpus_lanes = corpus_lanes
        if corpus_lanes is not None:
            every = run.config.train.lanes
            if corpus_lanes < 1 or corpus_lanes >= every or every % corpus_lanes:
                raise UsageError(
                    f"--corpus_lanes {corpus_lanes}: give a divisor of the run's {every} lanes, below them"
                )
            manifest = run.corpus.manifest
            length = Lanes(manifest.tokens, every, 1).lane_tokens
            starts = range(0, manifest.tokens, every // corpus_lanes * length)
            self.sample = np.concatenate(
                [run.corpus.tokens.read(at, min(at + length, manifest.tokens)) for at in starts]
            )

    def rate(self, model: LanguageModel, tokens: np.ndarray, lanes: int, text_bytes: int) -> float:
        plan = Lanes(len(tokens), lanes, SEGMENT_TOKENS)
        source = source_of(tokens, plan)
        return one_pass(self.run.config, model, self.run.tokenizer, plan, source, self.place, text_bytes) / text_bytes

    def held_out_rate(self, model: LanguageModel) -> float:
        """Bits per byte of the held-out text."""
        return self.rate(model, self.tokens, HELD_OUT_LANES, self.held_out_bytes)

    def corpus_rate(self, model: LanguageModel) -> float:
        """Bits per byte of the corpus, or of the lanes that stand for it."""
        if self.corpus_lanes is None:
            return corpus_bits(self.run, model, self.place) / self.run.corpus.manifest.bytes
        lengths = np.array([len(piece) for piece in self.run.tokenizer.pieces])
        return self.rate(model, self.sample, self.corpus_lanes, int(lengths[self.sample].sum()))

    def segments(self, steps: int) -> list[torch.Tensor]:
        """Tokens [R, T] of all lanes at the run's first `steps` steps, which lie all over the corpus."""
        config, manifest = self.run.config.train, self.run.corpus.manifest
        lanes = Lanes(manifest.tokens, config.lanes, config.segment_tokens)
        if steps >= lanes.steps:
            raise UsageError(
                f"{steps} steps of calibration and retraining, but the corpus has {lanes.steps}: give fewer"
            )
        read = self.run.corpus.tokens.read
        return [torch.from_numpy(lanes.targets(step, lanes.share(0, 1), read)) for step in range(steps)]

    def measure(self, method: str, removed: float, model: LanguageModel, whole: LanguageModel, coded: bool) -> Stage:
        """A row, printed as it is found, with a two-part code for each point if it is to be `coded`."""
        sizes, before = ([size(part) for part in prunable(one)] for one in (model, whole))
        segment = self.segments(1)[0].clamp(min=0)
        segment_secs, step_secs = latency(model, whole, segment), latency(model, whole, segment[:1, :1])
        peak_bytes, state_bytes = memory(model, segment)
        stage = Stage(
            method, removed, size(model), sum(p.nbytes for p in model.parameters()), peak_bytes, state_bytes,
            segment_secs, step_secs, self.held_out_rate(model), self.corpus_rate(model),
            [now / then for now, then in zip(sizes, before, strict=True)],
        )  # fmt: skip
        publish(line(stage))
        for point in self.points if coded else []:
            packed = pack(parameters(model), point, self.group, small_vectors(model))
            decoded = with_parameters(model, unpack(packed))
            data_bytes = self.corpus_rate(decoded) * self.run.corpus.manifest.bytes / 8
            total_bytes = len(packed) + data_bytes + self.run.fixed_bits / 8
            stage.coded.append(Coded(point, len(packed), self.held_out_rate(decoded), data_bytes, total_bytes))
        return stage


TIMED_ROUNDS = 21


@torch.no_grad()
def latency(model: LanguageModel, whole: LanguageModel, tokens: Tensor) -> tuple[float, float]:
    """Least seconds that `model` and `whole` take, by turns, for tokens [R, T] from the start. What else a machine does
    can only add to them."""
    inputs = tokens.to(whole.embedding.device)
    found: tuple[list[float], list[float]] = ([], [])
    for _ in range(TIMED_ROUNDS):
        for one, secs in zip((model, whole), found, strict=True):
            state, start = one.init_state(len(inputs)), time.perf_counter()
            nats, _ = one(inputs, state, inputs)
            nats[-1, -1].item()  # waits for an accelerator
            secs.append(time.perf_counter() - start)
    return min(found[0]), min(found[1])


@torch.no_grad()
def memory(model: LanguageModel, tokens: Tensor) -> tuple[int, int]:
    """Bytes of all tensors alive at once at most, parameters and state included, while `model` runs over tokens [R, T];
    and of the state that it then carries, for one lane."""
    inputs = tokens.to(model.embedding.device)
    state = model.init_state(len(inputs))
    with AliveTensors([*model.parameters(), *tree_leaves(state)]) as alive:
        _, state = model(inputs, state, inputs)
    carried = sum(leaf.nbytes for leaf in tree_leaves(state) if isinstance(leaf, Tensor))
    return alive.peak_bytes, carried // len(inputs)


class AliveTensors(TorchDispatchMode):
    """Counts the storages that operators return, till they are freed, on top of those of `tensors`. What a kernel
    allocates for itself is not seen."""

    def __init__(self, tensors: list[Any]):
        super().__init__()
        self.alive: dict[StorageWeakRef, int] = {}
        self.peak_bytes = 0
        self.enter(tensors)

    def enter(self, tensors: list[Any]) -> None:
        storages = [leaf.untyped_storage() for leaf in tensors if isinstance(leaf, Tensor)]
        self.alive |= {StorageWeakRef(storage): storage.nbytes() for storage in storages}
        self.alive = {storage: size for storage, size in self.alive.items() if not storage.expired()}
        self.peak_bytes = max(self.peak_bytes, sum(self.alive.values()))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **kwargs or {})
        self.enter(tree_leaves(made))
        return made
