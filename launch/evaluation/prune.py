"""Contextual compression of the parameters: take out what a context does not need, in stages over all layers.

Groups of parameters (heads of attention, channels of recurrences and MLPs, states of SSD) are scored by what their
readers hear of them in a calibration context, activation times gradient (first order in leaving the group out), all
layers are ranked together, and those that are worth least for their parameters go. After every stage scores are taken
anew, since groups stand in for each other. What is left has smaller tensors; bytes, times and rates are measured.

Beside it: as many groups taken out of every layer by their norm, and plain quantisation at equal size. The run must be
one without context mixing, whose tables would hide what the network lost.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from data.files import write_file
from data.lanes import Lanes
from eval.plots import THEMES
from eval.pruning import Coded, Stage, choose, coded_table, figure, heading, largest, line
from eval.weight_code import Point, pack, unpack
from launch.evaluation.run_corpus import (
    FinishedRun,
    copied,
    corpus_bits,
    open_run,
    parameters,
    small_vectors,
    with_parameters,
)
from launch.evaluation.scoring import connect_alone, one_pass, source_of, tokenize
from launch.evaluation.surgery import groups, keep, prunable
from launch.evaluation.two_part import points, refuse_unknown
from model.lm import LanguageModel
from train.engine import Place, disconnect
from train.optim import build_optimizer

TIMED_ROUNDS = 21


def prune_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="run.dir of a finished run without context mixing")
    parser.add_argument("--held_out", type=Path, required=True, metavar="FILE", help="text that the run has not seen")
    parser.add_argument("--corpus", metavar="FILE", help="the run's corpus, if it is no longer where data.source says")
    parser.add_argument(
        "--remove", type=shares, default=[0.1, 0.2, 0.3, 0.4, 0.5],
        help="share of blocks' and MLPs' parameters gone after each stage, rising (default: 0.1,0.2,0.3,0.4,0.5)",
    )  # fmt: skip
    parser.add_argument(
        "--calibration_steps", type=int, default=16, help="segments of all lanes that scores are taken on (default: 16)"
    )
    parser.add_argument(
        "--retrain_steps", type=int, default=0, help="steps of learning after each stage (default: none)"
    )
    parser.add_argument("--points", type=points, default=[8, 6, 5, 4], help="as of two-part (default: 8,6,5,4)")
    parser.add_argument("--group", type=int, default=64, help="weights that share a step (default: %(default)s)")
    parser.add_argument("--png", type=Path, metavar="NAME", help="write NAME-light.png and NAME-dark.png")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was measured")


def shares(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def prune(
    run: Path,
    held_out: Path,
    corpus: str | None,
    remove: list[float],
    calibration_steps: int,
    retrain_steps: int,
    points: list[Point],
    group: int,
    png: Path | None,
    json: Path | None,
) -> None:
    """Raises ValueError for what is wrong with the arguments."""
    if remove[0] <= 0 or remove[-1] >= 1 or remove != sorted(set(remove)):
        raise ValueError(f"--remove {remove}: give rising numbers between 0 and 1")
    if calibration_steps < 1 or retrain_steps < 0 or group < 0:
        raise ValueError("--calibration_steps must be 1 or more, --retrain_steps and --group 0 or more")
    refuse_unknown(points)
    opened = open_run(run, corpus)
    if opened.model.mixing is not None:
        raise ValueError(f"{run} has context mixing: give a run with --model.ngram_orders '[]'")
    found = [groups(module) for module in prunable(opened.model)]
    place = connect_alone(opened.config.engine.threads)
    bench = Bench(opened, held_out, place, points, group)
    stages = prune_in_stages(bench, remove, calibration_steps, retrain_steps)
    print("\n" + coded_table([stage for stage in stages if stage.method != "magnitude"]))
    if png:
        for name, theme in THEMES.items():
            write_file(png.with_name(f"{png.name}-{name}.png"), figure(stages, [part.kind for part in found], theme))
    if json:
        write_file(json, dump(stages))
    disconnect(place)


def dump(stages: list[Stage]) -> bytes:
    return json.dumps([asdict(stage) for stage in stages], indent=1).encode()


def prune_in_stages(bench: "Bench", remove: list[float], calibration_steps: int, retrain_steps: int) -> list[Stage]:
    """The model as it is, then after each stage by saliency and by norm."""
    whole = bench.run.model
    pruned, plain = copied(whole), copied(whole)
    total = sum(size(part) for part in prunable(whole))
    print(heading(), flush=True)
    stages = [bench.measure("whole", 0.0, whole, whole, coded=True)]
    gone = 0.0
    for share in remove:
        parts = prunable(pruned)
        found = [groups(part) for part in parts]
        scores = saliency(bench, pruned, calibration_steps)
        left = choose(scores, [one.entries(part) for one, part in zip(found, parts, strict=True)], share * total - gone)
        for part, kept in zip(parts, left, strict=True):
            keep(part, kept)
        # By norm, the same number of groups goes from each place.
        for part, kept in zip(prunable(plain), left, strict=True):
            one = groups(part)
            norms = one.sums(part, one.owned, torch.square) ** 0.5
            keep(part, largest(norms, len(kept)))
        gone = size(whole) - size(pruned)
        if retrain_steps:
            retrain(bench, pruned, retrain_steps)
            retrain(bench, plain, retrain_steps)
        stages.append(bench.measure("saliency", gone / total, pruned, whole, coded=True))
        stages.append(bench.measure("magnitude", gone / total, plain, whole, coded=False))
    return stages


class Bench:
    """What a model is measured on: the run's corpus, and text that it has not seen."""

    def __init__(self, run: FinishedRun, held_out: Path, place: Place, points: list[Point], group: int):
        self.run, self.place, self.points, self.group = run, place, points, group
        _, self.tokens, end = tokenize(held_out, run.tokenizer)
        if not end.bytes:
            raise ValueError(f"{held_out} is empty: there is nothing to measure on")
        self.held_out_bytes = end.bytes

    def rates(self, model: LanguageModel) -> tuple[float, float]:
        """Bits per byte of the held-out text and of the corpus."""
        config = self.run.config
        lanes = Lanes(len(self.tokens), config.train.lanes, config.train.segment_tokens)
        source = source_of(self.tokens, lanes)
        held_out_bits = one_pass(config, model, self.run.tokenizer, lanes, source, self.place, self.held_out_bytes)
        return (
            held_out_bits / self.held_out_bytes,
            corpus_bits(self.run, model, self.place) / self.run.corpus.manifest.bytes,
        )

    def segments(self, steps: int) -> list[torch.Tensor]:
        """Tokens [R, T] of all lanes at the run's first `steps` steps, which lie all over the corpus."""
        config, manifest = self.run.config.train, self.run.corpus.manifest
        lanes = Lanes(manifest.tokens, config.lanes, config.segment_tokens)
        if steps >= lanes.steps:
            raise ValueError(
                f"{steps} steps of calibration and retraining, but the corpus has {lanes.steps}: give fewer"
            )
        read = self.run.corpus.tokens.read
        return [torch.from_numpy(lanes.targets(step, lanes.share(0, 1), read)) for step in range(steps)]

    def measure(self, method: str, removed: float, model: LanguageModel, whole: LanguageModel, coded: bool) -> Stage:
        """A row, printed as it is found, with a two-part code for each point if it is to be `coded`."""
        held_out_bits, corpus_rate = self.rates(model)
        sizes, before = ([size(part) for part in prunable(one)] for one in (model, whole))
        segment = self.segments(1)[0]
        segment_secs, step_secs = latency(model, whole, segment), latency(model, whole, segment[:1, :1])
        stage = Stage(
            method, removed, size(model), sum(p.nbytes for p in model.parameters()), segment_secs, step_secs,
            held_out_bits, corpus_rate, [now / then for now, then in zip(sizes, before, strict=True)],
        )  # fmt: skip
        print(line(stage), flush=True)
        corpus_bytes = self.run.corpus.manifest.bytes
        for point in self.points if coded else []:
            packed = pack(parameters(model), point, self.group, small_vectors(model))
            held_out_bits, rate = self.rates(with_parameters(model, unpack(packed)))
            data_bytes = rate * corpus_bytes / 8
            total_bytes = len(packed) + data_bytes + self.run.fixed_bits / 8
            stage.coded.append(Coded(point, len(packed), held_out_bits, data_bytes, total_bytes))
        return stage


def size(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def saliency(bench: Bench, model: LanguageModel, steps: int) -> list[np.ndarray]:
    """Of each group of each place: how much, to first order, its absence would change the nats of a segment, as a sum
    over segments of absolute values (Molchanov et al. 2017, arXiv:1611.06440, eq. 8, with a gate for the group).

    The gradient by a gate on what the readers hear is the sum of activation times gradient, and also that of weight
    times gradient over the readers' weights."""
    places = prunable(model)
    found = [groups(part) for part in places]
    totals = [np.zeros(one.count) for one in found]
    for _ in learning(bench, model, steps, "scoring groups"):
        for total, one, part in zip(totals, found, places, strict=True):
            total += np.abs(one.sums(part, one.readers, lambda p: p * p.grad))  # type: ignore[operator]
    return totals


def retrain(bench: Bench, model: LanguageModel, steps: int) -> None:
    """Learn for `steps` steps at the rates that the run ended with."""
    config = bench.run.config
    optimizer = build_optimizer(model, config.train, config.model.width)
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * config.train.final_fraction
    for _ in learning(bench, model, steps, "retraining"):
        optimizer.step()


def learning(bench: Bench, model: LanguageModel, steps: int, what: str) -> Iterator[None]:
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


@torch.no_grad()
def latency(model: LanguageModel, whole: LanguageModel, tokens: torch.Tensor) -> tuple[float, float]:
    """Median seconds that `model` and `whole` take, by turns, for tokens [R, T] from the start."""
    inputs = tokens.to(whole.embedding.device)
    found: tuple[list[float], list[float]] = ([], [])
    for _ in range(TIMED_ROUNDS):
        for one, secs in zip((model, whole), found, strict=True):
            state, start = one.init_state(len(inputs)), time.perf_counter()
            one(inputs, state, inputs)
            secs.append(time.perf_counter() - start)
    return statistics.median(found[0]), statistics.median(found[1])
