"""Logged points as a loss in bits against tokens: units, means and sums, and smoothing taken back.

An exponential mean of logged points is undone exactly: y_i = (e_i - A e_{i-1}) / (1 - A), e before its division by
1 - A^i where the writer divides. A moving mean over K points is undone by taking every K-th point, from the last
backwards: each is the mean of the K points that end there, and the means of such blocks are all that an integral needs.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from data.errors import UsageError
from studies.loss_curve.files import Points

Kind = Literal["instant", "mean", "total"]
KINDS: tuple[Kind, ...] = ("instant", "mean", "total")
BITS = {"bits": 1.0, "nats": 1 / math.log(2)}


@dataclass(frozen=True)
class LossCurve:
    """Bits per token against tokens, and how low and high they may be: float64 [points].

    Where `starts` is none, a point is the loss at x; else it is the mean of what lies between its start and x.
    Where means are of losses at some places, not of all, these are no further apart than `gap_tokens`.
    """

    name: str
    x: np.ndarray
    bits: np.ndarray
    low: np.ndarray
    high: np.ndarray
    starts: np.ndarray | None
    gap_tokens: float = 0.0


@dataclass(frozen=True)
class Smoothing:
    """`ema` as TensorBoard and pandas (adjust) have it; `ema-first` begins at the first value; `window` of points."""

    method: Literal["none", "ema", "ema-first", "window"] = "none"
    decay: float = 0.0
    points: int = 1


def parse_smoothing(text: str) -> Smoothing:
    """ "ema:0.99", "ema-first:0.99", "window:50" or "none". Raises UsageError for all else."""
    method, _, amount = text.partition(":")
    try:
        if text == "none":
            return Smoothing()
        if method in ("ema", "ema-first") and 0 < (decay := float(amount)) < 1:
            return Smoothing(method, decay=decay)  # type: ignore[arg-type]
        if method == "window" and (points := int(amount)) >= 1:
            return Smoothing("window", points=points)
    except ValueError:
        pass
    raise UsageError(
        f"--smoothing {text}: give ema:A or ema-first:A with A between 0 and 1, window:POINTS with 1 or more, or none"
    )


def loss_curve(points: Points, tokens_per_step: float | None, unit: str, kind: Kind, smoothing: Smoothing) -> LossCurve:
    """The curve that logged points mean. Raises UsageError where they can mean none."""
    refuse_broken(points)
    if tokens_per_step is None and not points.in_tokens:
        raise UsageError(
            f"{points.x_name} may count steps: say how many tokens one is by --tokens_per_step (1 if it counts tokens)"
        )
    x, scale = points.x * (tokens_per_step or 1.0), BITS[unit]
    y, below, above = points.y * scale, (points.y - points.low) * scale, (points.high - points.y) * scale
    starts, gap_tokens = np.append(0.0, x[:-1]) if kind != "instant" else None, 0.0
    if kind == "total":
        if smoothing.method != "none" or below.any() or above.any():
            raise UsageError(f"{points.name} as sums so far takes no smoothing and no error: leave them out")
        if (fallen := np.diff(y, prepend=0.0) < 0).any():
            raise UsageError(f"{points.name} falls at {x[fallen][0]:,.0f}: sums so far cannot; say --points instant")
        # At 0, where nothing is coded, the sum is 0.
        x, y, below, above = (part[x > 0] for part in (x, y, below, above))
        starts = np.append(0.0, x[:-1])
        y = np.diff(y, prepend=0.0) / (x - starts)
    elif kind == "mean" and x[0] == 0:
        x, y, below, above, starts = x[1:], y[1:], below[1:], above[1:], x[:-1]
    if smoothing.method in ("ema", "ema-first"):
        y = without_ema(y, smoothing)
        if (y < 0).any():
            raise UsageError(
                f"--smoothing {smoothing.method}:{smoothing.decay:g} taken back gives {y.min():.4g} bits at "
                f"{x[y.argmin()]:,.0f} tokens: the curve was not smoothed so, or was thinned out or rounded "
                "afterwards; give the right one, or the curve as it was logged"
            )
    elif smoothing.method == "window":
        ends = np.arange(len(x) - 1, -1, -smoothing.points)[::-1]
        spacing = float(np.median(np.diff(x)))
        # Means of fewer points than a window holds, at its beginning, are those since the start.
        first = max(0.0, float(x[ends[0]]) - smoothing.points * spacing)
        if kind == "instant":
            gap_tokens = float(np.diff(x).max())
        x, y, below, above = x[ends], y[ends], below[ends], above[ends]
        starts = np.append(first, x[:-1])
    return LossCurve(points.name, x, y, (y - below).clip(0), y + above, starts, gap_tokens)


def refuse_broken(points: Points) -> None:
    """Raise UsageError unless x rises and all is a number that a loss can be."""
    x, name = points.x, points.name
    if len(x) < 2:
        raise UsageError(f"{name} has {len(x)} points where two are the least: name another column or tag")
    for values in (x, points.y, points.low, points.high):
        if not np.isfinite(values).all():
            place = int(np.argmin(np.isfinite(values)))
            raise UsageError(f"{name} is {values[place]} at point {place + 1}, {points.x_name} {x[place]:g}: remove it")
    if x[0] < 0:
        raise UsageError(f"{points.x_name} begins at {x[0]:g}: it counts what was trained on, so from 0 or more")
    if (np.diff(x) <= 0).any():
        place = int(np.argmax(np.diff(x) <= 0))
        raise UsageError(
            f"{points.x_name} goes from {x[place]:g} to {x[place + 1]:g} after point {place + 1}: it has to rise; "
            "sort the points, and of a run that was resumed keep what counts"
        )
    if (points.y < 0).any():
        place = int(np.argmax(points.y < 0))
        raise UsageError(
            f"{name} is {points.y[place]:g} at {points.x_name} {x[place]:g}: code lengths are not negative"
        )
    if (points.low > points.y).any() or (points.high < points.y).any():
        place = int(np.argmax((points.low > points.y) | (points.high < points.y)))
        raise UsageError(
            f"{name} at {points.x_name} {x[place]:g} is {points.y[place]:g}, outside of its own limits "
            f"{points.low[place]:g} and {points.high[place]:g}: is the error negative, or are columns mixed up?"
        )


def without_ema(smoothed: np.ndarray, smoothing: Smoothing) -> np.ndarray:
    """What an exponential mean was made of."""
    decay, before = smoothing.decay, smoothed[:1]
    if smoothing.method == "ema":
        smoothed, before = smoothed * (1 - decay ** np.arange(1, len(smoothed) + 1)), np.zeros(1)
    return (smoothed - decay * np.append(before, smoothed[:-1])) / (1 - decay)
