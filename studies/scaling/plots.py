"""How description lengths change with the size of the model, as PNG bytes. All axes are logarithmic."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from eval.plots import DOTS_PER_INCH, LABEL_INCHES, LETTER_INCHES, WIDTH_INCHES, Theme, png, spread, styled
from studies.scaling.comparison_plots import MARKERS, Stroke, shade, strokes
from studies.scaling.laws import PowerLaw, Prediction
from studies.scaling.lines import Line

PANEL_INCHES = 3.0
LEFT_INCHES, GAP_INCHES, RIGHT_INCHES = 0.75, 0.8, 0.2
ABOVE_INCHES, BELOW_INCHES = 0.42, 0.52
ROW_INCHES = 0.21
DOTS = (0, (1, 1.2))
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
# Beside more lines than these, the data terms would only hide the totals of their neighbors.
MOST_DATA_TERMS = 3
# Of the lines of a vocabulary figure, whose labels have to be read in it.
PALEST = 0.5


def scaling_figure(
    lines: Sequence[Line],
    laws: dict[str, PowerLaw],
    predictions: dict[str, Prediction],
    theme: Theme,
) -> bytes:
    """Total bytes against width, parameters and FLOPs, and the data term against parameters with its power laws.

    `laws` and `predictions` are those of the data term, by the labels of their lines.
    """
    drawn = strokes(lines, theme)
    with_data = len(lines) <= MOST_DATA_TERMS
    entries = _entries(drawn, theme, with_data, bool(laws), bool(predictions))
    with styled(theme):
        figure, panels = _panels(4, _legend_rows(entries))
        by_width, by_parameters, by_flops, data = panels
        for line in lines:
            stroke = drawn[line.label]
            _curve(by_width, line, "width", stroke)
            _curve(by_parameters, line, "parameters_non_embedding", stroke)
            _curve(by_flops, line, "flops", stroke)
            if with_data:
                by_width.plot(line.widths, line.by_width("data_bits")[0] / 8, color=stroke.color, ls=DOTS, lw=1.1)
            _law(data, line, stroke, laws.get(line.label), predictions.get(line.label))
        _width_axis(by_width, sorted({width for line in lines for width in line.widths}))
        _log_axis(by_parameters, "x", _short)
        _log_axis(by_flops, "x", _power)
        _log_axis(data, "x", _short)
        by_flops.set_xlabel("FLOPs of the epoch")
        for axes in (by_parameters, data):
            axes.set_xlabel("parameters beside the embedding")
        for axes, size in zip(panels, ("width", "parameters", "FLOPs", "parameters"), strict=True):
            _caption(axes, f"{'data' if axes is data else 'total'} bytes by {size}")
            _log_axis(axes, "y", _bytes_text)
        figure.legend(handles=entries, loc="lower left", bbox_to_anchor=(0.02, 0.0), **_legend_style(entries))
        return png(figure)


def vocabulary_figure(families: dict[str, list[Line]], theme: Theme) -> bytes:
    """Total bytes against width, a panel for each family of lines, which differ in their vocabulary alone."""
    with styled(theme):
        figure, panels = _panels(len(families), 0)
        for index, (axes, (family, lines)) in enumerate(zip(panels, families.items(), strict=True)):
            _caption(axes, f"{family}: total bytes by width and vocabulary")
            color = theme.series[index % len(theme.series)]
            ordered = sorted(lines, key=lambda line: line.vocabulary)
            for rank, line in enumerate(ordered):
                stroke = Stroke(shade(color, rank, len(ordered), theme, PALEST), "solid", MARKERS[rank % len(MARKERS)])
                _curve(axes, line, "width", stroke)
            _width_axis(axes, sorted({width for line in lines for width in line.widths}), room=1.45)
            _log_axis(axes, "y", _bytes_text)
            _end_names(axes, ordered, color, theme)
        return png(figure)


def _panels(count: int, legend_rows: int) -> tuple[Figure, list[Axes]]:
    """A figure of panels, two a row, above so many rows of a legend."""
    rows = (count + 1) // 2
    below = ROW_INCHES * legend_rows + (0.1 if legend_rows else 0)
    height = rows * (ABOVE_INCHES + PANEL_INCHES + BELOW_INCHES) + below
    figure = Figure(figsize=(WIDTH_INCHES, height), dpi=DOTS_PER_INCH)
    width = (WIDTH_INCHES - LEFT_INCHES - GAP_INCHES - RIGHT_INCHES) / 2
    panels = []
    for index in range(count):
        row, column = divmod(index, 2)
        left = LEFT_INCHES + column * (width + GAP_INCHES)
        bottom = height - (row + 1) * (ABOVE_INCHES + PANEL_INCHES) - row * BELOW_INCHES
        axes = figure.add_axes((left / WIDTH_INCHES, bottom / height, width / WIDTH_INCHES, PANEL_INCHES / height))
        axes.set_axisbelow(True)
        axes.grid(axis="y")
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.set_xscale("log")
        axes.set_yscale("log")
        panels.append(axes)
    return figure, panels


def _caption(axes: Axes, text: str) -> None:
    axes.annotate(
        text, (0, 1), (-LEFT_INCHES * 72 + 10, 9), xycoords="axes fraction", textcoords="offset points", size=9.5
    )


def _curve(axes: Axes, line: Line, size: str, stroke: Stroke) -> None:
    """Mean totals over seeds, their range as bars, and a ring around the shortest where there is a choice."""
    sizes, (mean, least, greatest) = line.by_width(size)[0], (values / 8 for values in line.by_width("total_bits"))
    axes.plot(sizes, mean, color=stroke.color, ls=stroke.dash, marker=stroke.marker, ms=4.5, lw=1.6)
    if (greatest > least).any():
        axes.vlines(sizes, least, greatest, color=stroke.color, lw=1.1, alpha=0.8)
    if len(sizes) > 1:
        axes.plot(sizes[mean.argmin()], mean.min(), "o", color=stroke.color, ms=9.5, mfc="none", mew=1.1)


def _law(axes: Axes, line: Line, stroke: Stroke, law: PowerLaw | None, prediction: Prediction | None) -> None:
    """The data term's measurements as points, its power law, and the prediction of the largest as a bar beside it."""
    sizes, (mean, least, greatest) = line.by_width("parameters_non_embedding")[0], line.by_width("data_bits")
    axes.vlines(sizes, least / 8, greatest / 8, color=stroke.color, lw=1.1, alpha=0.8)
    if law:
        axes.plot(sizes, mean / 8, color=stroke.color, ls="", marker=stroke.marker, ms=4.5)
        reach = np.geomspace(sizes.min() / 1.15, sizes.max() * 1.6, 200)
        axes.plot(reach, law.bits(reach) / 8, color=stroke.color, lw=0.9, alpha=0.85)
    else:
        axes.plot(sizes, mean / 8, color=stroke.color, ls=stroke.dash, lw=0.9, marker=stroke.marker, ms=4.5)
    if prediction:
        at = prediction.size * 1.12
        axes.plot(at, prediction.predicted_bits / 8, color=stroke.color, ls="", marker="_", ms=8, mew=1.8)
        if prediction.interval_bits:
            low, high = prediction.interval_bits
            # Drawn as a bare artist, it does not count for the limits: a long one would squeeze all else into a corner.
            bar = Line2D([at, at], [low / 8, high / 8], color=stroke.color, lw=4, alpha=0.3, solid_capstyle="butt")
            axes.add_artist(bar)


def _width_axis(axes: Axes, widths: list[int], room: float = 1.12) -> None:
    """Ticks at the measured widths, as many as have room for their numbers."""
    axes.set_xlabel("width")
    axes.set_xlim(widths[0] / 1.12, widths[-1] * room)
    ticks = [widths[-1]]
    gap = np.log(widths[-1] / widths[0]) / 9
    for width in reversed(widths[:-1]):
        if np.log(ticks[-1] / width) >= gap:
            ticks.append(width)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _log_axis(axes: Axes, name: str, text: Callable[[float], str]) -> None:
    """Round ticks on a logarithmic axis, also where it spans less than a decade."""
    axis, (low, high) = (axes.xaxis, axes.get_xlim()) if name == "x" else (axes.yaxis, axes.get_ylim())
    axis.set_major_locator(FixedLocator(round_ticks(low, high, 4 if name == "x" else 6)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))


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


def _short(value: float) -> str:
    size, unit = next((s, u) for s, u in ((1e9, " B"), (1e6, " M"), (1e3, " k"), (1.0, "")) if value >= s or s == 1)
    return f"{value / size:g}{unit}"


def _bytes_text(value: float) -> str:
    size, unit = next((s, u) for s, u in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B")) if value >= s or s == 1)
    return f"{value / size:g} {unit}"


def _power(value: float) -> str:
    exponent = int(np.floor(np.log10(value) + 1e-9))
    mantissa = value / 10.0**exponent
    power = "10" + str(exponent).translate(SUPERSCRIPTS)
    return power if abs(mantissa - 1) < 1e-6 else f"{mantissa:g}·{power}"


def _end_names(axes: Axes, lines: Sequence[Line], color: str, theme: Theme) -> None:
    """The vocabulary of each line beside its last point, moved apart where they would overlap."""
    ends = [(line.by_width("total_bits")[0][-1] / 8, line) for line in lines]
    ends.sort(key=lambda end: end[0])
    low, high = np.log(axes.get_ylim())
    wanted = np.array([(np.log(value) - low) / (high - low) for value, _ in ends])
    for (_, line), height in zip(ends, spread(wanted, LABEL_INCHES / PANEL_INCHES), strict=True):
        tone = shade(color, lines.index(line), len(lines), theme, PALEST)
        axes.text(
            0.88,
            height,
            f"{line.vocabulary:,}",
            color=tone,
            weight="bold",
            size=8.5,
            va="center",
            transform=axes.transAxes,
        )


def _entries(
    drawn: dict[str, Stroke], theme: Theme, with_data: bool, with_laws: bool, with_predictions: bool
) -> list[Line2D]:
    """The lines of the legend: one a label, and what else there is to see."""
    entries = [
        Line2D([], [], color=stroke.color, ls=stroke.dash, marker=stroke.marker, ms=4.5, lw=1.6, label=label)
        for label, stroke in drawn.items()
    ]
    faint = theme.faint
    entries.append(
        Line2D([], [], color=faint, ls="", marker="o", ms=9, mfc="none", mew=1.1, label="shortest as measured")
    )
    if with_data:
        entries.append(Line2D([], [], color=faint, ls=DOTS, lw=1.1, label="data term alone"))
    if with_laws:
        entries.append(Line2D([], [], color=faint, lw=0.9, label="power law"))
    if with_predictions:
        entries.append(Line2D([], [], color=faint, ls="", marker="_", ms=9, mew=1.6, label="predicted, 95 %"))
    return entries


def _legend_style(entries: Sequence[Line2D]) -> dict[str, Any]:
    """As many columns as the longest label leaves room for."""
    longest = max(len(str(entry.get_label())) for entry in entries)
    columns = max(1, int((WIDTH_INCHES - 0.4) / (LETTER_INCHES * longest + 0.75)))
    return {"ncols": columns, "frameon": False, "fontsize": 8.5, "handlelength": 2.6}


def _legend_rows(entries: Sequence[Line2D]) -> int:
    return -(-len(entries) // _legend_style(entries)["ncols"])
