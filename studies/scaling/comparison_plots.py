"""The live curves of several runs over one corpus in one figure, as PNG bytes. x is corpus bytes coded."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from eval.curve import Curve
from eval.plots import (
    LABEL_INCHES,
    LEFT_INCHES,
    LETTER_INCHES,
    WIDTH_INCHES,
    Theme,
    baseline_lines,
    byte_axes,
    canvas,
    end_labels,
    png,
    styled,
)
from studies.scaling.lines import Line

DASHES = ("solid", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
MARKERS = ("o", "s", "D", "^", "v", "P", "X")
# With more runs than this, only the best of each line is named at its end.
MOST_LABELS = 12
SWATCH_INCHES = 0.42

Dash = str | tuple[int, tuple[float, ...]]


@dataclass(frozen=True)
class Stroke:
    """How a line through widths is drawn, in all figures."""

    color: str
    dash: Dash
    marker: str


def strokes(lines: Sequence[Line], theme: Theme) -> dict[str, Stroke]:
    """By label: a color and a marker for each block, a dash for what else its lines differ in. Where there is only one
    block, a color and a marker for each line."""
    blocks = list(dict.fromkeys(line.block for line in lines))
    variants = list(dict.fromkeys(line.label.removeprefix(line.block) for line in lines))
    if len(blocks) == 1:
        places = [(hue, 0) for hue in range(len(lines))]
    else:
        places = [(blocks.index(line.block), variants.index(line.label.removeprefix(line.block))) for line in lines]
    found = {}
    for line, (hue, variant) in zip(lines, places, strict=True):
        # Once the colors are used up they come again, dashed.
        dash = DASHES[(variant + hue // len(theme.series)) % len(DASHES)]
        found[line.label] = Stroke(theme.series[hue % len(theme.series)], dash, MARKERS[hue % len(MARKERS)])
    return found


def shade(color: str, rank: int, of: int, theme: Theme, palest: float = 0.3) -> str:
    """The color for the `rank`-th of several sizes: itself for the largest, paler towards the smallest."""
    strength = 1.0 if of < 2 else palest + (1 - palest) * rank / (of - 1)
    return to_hex(strength * np.array(to_rgb(color)) + (1 - strength) * np.array(to_rgb(theme.page)))


def overlay_figure(curves: dict[str, Curve], baselines: dict[str, int], lines: Sequence[Line], theme: Theme) -> bytes:
    """The description lengths so far of the runs, by name, that the points of `lines` are.

    Color is the block, shade the width; a key below says so. Runs that differ in neither have a color each.
    """
    with styled(theme):
        styles, named = _styles(curves, lines, theme)
        figure, axes = canvas("bytes of description so far", len(named) + len(baselines))
        labels = baseline_lines(axes, baselines, theme)
        # Best last, so that it lies on top.
        for name, curve in reversed(curves.items()):
            color, dash = styles[name]
            axes.plot(curve.coded_bytes, curve.total_bits / 8, color=color, ls=dash, lw=1.6)
            if name in named:
                labels.append((name, float(curve.total_bits[-1] / 8), color))
        most_bytes = max(float(curve.total_bits[-1]) / 8 for curve in curves.values())
        most_bytes = max([most_bytes, *(value for _, value, _ in labels)])
        byte_axes(axes, max(curve.coded_bytes[-1] for curve in curves.values()), most_bytes)
        end_labels(axes, figure, labels)
        _add_key(figure, lines, theme)
        return png(figure)


def behind_figure(curves: dict[str, Curve], lines: Sequence[Line], theme: Theme) -> bytes:
    """How many bytes each run is behind the one that ends shortest, which is the first of `curves`.

    What the curves themselves hide under their height: which run leads where, and where it is overtaken.
    """
    with styled(theme):
        styles, named = _styles(curves, lines, theme)
        figure, axes = canvas("bytes behind the shortest run so far", len(named))
        best = next(iter(curves.values()))
        labels, limits = [], [0.0, 0.0]
        for name, curve in reversed(curves.items()):
            color, dash = styles[name]
            behind_bytes = (curve.total_bits - np.interp(curve.coded_bytes, best.coded_bytes, best.total_bits)) / 8
            axes.plot(curve.coded_bytes, behind_bytes, color=color, ls=dash, lw=1.6)
            limits = [min(limits[0], behind_bytes.min()), max(limits[1], behind_bytes.max())]
            if name in named:
                labels.append((name, float(behind_bytes[-1]), color))
        byte_axes(axes, max(curve.coded_bytes[-1] for curve in curves.values()), max(limits[1], -limits[0], 1.0))
        room = 0.05 * max(limits[1] - limits[0], 1.0)
        axes.set_ylim(limits[0] - room, limits[1] + room)
        end_labels(axes, figure, labels, "{:+,.0f}")
        _add_key(figure, lines, theme)
        return png(figure)


def _styles(
    curves: dict[str, Curve], lines: Sequence[Line], theme: Theme
) -> tuple[dict[str, tuple[str, Dash]], set[str]]:
    """Color and dash of each run, by name, and the names of those that have a label at their end."""
    if not _keyed(lines):
        colors = itertools.cycle(theme.series)
        return {name: (next(colors), "solid") for name in curves}, set(curves)
    styles: dict[str, tuple[str, Dash]] = {}
    widths, drawn = _widths(lines), strokes(lines, theme)
    for line in lines:
        stroke = drawn[line.label]
        for point in line.points:
            styles[point.name] = shade(stroke.color, widths.index(point.width), len(widths), theme), stroke.dash
    if len(curves) <= MOST_LABELS:
        return styles, set(curves)
    return styles, {min(line.points, key=lambda point: point.total_bits).name for line in lines}


def _widths(lines: Sequence[Line]) -> list[int]:
    return sorted({width for line in lines for width in line.widths})


def _keyed(lines: Sequence[Line]) -> bool:
    """Whether block and width tell any runs apart."""
    return len(lines) > 1 or len(_widths(lines)) > 1


def _add_key(figure: Figure, lines: Sequence[Line], theme: Theme) -> None:
    """A row of swatches for each line, a column for each width, in a strip of its own below the figure."""
    if not _keyed(lines):
        return
    widths = _widths(lines)
    before = figure.get_figheight()
    added = LABEL_INCHES * (len(lines) + 1) + 0.3
    after = before + added
    pars = figure.subplotpars
    figure.set_figheight(after)
    figure.subplots_adjust(
        pars.left, (added + pars.bottom * before) / after, pars.right, (added + pars.top * before) / after
    )
    key = figure.add_axes((0, 0, 1, added / after))
    key.set_axis_off()
    key.set_xlim(0, WIDTH_INCHES)
    key.set_ylim(0, added)
    drawn = strokes(lines, theme)
    names_inches = LETTER_INCHES * max(5, *(len(line.label) for line in lines)) + 0.25
    swatch_inches = min(SWATCH_INCHES, (WIDTH_INCHES - LEFT_INCHES - names_inches - 0.2) / len(widths))
    top = added - 0.12
    key.text(LEFT_INCHES, top, "width", color=theme.faint, size=8.5, va="center")
    for column, width in enumerate(widths):
        middle = LEFT_INCHES + names_inches + swatch_inches * (column + 0.5)
        key.text(middle, top, str(width), color=theme.faint, size=8.5, va="center", ha="center")
        for row, line in enumerate(lines, 1):
            if width in line.widths:
                stroke = drawn[line.label]
                ends = [middle - 0.4 * swatch_inches, middle + 0.4 * swatch_inches]
                color = shade(stroke.color, column, len(widths), theme)
                key.plot(ends, [top - LABEL_INCHES * row] * 2, color=color, ls=stroke.dash, lw=2.4)
    for row, line in enumerate(lines, 1):
        color = drawn[line.label].color
        key.text(LEFT_INCHES, top - LABEL_INCHES * row, line.label, color=color, size=8.5, weight="bold", va="center")
