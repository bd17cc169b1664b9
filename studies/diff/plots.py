"""Figures of a difference: bits saved so far, where they are saved by class, and by place in the corpus."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from eval.plots import DOTS_PER_INCH, WIDTH_INCHES, Theme, bytes_formatter, canvas, end_labels, frame
from studies.diff.evidence import ClassRow, Course

BITS = EngFormatter("bit", sep=" ")
BAR_INCHES = 0.27


def color_of(saved_bits: float, theme: Theme) -> str:
    """That of the run that is shorter: the second has the first color."""
    return theme.series[0] if saved_bits >= 0 else theme.series[1]


def evidence_figure(course: Course, names: Sequence[str], theme: Theme) -> Figure:
    """Bits that the second run saves so far, in the order of coding: the logarithm of a Bayes factor."""
    coded, saved, half = course.curve()
    figure, axes = canvas(f"bits that {names[1]} saves so far, compared with {names[0]}", 1)
    color = color_of(saved[-1], theme)
    if half is not None:
        axes.fill_between(coded, saved - half, saved + half, color=color, alpha=0.16, lw=0)
    axes.axhline(0, color=theme.faint, lw=1.0)
    axes.plot(np.append(0, coded), np.append(0, saved), color=color, lw=2.0)
    axes.set_xlim(0, coded[-1])
    axes.xaxis.set_major_formatter(bytes_formatter(coded[-1]))
    axes.yaxis.set_major_formatter(BITS)
    end_labels(axes, figure, [(f"{names[1]} saves", float(saved[-1]), color)], "{:+,.0f} bits")
    return figure


def where_figure(groups: dict[str, list[ClassRow]], names: Sequence[str], theme: Theme) -> Figure:
    """Bits that the second run saves in each class, a panel a group, with 95 % intervals."""
    counts = [len(rows) + 1.6 for rows in groups.values()]
    height = BAR_INCHES * sum(counts) + 0.5
    figure = Figure(figsize=(WIDTH_INCHES, height), dpi=DOTS_PER_INCH)
    panels = figure.subplots(len(groups), sharex=True, height_ratios=counts, squeeze=False)[:, 0]
    for axes, (group, rows) in zip(panels, groups.items(), strict=True):
        saved = np.array([row.saved_bits for row in rows])
        axes.barh(range(len(rows)), saved, 0.7, color=[color_of(value, theme) for value in saved])
        if all(row.half_width is not None for row in rows):
            axes.errorbar(
                saved, range(len(rows)), xerr=[row.half_width for row in rows], fmt="none", ecolor=theme.ink, lw=1
            )
        axes.axvline(0, color=theme.faint, lw=1.0)
        axes.set_yticks(range(len(rows)), [row.label for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_title(group)
        frame(axes, "x")
        axes.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(BITS)
    panels[-1].set_xlabel(f"bits that {names[1]} saves; left of 0, {names[0]} is shorter")
    figure.subplots_adjust(0.27, 0.5 / height, 0.975, 1 - 0.28 / height, hspace=1.5 * len(panels) / sum(counts) * 2)
    return figure


def place_figure(course: Course, names: Sequence[str], theme: Theme) -> Figure:
    """Bits a byte that the second run saves, by place in the corpus."""
    rates = course.by_place * len(course.by_place) / course.units
    figure, axes = canvas(f"bits a byte that {names[1]} saves, by place in the corpus", 1)
    middle = (np.arange(len(rates)) + 0.5) * course.units / len(rates)
    for sign, color in ((1, theme.series[0]), (-1, theme.series[1])):
        axes.fill_between(middle, 0, np.where(rates * sign > 0, rates, 0), step="mid", color=color, lw=0)
    axes.axhline(0, color=theme.faint, lw=1.0)
    axes.set_xlim(0, course.units)
    axes.set_xlabel("place in the corpus")
    axes.xaxis.set_major_formatter(bytes_formatter(course.units))
    mean = float(course.by_place.sum() / course.units)
    end_labels(axes, figure, [("mean", mean, color_of(mean, theme))], "{:+.4f}")
    return figure
