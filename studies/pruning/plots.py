"""The figure of pruning: what each layer keeps, what that costs, and sizes at which it pays."""

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from eval.plots import DOTS_PER_INCH, WIDTH_INCHES, Theme, bytes_formatter, png, styled
from studies.pruning.terms import Alone, Coded, Stage

HEIGHT_INCHES = 9.4
# By method: what the figure calls it, its mark, and its color's number in a theme's series.
METHODS = {
    "whole": ("quantised alone", "D", 1),
    "saliency": ("groups by saliency", "o", 0),
    "norm": ("groups by norm", "s", 2),
    "weights": ("weights by size", "^", 3),
}


def figure(stages: Sequence[Stage], missed: Sequence[Alone], theme: Theme) -> bytes:
    """Places go by turns, block and MLP, in `missed` as in what stages keep."""
    with styled(theme):
        drawn = Figure(figsize=(WIDTH_INCHES, HEIGHT_INCHES), dpi=DOTS_PER_INCH)
        grid = drawn.subplots(3, 2)
        drawn.subplots_adjust(0.075, 0.055, 0.985, 0.965, 0.2, 0.38)
        for first in (0, 1):
            names = ", ".join(dict.fromkeys(one.kind for one in missed[first::2]))
            kept_by_layer(grid[0, first], stages, first, f"kept of each layer's {names}, %", theme)
        costs_of_halves(grid[1, 0], missed, theme)
        against_share(grid[1, 1], stages, theme)
        against_bytes(grid[2, 0], stages, theme, lambda entry: entry.held_out_bits)
        grid[2, 0].set_title("held out, bits per byte, quantised", size=9.5, loc="left")
        against_bytes(grid[2, 1], stages, theme, lambda entry: entry.total_bytes)
        grid[2, 1].set_title("two-part total", size=9.5, loc="left")
        grid[2, 1].yaxis.set_major_formatter(bytes_formatter(grid[2, 1].get_ylim()[1]))
        for axes in grid.flat:
            axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
            axes.grid(axis="y")
            axes.set_axisbelow(True)
            axes.spines[["top", "right", "left"]].set_visible(False)
        return png(drawn)


def kept_by_layer(axes: Axes, stages: Sequence[Stage], first: int, title: str, theme: Theme) -> None:
    """A line a stage of pruning by saliency, the later the stronger."""
    ours = [stage for stage in stages if stage.method == "saliency"]
    for rank, stage in enumerate(ours):
        kept = 100 * np.array(stage.left[first::2])
        axes.plot(
            np.arange(1, len(kept) + 1), kept, "o-", ms=4, lw=1.6, color=theme.data,
            alpha=0.25 + 0.75 * (rank + 1) / len(ours), label=f"{stage.removed:.0%}",
        )  # fmt: skip
    axes.set_title(title, size=9.5, loc="left")
    axes.set_ylim(0, 122)
    layer_axis(axes, len(ours[0].left) // 2)
    if first == 0:
        axes.legend(
            title="removed of all layers together",
            frameon=False,
            fontsize=8,
            title_fontsize=8,
            loc="upper left",
            ncols=5,
        )


def costs_of_halves(axes: Axes, missed: Sequence[Alone], theme: Theme) -> None:
    for first, name, color in ((0, "block", theme.data), (1, "MLP", theme.fixed)):
        costs = [one.more_bits for one in missed[first::2]]
        axes.bar(np.arange(1, len(costs) + 1) + 0.2 * (2 * first - 1), costs, 0.38, color=color, label=name, alpha=0.85)
    axes.set_title("half of one layer alone gone: held out, more bits per byte", size=9.5, loc="left")
    layer_axis(axes, len(missed) // 2)
    axes.legend(frameon=False, fontsize=8)


def against_share(axes: Axes, stages: Sequence[Stage], theme: Theme) -> None:
    for method, (name, mark, number) in METHODS.items():
        part = [stage for stage in stages if stage.method in ("whole", method)]
        if method != "whole":
            axes.plot(
                [100 * stage.removed for stage in part], [stage.held_out_bits for stage in part], f"{mark}-", ms=4,
                lw=1.6, color=theme.series[number], label=name,
            )  # fmt: skip
    axes.set_title("held out, bits per byte, fp32", size=9.5, loc="left")
    axes.set_xlabel("removed of blocks and MLPs, %")
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.legend(frameon=False, fontsize=8)


def against_bytes(axes: Axes, stages: Sequence[Stage], theme: Theme, value: Callable[[Coded], float]) -> None:
    """A line a model, through its points: the later the stage, the stronger."""
    last = max(stage.removed for stage in stages)
    for stage in stages:
        if not stage.coded:
            continue
        name, mark, number = METHODS[stage.method]
        named = stage.method == "whole" or stage.removed == last
        axes.plot(
            [entry.weight_bytes for entry in stage.coded], [value(entry) for entry in stage.coded], f"{mark}-", ms=4,
            lw=1.6, color=theme.series[number], label=name if named else None,
            alpha=1 if stage.method == "whole" else 0.25 + 0.75 * stage.removed / last,
            zorder=3 if stage.method == "whole" else 2,
        )  # fmt: skip
    axes.set_xlabel("weights, quantised and coded")
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(bytes_formatter(axes.get_xlim()[1]))
    axes.legend(frameon=False, fontsize=8)


def layer_axis(axes: Axes, layers: int) -> None:
    axes.set_xlabel("layer")
    axes.set_xlim(0.5, layers + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(12, integer=True, min_n_ticks=1))
