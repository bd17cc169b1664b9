"""What the cells of a sweep say about width: power laws, best widths, which architecture is shorter where."""

import functools
import itertools
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from data.errors import UsageError
from studies.diff.evidence import LEAST_BLOCKS
from studies.scaling.frontier import Frontier, frontier_of
from studies.scaling.kept import all_lane_bits, other_texts
from studies.scaling.laws import (
    Crossing,
    Fit,
    Interval,
    Minimum,
    Prediction,
    crossings,
    exponents_over,
    fit,
    minimum,
    predict_largest,
)
from studies.scaling.lines import Line, SeedGroup, notes_of
from studies.scaling.predicted import Predicted, predict_crossing
from studies.scaling.verdicts import (
    EXACT,
    NOT_DISTINGUISHABLE,
    Verdict,
    compare,
    difference_half_width,
    verdicts,
)

TEXTS = 200
Axis = Literal["width", "parameters"]
# The field of a run that each axis shows; embeddings are left out of parameters, as in the power laws.
AXES: dict[Axis, str] = {"width": "width", "parameters": "parameters_non_embedding"}


@dataclass(frozen=True)
class Trend:
    """How one term of a line, "data" or "total", falls with the parameters beside the embedding. The text after a None
    says why: too few widths, no such law, or one that is not identified. `other_text` is the 95 % interval of the
    exponent by what other text would change, where the runs kept what every token cost: the other interval is from how
    far the widths are from one law."""

    term: str
    fit: Fit | None
    why_no_fit: str
    prediction: Prediction | None
    why_no_prediction: str
    other_text: Interval | None = None


@dataclass(frozen=True)
class LineResult:
    """A line of two widths or more: its trends, its shortest mean total over widths, and the data term there. `tied`
    are the other widths whose total is not distinguishable from that; without a parabola where a neighbor is."""

    line: Line
    data: Trend
    total: Trend
    shortest: Minimum
    tied: list[int]
    data_bits_at_shortest: float
    tokenizer_bits: float


@dataclass(frozen=True)
class Node:
    """Two lines beside each other at one size, measured on one of them at least."""

    size: float
    data: Verdict
    total: Verdict


@dataclass(frozen=True)
class Pair:
    """Two lines of different blocks beside each other, by their mean lengths, straight in log-log between measurements.

    `range` is what both cover, of width or of parameters: None if that is nothing, or the lines are the same. `nodes`
    are the sizes in it that were measured; where only one line was measured, the interval is as wide as that of the
    runs next to it. `crossings` are those of the total as measured, and `data_crossings` those of the data term: not
    all are `identified`.
    """

    first: str
    second: str
    axis: Axis
    range: Interval | None
    nodes: list[Node]
    crossings: list[Crossing]
    data_crossings: list[Crossing]

    @property
    def verdict(self) -> str:
        """Which line has the shorter total where: "attention to 143, ssd above"."""
        return self._words([node.total for node in self.nodes], self.crossings)

    @property
    def data_verdict(self) -> str:
        """Which line has the shorter data term where."""
        return self._words([node.data for node in self.nodes], self.data_crossings)

    @property
    def identified(self) -> list[Crossing]:
        """The crossings of the total between two neighboring nodes whose verdicts are opposite."""
        found = []
        for one, other in itertools.pairwise(self.nodes):
            between = [at for at in self.crossings if one.size <= at.size <= other.size]
            if between and one.total.shorter and other.total.shorter and one.total.shorter != other.total.shorter:
                found.append(between[0])
        return found

    def _words(self, verdicts: list[Verdict], crossed: list[Crossing]) -> str:
        if self.range is None:
            return "nothing in common"
        # Stretches of neighboring nodes with one verdict: who is shorter, first and last size.
        said = [(one.shorter or NOT_DISTINGUISHABLE, node.size) for node, one in zip(self.nodes, verdicts, strict=True)]
        grouped = [(who, [size for _, size in nodes]) for who, nodes in itertools.groupby(said, lambda pair: pair[0])]
        stretches = [(who, sizes[0], sizes[-1]) for who, sizes in grouped]
        if len(stretches) == 1:
            return f"{stretches[0][0]} from {size_text(self.range[0])} to {size_text(self.range[1])}"
        parts, before = [], ""
        for (who, start, last), (then, first, _) in itertools.pairwise(stretches):
            # What is not distinguishable reaches from the last verdict to the next.
            end = first if who == NOT_DISTINGUISHABLE else last
            if NOT_DISTINGUISHABLE not in (who, then):
                end = next((at.size for at in crossed if last <= at.size <= first), (last * first) ** 0.5)
            alone = start == last and before == then == NOT_DISTINGUISHABLE
            parts.append(f"{who} {'at' if alone else 'to'} {size_text(end)}")
            before = who
        return ", ".join([*parts, f"{stretches[-1][0]} above"])


@dataclass(frozen=True)
class Scaling:
    """All of it. `families` are results that differ in the vocabulary alone, by what they share: each with the verdict
    on its total, at its best width, beside the shortest of the family. That one itself has None."""

    lines: list[Line]
    results: list[LineResult]
    pairs: list[Pair]
    families: dict[str, list[tuple[LineResult, Verdict | None]]]
    notes: list[str]
    frontiers: list[Frontier]
    predicted: list[Predicted]


def analyse(lines: list[Line]) -> Scaling | None:
    """What the lines, all of one corpus, say about width; None if none of them has two widths."""
    results = [_result(line) for line in lines if len(line.widths) > 1]
    if not results:
        return None
    families: dict[str, list[LineResult]] = {}
    for result in sorted(results, key=lambda result: result.line.vocabulary):
        families.setdefault(result.line.family, []).append(result)
    pairs = [
        pair
        for one, other in itertools.combinations(results, 2)
        if one.line.block != other.line.block and one.line.symbols == other.line.symbols
        for pair in _pairs(one.line, other.line)
    ]
    compared = {family: _beside_best(group) for family, group in families.items() if len(group) > 1}
    frontiers = [frontier_of(result.line) for result in results if all(run.flops > 0 for run in result.line.runs)]
    return Scaling(lines, results, pairs, compared, notes_of(lines), frontiers, _predicted(results, pairs))


def _predicted(results: list[LineResult], pairs: list[Pair]) -> list[Predicted]:
    """Of the pairs with laws, where they will cross."""
    lines, found = {result.line.label: result.line for result in results}, []
    for pair in pairs:
        if pair.axis == "parameters" and pair.nodes:
            measured = pair.nodes[-1].data.shorter
            with suppress(UsageError):
                found.append(predict_crossing(lines[pair.first], lines[pair.second], measured))
    return found


def _beside_best(results: list[LineResult]) -> list[tuple[LineResult, Verdict | None]]:
    def best_group(result: LineResult) -> SeedGroup:
        return result.line.groups[result.line.widths.index(round(result.shortest.size))]

    best = min(results, key=lambda result: result.shortest.bits)
    return [(one, None if one is best else compare(best_group(one), best_group(best))[1]) for one in results]


def _result(line: Line) -> LineResult:
    totals, sizes, groups = line.means("total_bits"), line.values("parameters_non_embedding"), line.groups
    shortest = minimum(np.array(line.widths, dtype=np.float64), totals)
    at = int(totals.argmin())
    others = [(width, group) for width, group in zip(line.widths, groups, strict=True) if group is not groups[at]]
    tied = [width for width, group in others if not compare(group, groups[at])[1].shorter]
    if set(tied) & set(line.widths[max(at - 1, 0) : at + 2]):
        shortest = replace(shortest, parabola_size=None, parabola_bits=None)
    return LineResult(
        line=line,
        data=with_other_text(line, trend_of("data", sizes, line.values("data_bits"))),
        total=trend_of("total", sizes, line.values("total_bits")),
        shortest=shortest,
        tied=tied,
        data_bits_at_shortest=float(line.means("data_bits")[at]),
        tokenizer_bits=float(line.values("tokenizer_bits").mean()),
    )


def trend_of(term: str, sizes: np.ndarray, bits: np.ndarray) -> Trend:
    """How a term falls with the parameters: float64 [cells] each."""
    return Trend(term, *_or_why(fit, sizes, bits), *_or_why(predict_largest, sizes, bits))


def with_other_text(line: Line, trend: Trend) -> Trend:
    """The trend of a line's data term, with what other text would change in its exponent if the runs say."""
    kept = all_lane_bits(line.runs)
    if trend.fit is None or kept is None or kept.shape[1] < LEAST_BLOCKS:
        return trend
    sizes = line.values("parameters_non_embedding")
    return replace(trend, other_text=exponents_over(sizes, other_texts(kept, TEXTS), trend.fit.law))


def _or_why(function: Callable[..., Any], *arguments: np.ndarray) -> tuple[Any, str]:
    """What the function returns, or None and the reason that it raises."""
    try:
        return function(*arguments), ""
    except UsageError as error:
        return None, str(error)


def _pairs(first: Line, second: Line) -> list[Pair]:
    """The two lines by each axis."""
    groups = first.groups, second.groups
    span = functools.cache(lambda one, other: difference_half_width(groups[0][one], groups[1][other]))
    return [_pair(first, second, axis, span) for axis in AXES]


def _pair(first: Line, second: Line, axis: Axis, span: Callable[[int, int], tuple[float | None, str]]) -> Pair:
    """`span` is `difference_half_width` of the groups at two places of the lines."""
    sides = [_curves(line, AXES[axis]) for line in (first, second)]
    totals, datas = ([(side["size"], side[term]) for side in sides] for term in ("total_bits", "data_bits"))
    found, on_data = crossings(*totals), crossings(*datas)
    if found is None:
        return Pair(first.label, second.label, axis, None, [], [], [])
    nodes = []
    for size in sizes_between([side["size"] for side in sides], found[1]):
        nearest = [int(side["place"][np.abs(np.log(side["size"] / size)).argmin()]) for side in sides]
        apart = {t: _between(sides[0], t, size) - _between(sides[1], t, size) for t in ("data", *EXACT)}
        data_bits = apart.pop("data")
        nodes.append(Node(size, *verdicts(first.label, second.label, data_bits, apart, *span(*nearest))))
    return Pair(first.label, second.label, axis, found[1], nodes, found[0], on_data[0] if on_data else [])


def _curves(line: Line, size: str) -> dict[str, np.ndarray]:
    """Means over the seeds of each width, by rising size, and the place of each among the widths: float64 [widths]."""
    sizes = line.means(size)
    order = np.argsort(sizes)
    terms = {f"{term}_bits": line.means(f"{term}_bits")[order] for term in ("total", "data", *EXACT)}
    return terms | {"size": sizes[order], "place": order}


def _between(side: dict[str, np.ndarray], term: str, size: float) -> float:
    """A term at a size, straight in log-log; the exact ones, which may be 0, straight in the logarithm of the size."""
    places, bits = np.log(side["size"]), side[f"{term}_bits"]
    if term == "data":
        return float(np.exp(np.interp(np.log(size), places, np.log(bits))))
    return float(np.interp(np.log(size), places, bits))


def sizes_between(sides: list[np.ndarray], common: Interval) -> list[float]:
    """The sizes of both lines inside the range that both cover, and its ends."""
    sizes = np.concatenate([*sides, common]).clip(*common)
    distinct = [float(sizes.min())]
    for size in np.unique(sizes):
        if size > distinct[-1] * (1 + 1e-9):
            distinct.append(float(size))
    return distinct


def size_text(size: float) -> str:
    """Three digits of a width or of a number of parameters: "1,230,000"."""
    return f"{float(f'{size:.3g}'):,.0f}"
