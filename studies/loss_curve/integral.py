"""The description length that a loss curve stands for: its integral over the tokens, with bounds.

Trained for one epoch, a model's loss before each update is the code length of what it is about to learn, so the area
under the training curve is a file size (Rae 2023; Blier & Ollivier 2018, arXiv:1802.07044). A published curve is a few
points of it. What lies between them is bounded by what is assumed, and all that is assumed is said:

    between two points   no lower than the lower and no higher than the higher of them
    before the first     no lower than it, and no higher than log2 V, what a model costs that has learned nothing
    after the last       no higher than the latest points; no lower than the straight line through the middle of the
                         curve and its end, which a curve that bends upwards does not cross; but for three times how
                         far points of the second half lie off a line, for the text that comes may be easier or harder

The estimate follows straight lines between points that are close, and power laws across gaps, before and after.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data.errors import UsageError
from studies.loss_curve.smoothing import LossCurve

# Points at most so much further than the one before are close.
CLOSE = 1.1
# Of the standard error of noise.
SIGMAS = 3.0


@dataclass(frozen=True)
class Part:
    """Bits of a stretch of the curve: the estimate, at least and at most."""

    name: str
    tokens: float
    bits: float
    low_bits: float
    high_bits: float


@dataclass(frozen=True)
class Integral:
    """`noise_bits` is what the scatter of the points may be worth: it widens the bounds beyond those of the parts."""

    name: str
    points: int
    parts: Sequence[Part]
    noise_bits: float
    assumptions: Sequence[str]

    @property
    def tokens(self) -> float:
        return sum(part.tokens for part in self.parts)

    @property
    def bits(self) -> float:
        return sum(part.bits for part in self.parts)

    @property
    def low_bits(self) -> float:
        return max(0.0, sum(part.low_bits for part in self.parts) - self.noise_bits)

    @property
    def high_bits(self) -> float:
        """Infinite where nothing bounds what is before the first point."""
        return sum(part.high_bits for part in self.parts) + self.noise_bits


def integrate(curve: LossCurve, tokens: float | None, vocabulary: int | None) -> Integral:
    """The integral from 0 to `tokens`, or to the last point. Raises UsageError where these do not fit the curve."""
    end_tokens = float(curve.x[-1])
    if tokens is not None and tokens < end_tokens * (1 - 1e-9):
        raise UsageError(f"--tokens {tokens:,.0f}: the curve goes on to {end_tokens:,.0f}; give all of the epoch")
    if vocabulary is not None and curve.bits[0] > 1.1 * math.log2(vocabulary):
        raise UsageError(
            f"--vocabulary {vocabulary}: {curve.name} begins at {curve.bits[0]:.3f} bits a token where guessing takes "
            f"{math.log2(vocabulary):.3f}; give the right --vocabulary, or the right --unit"
        )
    assumptions = ["every token was trained on once, and the loss is that before its update"]
    parts = [before(curve, vocabulary), between(curve, math.log2(vocabulary or 1))]
    if parts[0].tokens:
        most = "nothing bounds it from above: say --vocabulary" if vocabulary is None else "no higher than log2 V"
        assumptions.append(f"before the first point the loss is no lower than there, and {most}")
    if curve.starts is None:
        assumptions.append("between two points the loss is no lower than the lower, no higher than the higher of them")
    else:
        assumptions.append("a point is the mean of all since the one before")
    rest_tokens = 0.0 if tokens is None else tokens - end_tokens
    if rest_tokens > 1e-9 * end_tokens:
        parts.append(after(curve, rest_tokens))
        assumptions.append(
            "after the last point the loss falls no faster than from the middle to the end, "
            "but for three times how far points lie off a line"
        )
    noise_bits = SIGMAS * scatter_bits(curve)
    if noise_bits:
        assumptions.append("points scatter independently; three standard errors of that are in the bounds")
    return Integral(curve.name, len(curve.x), [part for part in parts if part.tokens], noise_bits, assumptions)


def before(curve: LossCurve, vocabulary: int | None) -> Part:
    """From no token to where the curve begins."""
    start = float(curve.x[0] if curve.starts is None else curve.starts[0])
    first = float(curve.bits[0])
    if start == 0:
        return Part("before the first point", 0.0, 0.0, 0.0, 0.0)
    second = min(int(np.searchsorted(curve.x, 2 * curve.x[0])), len(curve.x) - 1)
    power = min(max(_power(curve, 0, second), 0.0), 0.95)
    guess = math.inf if vocabulary is None else max(math.log2(vocabulary), first)
    # Where the power law meets the guess; below, it is the guess.
    meets = start * (first / guess) ** (1 / power) if power else 0.0
    bits = (guess * meets if meets else 0.0) + first * start * (1 - (meets / start) ** (1 - power)) / (1 - power)
    high = max(guess, float(curve.high[0]))
    return Part("before the first point", start, bits, float(curve.low[0]) * start, high * start)


def between(curve: LossCurve, highest: float) -> Part:
    """From where the curve begins to its last point. No loss is above `highest`."""
    x, y = curve.x, curve.bits
    if curve.starts is not None:
        wide = x - curve.starts
        bits, low, high = (float((wide * values).sum()) for values in (y, curve.low, curve.high))
        # Sums over places that are so far apart, of what falls to 0 or stays, are off by no more than this.
        slack = curve.gap_tokens * max(highest, float(curve.high[0]))
        return Part("between points", float(wide.sum()), bits, max(0.0, low - slack), high + slack)
    wide, far = np.diff(x), x[1:] > CLOSE * x[:-1]
    areas = wide * (y[1:] + y[:-1]) / 2
    far &= (x[:-1] > 0) & (y[1:] > 0) & (y[:-1] > 0)
    ends, starts = (x * y)[1:][far], (x * y)[:-1][far]
    # The integral of a x^-b is the logarithmic mean of x y at both ends, times log(x_1 / x_0).
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(np.isclose(ends, starts, rtol=1e-9), starts, (ends - starts) / np.log(ends / starts))
    areas[far] = mean * np.log(x[1:][far] / x[:-1][far])
    low = float((wide * np.minimum(curve.low[1:], curve.low[:-1])).sum())
    high = float((wide * np.maximum(curve.high[1:], curve.high[:-1])).sum())
    return Part("between points", float(wide.sum()), float(areas.sum()), low, high)


def after(curve: LossCurve, rest_tokens: float) -> Part:
    """The `rest_tokens` after the last point."""
    count, end = min(max(3, len(curve.x) // 20), len(curve.x) // 2), float(curve.x[-1])
    last = slice(-count, None)
    first = min(int(np.searchsorted(curve.x, end / 2)), len(curve.x) - 2 * count)
    middle = slice(max(0, first), max(0, first) + count)
    (mid_x, mid_y), (end_x, end_y) = ((curve.x[part].mean(), curve.bits[part].mean()) for part in (middle, last))
    slope = min(0.0, float((end_y - mid_y) / (end_x - mid_x)))
    lowest, highest = float(curve.low[last].min()), float(curve.high[last].max())
    # A straight line down to 0, at the earliest.
    falling = rest_tokens if slope == 0 else min(rest_tokens, lowest / -slope)
    # How far the second half lies off a straight line is what the text does, rather than what is learned.
    half = slice(min(len(curve.x) // 2, len(curve.x) - 2), None)
    off = curve.bits[half] - np.polyval(np.polyfit(curve.x[half] / end, curve.bits[half], 1), curve.x[half] / end)
    open_bits = SIGMAS * rest_tokens * float(off.std())
    low = max(0.0, falling * (lowest + slope * falling / 2) - open_bits)
    power = max(0.0, -math.log(end_y / mid_y) / math.log(end_x / mid_x)) if mid_x > 0 and min(end_y, mid_y) > 0 else 0.0
    # The mean of x^-b from the end on, by the middle of the stretch: b is small, so it is nearly straight.
    bits = rest_tokens * float(end_y) * (1 + rest_tokens / end / 2) ** -power
    high = highest * rest_tokens + open_bits
    return Part("after the last point", rest_tokens, min(max(bits, low), high), low, high)


def scatter(curve: LossCurve) -> np.ndarray:
    """Variance of a point, [points - 2], by how far each but the first and the last lies off its neighbours."""
    if len(curve.x) < 3:
        return np.empty(0)
    at = np.log(np.maximum(curve.x, curve.x[1] / 2))
    share = (at[1:-1] - at[:-2]) / (at[2:] - at[:-2])
    off = curve.bits[1:-1] - (1 - share) * curve.bits[:-2] - share * curve.bits[2:]
    return off**2 / (1 + share**2 + (1 - share) ** 2)


def scatter_bits(curve: LossCurve) -> float:
    """The standard error of the sum that comes from points being samples; means leave nothing out."""
    if curve.starts is not None or len(curve.x) < 3:
        return 0.0
    return float(np.sqrt((((curve.x[2:] - curve.x[:-2]) / 2) ** 2 * scatter(curve)).sum()))


def _power(curve: LossCurve, one: int, other: int) -> float:
    """b of the power law a x^-b through two points of the curve; 0 where there is none."""
    x, y = curve.x, curve.bits
    if one == other or x[one] <= 0 or min(y[one], y[other]) <= 0:
        return 0.0
    return -math.log(y[other] / y[one]) / math.log(x[other] / x[one])
