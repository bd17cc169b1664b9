"""The figure of a comparison of tokenizers: what the description of one corpus is made of with each of them."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from eval.plots import DOTS_PER_INCH, LETTER_INCHES, LONGEST_LABEL, WIDTH_INCHES, Theme, bytes_formatter, frame
from studies.scaling.runs import ComparedRun

TERMS = ("data", "code", "tokenizer", "side")
BAR_INCHES = 0.36
# Of the longest bar: a term below it has no number of its own.
LEAST_NAMED = 0.09
Bars = Sequence[tuple[str, Sequence[float]]]


def best_by_tokenizer(runs: Sequence[ComparedRun]) -> list[ComparedRun]:
    """The shortest run with each tokenizer, shortest first."""
    best: dict[str, ComparedRun] = {}
    for run in sorted(runs, key=lambda run: run.total_bits):
        best.setdefault(run.symbols, run)
    return list(best.values())


def tokenizer_figure(runs: Sequence[ComparedRun], theme: Theme) -> Figure:
    """A bar of terms for the shortest run with each tokenizer."""
    best = best_by_tokenizer(runs)
    bars = [(run.symbols, [getattr(run, f"{term}_bits") / 8 for term in TERMS]) for run in best]
    return terms_figure(bars, theme)


def terms_figure(bars: Bars, theme: Theme) -> Figure:
    """The bars alone, under a legend."""
    height = 1.25 + BAR_INCHES * len(bars)
    figure = Figure((WIDTH_INCHES, height), DOTS_PER_INCH)
    axes = figure.add_subplot()
    left = (0.35 + LETTER_INCHES * max(len(name[:LONGEST_LABEL]) for name, _ in bars)) / WIDTH_INCHES
    figure.subplots_adjust(left, 0.5 / height, 0.98, 1 - 0.45 / height)
    draw_terms(axes, bars, theme)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(TERMS), borderaxespad=0.2, handlelength=1.2)
    return figure


def draw_terms(axes: Axes, bars: Bars, theme: Theme, totals: Sequence[float] | None = None) -> None:
    """Stacked bars, from the top: the name of each, its TERMS in bytes, and their sum. `totals` has the sums
    where terms are rounded."""
    frame(axes, "x")
    longest = max(sum(terms) for _, terms in bars)
    colors = (theme.data, theme.fixed, theme.series[2], theme.series[3])
    starts = [0.0] * len(bars)
    for term, color, lengths in zip(TERMS, colors, zip(*(terms for _, terms in bars), strict=True), strict=True):
        axes.barh(range(len(bars)), lengths, left=starts, color=color, height=0.66, label=term)
        for place, (start, length) in enumerate(zip(starts, lengths, strict=True)):
            if length > LEAST_NAMED * longest:
                text = f"{length:,.0f}"
                axes.text(start + length / 2, place, text, color=theme.page, size=8, ha="center", va="center")
        starts = [start + length for start, length in zip(starts, lengths, strict=True)]
    for place, (end, total) in enumerate(zip(starts, totals or starts, strict=True)):
        axes.text(end + 0.008 * longest, place, f"{total:,.0f}", color=theme.ink, size=8.5, weight="bold", va="center")
    # Room for the sum beside the longest.
    axes.set_xlim(0, 1.16 * longest)
    axes.set_ylim(len(bars) - 0.5, -0.5)
    axes.set_yticks(range(len(bars)), [name[:LONGEST_LABEL] for name, _ in bars])
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(bytes_formatter(longest))
    axes.set_xlabel("bytes of description")
