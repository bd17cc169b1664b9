"""What pruning did to a model: rows, tables, and the figure of what each layer keeps, what that costs, and sizes at
which it pays."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from archive.points import Point
from eval.plots import DOTS_PER_INCH, WIDTH_INCHES, Theme, bytes_formatter, frame
from studies.two_part.command import name_point

LINE: dict[str, Any] = {"lw": 1.6, "ms": 4}
# By method: what the figure calls it, its mark, and the number of its color in a theme's series.
METHODS = {
    "whole": ("quantised alone", "D", 1),
    "saliency": ("groups by saliency", "o", 0),
    "norm": ("groups by norm", "s", 2),
    "weights": ("weights by size", "^", 3),
}


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

    def __str__(self) -> str:
        segment, step = (f"{1e3 * own:.2f} ({own / whole:4.0%})" for own, whole in (self.segment_secs, self.step_secs))
        return (
            f"{self.method:<10}{self.removed:>8.1%}{self.parameters:>12,}{self.memory_bytes:>12,}{self.peak_bytes:>12,}"
            f"{self.state_bytes:>9,}{segment:>17}{step:>17}{self.held_out_bits:>11.4f}{self.corpus_bits:>11.4f}"
        )


# Over stages. Times are of a segment of all lanes, and of one token of one lane, beside the whole model's.
HEADING = (
    f"{'by':<10}{'removed':>8}{'parameters':>12}{'weights':>12}{'peak':>12}{'state':>9}{'segment':>17}{'one token':>17}"
    f"{'held out':>11}{'corpus':>11}\n"
    f"{'bytes':>42}{'bytes':>12}{'a lane':>9}{'ms (of whole)':>17}{'ms (of whole)':>17}{'bits/byte':>11}"
    f"{'bits/byte':>11}"
)


@dataclass(frozen=True)
class Half:
    """What held-out text takes more, in bits a byte, when half of the groups of one place are gone. A place is a block
    or an MLP of one layer."""

    layer: int
    kind: str
    more_bits: float


def interpolate_quantised(whole: Stage, weight_bytes: float) -> float | None:
    """Held-out bits a byte of the whole model quantised to so many bytes, between its points; None outside them."""
    found = sorted((entry.weight_bytes, entry.held_out_bits) for entry in whole.coded)
    sizes, rates = np.array(found, float).T
    return float(np.interp(weight_bytes, sizes, rates)) if sizes[0] <= weight_bytes <= sizes[-1] else None


def format_coded(stages: Sequence[Stage]) -> str:
    """Two-part codes of the pruned models: weights and totals, beside quantisation alone at equal size."""
    whole = stages[0]
    lines = [
        f"{'by':<10}{'removed':<10}{'weights as':<12}{'weights':>10}{'held out':>10}{'quantised alone':>17}"
        f"{'corpus':>12}{'two-part total':>16}",
    ]
    for stage in stages:
        for entry in stage.coded:
            alone = interpolate_quantised(whole, entry.weight_bytes)
            lines.append(
                f"{stage.method:<10}{stage.removed:<10.1%}{name_point(entry.point):<12}{entry.weight_bytes:>10,}{entry.held_out_bits:>10.4f}"
                f"{'-' if alone is None else f'{alone:.4f}':>17}{entry.corpus_bytes:>12,.0f}{entry.total_bytes:>16,.0f}"
            )
    return "\n".join([*lines, *format_verdicts(stages)])


def format_verdicts(stages: Sequence[Stage]) -> list[str]:
    """The shortest two-part code without pruning, and with each kind of it."""
    best: dict[str, Coded] = {}
    for stage in stages:
        for entry in stage.coded:
            best[stage.method] = min(best.get(stage.method, entry), entry, key=lambda one: one.total_bytes)
    unpruned = best.pop("whole")
    lines = [f"shortest: unpruned {unpruned.total_bytes:,.0f} bytes as {name_point(unpruned.point)}"]
    for method, entry in best.items():
        change = entry.total_bytes - unpruned.total_bytes
        lines.append(
            f"by {method} {entry.total_bytes:,.0f} as {name_point(entry.point)}: pruning "
            f"{'shortens' if change < 0 else 'does not shorten'} the two-part code ({change:+,.0f})"
        )
    return lines


def format_halves(halves: Sequence[Half]) -> str:
    """What the loss of half of each block, and of each MLP, costs."""
    lines = [f"{'half of':<20}{'held out, bits/byte more, by layer'}"]
    for name, part in (("blocks", halves[::2]), ("MLPs", halves[1::2])):
        lines.append(f"{name:<20}" + "".join(f"{one.more_bits:>9.4f}" for one in part))
    return "\n".join(lines)


def draw(stages: Sequence[Stage], halves: Sequence[Half], theme: Theme) -> Figure:
    """Block and MLP take turns in `halves`, as in what stages keep."""
    figure = Figure(figsize=(WIDTH_INCHES, 9.4), dpi=DOTS_PER_INCH, layout="constrained")
    grid = figure.subplots(3, 2)
    draw_kept(grid[0], stages, halves, theme)
    draw_halves(grid[1, 0], halves, theme)
    draw_shares(grid[1, 1], stages, theme)
    draw_sizes(grid[2, 0], stages, theme, "held_out_bits")
    grid[2, 0].set_title("held out, bits per byte, quantised")
    draw_sizes(grid[2, 1], stages, theme, "total_bytes")
    grid[2, 1].set_title("two-part total")
    grid[2, 1].yaxis.set_major_formatter(bytes_formatter(grid[2, 1].get_ylim()[1]))
    for axes in grid.flat:
        frame(axes)
    return figure


def draw_kept(row: Sequence[Axes], stages: Sequence[Stage], halves: Sequence[Half], theme: Theme) -> None:
    """What each layer keeps, of blocks and of MLPs: a line for each stage of pruning by saliency, later ones darker."""
    ours = [stage for stage in stages if stage.method == "saliency"]
    for first, axes in enumerate(row):
        for rank, stage in enumerate(ours, 1):
            kept = 100 * np.array(stage.left[first::2])
            axes.plot(
                np.arange(1, len(kept) + 1), kept, "o-", **LINE, color=theme.data,
                alpha=0.25 + 0.75 * rank / len(ours), label=f"{stage.removed:.0%}",
            )  # fmt: skip
        names = ", ".join(dict.fromkeys(half.kind for half in halves[first::2]))
        axes.set_title(f"kept of each layer's {names}, %")
        axes.set_ylim(0, 122)
        set_layers(axes, len(halves) // 2)
    row[0].legend(title="removed of all layers together", loc="upper left", ncols=5)


def draw_halves(axes: Axes, halves: Sequence[Half], theme: Theme) -> None:
    for first, name, color in ((0, "block", theme.data), (1, "MLP", theme.fixed)):
        costs = [half.more_bits for half in halves[first::2]]
        axes.bar(np.arange(1, len(costs) + 1) + 0.2 * (2 * first - 1), costs, 0.38, color=color, label=name, alpha=0.85)
    axes.set_title("half of one layer alone gone: held out, more bits per byte")
    set_layers(axes, len(halves) // 2)
    axes.legend()


def set_layers(axes: Axes, layers: int) -> None:
    axes.set_xlabel("layer")
    axes.set_xlim(0.5, layers + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(12, integer=True, min_n_ticks=1))


def draw_shares(axes: Axes, stages: Sequence[Stage], theme: Theme) -> None:
    """What held-out text takes after each stage, by method."""
    whole, *others = METHODS
    for method in others:
        name, mark, number = METHODS[method]
        part = [stage for stage in stages if stage.method in (whole, method)]
        shares, rates = [100 * stage.removed for stage in part], [stage.held_out_bits for stage in part]
        axes.plot(shares, rates, f"{mark}-", **LINE, color=theme.series[number], label=name)
    axes.set_title("held out, bits per byte, fp32")
    axes.set_xlabel("removed of blocks and MLPs, %")
    axes.legend()


def draw_sizes(axes: Axes, stages: Sequence[Stage], theme: Theme, value: str) -> None:
    """A field of Coded against the bytes of weights: a line for each model, through its points; later stages darker."""
    last = max(stage.removed for stage in stages)
    for stage in filter(lambda stage: stage.coded, stages):
        name, mark, number = METHODS[stage.method]
        whole = stage.method == "whole"
        axes.plot(
            [entry.weight_bytes for entry in stage.coded], [getattr(entry, value) for entry in stage.coded], f"{mark}-",
            **LINE, color=theme.series[number], label=name if whole or stage.removed == last else None,
            alpha=1 if whole else 0.25 + 0.75 * stage.removed / last, zorder=3 if whole else 2,
        )  # fmt: skip
    axes.set_xlabel("weights, quantised and coded")
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(bytes_formatter(axes.get_xlim()[1]))
    axes.legend()
