"""Which groups of parameters go, and what that did to a model: choice, rows and tables.

Shapes: `G` groups of a place, which is a block or an MLP of one layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from archive.weights import Point
from studies.two_part.terms import label


def choose(scores: Sequence[np.ndarray], entries: Sequence[float], budget: float) -> list[np.ndarray]:
    """Groups to keep in each place, as rising numbers, when `budget` parameters are to go from all places together.

    `scores` [G] a place say what a group is worth, `entries` how many parameters go with one. The groups that are worth
    least a parameter go first; one is left in every place.
    """
    worth = np.concatenate([score / size for score, size in zip(scores, entries, strict=True)])
    place = np.repeat(np.arange(len(scores)), [len(score) for score in scores])
    left, gone, kept = [len(score) for score in scores], 0.0, np.ones(len(worth), bool)
    for group in np.argsort(worth, kind="stable"):
        at = place[group]
        if gone + entries[at] <= budget and left[at] > 1:
            kept[group], gone, left[at] = False, gone + entries[at], left[at] - 1
    return [np.flatnonzero(part) for part in np.split(kept, np.cumsum([len(score) for score in scores])[:-1])]


def largest(scores: np.ndarray, count: int) -> np.ndarray:
    """The numbers of the `count` groups with the largest scores, rising."""
    return np.sort(np.argsort(scores, kind="stable")[len(scores) - count :])


@dataclass(frozen=True)
class Coded:
    """A model's weights as a point of a two-part code. `total_bytes` has code, tokenizer and side information in it."""

    point: Point
    weight_bytes: int
    held_out_bits: float
    corpus_bytes: float
    total_bytes: float


@dataclass(frozen=True)
class Stage:
    """A model after a stage of pruning: rates are bits a byte, of text it has not seen and of its corpus. Times are the
    least of several: its own, and the whole model's by turns with it. `peak_bytes` are those of all tensors alive at
    once over a segment of all lanes, `state_bytes` those that a lane carries.

    `left` is the part of the parameters that each place keeps, in order: block and MLP of every layer."""

    method: str
    removed: float
    parameters: int
    memory_bytes: int
    peak_bytes: int
    state_bytes: int
    segment_secs: tuple[float, float]
    step_secs: tuple[float, float]
    held_out_bits: float
    corpus_bits: float
    left: list[float]
    coded: list[Coded] = field(default_factory=list)


@dataclass(frozen=True)
class Alone:
    """What held-out text costs more, in bits a byte, when half of the groups of one place are gone."""

    layer: int
    kind: str
    more_bits: float


def heading() -> str:
    """Times are of a segment of all lanes, and of one token of one lane, beside the whole model's."""
    names = f"{'by':<10}{'removed':>8}{'parameters':>12}{'weights':>12}{'peak':>12}{'state':>9}{'segment':>17}"
    units = f"{'bytes':>42}{'bytes':>12}{'a lane':>9}{'ms (of whole)':>17}{'ms (of whole)':>17}{'bits/byte':>11}"
    return f"{names}{'one token':>17}{'held out':>11}{'corpus':>11}\n{units}{'bits/byte':>11}"


def line(stage: Stage) -> str:
    segment, step = (f"{1e3 * own:.2f} ({own / whole:4.0%})" for own, whole in (stage.segment_secs, stage.step_secs))
    return (
        f"{stage.method:<10}{stage.removed:>8.1%}{stage.parameters:>12,}{stage.memory_bytes:>12,}{stage.peak_bytes:>12,}"
        f"{stage.state_bytes:>9,}{segment:>17}{step:>17}{stage.held_out_bits:>11.4f}{stage.corpus_bits:>11.4f}"
    )


def quantised_alone(whole: Stage, weight_bytes: float) -> float | None:
    """Held-out bits a byte of the whole model quantised to so many bytes, between its points; None outside them."""
    found = sorted((entry.weight_bytes, entry.held_out_bits) for entry in whole.coded)
    sizes, rates = np.array(found, float).T
    return float(np.interp(weight_bytes, sizes, rates)) if sizes[0] <= weight_bytes <= sizes[-1] else None


def coded_table(stages: Sequence[Stage]) -> str:
    """Two-part codes of the pruned models: weights and totals, beside quantisation alone at equal size."""
    whole = stages[0]
    lines = [
        f"{'by':<10}{'removed':<10}{'weights as':<12}{'weights':>10}{'held out':>10}{'quantised alone':>17}"
        f"{'corpus':>12}{'two-part total':>16}",
    ]
    for stage in stages:
        for entry in stage.coded:
            alone = quantised_alone(whole, entry.weight_bytes)
            lines.append(
                f"{stage.method:<10}{stage.removed:<10.1%}{label(entry.point):<12}{entry.weight_bytes:>10,}{entry.held_out_bits:>10.4f}"
                f"{'-' if alone is None else f'{alone:.4f}':>17}{entry.corpus_bytes:>12,.0f}{entry.total_bytes:>16,.0f}"
            )
    return "\n".join([*lines, *verdicts(stages)])


def verdicts(stages: Sequence[Stage]) -> list[str]:
    """The shortest two-part code without pruning, and with each kind of it."""
    best: dict[str, Coded] = {}
    for stage in stages:
        for entry in stage.coded:
            best[stage.method] = min(best.get(stage.method, entry), entry, key=lambda one: one.total_bytes)
    unpruned = best.pop("whole", None)
    if unpruned is None:
        return []
    lines = [f"shortest: unpruned {unpruned.total_bytes:,.0f} bytes as {label(unpruned.point)}"]
    for method, entry in best.items():
        change = entry.total_bytes - unpruned.total_bytes
        lines.append(
            f"by {method} {entry.total_bytes:,.0f} as {label(entry.point)}: pruning "
            f"{'shortens' if change < 0 else 'does not shorten'} the two-part code ({change:+,.0f})"
        )
    return lines


def alone_table(missed: Sequence[Alone]) -> str:
    """What the loss of half of each block, and of each MLP, costs."""
    lines = [f"{'half of':<20}{'held out, bits/byte more, by layer'}"]
    for name, part in (("blocks", missed[::2]), ("MLPs", missed[1::2])):
        lines.append(f"{name:<20}" + "".join(f"{one.more_bits:>9.4f}" for one in part))
    return "\n".join(lines)
