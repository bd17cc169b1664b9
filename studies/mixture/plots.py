"""The figure of a mixture: how much its codes save as the corpus grows, and how much each run counts in them."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import NullFormatter, PercentFormatter

from eval.plots import DOTS_PER_INCH, LABEL_INCHES, LETTER_INCHES, WIDTH_INCHES, Theme, bytes_formatter, frame
from studies.mixture.codes import Code
from studies.scaling.lines import lines_of
from studies.scaling.plots import BYTES, strength, strokes
from studies.scaling.runs import ComparedRun

PANEL_INCHES = 2.6
POINTS = 600


def draw_mixture(
    runs: Sequence[ComparedRun], step_nats: np.ndarray, coded_bytes: np.ndarray, codes: dict[str, Code], theme: Theme
) -> Figure:
    """`step_nats` [n, K] are those of the `runs`, the first of which is the best; `coded_bytes` [n] when a step ends.
    `codes` by name: a line each in the first panel, and those that switch have a panel of weights."""
    switching = [name for name in codes if codes[name].weights.size]
    columns = max(1, int((WIDTH_INCHES - 0.4) / (LETTER_INCHES * max(len(run.name) for run in runs) + 0.6)))
    height = PANEL_INCHES * (1 + len(switching)) + LABEL_INCHES * -(-len(runs) // columns) + 0.4
    figure = Figure((WIDTH_INCHES, height), DOTS_PER_INCH, layout="constrained")
    panels: list[Axes] = list(figure.subplots(1 + len(switching), 1, squeeze=False, sharex=True)[:, 0])
    shown = np.unique(np.searchsorted(coded_bytes, np.geomspace(coded_bytes[0], coded_bytes[-1], POINTS)))
    saved = {name: np.cumsum(step_nats[:, 0] - code.step_nats)[shown] / np.log(256) for name, code in codes.items()}
    panels[0].set_title(f"bytes saved so far beside {runs[0].name}")
    for number, (name, values) in enumerate(saved.items()):
        color = theme.series[number % len(theme.series)]
        panels[0].plot(coded_bytes[shown], values, color=color, lw=1.8, label=f"{name}: {round(values[-1]):,}")
    most = max(float(np.abs(values).max()) for values in saved.values())
    panels[0].yaxis.set_major_formatter(bytes_formatter(max(most, 1.0)))
    panels[0].legend(loc="upper left")
    colors, alphas = run_colors(runs, theme)
    for name, axes in zip(switching, panels[1:], strict=True):
        axes.set_title(f"{name}: how much each run counts")
        weights = mean_between(codes[name].weights, shown)
        bands = axes.stackplot(coded_bytes[shown], weights.T, colors=colors, lw=0.4, edgecolor=theme.page)
        for band, alpha in zip(bands, alphas, strict=True):
            band.set_alpha(alpha)
        axes.set_ylim(0, 1)
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    for axes in panels:
        frame(axes)
        # Small runs lead for a short time: equal ratios of corpus size are equally wide.
        axes.set_xscale("log")
        axes.set_xlim(coded_bytes[0], coded_bytes[-1])
        axes.xaxis.set_major_formatter(BYTES)
        axes.xaxis.set_minor_formatter(NullFormatter())
    panels[-1].set_xlabel("corpus coded")
    named = zip(runs, colors, alphas, strict=True)
    entries = [Patch(color=color, alpha=alpha, label=run.name) for run, color, alpha in named]
    figure.legend(handles=entries, loc="outside lower left", ncols=columns)
    return figure


def run_colors(runs: Sequence[ComparedRun], theme: Theme) -> tuple[list[str], list[float]]:
    """Of each run: a color for its block, and how strong it is, by its width. Runs that differ in neither have a color
    each."""
    widths = sorted({run.width for run in runs})
    if len({(run.block, run.width) for run in runs}) < len(runs):
        return [theme.series[number % len(theme.series)] for number in range(len(runs))], [1.0] * len(runs)
    lines = lines_of(list(runs))
    drawn = strokes(lines, theme)
    line_of = {run.name: line.label for line in lines for run in line.runs}
    colors = [drawn[line_of[run.name]].color for run in runs]
    return colors, [strength(widths.index(run.width), len(widths)) for run in runs]


def mean_between(weights: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """Means of weights [n, K] over the steps that lead up to each of those `shown`: single steps are noise there."""
    sums = np.cumsum(weights, 0)
    counts = np.diff(shown, prepend=-1)[:, None]
    return np.diff(sums[shown], axis=0, prepend=np.zeros((1, weights.shape[1]))) / counts
