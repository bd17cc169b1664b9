"""The figure of generalisation: held-out rates against what training took, a point a run."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from eval.plots import DOTS_PER_INCH, WIDTH_INCHES, Theme, frame, say
from studies.generalisation.correlation import NUMBERS, Agreement, ScoredRun
from studies.scaling.plots import MARKERS, block_hue

PANEL_INCHES, ROW_INCHES = 4.5, 0.22
ENTRIES_A_ROW = 6
# Diameters of marks, in points, from the narrowest runs to the widest.
SMALLEST, LARGEST = 4.7, 10.5
SHOWN = ("total description", "last tenth of training")


def draw_agreement(rows: Sequence[ScoredRun], found: Sequence[Agreement], name: str, theme: Theme) -> Figure:
    """Color is the block, as in all figures, of marks that are hollow once the colors are used up; size is the width,
    shape the vocabulary. `name` is that of the held-out file."""
    blocks = sorted({row.block for row in rows})
    vocabularies, widths = sorted({row.vocabulary for row in rows}), sorted({row.width for row in rows})
    markers = {symbols: MARKERS[place % len(MARKERS)] for place, symbols in enumerate(vocabularies)}
    step = (LARGEST - SMALLEST) / max(len(widths) - 1, 1)
    diameters = {width: SMALLEST + step * (place if len(widths) > 1 else 0.5) for place, width in enumerate(widths)}

    def mark(block: str = "", marker: str = "o", diameter: float = 7.4) -> dict[str, Any]:
        place = block_hue(block) if block else 0
        color = theme.series[place % len(theme.series)] if block else theme.faint
        face, edge, width = (theme.page, color, 1.3) if place >= len(theme.series) else (color, theme.page, 0.7)
        return {"ls": "", "mfc": face, "marker": marker, "ms": diameter, "mec": edge, "mew": width}

    styles = {block: mark(block) for block in blocks}
    styles |= {f"width {width:,}": mark(diameter=size) for width, size in diameters.items()}
    if len(vocabularies) > 1:
        styles |= {f"{symbols:,} symbols": mark(marker=marker) for symbols, marker in markers.items()}
    entries = [Line2D([], [], label=label, **style) for label, style in styles.items()]
    height = PANEL_INCHES + ROW_INCHES * -(-len(entries) // ENTRIES_A_ROW)
    figure = Figure((WIDTH_INCHES, height), DOTS_PER_INCH, layout="constrained")
    panels: Sequence[Axes] = figure.subplots(1, len(SHOWN), sharey=True)
    for axes, number in zip(panels, SHOWN, strict=True):
        for row in rows:
            style = mark(row.block, markers[row.vocabulary], diameters[row.width])
            text = (
                f"{row.block}, width {row.width}: {NUMBERS[number](row):.4f}, held out {row.held_out:.4f} bits per byte"
            )
            say(axes.plot(NUMBERS[number](row), row.held_out, alpha=0.85, **style), [text])
        taus = [(one.among, one.tau) for one in found if one.number == number and one.tau is not None]
        words = "; ".join(f"{among}: tau {tau:.2f}".replace("-", "−") for among, tau in taus)
        axes.set_title(f"{number}\n{words}", linespacing=1.4)
        axes.set_xlabel(f"{number}: bits per byte")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
        frame(axes, "both")
    panels[0].set_ylabel(f"{name}, held out: bits per byte")
    figure.legend(handles=entries, loc="outside lower center", ncols=ENTRIES_A_ROW)
    return figure
