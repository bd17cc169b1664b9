"""Which groups of parameters go, and what that did to a model: choice, rows, table and figure.

Shapes: `G` groups of a place, which is a block or an MLP of one layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.figure import Figure

from eval.plots import DOTS_PER_INCH, WIDTH_INCHES, Theme, bytes_formatter, png, styled
from eval.two_part import label
from eval.weight_code import Point


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
    """A model after a stage of pruning: rates are bits a byte, of text it has not seen and of its corpus. Times are
    medians: its own, and the whole model's by turns with it.

    `left` is the part of the parameters that each place keeps, in order: block and MLP of every layer."""

    method: str
    removed: float
    parameters: int
    memory_bytes: int
    segment_secs: tuple[float, float]
    step_secs: tuple[float, float]
    held_out_bits: float
    corpus_bits: float
    left: list[float]
    coded: list[Coded] = field(default_factory=list)


def heading() -> str:
    """Times are of a segment of all lanes, and of one token of one lane, beside the whole model's."""
    names = f"{'by':<12}{'removed':>8}{'parameters':>12}{'memory':>12}{'segment':>16}{'one token':>17}"
    units = f"{'bytes':>32}{'ms (of whole)':>16}{'ms (of whole)':>17}{'bits/byte':>11}{'bits/byte':>11}"
    return f"{names}{'held out':>11}{'corpus':>11}\n{'':<12}{units}"


def line(stage: Stage) -> str:
    segment, step = (f"{1e3 * own:.2f} ({own / whole:4.0%})" for own, whole in (stage.segment_secs, stage.step_secs))
    return (
        f"{stage.method:<12}{stage.removed:>8.1%}{stage.parameters:>12,}{stage.memory_bytes:>12,}{segment:>16}{step:>17}"
        f"{stage.held_out_bits:>11.4f}{stage.corpus_bits:>11.4f}"
    )


def coded_table(stages: Sequence[Stage]) -> str:
    """Two-part codes of the pruned models: weights and totals, beside quantisation alone at equal size."""
    whole = stages[0]
    sizes = np.array([entry.weight_bytes for entry in whole.coded], float)
    order = np.argsort(sizes)
    rates = np.array([entry.held_out_bits for entry in whole.coded])
    lines = [
        f"{'removed':<10}{'weights as':<12}{'weights':>10}{'held out':>10}{'quantised alone':>17}{'corpus':>12}"
        f"{'two-part total':>16}",
    ]
    for stage in stages:
        for entry in stage.coded:
            inside = sizes.min() <= entry.weight_bytes <= sizes.max()
            alone = f"{np.interp(entry.weight_bytes, sizes[order], rates[order]):.4f}" if inside else "-"
            lines.append(
                f"{stage.removed:<10.1%}{label(entry.point):<12}{entry.weight_bytes:>10,}{entry.held_out_bits:>10.4f}"
                f"{alone:>17}{entry.corpus_bytes:>12,.0f}{entry.total_bytes:>16,.0f}"
            )
    best, unpruned = (
        min((entry for stage in part for entry in stage.coded), key=lambda entry: entry.total_bytes)
        for part in (stages, stages[:1])
    )
    verdict = "pruning does not shorten the two-part code"
    if best is not unpruned:
        verdict = f"pruning shortens the two-part code by {unpruned.total_bytes - best.total_bytes:,.0f} bytes"
    return "\n".join(
        [*lines, f"shortest: {best.total_bytes:,.0f} bytes, unpruned {unpruned.total_bytes:,.0f}: {verdict}"]
    )


def figure(stages: Sequence[Stage], kinds: Sequence[str], theme: Theme) -> bytes:
    """What every layer keeps after each stage of pruning by saliency, and held-out bits a byte against coded size.

    `kinds` names the groups of each place; places go by turns, block and MLP."""
    ours = [stage for stage in stages if stage.method != "magnitude"]
    others = [stage for stage in stages if stage.method == "magnitude"]
    with styled(theme):
        drawn = Figure(figsize=(WIDTH_INCHES, 6.6), dpi=DOTS_PER_INCH)
        grid = drawn.subplots(2, 2)
        drawn.subplots_adjust(0.08, 0.08, 0.985, 0.93, 0.2, 0.42)
        for axes, first in zip(grid[0], (0, 1), strict=True):
            for rank, stage in enumerate(ours[1:]):
                gone = 100 * (1 - np.array(stage.left[first::2]))
                strength = (rank + 1) / (len(ours) - 1)
                axes.plot(
                    np.arange(1, len(gone) + 1), gone, "o-", ms=4, lw=1.6, color=theme.data,
                    alpha=0.25 + 0.75 * strength, label=f"{stage.removed:.0%}",
                )  # fmt: skip
            names = dict.fromkeys(kinds[first::2])
            axes.set_title(f"{', '.join(names)} removed from each layer, %", size=9.5, loc="left")
            axes.set_xlabel("layer")
            axes.set_xticks(range(1, 1 + len(ours[0].left) // 2))
            axes.set_ylim(0, 100)
        grid[0, 0].legend(title="of all", frameon=False, fontsize=8, title_fontsize=8, loc="upper right", ncols=2)
        axes = grid[1, 0]
        for label_, part, color, mark in (("saliency", ours, theme.data, "o"), ("norm", others, theme.fixed, "s")):
            shown = part if part and part[0] is ours[0] else [ours[0], *part]
            x = [stage.memory_bytes for stage in shown]
            axes.plot(x, [s.held_out_bits for s in shown], f"{mark}-", ms=4, lw=1.6, color=color, label=label_)
            axes.plot(x, [s.corpus_bits for s in shown], f"{mark}--", ms=3, lw=1.1, color=color, alpha=0.7)
        axes.set_title("bits per byte, fp32: new text (solid), corpus (dashed)", size=9.5, loc="left")
        axes.set_xlabel("memory of the parameters")
        axes.xaxis.set_major_formatter(bytes_formatter(ours[0].memory_bytes))
        axes.legend(frameon=False, fontsize=8.5)
        axes = grid[1, 1]
        for rank, stage in enumerate(ours):
            if stage.coded:
                color = theme.fixed if rank == 0 else theme.data
                strength = 1.0 if rank == 0 else 0.25 + 0.75 * rank / (len(ours) - 1)
                axes.plot(
                    [entry.weight_bytes for entry in stage.coded], [entry.total_bytes for entry in stage.coded], "o-",
                    ms=4, lw=1.6, color=color, alpha=strength,
                    label="quantised alone" if rank == 0 else f"{stage.removed:.0%} removed first",
                )  # fmt: skip
        axes.set_title("two-part total against the bytes of its weights", size=9.5, loc="left")
        axes.set_xlabel("weights, quantised and coded")
        axes.xaxis.set_major_formatter(bytes_formatter(max(axes.get_xlim()[1], 1)))
        axes.yaxis.set_major_formatter(bytes_formatter(max(axes.get_ylim()[1], 1)))
        axes.legend(frameon=False, fontsize=8)
        for axes in grid.flat:
            axes.grid(axis="y")
            axes.set_axisbelow(True)
            axes.spines[["top", "right", "left"]].set_visible(False)
        return png(drawn)
