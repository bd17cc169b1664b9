"""Contextual compression of the parameters: take out what a context does not need, in stages over all layers.

Groups of parameters (heads of attention, channels of recurrences and MLPs, states of SSD) are scored by what their
readers hear of them in a calibration context, activation times gradient (first order in leaving the group out), all
layers are ranked together, and those that are worth least for their parameters go. After every stage scores are taken
anew, since groups stand in for each other. What is left has smaller tensors; bytes, times and rates are measured.

Beside it: as many groups taken out of every place by their norm, as many single weights set to zero by their size, and
plain quantisation at equal size. And half of each block and of each MLP taken out alone: which is missed least? The run
must be one without context mixing, whose tables would hide what the network lost.
"""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributed._tools.mem_tracker import MemTracker
from torch.utils._pytree import tree_leaves
from tqdm import tqdm

from archive.weights import Point, pack, parameters, unpack
from data.errors import UsageError
from data.files import write_file
from data.lanes import Lanes
from data.streams import publish
from model.lm import LanguageModel
from studies.common import argument, file_option, option, png_option, write_figures
from studies.pruning.report import HEADING, Coded, Half, Stage, coded_table, draw, halves_table
from studies.pruning.surgery import apply, choose, find_largest, groups, keep, prunable, size, zero_smallest
from studies.scoring import (
    SEGMENT_TOKENS,
    FinishedRun,
    connect_alone,
    copy_model,
    one_pass,
    open_run,
    small_vectors,
    source_of,
    tokenize,
    with_parameters,
)
from studies.two_part.command import GROUP, group_size, parse_points
from train.engine import Place
from train.optim import build_optimizer

# Lanes in which held-out text is read.
HELD_OUT_LANES = 8
TIMED_ROUNDS = 21


def parse_shares(text: str) -> list[float]:
    """The type of --remove."""
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or found[0] <= 0 or found[-1] >= 1 or found != sorted(set(found)):
        raise UsageError("give rising numbers between 0 and 1, by commas")
    return found


@dataclass
class Prune:
    """Take out what its contexts do not need, and measure."""

    run: Path = argument("run.dir of a finished run without context mixing", metavar="RUN")
    held_out: Path = option("text that the run has not seen", metavar="FILE")
    corpus: str | None = option("the run's corpus, if it is no longer where data.source says", None, metavar="FILE")
    remove: Sequence[float] = option(
        "share of blocks' and MLPs' parameters gone after each stage, rising (default: 0.1,0.2,0.3,0.4,0.5)",
        (0.1, 0.2, 0.3, 0.4, 0.5), type=parse_shares,
    )  # fmt: skip
    corpus_lanes: int | None = option(
        "score only so many of the run's lanes, evenly apart, and draw totals up from them (default: all)", None,
        metavar="N",
    )  # fmt: skip
    calibration_steps: int = option("segments of all lanes that scores are taken on (default: 16)", 16)
    retrain_steps: int = option("steps of learning after each stage (default: none)", 0)
    points: Sequence[Point] = option("as of two-part (default: 8,6,5,4)", (8, 6, 5, 4), type=parse_points)
    group: int | None = option(f"weights that share a step (default: {GROUP})", None)
    png: Path | None = png_option()
    json: Path | None = file_option("write what was measured")

    def execute(self) -> None:
        """Raises UsageError for what is wrong with the arguments."""
        if self.calibration_steps < 1 or self.retrain_steps < 0:
            raise UsageError(
                f"--calibration_steps {self.calibration_steps} must be 1 or more, --retrain_steps "
                f"{self.retrain_steps} 0 or more"
            )
        group = group_size(self.group, self.points)
        run = open_run(self.run, self.corpus)
        if run.model.mixing is not None:
            raise UsageError(f"{self.run} has context mixing: give a run with --model.ngram_orders '[]'")
        for module in prunable(run.model):
            groups(module)  # refuses what it does not know
        with connect_alone(run.config.engine.threads) as place:
            bench = Bench(run, place, self, group)
            stages = prune_in_stages(bench)
            publish("\n" + coded_table(stages))
            halves = measure_halves(bench, stages[0].held_out_bits)
            publish("\n" + halves_table(halves))
        write_figures(self.png, partial(draw, stages, halves))
        if self.json:
            found = {"stages": [asdict(stage) for stage in stages], "halves": [asdict(half) for half in halves]}
            write_file(self.json, json.dumps(found, indent=1).encode())


class Bench:
    """What a model is measured on: the run's corpus, and text that it has not seen."""

    def __init__(self, run: FinishedRun, place: Place, options: Prune, group: int):
        self.run, self.place, self.options, self.group = run, place, options, group
        _, self.tokens, end = tokenize(options.held_out, run.tokenizer)
        if not end.bytes:
            raise UsageError(f"{options.held_out} is empty: there is nothing to measure on")
        self.held_out_bytes, wanted, lanes = end.bytes, options.corpus_lanes, run.lanes
        if wanted is not None:
            if wanted < 1 or wanted >= lanes.lanes or lanes.lanes % wanted:
                raise UsageError(
                    f"--corpus_lanes {wanted}: give a divisor of the run's {lanes.lanes} lanes, below them"
                )
            tokens, length = run.corpus.manifest.tokens, lanes.lane_tokens
            starts = range(0, tokens, lanes.lanes // wanted * length)
            self.sample = np.concatenate([run.corpus.tokens.read(at, min(at + length, tokens)) for at in starts])

    def rate(self, model: LanguageModel, tokens: np.ndarray, lanes: int, text_bytes: int) -> float:
        plan, frozen = Lanes(len(tokens), lanes, SEGMENT_TOKENS), (self.run.config, model, self.run.tokenizer)
        return one_pass(frozen, plan, source_of(tokens, plan), self.place, text_bytes) / text_bytes

    def held_out_rate(self, model: LanguageModel) -> float:
        """Bits per byte of the held-out text."""
        return self.rate(model, self.tokens, HELD_OUT_LANES, self.held_out_bytes)

    def corpus_rate(self, model: LanguageModel) -> float:
        """Bits per byte of the corpus, or of the lanes that stand for it."""
        if self.options.corpus_lanes is None:
            return self.run.corpus_bits(model, self.place) / self.run.corpus.manifest.bytes
        lengths = np.array([len(piece) for piece in self.run.tokenizer.pieces])
        return self.rate(model, self.sample, self.options.corpus_lanes, int(lengths[self.sample].sum()))

    def segments(self, steps: int) -> list[Tensor]:
        """Tokens [R, T] of all lanes at the run's first `steps` steps, which come from all over the corpus."""
        lanes, read = self.run.lanes, self.run.corpus.tokens.read
        if steps >= lanes.steps:
            raise UsageError(
                f"{steps} steps of calibration and retraining, but the corpus has {lanes.steps}: give fewer"
            )
        return [torch.from_numpy(lanes.targets(step, lanes.share(0, 1), read)) for step in range(steps)]

    def measure(self, method: str, removed: float, model: LanguageModel) -> Stage:
        """A row, printed as it is found, with a two-part code for each point, except by norm."""
        whole, segment = self.run.model, self.segments(1)[0].clamp(min=0)
        left = [size(now) / size(then) for now, then in zip(prunable(model), prunable(whole), strict=True)]
        segment_secs, step_secs = measure_secs(model, whole, segment), measure_secs(model, whole, segment[:1, :1])
        stage = Stage(
            method, removed, size(model), sum(p.nbytes for p in model.parameters()), *measure_bytes(model, segment),
            segment_secs, step_secs, self.held_out_rate(model), self.corpus_rate(model), left,
        )  # fmt: skip
        publish(str(stage))
        for point in self.options.points if method != "norm" else []:
            packed = pack(parameters(model), point, self.group, small_vectors(model))
            decoded = with_parameters(model, unpack(packed))
            data_bytes = self.corpus_rate(decoded) * self.run.corpus.manifest.bytes / 8
            total_bytes = len(packed) + data_bytes + self.run.fixed_bits / 8
            stage.coded.append(Coded(point, len(packed), self.held_out_rate(decoded), data_bytes, total_bytes))
        return stage


@torch.no_grad()
def measure_secs(model: LanguageModel, whole: LanguageModel, tokens: Tensor) -> tuple[float, float]:
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
def measure_bytes(model: LanguageModel, tokens: Tensor) -> tuple[int, int]:
    """Bytes of all tensors alive at once at most, parameters and state included, while `model` runs over tokens [R, T];
    and of the state that it then carries, for one lane. What a kernel allocates for itself is not seen."""
    inputs = tokens.to(model.embedding.device)
    state = model.init_state(len(inputs))
    # Private to PyTorch, and the same in 2.13 as in the releases before it: it looks at what each operator returns.
    tracker = MemTracker()
    tracker.track_external(*model.parameters(), *tensors_of(state))
    with tracker:
        _, state = model(inputs, state, inputs)
    carried = sum(leaf.nbytes for leaf in tensors_of(state))
    return tracker.get_tracker_snapshot("peak")[inputs.device]["Total"], carried // len(inputs)


def tensors_of(state: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(state) if isinstance(leaf, Tensor)]


def prune_in_stages(bench: Bench) -> list[Stage]:
    """The model as it is, then after each stage: groups by saliency, groups by norm, weights by size."""
    whole, retrain_steps = bench.run.model, bench.options.retrain_steps
    pruned, plain, sparse = copy_model(whole), copy_model(whole), copy_model(whole)
    total = sum(size(part) for part in prunable(whole))
    publish(HEADING)
    stages = [bench.measure("whole", 0.0, whole)]
    gone = 0.0
    for share in bench.options.remove:
        parts = prunable(pruned)
        entries = [groups(part).entries(part) for part in parts]
        left = choose(score_groups(bench, pruned), entries, share * total - gone)
        for part, kept in zip(parts, left, strict=True):
            keep(part, kept)
        # By norm, the same number of groups goes from each place.
        for part, kept in zip(prunable(plain), left, strict=True):
            found = groups(part)
            norms = found.sums(part, found.owned, torch.square) ** 0.5
            keep(part, find_largest(norms, len(kept)))
        gone = size(whole) - size(pruned)
        masks = zero_smallest(sparse, gone / total)
        if retrain_steps:
            for model in (pruned, plain, sparse):
                retrain(bench, model, retrain_steps)
            apply(masks)
        for method, model in (("saliency", pruned), ("norm", plain), ("weights", sparse)):
            stages.append(bench.measure(method, gone / total, model))
    return stages


def measure_halves(bench: Bench, whole_bits: float) -> list[Half]:
    """What the held-out text takes when half of a place's groups, those of least saliency, are gone, and all else is as
    it was."""
    found = []
    for number, score in enumerate(score_groups(bench, bench.run.model)):
        model = copy_model(bench.run.model)
        part = prunable(model)[number]
        kind = groups(part).kind
        keep(part, find_largest(score, len(score) - len(score) // 2))
        found.append(Half(1 + number // 2, kind, bench.held_out_rate(model) - whole_bits))
    return found


def score_groups(bench: Bench, model: LanguageModel) -> list[np.ndarray]:
    """The saliency of each group of each place: how much, to first order, its absence would change the nats of a
    segment, as a sum over segments of absolute values (Molchanov et al. 2017, arXiv:1611.06440, eq. 8, with a gate for
    the group).

    The gradient by a gate on what the readers hear is the sum of activation times gradient, and also that of weight
    times gradient over the readers' weights."""
    places = prunable(model)
    found = [groups(part) for part in places]
    totals = [np.zeros(one.count) for one in found]
    for _ in backward_passes(bench, model, bench.options.calibration_steps, "scoring groups"):
        for total, one, part in zip(totals, found, places, strict=True):
            total += np.abs(one.sums(part, one.readers, lambda p: p * p.grad))  # type: ignore[operator]
    return totals


def retrain(bench: Bench, model: LanguageModel, steps: int) -> None:
    """Learn for `steps` steps at the rates that the run ended with."""
    config = bench.run.config
    optimizer = build_optimizer(model, config.train, config.model.width)
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * config.train.final_fraction
    for _ in backward_passes(bench, model, steps, "retraining"):
        optimizer.step()


def backward_passes(bench: Bench, model: LanguageModel, steps: int, what: str) -> Iterator[None]:
    """Yields after each backward pass over the calibration's segments, gradients being those of nats a token."""
    segments = bench.segments(steps)
    state = model.init_state(len(segments[0]))
    recent = torch.full((len(segments[0]), 1), bench.run.tokenizer.end_of_document)
    for targets in tqdm(segments, desc=what, leave=False):
        history = torch.cat([recent, targets.clamp(min=0)], 1).to(bench.place.device)
        recent = targets[:, -1:].clamp(min=0)
        model.zero_grad()
        nats, state = model(history[:, :-1], state, targets.to(bench.place.device))
        nats.mean().backward()
        yield
    model.zero_grad()
