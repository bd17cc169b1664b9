"""The figure of generalisation: held-out rates against what training took, a point a run."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from eval.plots import DOTS_PER_INCH, WIDTH_INCHES, Theme, png, styled
from studies.generalisation.correlation import NUMBERS, Agreement, Scored
from studies.scaling.comparison_plots import MARKERS

PANEL_INCHES, ABOVE_INCHES, BELOW_INCHES, ROW_INCHES = 3.4, 0.62, 0.55, 0.22
ENTRIES_A_ROW = 6
# Areas of marks, in square points, from the narrowest runs to the widest.
SMALLEST, LARGEST = 22.0, 110.0
SHOWN = ("total description", "last tenth of training")


def figure(rows: Sequence[Scored], found: Sequence[Agreement], name: str, theme: Theme) -> bytes:
    """Color is the block, size the width, shape the vocabulary. `name` is that of the held-out file."""
    with styled(theme):
        entries = key(rows, theme)
        below = BELOW_INCHES + 0.1 + ROW_INCHES * -(-len(entries) // ENTRIES_A_ROW)
        height = ABOVE_INCHES + PANEL_INCHES + below
        drawn = Figure(figsize=(WIDTH_INCHES, height), dpi=DOTS_PER_INCH)
        panels = drawn.subplots(1, len(SHOWN), sharey=True)
        drawn.subplots_adjust(0.075, below / height, 0.985, 1 - ABOVE_INCHES / height, 0.07)
        for axes, number in zip(panels, SHOWN, strict=True):
            panel(axes, rows, number, theme)
            axes.set_title(title(number, found), size=9.5, loc="left", linespacing=1.4)
        panels[0].set_ylabel(f"{name}, held out: bits per byte")
        drawn.legend(handles=entries, loc="lower center", ncols=ENTRIES_A_ROW, frameon=False, fontsize=8.5)
        return png(drawn)


def panel(axes: Axes, rows: Sequence[Scored], number: str, theme: Theme) -> None:
    blocks, vocabularies, widths = kinds(rows)
    for row in rows:
        axes.scatter(
            NUMBERS[number](row), row.held_out, s=area(widths.index(row.width), len(widths)), alpha=0.85, lw=0.7,
            color=theme.series[blocks.index(row.block) % len(theme.series)], edgecolors=theme.page,
            marker=MARKERS[vocabularies.index(row.vocabulary) % len(MARKERS)],
        )  # fmt: skip
    axes.set_xlabel(f"{number}: bits per byte")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axes.grid()
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)


def title(number: str, found: Sequence[Agreement]) -> str:
    """The number, and below it its tau among all runs and within groups, where there are pairs."""
    taus = [(one.among, one.tau) for one in found if one.number == number and one.tau is not None]
    return f"{number}\n" + "; ".join(f"{among}: tau {tau:.2f}".replace("-", "−") for among, tau in taus)


def key(rows: Sequence[Scored], theme: Theme) -> list[Line2D]:
    """A legend's entries: blocks, widths, and vocabularies where there are several."""
    blocks, vocabularies, widths = kinds(rows)

    def entry(label: str, color: str, marker: str = "o", size: float = 55.0) -> Line2D:
        return Line2D([], [], ls="", marker=marker, color=color, ms=size**0.5, mec=theme.page, label=label)

    found = [entry(block, theme.series[place % len(theme.series)]) for place, block in enumerate(blocks)]
    for place, width in enumerate(widths):
        found.append(entry(f"width {width:,}", theme.faint, size=area(place, len(widths))))
    if len(vocabularies) > 1:
        for place, symbols in enumerate(vocabularies):
            found.append(entry(f"{symbols:,} symbols", theme.faint, MARKERS[place % len(MARKERS)]))
    return found


def kinds(rows: Sequence[Scored]) -> tuple[list[str], list[int], list[int]]:
    """Blocks, vocabularies and widths that there are, in order."""
    blocks = sorted({row.block for row in rows})
    return blocks, sorted({row.vocabulary for row in rows}), sorted({row.width for row in rows})


def area(place: int, of: int) -> float:
    return SMALLEST + (LARGEST - SMALLEST) * (place / (of - 1) if of > 1 else 0.5)
