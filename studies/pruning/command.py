"""Contextual compression of the parameters: the stages, and what is measured after each."""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict

import numpy as np
import torch
from torch import Tensor
from torch.distributed._tools.mem_tracker import MemTracker
from torch.utils._pytree import tree_leaves
from tqdm import tqdm

from data.errors import UsageError
from data.files import write_file
from data.lanes import Lanes
from data.streams import publish
from model.lm import LanguageModel
from studies import scoring
from studies.common import write_figures
from studies.pruning import surgery
from studies.pruning.options import Prune
from studies.pruning.report import HEADING, Coded, Half, Stage, draw, format_coded, format_halves
from studies.two_part.command import check_group
from train.engine import Place
from train.optim import build_optimizer

# Lanes in which held-out text is read.
HELD_OUT_LANES = 8
TIMED_ROUNDS = 21


def execute(options: Prune) -> None:
    """Raises UsageError for what is wrong with the arguments."""
    if options.calibration_steps < 1 or options.retrain_steps < 0:
        raise UsageError(
            f"--calibration_steps {options.calibration_steps} must be 1 or more, --retrain_steps "
            f"{options.retrain_steps} 0 or more"
        )
    group = check_group(options.group, options.points)
    run = scoring.open_run(options.run, options.corpus)
    if run.model.mixing is not None:
        raise UsageError(f"{options.run} has context mixing: give a run with --model.ngram_orders '[]'")
    surgery.list_groups(run.model)  # refuses what it does not know
    with scoring.connect_alone(run.config.engine.threads) as place:
        bench = Bench(run, place, options, group)
        stages = prune_in_stages(bench)
        publish("\n" + format_coded(stages))
        halves = measure_halves(bench, stages[0].held_out_bits)
        publish("\n" + format_halves(halves))
    write_figures(options.png, draw, stages, halves)
    if options.json:
        found = {"stages": [asdict(stage) for stage in stages], "halves": [asdict(half) for half in halves]}
        write_file(options.json, json.dumps(found, indent=1).encode())


class Bench:
    """What a model is measured on: the run's corpus, and text that it has not seen."""

    def __init__(self, run: scoring.FinishedRun, place: Place, options: Prune, group: int):
        if run.config.model.network or "|" in run.config.model.block:
            kind = "model.network" if run.config.model.network else "several models side by side"
            raise UsageError(f"{run.folder} is of {kind}, whose parts pruning does not know: name a run of blocks")
        self.run, self.place, self.options, self.group = run, place, options, group
        _, self.tokens, end = scoring.tokenize(options.held_out, run.tokenizer, run.config.data.tokenizer)
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
        plan, frozen = Lanes(len(tokens), lanes, scoring.SEGMENT_TOKENS), (self.run.config, model, self.run.tokenizer)
        return scoring.one_pass(frozen, plan, scoring.source_of(tokens, plan), self.place, text_bytes) / text_bytes

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
        left = surgery.list_sizes(model) / surgery.list_sizes(whole)
        segment_secs, step_secs = measure_secs(model, whole, segment), measure_secs(model, whole, segment[:1, :1])
        stage = Stage(
            method, removed, surgery.count_parameters(model), sum(p.nbytes for p in model.parameters()),
            *measure_bytes(model, segment), segment_secs, step_secs, self.held_out_rate(model), self.corpus_rate(model),
            left.tolist(),
        )  # fmt: skip
        publish(str(stage))
        for point in self.options.points if method != "norm" else []:
            weight_bytes, decoded = scoring.code_weights(model, point, self.group)
            data_bytes = self.corpus_rate(decoded) * self.run.corpus.manifest.bytes / 8
            total_bytes = weight_bytes + data_bytes + self.run.fixed_bits / 8
            stage.coded.append(Coded(point, weight_bytes, self.held_out_rate(decoded), data_bytes, total_bytes))
        return stage


@torch.no_grad()
def measure_secs(model: LanguageModel, whole: LanguageModel, tokens: Tensor) -> tuple[float, float]:
    """Least seconds that `model` and `whole` take, by turns, for tokens [R, T] from the start. What else a machine does
    can only add to them."""
    inputs = tokens.to(whole.embedding.device)

    def run(one: LanguageModel) -> float:
        state, start = one.init_state(len(inputs)), time.perf_counter()
        one(inputs, state, inputs)[0][-1, -1].item()  # waits for an accelerator
        return time.perf_counter() - start

    rounds = np.array([(run(model), run(whole)) for _ in range(TIMED_ROUNDS)])
    own, beside = rounds.min(0).tolist()
    return own, beside


@torch.no_grad()
def measure_bytes(model: LanguageModel, tokens: Tensor) -> tuple[int, int]:
    """Bytes of all tensors alive at once at most, parameters and state included, while `model` runs over tokens [R, T];
    and of the state that it then carries, for one lane. What a kernel allocates for itself is not seen."""
    inputs = tokens.to(model.embedding.device)
    state = model.init_state(len(inputs))
    # Private to PyTorch, here as of 2.13: it counts the storages that operators return, until they are freed.
    tracker = MemTracker()
    tracker.track_external(*model.parameters(), *tree_leaves(state))
    with tracker:
        _, state = model(inputs, state, inputs)
    carried = sum(leaf.nbytes for leaf in tree_leaves(state))
    return tracker.get_tracker_snapshot("peak")[inputs.device]["Total"], carried // len(inputs)


def prune_in_stages(bench: Bench) -> list[Stage]:
    """The model as it is, then after each stage: groups by saliency, groups by norm, weights by size."""
    whole, retrain_steps = bench.run.model, bench.options.retrain_steps
    pruned, plain, sparse = scoring.copy_model(whole), scoring.copy_model(whole), scoring.copy_model(whole)
    total = int(surgery.list_sizes(whole).sum())
    publish(HEADING)
    stages = [bench.measure("whole", 0.0, whole)]
    gone = 0.0
    for share in bench.options.remove:
        found = surgery.list_groups(pruned)
        # All groups of a place have as many parameters.
        entries = [groups.sum_entries(groups.owned, torch.ones_like)[0] for groups in found]
        left = surgery.choose(score_groups(bench, pruned), entries, share * total - gone)
        # By norm, the same number of groups goes from each place.
        for ours, others, kept in zip(found, surgery.list_groups(plain), left, strict=True):
            ours.keep(kept)
            others.keep(surgery.find_largest(others.sum_entries(others.owned, torch.square) ** 0.5, len(kept)))
        gone = surgery.count_parameters(whole) - surgery.count_parameters(pruned)
        masks = surgery.zero_smallest(sparse, gone / total)
        if retrain_steps:
            for model in (pruned, plain, sparse):
                retrain(bench, model, retrain_steps)
            surgery.apply_masks(masks)
        for method, model in (("saliency", pruned), ("norm", plain), ("weights", sparse)):
            stages.append(bench.measure(method, gone / total, model))
    return stages


def measure_halves(bench: Bench, whole_bits: float) -> list[Half]:
    """What the held-out text takes when half of a place's groups, those of least saliency, are gone, and all else is as
    it was."""
    found = []
    for number, score in enumerate(score_groups(bench, bench.run.model)):
        model = scoring.copy_model(bench.run.model)
        groups = surgery.list_groups(model)[number]
        groups.keep(surgery.find_largest(score, len(score) - len(score) // 2))
        found.append(Half(1 + number // 2, groups.kind, bench.held_out_rate(model) - whole_bits))
    return found


def score_groups(bench: Bench, model: LanguageModel) -> list[np.ndarray]:
    """The saliency of each group of each place: how much, to first order, its absence would change the nats of a
    segment, as a sum over segments of absolute values (Molchanov et al. 2017, arXiv:1611.06440, eq. 8, with a gate for
    the group).

    The gradient by a gate on what the readers hear is the sum of activation times gradient, and also that of weight
    times gradient over the readers' weights."""
    found = surgery.list_groups(model)
    totals = [np.zeros(groups.count) for groups in found]
    for _ in backward_passes(bench, model, bench.options.calibration_steps, "scoring groups"):
        for total, groups in zip(totals, found, strict=True):
            total += np.abs(groups.sum_entries(groups.readers, lambda p: p * p.grad))  # type: ignore[operator]
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
