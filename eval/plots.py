"""Figures of a run, as PNG bytes, for a light or a dark page, and what all figures share. x is corpus bytes coded."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from eval.curve import Curve

DOTS_PER_INCH = 200
WIDTH_INCHES = 9.0
# The margin of the y axis' labels; what an end label takes: its line, and a letter of it.
LEFT_INCHES, LABEL_INCHES, LETTER_INCHES = 0.65, 0.17, 0.073
LONGEST_LABEL = 40


@dataclass(frozen=True)
class Theme:
    """Colors of a page and of what is drawn on it; the style sheet of eval/templates has the same."""

    page: str
    ink: str
    faint: str
    grid: str
    data: str
    fixed: str
    series: Sequence[str]


LIGHT = Theme(
    "#ffffff", "#1c2024", "#6b7280", "#e7e8ea", "#1f5fbf", "#d9722e",
    ("#1f5fbf", "#d9722e", "#2f8f5b", "#8a55b5", "#c2415d", "#2b8c9e", "#b8860b", "#7a4a2b", "#4a4fb0", "#5c6470"),
)  # fmt: skip
DARK = Theme(
    "#15181d", "#e8e9eb", "#98a0ab", "#2a2f37", "#72a7f5", "#f0a06a",
    ("#72a7f5", "#f0a06a", "#74c69d", "#bd9be6", "#f08aa0", "#6cc5d3", "#e0bb55", "#c99b78", "#9aa0f0", "#b4bac4"),
)  # fmt: skip
THEMES = {"light": LIGHT, "dark": DARK}


def description_length_figure(curve: Curve, baselines: dict[str, int], theme: Theme) -> bytes:
    """Description length so far against corpus bytes, the baselines as lines: where ours ends is the number."""
    with styled(theme):
        figure, axes = canvas("bytes of description so far", 1 + len(baselines))
        coded_bytes = np.append(0, curve.coded_bytes)
        total_bytes = np.append(curve.total_bits[0] - curve.data_bits[0], curve.total_bits) / 8
        fixed_bytes = total_bytes[0]
        axes.fill_between(coded_bytes, 0, fixed_bytes, color=theme.fixed, alpha=0.35, lw=0)
        axes.fill_between(coded_bytes, fixed_bytes, total_bytes, color=theme.data, alpha=0.12, lw=0)
        axes.plot(coded_bytes, total_bytes, color=theme.data, lw=2.2)
        axes.plot(coded_bytes[-1], total_bytes[-1], "o", color=theme.data, ms=5)
        labels = [("onepass", float(total_bytes[-1]), theme.data)]
        labels += baseline_lines(axes, baselines, theme)
        byte_axes(axes, coded_bytes[-1], max(value for _, value, _ in labels))
        end_labels(axes, figure, labels)
        return png(figure)


def rate_figure(curve: Curve, theme: Theme) -> bytes:
    """Bits per byte now, which falls as the model learns, and the mean of all so far."""
    with styled(theme):
        figure, axes = canvas("bits per byte", 2)
        middle, now = curve.rate()
        mean = curve.data_bits / curve.coded_bytes
        axes.plot(middle, now, color=theme.data, lw=1.8)
        axes.plot(curve.coded_bytes, mean, color=theme.faint, lw=1.2)
        # The first windows are as dear as bytes that nothing is known about; the rest is what there is to see.
        axes.set_xlim(0, curve.coded_bytes[-1])
        axes.xaxis.set_major_formatter(bytes_formatter(curve.coded_bytes[-1]))
        axes.set_ylim(0.8 * float(now.min()), 1.4 * float(np.quantile(mean, 0.8)))
        end_labels(
            axes, figure, [("now", float(now[-1]), theme.data), ("mean so far", float(mean[-1]), theme.faint)], "{:.3f}"
        )
        return png(figure)


def styled(theme: Theme) -> Any:
    colors = {"text.color": theme.ink, "axes.edgecolor": theme.grid, "axes.labelcolor": theme.faint}
    colors |= {"xtick.color": theme.faint, "ytick.color": theme.faint, "grid.color": theme.grid}
    sizes = {
        # Names may hold dollar signs.
        "text.parse_math": False,
        "font.size": 9.5,
        "axes.linewidth": 1.0,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
        "grid.linewidth": 0.8,
    }
    return matplotlib.rc_context(colors | sizes)


def canvas(caption: str, labels: int) -> tuple[Figure, Axes]:
    """A figure high enough for so many end labels; `end_labels` sets its margins."""
    figure = Figure(figsize=(WIDTH_INCHES, max(4.0, 0.9 + LABEL_INCHES * labels)), dpi=DOTS_PER_INCH)
    axes = figure.add_subplot()
    axes.set_axisbelow(True)
    axes.grid(axis="y")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.annotate(
        caption, (0, 1), (-LEFT_INCHES * 72 + 4, 12), xycoords="axes fraction", textcoords="offset points", size=9.5
    )
    axes.set_xlabel("corpus coded")
    axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    return figure, axes


def byte_axes(axes: Axes, corpus_bytes: float, most_bytes: float) -> None:
    axes.set_xlim(0, corpus_bytes)
    axes.xaxis.set_major_formatter(bytes_formatter(corpus_bytes))
    axes.set_ylim(0, 1.05 * most_bytes)
    axes.yaxis.set_major_formatter(bytes_formatter(most_bytes))


def bytes_formatter(most_bytes: float) -> FuncFormatter:
    """Tick labels in the largest decimal unit that leaves the axis' end above 1."""
    unit, size = next(
        (u, s) for u, s in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("B", 1.0)) if most_bytes >= s or s == 1
    )
    return FuncFormatter(lambda value, _: f"{value / size:g} {unit}".replace("-", "−") if value else "0")


def baseline_lines(axes: Axes, baselines: dict[str, int], theme: Theme) -> list[tuple[str, float, str]]:
    for size_bytes in baselines.values():
        axes.axhline(size_bytes, color=theme.faint, lw=0.9, ls=(0, (4, 3)), alpha=0.6)
    return [(name, float(size_bytes), theme.faint) for name, size_bytes in baselines.items()]


def end_labels(axes: Axes, figure: Figure, labels: list[tuple[str, float, str]], form: str = "{:,.0f}") -> None:
    """Name and value of each line, at the right edge, moved apart where they would overlap."""
    labels = sorted(labels, key=lambda label: label[1])
    texts = [f"{name[:LONGEST_LABEL]}  {form.format(value)}" for name, value, _ in labels]
    height = figure.get_figheight()
    right_inches = 0.3 + LETTER_INCHES * max(20, *map(len, texts))
    figure.subplots_adjust(LEFT_INCHES / WIDTH_INCHES, 0.5 / height, 1 - right_inches / WIDTH_INCHES, 1 - 0.35 / height)
    bottom, top = axes.get_ylim()
    wanted = np.array([(value - bottom) / (top - bottom) for _, value, _ in labels])
    heights = spread(wanted, LABEL_INCHES / (height - 0.85))
    for (_, _, color), text, at, placed in zip(labels, texts, wanted, heights, strict=True):
        axes.plot(
            [1.0, 1.012, 1.022], [at, placed, placed], color=color, lw=0.8, transform=axes.transAxes, clip_on=False
        )
        weight = "normal" if color == matplotlib.rcParams["axes.labelcolor"] else "bold"
        axes.text(1.028, placed, text, color=color, weight=weight, size=8.5, va="center", transform=axes.transAxes)


def spread(wanted: np.ndarray, gap: float) -> np.ndarray:
    """Rising positions in [0, 1], `gap` apart or more, each group of neighbors centered on where its members belong."""
    groups: list[list[float]] = []
    for position in wanted:
        groups.append([float(position)])
        while len(groups) > 1 and _placed(groups[-1], gap)[0] - _placed(groups[-2], gap)[-1] < gap:
            last = groups.pop()
            groups[-1] += last
    steps = gap * np.arange(len(wanted))
    return np.concatenate([_placed(group, gap) for group in groups]).clip(steps, 1 - steps[::-1])


def _placed(group: list[float], gap: float) -> np.ndarray:
    """A group of wanted positions, `gap` apart around their mean."""
    return np.mean(group) + gap * (np.arange(len(group)) - (len(group) - 1) / 2)


def png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", transparent=True)
    return stream.getvalue()
