"""What the cells of a sweep say about width: power laws, best widths, which architecture is shorter where."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from data.errors import UsageError
from eval.lines import Line, Point, lines_of, notes_of
from eval.scaling import Crossing, Fit, Interval, Minimum, Prediction, crossings, fit, minimum, predict_largest

Axis = Literal["width", "parameters"]
# The field of a point that each axis shows; embeddings are left out of parameters, as in the power laws.
AXES: dict[Axis, str] = {"width": "width", "parameters": "parameters_non_embedding"}


@dataclass(frozen=True)
class Trend:
    """How one term of a line, "data" or "total", falls with the parameters beside the embedding. What is None is
    explained by the text after it."""

    term: str
    fit: Fit | None
    why_no_fit: str
    prediction: Prediction | None
    why_no_prediction: str


@dataclass(frozen=True)
class LineResult:
    """A line of two widths or more: its trends, its shortest mean total over widths, and the data term there."""

    line: Line
    data: Trend
    total: Trend
    shortest: Minimum
    data_bits_at_shortest: float
    tokenizer_bits: float


@dataclass(frozen=True)
class Pair:
    """The mean totals of two lines of different blocks beside each other, straight in log-log between measurements.
    `range` is what both cover, of width or of parameters: None if that is nothing, or the lines are one."""

    first: str
    second: str
    axis: Axis
    range: Interval | None
    crossings: list[Crossing]
    first_shorter_at_start: bool

    @property
    def verdict(self) -> str:
        """Which line is shorter where: "attention to 143, ssd above"."""
        if self.range is None:
            return "nothing in common"
        first_shorter = [self.first_shorter_at_start, *(not crossing.first_below for crossing in self.crossings)]
        winners = [self.first if first else self.second for first in first_shorter]
        if not self.crossings:
            return f"{winners[0]} from {rounded(self.range[0])} to {rounded(self.range[1])}"
        parts = [f"{winner} to {rounded(at.size)}" for winner, at in zip(winners, self.crossings, strict=False)]
        return ", ".join([*parts, f"{winners[-1]} above"])


@dataclass(frozen=True)
class Scaling:
    """All of it. `families` are results by what they share, where they differ in the vocabulary alone."""

    lines: list[Line]
    results: list[LineResult]
    pairs: list[Pair]
    families: dict[str, list[LineResult]]
    notes: list[str]


def analyse(points: list[Point]) -> Scaling | None:
    """What the points, all of one corpus, say about width; None if no line has two widths."""
    lines = lines_of(points)
    results = [_result(line) for line in lines if len(line.widths) > 1]
    if not results:
        return None
    families: dict[str, list[LineResult]] = {}
    for result in sorted(results, key=lambda result: result.line.vocabulary):
        families.setdefault(result.line.family, []).append(result)
    pairs = [
        _pair(one.line, other.line, axis)
        for one, other in itertools.combinations(results, 2)
        if one.line.block != other.line.block and one.line.vocabulary == other.line.vocabulary
        for axis in AXES
    ]
    moved = {family: group for family, group in families.items() if len(group) > 1}
    return Scaling(lines, results, pairs, moved, notes_of(lines))


def _result(line: Line) -> LineResult:
    totals = line.by_width("total_bits")[0]
    return LineResult(
        line=line,
        data=_trend(line, "data"),
        total=_trend(line, "total"),
        shortest=minimum(np.array(line.widths, dtype=np.float64), totals),
        data_bits_at_shortest=float(line.by_width("data_bits")[0][totals.argmin()]),
        tokenizer_bits=float(line.values("tokenizer_bits").mean()),
    )


def _trend(line: Line, term: str) -> Trend:
    sizes, bits = line.values("parameters_non_embedding"), line.values(f"{term}_bits")
    return Trend(term, *_or_why(fit, sizes, bits), *_or_why(predict_largest, sizes, bits))


def _or_why(function: Callable[..., Any], *arguments: np.ndarray) -> tuple[Any, str]:
    """What the function returns, or else the reason that it raises."""
    try:
        return function(*arguments), ""
    except UsageError as error:
        return None, str(error)


def _pair(first: Line, second: Line, axis: Axis) -> Pair:
    found = crossings(_curve(first, AXES[axis]), _curve(second, AXES[axis]))
    crossed, common, first_shorter = found or ([], None, False)
    return Pair(first.label, second.label, axis, common, crossed, first_shorter)


def _curve(line: Line, size: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean totals by rising size: float64 [widths] each."""
    sizes, bits = line.by_width(size)[0], line.by_width("total_bits")[0]
    order = np.argsort(sizes)
    return sizes[order], bits[order]


def rounded(size: float) -> str:
    """Three digits of a width or of a number of parameters: "1,230,000"."""
    return f"{float(f'{size:.3g}'):,.0f}"
