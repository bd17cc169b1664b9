"""Contextual compression of the parameters: take out what a context does not need, in stages over all layers.

Groups of parameters (heads of attention, channels of recurrences and MLPs, states of SSD) are scored by what their
readers hear of them in a calibration context, activation times gradient (first order in leaving the group out), all
layers are ranked together, and those that are worth least for their parameters go. After every stage scores are taken
anew, since groups stand in for each other. What is left has smaller tensors; bytes, times and rates are measured.

Beside it: as many groups taken out of every place by their norm, as many single weights set to zero by their size, and
plain quantisation at equal size. And half of each block and of each MLP taken out alone: which is missed least? The run
must be one without context mixing, whose tables would hide what the network lost.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from archive.weights import Point
from data.errors import UsageError
from data.files import output_file, write_file
from data.streams import publish
from eval.plots import THEMES
from model.lm import LanguageModel
from studies.pruning.bench import Bench
from studies.pruning.plots import figure
from studies.pruning.surgery import groups, keep, prunable, size
from studies.pruning.terms import Alone, Stage, alone_table, choose, coded_table, heading, largest
from studies.scoring import connect_alone, copied, open_run, small_vectors
from studies.two_part.command import GROUP, group_size, points
from train.engine import disconnect
from train.optim import build_optimizer


def prune_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="run.dir of a finished run without context mixing")
    parser.add_argument("--held_out", type=Path, required=True, metavar="FILE", help="text that the run has not seen")
    parser.add_argument("--corpus", metavar="FILE", help="the run's corpus, if it is no longer where data.source says")
    parser.add_argument(
        "--remove", type=shares, default=[0.1, 0.2, 0.3, 0.4, 0.5],
        help="share of blocks' and MLPs' parameters gone after each stage, rising (default: 0.1,0.2,0.3,0.4,0.5)",
    )  # fmt: skip
    parser.add_argument(
        "--corpus_lanes", type=int, metavar="N",
        help="score only so many of the run's lanes, evenly apart, and draw totals up from them (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--calibration_steps", type=int, default=16, help="segments of all lanes that scores are taken on (default: 16)"
    )
    parser.add_argument(
        "--retrain_steps", type=int, default=0, help="steps of learning after each stage (default: none)"
    )
    parser.add_argument("--points", type=points, default=[8, 6, 5, 4], help="as of two-part (default: 8,6,5,4)")
    parser.add_argument("--group", type=int, help=f"weights that share a step (default: {GROUP})")
    parser.add_argument("--png", type=output_file, metavar="NAME", help="write NAME-light.png and NAME-dark.png")
    parser.add_argument("--json", type=output_file, metavar="FILE", help="write what was measured")


def shares(text: str) -> list[float]:
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or found[0] <= 0 or found[-1] >= 1 or found != sorted(set(found)):
        raise UsageError("give rising numbers between 0 and 1, by commas")
    return found


def prune(
    run: Path,
    held_out: Path,
    corpus: str | None,
    remove: list[float],
    corpus_lanes: int | None,
    calibration_steps: int,
    retrain_steps: int,
    points: list[Point],
    group: int | None,
    png: Path | None,
    json: Path | None,
) -> None:
    """Raises UsageError for what is wrong with the arguments."""
    if calibration_steps < 1 or retrain_steps < 0:
        raise UsageError(
            f"--calibration_steps {calibration_steps} must be 1 or more, --retrain_steps {retrain_steps} 0 or more"
        )
    size_of_groups = group_size(group, points)
    opened = open_run(run, corpus)
    if opened.model.mixing is not None:
        raise UsageError(f"{run} has context mixing: give a run with --model.ngram_orders '[]'")
    for module in prunable(opened.model):
        groups(module)  # refuses what it does not know
    place = connect_alone(opened.config.engine.threads)
    bench = Bench(opened, held_out, place, points, size_of_groups, corpus_lanes)
    stages = prune_in_stages(bench, remove, calibration_steps, retrain_steps)
    publish("\n" + coded_table(stages))
    missed = halves(bench, stages[0].held_out_bits, calibration_steps)
    publish("\n" + alone_table(missed))
    if png:
        for name, theme in THEMES.items():
            write_file(png.with_name(f"{png.name}-{name}.png"), figure(stages, missed, theme))
    if json:
        write_file(json, dump(stages, missed))
    disconnect()


def dump(stages: list[Stage], missed: list[Alone]) -> bytes:
    found = {"stages": [asdict(stage) for stage in stages], "halves": [asdict(one) for one in missed]}
    return json.dumps(found, indent=1).encode()


def prune_in_stages(bench: Bench, remove: list[float], calibration_steps: int, retrain_steps: int) -> list[Stage]:
    """The model as it is, then after each stage: groups by saliency, groups by norm, weights by size."""
    whole = bench.run.model
    pruned, plain, sparse = copied(whole), copied(whole), copied(whole)
    total = sum(size(part) for part in prunable(whole))
    publish(heading())
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
        masks = zero_smallest(sparse, gone / total)
        if retrain_steps:
            for model in (pruned, plain, sparse):
                retrain(bench, model, retrain_steps)
            apply(masks)
        stages.append(bench.measure("saliency", gone / total, pruned, whole, coded=True))
        stages.append(bench.measure("norm", gone / total, plain, whole, coded=False))
        stages.append(bench.measure("weights", gone / total, sparse, whole, coded=True))
    return stages


def halves(bench: Bench, whole_bits: float, calibration_steps: int) -> list[Alone]:
    """What the held-out text costs when half of a place's groups, those of least saliency, are gone, and all else is as
    it was."""
    scores = saliency(bench, bench.run.model, calibration_steps)
    found = []
    for number, score in enumerate(scores):
        model = copied(bench.run.model)
        part = prunable(model)[number]
        kind = groups(part).kind
        keep(part, largest(score, len(score) - len(score) // 2))
        found.append(Alone(1 + number // 2, kind, bench.held_out_rate(model) - whole_bits))
    return found


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


def zero_smallest(model: LanguageModel, share: float) -> dict[nn.Parameter, Tensor]:
    """Set the smallest weights to zero, this share of each matrix of blocks and MLPs. Returns what is left of each, as
    masks of ones and zeros."""
    small, masks = small_vectors(model), {}
    for name, weights in model.named_parameters():
        if name.startswith("layers.") and name not in small:
            order = weights.detach().abs().flatten().argsort(stable=True)
            mask = torch.ones_like(weights).flatten()
            mask[order[: round(share * len(order))]] = 0
            masks[weights] = mask.view_as(weights)
    apply(masks)
    return masks


@torch.no_grad()
def apply(masks: dict[nn.Parameter, Tensor]) -> None:
    for weights, mask in masks.items():
        weights.mul_(mask)
