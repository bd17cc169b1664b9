"""How description lengths change with the size of a model: power laws, crossing points, best widths. Pure arithmetic.

Lengths are in bits and, as sizes (parameters or widths) are, positive. Shapes: `C` cells, `W` widths, `B` bootstrap
samples.

The power law and its logarithmic residuals: J. Hoffmann et al., "Training Compute-Optimal Large Language Models"
(2022), arXiv:2203.15556, section 3.3 and appendix D.2. Bootstrap of residuals: B. Efron and R. Tibshirani, "An
Introduction to the Bootstrap" (1993), chapter 9.
"""

import itertools
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import leastsq, nnls

from data.errors import UsageError

COEFFICIENTS = 3
# Distinct sizes: of a law that is reported, and of one that only predicts the next.
LEAST_SIZES, LEAST_SIZES_TO_PREDICT = 4, 3
SAMPLES = 500
# Where the search ends; and what is a step rather than a power law: most of the fall within a factor of 1.4.
EXPONENTS = (1e-3, 20.0)
GREATEST_EXPONENT = 3.0
FIRST_EXPONENTS = np.geomspace(0.02, 5.0, 9)
# Of the first length; and of the fall, what may be noise.
LEAST_FALL = 1e-4
GREATEST_RISE = 0.1

# An interval wider than this factor does not say where the number is.
GREATEST_SPAN = 10.0
# Of the least length: a floor that is less than this is nothing, however many times its interval spans.
LEAST_FLOOR = 0.01
NOT_IDENTIFIED = "not identified"

Interval = tuple[float, float]


@dataclass(frozen=True)
class PowerLaw:
    """length(size) = floor_bits + scale_bits * size ** -exponent."""

    floor_bits: float
    scale_bits: float
    exponent: float

    def bits(self, sizes: ArrayLike) -> np.ndarray:
        return self.floor_bits + self.scale_bits * np.asarray(sizes, dtype=np.float64) ** -self.exponent


@dataclass(frozen=True)
class Fit:
    """A power law, the 95 % intervals of its coefficients, and the root mean square of log(measured / law). Where the
    floor or the scale has no interval, it is not identified."""

    law: PowerLaw
    floor_interval: Interval | None
    scale_interval: Interval | None
    exponent_interval: Interval
    error: float


@dataclass(frozen=True)
class Prediction:
    """The length of the largest size by the power law through all smaller ones, and as measured. The 95 % interval is
    that of one more measurement; None if the law goes exactly through what it was fitted to."""

    size: float
    predicted_bits: float
    interval_bits: Interval | None
    measured_bits: float


@dataclass(frozen=True)
class Crossing:
    """Where two curves cross: below `size` the first one is shorter if `first_below`, above it the other."""

    size: float
    bits: float
    first_below: bool


@dataclass(frozen=True)
class Minimum:
    """The least of the measured lengths. `edge` is "smallest" or "largest" if it is that of the size at an end of the
    range, and empty inside of it, where a parabola through it and its neighbors has its own minimum."""

    size: float
    bits: float
    edge: str
    parabola_size: float | None
    parabola_bits: float | None


def fit_power_law(sizes: np.ndarray, bits: np.ndarray) -> PowerLaw:
    """The power law with the least squares of log(law / bits), with floor >= 0, scale > 0 and exponent > 0.

    `sizes`, `bits`: [C], of `LEAST_SIZES_TO_PREDICT` sizes or more. The law is fitted around the geometric mean of the
    sizes, where its coefficients depend little on each other. The fit starts from the best of several exponents, with
    floor and scale by non-negative least squares. Raises UsageError with the reason if the bits do not fall like a
    power of the size.
    """
    _refuse_rise(sizes, bits)
    center = np.exp(np.log(sizes).mean())
    unit = bits.min()
    lengths = bits / unit
    best = (np.inf, 0.0, 0.0, 0.0)
    for exponent in FIRST_EXPONENTS:
        columns = np.stack([np.ones_like(lengths), (sizes / center) ** -exponent], 1) / lengths[:, None]
        (floor, scale), distance = nnls(columns, np.ones_like(lengths))
        best = min(best, (float(distance), float(floor), float(scale), float(exponent)))
    _, floor, scale, exponent = best
    start = PowerLaw(floor * unit, scale * unit * center**exponent, exponent)
    first, last = start.bits(np.array([sizes.min(), sizes.max()]))
    if last > (1 - LEAST_FALL) * first:
        raise UsageError("it does not fall as the parameters grow")
    law = _nearest(sizes, bits, start)
    if law.exponent > GREATEST_EXPONENT:
        raise UsageError("it falls between the smallest widths and not after them, unlike a power law")
    return law


def fit(sizes: np.ndarray, bits: np.ndarray, samples: int = SAMPLES) -> Fit:
    """The power law through cells of at least `LEAST_SIZES` sizes, with bootstrap intervals. `sizes`, `bits`: [C].

    Raises UsageError with the reason if there are fewer sizes, no law, or no telling which: an interval of the exponent
    that spans more than a factor of `GREATEST_SPAN`, or ends where the search does, is no result.
    """
    if (distinct := len(np.unique(sizes))) < LEAST_SIZES:
        raise UsageError(f"a power law needs {LEAST_SIZES} widths or more, and there are {distinct}")
    law = fit_power_law(sizes, bits)
    laws = bootstrap_laws(sizes, bits, law, samples)
    floor, scale, exponent = map(interval_of, zip(*map(astuple, laws), strict=True))
    if exponent[0] < 1.01 * EXPONENTS[0] or exponent[1] > 0.99 * EXPONENTS[1]:
        raise UsageError(f"{NOT_IDENTIFIED}: the 95 % interval of the exponent ends where the search for it does")
    if not is_narrow(exponent):
        raise UsageError(f"{NOT_IDENTIFIED}: the 95 % interval of the exponent spans more than a factor of ten")
    error = float(np.sqrt(np.mean(np.log(bits / law.bits(sizes)) ** 2)))
    no_floor = floor[1] < LEAST_FLOOR * bits.min()
    return Fit(
        law, floor if no_floor or is_narrow(floor) else None, scale if is_narrow(scale) else None, exponent, error
    )


def bootstrap_laws(sizes: np.ndarray, bits: np.ndarray, law: PowerLaw, samples: int) -> list[PowerLaw]:
    """The laws through measurements as `law`, that of [C], could have made them."""
    return [_nearest(sizes, sample, law) for sample in bootstrap(sizes, bits, law, samples)[0]]


def exponents_over(sizes: np.ndarray, lengths: np.ndarray, law: PowerLaw) -> Interval:
    """The 95 % interval of the exponents of the laws that are nearest to each of the lengths [B, C]; `law` is near to
    them all."""
    return interval_of([_nearest(sizes, bits, law).exponent for bits in lengths])


def predict_largest(sizes: np.ndarray, bits: np.ndarray, samples: int = SAMPLES) -> Prediction:
    """What the smaller sizes say of the largest, which is measured too. `sizes`, `bits`: [C].

    Raises UsageError with the reason if there are too few smaller sizes, no law through them, or no telling which.
    """
    largest = sizes.max()
    held_out = sizes == largest
    others, other_bits = sizes[~held_out], bits[~held_out]
    if (distinct := len(np.unique(others))) < LEAST_SIZES_TO_PREDICT:
        raise UsageError(f"it takes {LEAST_SIZES_TO_PREDICT} widths to predict another, and there are {distinct}")
    law = fit_power_law(others, other_bits)
    interval = None
    if len(others) > COEFFICIENTS:
        repeated, noise = bootstrap(others, other_bits, law, samples)
        lengths = np.array([_nearest(others, sample, law).bits(largest) for sample in repeated])
        interval = interval_of(lengths * np.exp(noise))
        # The length may be certain where the exponent is not: it is what the law was fitted to.
        if not is_narrow(interval):
            raise UsageError(f"{NOT_IDENTIFIED}: the 95 % interval of the length spans more than a factor of ten")
    return Prediction(float(largest), float(law.bits(largest)), interval, float(bits[held_out].mean()))


def bootstrap(sizes: np.ndarray, bits: np.ndarray, law: PowerLaw, samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Measurements [B, C] as the law and its residuals could have made them, and log noise [B] of one more measurement.

    Residuals log(bits / law) are drawn with replacement, enlarged by the degrees of freedom that the coefficients took,
    and in every sample by the uncertainty of so small a sample's spread (the square root of a chi-square, as in a
    t distribution): without it, 95 % intervals from 4 widths contain the truth in 65 % of cases. Deterministic.
    """
    generator = np.random.default_rng(0)
    freedom = len(sizes) - COEFFICIENTS
    residuals = np.log(bits / law.bits(sizes))
    residuals = (residuals - residuals.mean()) * np.sqrt(len(sizes) / freedom)
    spread = np.sqrt(freedom / generator.chisquare(freedom, size=(samples, 1)))
    # Three e-folds either way are no measurement any more.
    noise = (spread * generator.choice(residuals, size=(samples, len(sizes) + 1))).clip(-3, 3)
    return law.bits(sizes) * np.exp(noise[:, :-1]), noise[:, -1]


def crossings(
    first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray]
) -> tuple[list[Crossing], Interval] | None:
    """Where two curves cross: each is (sizes, bits) with rising sizes, and straight in log-log between them.

    Returns the crossings, and the range of sizes that both curves cover; None if they share no range, or are the same.
    """
    low, high = max(first[0][0], second[0][0]), min(first[0][-1], second[0][-1])
    if low > high:
        return None
    nodes = np.log(np.unique(np.concatenate([[low, high], first[0], second[0]]).clip(low, high)))
    one, other = (np.interp(nodes, np.log(sizes), np.log(bits)) for sizes, bits in (first, second))
    difference = one - other
    apart = np.flatnonzero(difference)
    if not len(apart):
        return None
    found = []
    for left, right in itertools.pairwise(apart):
        if np.sign(difference[left]) != np.sign(difference[right]):
            # They cross where the difference is zero: at a node between, or inside a straight piece.
            share = difference[left] / (difference[left] - difference[right])
            where = nodes[left] + share * (nodes[right] - nodes[left]) if right == left + 1 else nodes[left + 1]
            bits = np.exp(np.interp(where, nodes, one))
            found.append(Crossing(float(np.exp(where)), float(bits), bool(difference[left] < 0)))
    return found, (float(low), float(high))


def minimum(sizes: np.ndarray, bits: np.ndarray) -> Minimum:
    """The least of the lengths of two or more rising sizes: [W], [W]. The parabola is one of bits in log(size)."""
    at = int(bits.argmin())
    edge = {0: "smallest", len(bits) - 1: "largest"}.get(at, "")
    size, parabola_size, parabola_bits = float(sizes[at]), None, None
    if not edge:
        steps = np.log(sizes[at - 1 : at + 2] / size)
        curvature, slope, height = np.polyfit(steps, bits[at - 1 : at + 2], 2)
        if curvature > 0:
            vertex = -slope / (2 * curvature)
            parabola_size, parabola_bits = float(size * np.exp(vertex)), float(height + slope * vertex / 2)
    return Minimum(size, float(bits[at]), edge, parabola_size, parabola_bits)


def _refuse_rise(sizes: np.ndarray, bits: np.ndarray) -> None:
    """Raise UsageError if the mean bits of larger sizes are above those of smaller ones by more than a tenth of the
    fall: no power law does that, and a fit would hide it."""
    distinct = np.unique(sizes)
    means = np.array([bits[sizes == size].mean() for size in distinct])
    rise, fall = means[-1] - means.min(), means.max() - means.min()
    if rise > GREATEST_RISE * fall and means.argmin() == 0:
        raise UsageError("it does not fall as the parameters grow")
    if rise > GREATEST_RISE * fall:
        raise UsageError(f"it rises again beyond {distinct[means.argmin()]:,.0f} parameters, as no power law does")


def _nearest(sizes: np.ndarray, bits: np.ndarray, start: PowerLaw) -> PowerLaw:
    """The least-squares solution that Levenberg and Marquardt's method finds from `start`. scipy's least_squares, with
    or without bounds, finds the same in five to seven times the time, and the bootstrap comes here a thousand times.

    theta = (square root of the floor, log scale at the central size, log exponent), in units of the least bits: any
    numbers are in the allowed range.
    """
    log_center = np.log(sizes).mean()
    steps = np.log(sizes) - log_center
    unit = bits.min()
    targets = np.log(bits / unit)
    least, greatest = np.log(EXPONENTS)

    def residuals(theta: np.ndarray) -> np.ndarray:
        exponent = np.exp(min(max(theta[2], least), greatest))
        return np.log(theta[0] ** 2 + np.exp(theta[1] - exponent * steps)) - targets

    log_scale = np.log(start.scale_bits / unit) - start.exponent * log_center
    # At a floor of 0 there is no slope that leads away.
    first = [np.sqrt(max(start.floor_bits / unit, 0.01)), log_scale, np.log(start.exponent)]
    with np.errstate(over="ignore"):
        root, log_scale, log_exponent = leastsq(residuals, first, full_output=True)[0]
    exponent = np.exp(min(max(log_exponent, least), greatest))
    return PowerLaw(float(root**2 * unit), float(np.exp(log_scale + exponent * log_center) * unit), float(exponent))


def is_narrow(interval: Interval) -> bool:
    """Whether it says where the number is."""
    return interval[1] <= GREATEST_SPAN * interval[0]


def interval_of(values: Sequence[float] | np.ndarray) -> Interval:
    """From which to which value 95 % of the values are."""
    low, high = np.quantile(np.asarray(values), [0.025, 0.975])
    return float(low), float(high)
