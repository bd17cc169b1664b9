"""What a compute budget buys: the shortest code at each number of FLOPs, over the widths of a line and over prefixes.

The code length of a run's corpus up to any byte is a prefix sum, so one run gives a curve over corpus sizes for
nothing: with F FLOPs it has coded so many bytes, at L(D) / D bits each. The least over the widths of a line is its
frontier, as in J. Hoffmann et al., "Training Compute-Optimal Large Language Models" (2022), arXiv:2203.15556, section
3.1, with the mean code length of all bytes so far in the place of the loss at the end. A prefix is coded by the
learning rates of the whole run. A run over the prefix alone would lower them in time, and its code would be a little
shorter.

Shapes: `G` FLOPs of a grid, `W` widths.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.stats import t as student

from data.errors import UsageError
from studies.diff.evidence import LEVEL
from studies.scaling.laws import NOT_IDENTIFIED, Interval
from studies.scaling.lines import Line

POINTS = 200
# Of a corpus, the first part is coded by networks that know nothing yet.
LEAST_PART = 0.02
LEAST_CHANGES = 3
# Of an exponent: a longer interval does not say what it is.
WIDEST = 0.5


@dataclass(frozen=True)
class Power:
    """Parameters or bytes that are best for a number of FLOPs grow as its `exponent`-th power, with a 95 % interval."""

    exponent: float
    interval: Interval


@dataclass(frozen=True)
class Frontier:
    """Of a line: the least data bits a byte [G] with at most so many FLOPs [G], by which width [G], and after how many
    bytes [G]. Where the best width changes: FLOPs, parameters beside the embedding between the two widths, and bytes.
    `powers` are those of parameters and of bytes; without them, `why_none`."""

    label: str
    flops: np.ndarray
    bits_per_byte: np.ndarray
    width: np.ndarray
    coded_bytes: np.ndarray
    changes: list[tuple[float, float, float]]
    powers: dict[str, Power] | None
    why_none: str

    def at(self, flops: float) -> tuple[float, int, float]:
        """Bits a byte, width and bytes at the grid's nearest number of FLOPs."""
        near = int(np.abs(np.log(self.flops / flops)).argmin())
        return float(self.bits_per_byte[near]), int(self.width[near]), float(self.coded_bytes[near])

    def json_values(self) -> dict[str, Any]:
        columns = ("flops", "bits_per_byte", "width", "coded_bytes")
        found = {name: getattr(self, name).tolist() for name in columns}
        powers = {name: vars(power) for name, power in self.powers.items()} if self.powers else None
        return {"label": self.label, **found, "changes": self.changes, "powers": powers, "why_none": self.why_none}


def course(line: Line, width: int, flops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean data bits a byte of a width's seeds, and bytes coded, at numbers of FLOPs [G]: infinite outside of what it
    was run for."""
    rates, bytes_coded = [], np.zeros(0)
    for run in (run for run in line.runs if run.width == width):
        bytes_coded = flops / run.flops * run.report.corpus.bytes
        bits = np.interp(bytes_coded, np.append(0, run.curve.coded_bytes), np.append(0, run.curve.data_bits))
        rates.append(bits / bytes_coded)
    end = run.report.corpus.bytes * (1 + 1e-9)
    inside = (bytes_coded >= LEAST_PART * end) & (bytes_coded <= end)
    return np.where(inside, np.mean(rates, 0), np.inf), bytes_coded


def frontier_of(line: Line) -> Frontier:
    """The frontier of a line of two widths or more."""
    runs = {run.width: run for run in line.runs}
    lowest = LEAST_PART * min(run.flops for run in runs.values()) * (1 + 1e-6)
    flops = np.geomspace(lowest, max(run.flops for run in runs.values()), POINTS)
    courses = [course(line, width, flops) for width in line.widths]
    rates, sizes = np.stack([rate for rate, _ in courses]), np.stack([coded for _, coded in courses])  # [W, G]
    covered = np.isfinite(rates).any(0)
    flops, rates, sizes = flops[covered], rates[:, covered], sizes[:, covered]
    # Fewer FLOPs may do as well: a run that has ended is not undone by more of them.
    least = np.minimum.accumulate(rates.min(0))
    place = np.maximum.accumulate(np.where(rates.min(0) == least, np.arange(len(flops)), 0))
    best = rates.argmin(0)[place]
    width, coded_bytes = np.array(line.widths)[best], sizes[best, place]
    parameters = {run.width: run.parameters_non_embedding for run in runs.values()}
    changes = _changes(flops, width, parameters, coded_bytes, rates, line.widths)
    try:
        powers, why = {name: power(changes, column) for column, name in enumerate(("parameters", "bytes"), 1)}, ""
    except UsageError as error:
        powers, why = None, str(error)
    return Frontier(line.label, flops, least, width, coded_bytes, changes, powers, why)


def _changes(
    flops: np.ndarray, best: np.ndarray, parameters: dict[int, int], coded: np.ndarray, rates: np.ndarray,
    widths: Sequence[int],
) -> list[tuple[float, float, float]]:  # fmt: skip
    """Where the frontier goes over to the next width for good, as long as both were run there: a width that ends
    because its corpus does has not been overtaken."""
    found = []
    for small, large in pairwise(widths):
        one, other = rates[widths.index(small)], rates[widths.index(large)]
        both = np.isfinite(one) & np.isfinite(other)
        ahead = both & (other < one)
        if not both.any() or not ahead[both][-1] or ahead[both].all():
            continue
        place = int(np.flatnonzero(both & ~ahead)[-1])
        if best[place] in (small, large):
            middle = float(np.sqrt(parameters[small] * parameters[large]))
            found.append((float(flops[place]), middle, float(coded[place])))
    return found


def power(changes: Sequence[tuple[float, float, float]], column: int) -> Power:
    """How a column of the changes grows with their FLOPs, by least squares of the logarithms. Raises UsageError with
    the reason if they do not say."""
    if len(changes) < LEAST_CHANGES:
        raise UsageError(f"{NOT_IDENTIFIED}: the best width changes {len(changes)} times, and it takes {LEAST_CHANGES}")
    x, y = np.log([change[0] for change in changes]), np.log([change[column] for change in changes])
    slope, height = np.polyfit(x, y, 1)
    freedom = len(changes) - 2
    error = np.sqrt(((y - height - slope * x) ** 2).sum() / freedom / ((x - x.mean()) ** 2).sum())
    half = float(student.ppf((1 + LEVEL) / 2, freedom) * error)
    if 2 * half > WIDEST:
        raise UsageError(f"{NOT_IDENTIFIED}: the 95 % interval of the exponent is {2 * half:.1f} wide")
    return Power(float(slope), (float(slope) - half, float(slope) + half))


def matched_flops(frontiers: Sequence[Frontier]) -> list[float]:
    """Numbers of FLOPs at which frontiers are compared: the most that all of them were run for, and a tenth of it if
    all have begun there."""
    most, least = min(one.flops[-1] for one in frontiers), max(one.flops[0] for one in frontiers)
    return [flops for flops in (most / 10, most) if flops >= least]
