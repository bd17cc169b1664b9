"""Figures of a comparison: the live curves of several runs over one corpus, and how lengths change with model size."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, FixedLocator, Formatter, MaxNLocator, NullLocator, ScalarFormatter

from data.tokenizer_files import KINDS
from eval.curve import Curve
from eval.plots import (
    DOTS_PER_INCH,
    LABEL_INCHES,
    LEFT_INCHES,
    LETTER_INCHES,
    LONGEST_LABEL,
    WIDTH_INCHES,
    Theme,
    baseline_lines,
    byte_axes,
    canvas,
    end_labels,
    frame,
    say,
    say_course,
    spread,
)
from model.registry import BLOCKS
from studies.scaling.frontier import Frontier, course
from studies.scaling.laws import PowerLaw, Prediction
from studies.scaling.lines import Line

DASHES = ("solid", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
DOTS = (0, (1, 1.2))
MARKERS = ("o", "s", "D", "^", "v", "P", "X")
# With more runs than this, only the best of each line is named at its end.
MOST_LABELS = 12
SWATCH_INCHES = 0.42
PANEL_INCHES, LEGEND_ROW_INCHES = 3.9, 0.21
# Beside more lines than these, the data terms would only hide the totals of their neighbors.
MOST_DATA_TERMS = 3
# Of lines that differ in a size: how strong the color of the smallest is, and in figures that name them in it.
PALEST, PALEST_NAMED = 0.3, 0.5
# Points of all curves together that say in a page what they are.
MOST_SAYING = 600
# Letters of a vocabulary's name beside its line, inside of a panel.
LONGEST_INSIDE = 7
# Of blocks that are in no registry, and of patterns.
OTHER_HUES = 280
# Sizes that totals are drawn against.
AXES = ("width", "parameters_non_embedding", "flops")
BYTES, COUNTS = EngFormatter("B", sep=" "), EngFormatter(sep=" ")


@dataclass(frozen=True)
class Stroke:
    """How a line through widths is drawn, in all figures."""

    color: str
    dash: Any
    marker: str

    def style(self, width: float = 1.6) -> dict[str, Any]:
        return {"color": self.color, "ls": self.dash, "lw": width, "marker": self.marker, "ms": 4.5}


def block_hue(block: str) -> int:
    """The number of a block's color and marker, the same in all figures, whatever else they show: its place in the
    registry, and for others one of those after them, by the name."""
    names = list(BLOCKS)
    return names.index(block) if block in names else len(names) + crc32(block.encode()) % OTHER_HUES


def strokes(lines: Sequence[Line], theme: Theme) -> dict[str, Stroke]:
    """By label: the block's color and marker, a dash for what else its lines differ in. Where there is only one block,
    a color and a marker for each line."""
    blocks = {line.block for line in lines}
    variants = list(dict.fromkeys(line.label.removeprefix(line.block) for line in lines))
    found = {}
    for number, line in enumerate(lines):
        hue, variant = number, 0
        if len(blocks) > 1:
            hue, variant = block_hue(line.block), variants.index(line.label.removeprefix(line.block))
        found[line.label] = pick_stroke(hue, variant, theme)
    return found


def pick_stroke(hue: int, variant: int, theme: Theme) -> Stroke:
    """Of the number of a color and marker, and of a variant. Once the colors are used up they come again, dashed."""
    dash = DASHES[(variant + hue // len(theme.series)) % len(DASHES)]
    return Stroke(theme.series[hue % len(theme.series)], dash, MARKERS[hue % len(MARKERS)])


def strength(rank: int, of: int, palest: float = PALEST) -> float:
    """How strong the color is of the `rank`-th of several sizes: fully for the largest."""
    return 1.0 if of < 2 else palest + (1 - palest) * rank / (of - 1)


def overlay_figure(curves: dict[str, Curve], baselines: dict[str, int], lines: Sequence[Line], theme: Theme) -> Figure:
    """The description lengths so far of the runs in `lines`, by name.

    Color is the block, shade the width; a key below says so. Runs that differ in neither have a color each.
    """
    heights = {name: (curve.coded_bytes, curve.total_bits / 8) for name, curve in _thin(curves).items()}
    return _curves_figure("bytes of description so far", heights, baselines, lines, False, theme)


def behind_figure(curves: dict[str, Curve], lines: Sequence[Line], theme: Theme) -> Figure:
    """How many bytes each run is behind the one that ends shortest, which is the first of `curves`.

    The curves themselves are too high to show it: which run leads where, and where it is overtaken.
    """
    best = next(iter(curves.values()))
    heights = {}
    for name, curve in _thin(curves).items():
        best_bits = np.interp(curve.coded_bytes, best.coded_bytes, best.total_bits)
        heights[name] = curve.coded_bytes, (curve.total_bits - best_bits) / 8
    return _curves_figure("bytes behind the shortest run so far", heights, {}, lines, True, theme)


def _thin(curves: dict[str, Curve]) -> dict[str, Curve]:
    """With fewer points where there are many runs: a page holds them all."""
    return {name: curve.thin(max(200, 4000 // len(curves))) for name, curve in curves.items()}


def _curves_figure(
    caption: str,
    heights: dict[str, tuple[np.ndarray, np.ndarray]],
    baselines: dict[str, int],
    lines: Sequence[Line],
    signed: bool,
    theme: Theme,
) -> Figure:
    """Curves by the name of the run, shortest run first: (corpus bytes, bytes). `signed` ones go below zero too."""
    widths, drawn = sorted({width for line in lines for width in line.widths}), strokes(lines, theme)
    styles: dict[str, dict[str, Any]] = {
        name: {"color": theme.series[number % len(theme.series)]} for number, name in enumerate(heights)
    }
    named, key_inches = set(heights), 0.0
    if len(lines) > 1 or len(widths) > 1:
        key_inches = LABEL_INCHES * (len(lines) + 1) + 0.3
        for line in lines:
            stroke = drawn[line.label]
            for run in line.runs:
                alpha = strength(widths.index(run.width), len(widths))
                styles[run.name] = {"color": stroke.color, "ls": stroke.dash, "alpha": alpha}
        if len(heights) > MOST_LABELS:
            named = {min(line.runs, key=lambda run: run.total_bits).name for line in lines}
    figure, axes = canvas(caption, len(named) + len(baselines), key_inches)
    labels = baseline_lines(axes, baselines, theme)
    # The best last, so that it covers the others.
    for name, (coded_bytes, size_bytes) in reversed(heights.items()):
        axes.plot(coded_bytes, size_bytes, lw=1.6, **styles[name])
        if name in named:
            labels.append((name, float(size_bytes[-1]), styles[name]["color"]))
    ends = [float(end) for _, y in heights.values() for end in (y.min(), y.max())] + [at for _, at, _ in labels]
    low, high = min(0.0, *ends), max(0.0, *ends)
    byte_axes(axes, max(float(x[-1]) for x, _ in heights.values()), max(high, -low, 1.0))
    if signed:
        room = 0.05 * max(high - low, 1.0)
        axes.set_ylim(low - room, high + room)
    form = "+,.0f" if signed else ",.0f"
    for name, (coded_bytes, size_bytes) in heights.items():
        say_course(axes, coded_bytes, size_bytes, name, form, max(2, MOST_SAYING // len(heights)))
    end_labels(axes, figure, labels, f"{{:{form}}}")
    if key_inches:
        _draw_key(figure, key_inches, lines, drawn, widths, theme)
    return figure


def _draw_key(
    figure: Figure, inches: float, lines: Sequence[Line], drawn: dict[str, Stroke], widths: list[int], theme: Theme
) -> None:
    """A row of swatches for each line, a column for each width, in the strip below the axes."""
    key = figure.add_axes((0, 0, 1, inches / figure.get_figheight()), xlim=(0, WIDTH_INCHES), ylim=(0, inches))
    key.set_axis_off()
    names_inches = LEFT_INCHES + LETTER_INCHES * max(5, *(len(line.label) for line in lines)) + 0.25
    swatch_inches = min(SWATCH_INCHES, (WIDTH_INCHES - names_inches - 0.2) / len(widths))
    middles = names_inches + swatch_inches * (np.arange(len(widths)) + 0.5)
    text: dict[str, Any] = {"size": 8.5, "va": "center"}
    top = inches - 0.12
    key.text(LEFT_INCHES, top, "width", color=theme.faint, **text)
    for middle, width in zip(middles, widths, strict=True):
        key.text(middle, top, str(width), color=theme.faint, ha="center", **text)
    for row, line in enumerate(lines, 1):
        stroke, at = drawn[line.label], top - LABEL_INCHES * row
        key.text(LEFT_INCHES, at, line.label, color=stroke.color, weight="bold", **text)
        for column, width in enumerate(widths):
            if width in line.widths:
                ends = middles[column] + 0.4 * swatch_inches * np.array([-1, 1])
                alpha = strength(column, len(widths))
                key.plot(ends, [at, at], color=stroke.color, alpha=alpha, ls=stroke.dash, lw=2.4)


def scaling_figure(
    lines: Sequence[Line], laws: dict[str, PowerLaw], predictions: dict[str, Prediction], theme: Theme
) -> Figure:
    """Total bytes against width, parameters and FLOPs, and the data term against parameters with its power laws.

    `laws` and `predictions` are those of the data term, by the labels of their lines.
    """
    drawn, faint = strokes(lines, theme), theme.faint
    with_data = len(lines) <= MOST_DATA_TERMS
    entries = [Line2D([], [], label=label, **stroke.style()) for label, stroke in drawn.items()]
    others: list[tuple[bool, str, dict[str, Any]]] = [
        (True, "shortest as measured", {"ls": "", "marker": "o", "ms": 9, "mfc": "none", "mew": 1.1}),
        (with_data, "data term alone", {"ls": DOTS, "lw": 1.1}),
        (bool(laws), "power law", {"lw": 0.9}),
        (bool(predictions), "predicted, 95 %", {"ls": "", "marker": "_", "ms": 9, "mew": 1.6}),
    ]
    entries += [Line2D([], [], color=faint, label=label, **style) for shown, label, style in others if shown]
    figure, panels = _panels(4, entries)
    for axes, size, caption in zip(panels, AXES, ("width", "parameters", "FLOPs"), strict=False):
        axes.set_title(f"total bytes by {caption}")
        for line in lines:
            _draw_line(axes, line, size, drawn[line.label].style())
            if size == "width" and with_data:
                axes.plot(line.widths, line.means("data_bits") / 8, color=drawn[line.label].color, ls=DOTS, lw=1.1)
    panels[3].set_title("data bytes by parameters")
    for line in lines:
        _draw_law(panels[3], line, drawn[line.label], laws.get(line.label), predictions.get(line.label))
    _width_axis(panels[0], lines)
    for axes in panels[1:]:
        axes.set_xlabel("FLOPs of the epoch" if axes is panels[2] else "parameters beside the embedding")
        _log_axis(axes.xaxis, COUNTS, 4)
    for axes in panels:
        _log_axis(axes.yaxis, BYTES, 6)
    return figure


def frontier_figure(lines: Sequence[Line], frontiers: Sequence[Frontier], theme: Theme) -> Figure:
    """Data bits a byte of what is coded so far, against FLOPs: each width pale, the least of a line's widths strong,
    with a point where the next width takes over."""
    drawn, labels = strokes(lines, theme), []
    figure, axes = canvas("data bits a byte of the corpus so far", len(frontiers))
    axes.set(xscale="log", yscale="log", xlabel="FLOPs so far")
    for line in lines:
        for one in (one for one in frontiers if one.label == line.label):
            stroke = drawn[line.label]
            for width in line.widths:
                rate, _ = course(line, width, one.flops)
                axes.plot(one.flops, np.where(np.isfinite(rate), rate, np.nan), color=stroke.color, lw=0.9, alpha=0.35)
            axes.plot(one.flops, one.bits_per_byte, color=stroke.color, ls=stroke.dash, lw=2.0)
            for flops, *_ in one.changes:
                axes.plot(flops, one.at(flops)[0], stroke.marker, color=stroke.color, ms=5)
            labels.append((one.label, float(one.bits_per_byte[-1]), stroke.color))
    least = min(float(one.bits_per_byte.min()) for one in frontiers)
    most = max(float(one.bits_per_byte.max()) for one in frontiers)
    axes.set_xlim(min(one.flops[0] for one in frontiers), max(one.flops[-1] for one in frontiers))
    axes.set_ylim(least / 1.03, most * 1.03)
    _log_axis(axes.xaxis, COUNTS, 6)
    _log_axis(axes.yaxis, ScalarFormatter(), 6)
    end_labels(axes, figure, labels, "{:.4f}")
    return figure


def vocabulary_figure(families: dict[str, list[Line]], theme: Theme) -> Figure:
    """Total bytes against width, a panel for each family of lines, which differ in their vocabulary alone."""
    figure, panels = _panels(len(families))
    for index, (axes, (family, members)) in enumerate(zip(panels, families.items(), strict=True)):
        axes.set_title(f"{family}: total bytes by width and vocabulary")
        color = theme.series[index % len(theme.series)]
        lines = sorted(members, key=lambda line: line.vocabulary)
        ends = []
        for rank, line in enumerate(lines):
            alpha = strength(rank, len(lines), PALEST_NAMED)
            style = Stroke(color, "solid", MARKERS[rank % len(MARKERS)]).style()
            _draw_line(axes, line, "width", style | {"alpha": alpha})
            name = f"{line.vocabulary:,}" if line.tokenizer in KINDS else line.tokenizer
            ends.append((float(line.means("total_bits")[-1]) / 8, name, alpha))
        # Names of files are longer than numbers, and stand outside.
        outside = max(len(name) for _, name, _ in ends) > LONGEST_INSIDE
        _width_axis(axes, lines, room=1.12 if outside else 1.45)
        _log_axis(axes.yaxis, BYTES, 6)
        # The vocabulary of each line beside its last point, moved apart where they would overlap.
        ends.sort()
        low, high = np.log(axes.get_ylim())
        wanted = np.array([(np.log(end) - low) / (high - low) for end, _, _ in ends])
        for (_, name, alpha), height in zip(ends, spread(wanted, LABEL_INCHES / PANEL_INCHES), strict=True):
            axes.text(
                1.02 if outside else 0.88, height, name[:LONGEST_LABEL], color=color, alpha=alpha, weight="bold",
                size=8.5, va="center", transform=axes.transAxes,
            )  # fmt: skip
    return figure


def _panels(count: int, entries: Sequence[Line2D] = ()) -> tuple[Figure, list[Axes]]:
    """A figure of logarithmic panels, two a row, above a legend."""
    rows, columns = (count + 1) // 2, 1
    if entries:
        longest = max(len(str(entry.get_label())) for entry in entries)
        columns = max(1, int((WIDTH_INCHES - 0.4) / (LETTER_INCHES * longest + 0.75)))
    height = rows * PANEL_INCHES + LEGEND_ROW_INCHES * -(-len(entries) // columns)
    figure = Figure((WIDTH_INCHES, height), DOTS_PER_INCH, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12))
    panels = list(figure.subplots(rows, 2, squeeze=False).flat)
    for axes in panels[count:]:
        axes.remove()
    for axes in panels[:count]:
        frame(axes)
        axes.set(xscale="log", yscale="log")
    if entries:
        figure.legend(handles=entries, loc="outside lower left", ncols=columns, handlelength=2.6)
    return figure, panels[:count]


def _draw_line(axes: Axes, line: Line, size: str, style: dict[str, Any]) -> None:
    """Mean totals over seeds, their range as bars, and a ring around the shortest where there is a choice."""
    sizes, mean = line.means(size), line.means("total_bits") / 8
    least, greatest = (values / 8 for values in line.range("total_bits"))
    color = {name: style[name] for name in ("color", "alpha") if name in style}
    texts = zip(line.widths, mean, least, greatest, strict=True)
    say(axes.plot(sizes, mean, **style), [say_total(line.label, *values) for values in texts])
    if (greatest > least).any():
        axes.vlines(sizes, least, greatest, lw=1.1, **color)
    if len(sizes) > 1:
        axes.plot(sizes[mean.argmin()], mean.min(), "o", ms=9.5, mfc="none", mew=1.1, **color)


def say_total(label: str, width: int, mean: float, least: float, greatest: float) -> str:
    """What a point of a line through widths says in a page."""
    seeds = f", seeds from {least:,.0f} to {greatest:,.0f}" if greatest > least else ""
    return f"{label}, width {width}: {mean:,.0f} bytes in total{seeds}"


def _draw_law(axes: Axes, line: Line, stroke: Stroke, law: PowerLaw | None, prediction: Prediction | None) -> None:
    """The data term's measurements as points, its power law, and the prediction of the largest as a bar beside it."""
    sizes, (least, greatest) = line.means("parameters_non_embedding"), line.range("data_bits")
    axes.vlines(sizes, least / 8, greatest / 8, color=stroke.color, lw=1.1, alpha=0.8)
    data_bytes = line.means("data_bits") / 8
    points = axes.plot(sizes, data_bytes, **stroke.style(0.9) | ({"ls": ""} if law else {}))
    named = zip(line.widths, data_bytes, strict=True)
    say(points, [f"{line.label}, width {width}: {size:,.0f} bytes of data" for width, size in named])
    if law:
        reach = np.geomspace(sizes.min() / 1.15, sizes.max() * 1.6, 200)
        axes.plot(reach, law.bits(reach) / 8, color=stroke.color, lw=0.9, alpha=0.85)
    if prediction:
        at = prediction.size * 1.12
        axes.plot(at, prediction.predicted_bits / 8, color=stroke.color, ls="", marker="_", ms=8, mew=1.8)
        if prediction.interval_bits:
            low, high = prediction.interval_bits
            # A bare artist does not count for the limits: a long one would press all else into a corner.
            bar = Line2D([at, at], [low / 8, high / 8], color=stroke.color, lw=4, alpha=0.3, solid_capstyle="butt")
            bar.set_in_layout(False)
            axes.add_artist(bar)


def _width_axis(axes: Axes, lines: Sequence[Line], room: float = 1.12) -> None:
    """Ticks at the measured widths, as many as have room for their numbers."""
    widths = sorted({width for line in lines for width in line.widths})
    axes.set_xlabel("width")
    axes.set_xlim(widths[0] / 1.12, widths[-1] * room)
    ticks = [widths[-1]]
    for width in reversed(widths[:-1]):
        if np.log(ticks[-1] / width) >= np.log(widths[-1] / widths[0]) / 9:
            ticks.append(width)
    _set_ticks(axes.xaxis, ticks, ScalarFormatter())


def _log_axis(axis: Any, formatter: Formatter, steps: int) -> None:
    """Round ticks on a logarithmic axis, also where it spans less than a decade."""
    low, high = axis.get_view_interval()
    _set_ticks(axis, round_ticks(low, high, steps), formatter)


def _set_ticks(axis: Any, ticks: Sequence[float], formatter: Formatter) -> None:
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(formatter)


def round_ticks(low: float, high: float, steps: int) -> list[float]:
    """Round numbers between two positive ones: `steps` even steps or fewer within a factor of 4, 1-2-5 or powers of ten
    beyond."""
    if high < 4 * low:
        ticks = list(MaxNLocator(steps, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high))
    else:
        mantissas = (1, 2, 5) if high < 300 * low else (1,)
        exponents = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
        ticks = [mantissa * 10.0**exponent for exponent in exponents for mantissa in mantissas]
    return [float(tick) for tick in ticks if low <= tick <= high]
