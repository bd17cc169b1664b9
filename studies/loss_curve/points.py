"""A training curve as others logged it, and as bits against tokens.

It is read from CSV files (W&B's exports among them) and TensorBoard's event files. Then units, means and sums become
bits a token, and smoothing is undone. An exponential mean of logged points is undone exactly: y_i = (e_i - A e_{i-1}) /
(1 - A), e before its division by 1 - A^i where the writer divides. A moving mean over K points is undone by taking
every K-th point, from the last backwards: each is the mean of the K points that end there, and the means of such blocks
are all that an integral needs.
"""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from data.errors import UsageError

LIMIT_BYTES = 256 << 20
# Without --x and --y: the first of these that the file has, in upper or lower case; then a column that ends in "loss".
X_NAMES = ("tokens", "coded_tokens", "step", "_step", "global_step", "iteration", "iter", "x")
Y_NAMES = ("loss", "train/loss", "train_loss", "training_loss", "value", "y")
# Beside a curve, W&B exports the least and the greatest value of what each point stands for.
EXTREMES = ("__MIN", "__MAX")

Kind = Literal["instant", "mean", "total"]
KINDS: tuple[Kind, ...] = ("instant", "mean", "total")
BITS = {"bits": 1.0, "nats": 1 / math.log(2)}
# What parse_smoothing returns.
Smoothing = tuple[str, float]


@dataclass(frozen=True)
class Points:
    """A curve as it was logged: x in steps or tokens, y, and how low and high y may be; float64 [points]."""

    name: str
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray
    high: np.ndarray
    x_name: str

    @property
    def in_tokens(self) -> bool:
        """Whether x, by its name, counts what y is a cost of."""
        return any(word in self.x_name.lower() for word in ("token", "byte", "symbol"))


def read_points(path: Path, x: str | None, y: Sequence[str], tag: str | None, error: str | None) -> list[Points]:
    """The curves of a file: the columns `y` of a CSV file, or the one with `tag` of TensorBoard's events.

    Raises UsageError, naming what there is to choose from, where a column or tag is missing or not said.
    """
    if not path.exists():
        raise UsageError(f"{path} does not exist: name a CSV file, or a file or folder of TensorBoard events")
    if path.is_dir() or "tfevents" in path.name:
        if x or y or error:
            raise UsageError("--x, --y and --error name columns of CSV files: choose events by --tag")
        return [read_events(path, tag)]
    if tag:
        raise UsageError(f"--tag {tag}: {path} is no file of TensorBoard events; choose its columns by --x and --y")
    return read_csv(path, x, y, error)


def read_csv(path: Path, x: str | None, y: Sequence[str], error: str | None) -> list[Points]:
    """Points of a CSV file with a header. Rows where x or y is blank are left out, curve by curve."""
    if path.stat().st_size > LIMIT_BYTES:
        raise UsageError(f"{path} is larger than {LIMIT_BYTES:,} bytes, the most that is read: thin it out")
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = csv.DictReader(line for line in stream if not line.startswith("#"))
            columns, table = list(rows.fieldnames or []), list(rows)
    except (csv.Error, UnicodeDecodeError) as trouble:
        raise UsageError(f"{path} is no CSV file: {trouble}") from None
    if not columns:
        raise UsageError(f"{path} is empty: its first line has to name the columns")
    listed = f"{path} has the columns {', '.join(columns)}"
    for name in filter(None, [x, *y, error]):
        if name not in columns:
            raise UsageError(f"no column {name!r}: {listed}")
    x = x or next((name for wanted in X_NAMES for name in columns if name.lower() == wanted), None)
    if x is None:
        raise UsageError(f"which column holds the tokens or steps? Say --x NAME; {listed}")

    def values(column: str) -> np.ndarray:
        cells = enumerate((row[column] for row in table), 2)
        return np.array([read_number(cell, f"{path}, row {line}: {column}") for line, cell in cells])

    places, curves = values(x), []
    for name in y or [guess_loss(columns, x, listed)]:
        heights = values(name)
        bounded = all(name + end in columns for end in EXTREMES)
        low, high = (values(name + end) if bounded else heights for end in EXTREMES)
        if error:
            low, high = low - (errors := values(error)), high + errors
        there = ~np.isnan(places) & ~np.isnan(heights)
        low, high = (np.where(np.isnan(limit), heights, limit)[there] for limit in (low, high))
        curves.append(Points(name, places[there], heights[there], low, high, x))
    return curves


def guess_loss(columns: list[str], x: str, listed: str) -> str:
    """The column of the loss."""
    named = [name for wanted in Y_NAMES for name in columns if name.lower() == wanted]
    losses = [name for name in columns if name.lower().endswith("loss")]
    others = [name for name in columns if name != x and not name.endswith(EXTREMES)]
    if named or len(losses) == 1 or len(others) == 1:
        return (named or losses or others)[0]
    raise UsageError(f"which column holds the loss? Say --y NAME; {listed}")


def read_number(cell: str | None, place: str) -> float:
    """The number in a cell, NaN where it is blank."""
    if cell is None or not cell.strip():
        return math.nan
    try:
        if math.isfinite(number := float(cell)):
            return number
    except ValueError:
        pass
    raise UsageError(f"{place} is {cell!r}, not a finite number; remove the row or correct it")


def read_events(path: Path, tag: str | None) -> Points:
    """The points of one tag, of an event file or of all in a folder. x is TensorBoard's step."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    events = EventAccumulator(str(path), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    found = events.Tags()
    tags = sorted([*found["scalars"], *found["tensors"]])
    if not tags:
        raise UsageError(f"{path} holds no TensorBoard scalars: name the folder that holds the event files themselves")
    losses = [name for name in tags if name.lower().endswith("loss")]
    if tag is None and len(losses) != 1:
        raise UsageError(f"which tag is the loss? Say --tag NAME; {path} has {', '.join(tags)}")
    tag = tag or losses[0]
    if tag not in tags:
        raise UsageError(f"no tag {tag!r}: {path} has {', '.join(tags)}")
    if tag in found["scalars"]:
        points = [(event.step, event.value) for event in events.Scalars(tag)]
    else:
        points = [(event.step, float(make_ndarray(event.tensor_proto).mean())) for event in events.Tensors(tag)]
    x, y = np.array(points, dtype=np.float64).T
    return Points(tag, x, y, y, y, "TensorBoard's step")


def parse_smoothing(text: str) -> Smoothing:
    """Method and amount: "ema:0.99" as TensorBoard and pandas (adjust) have it, "ema-first:0.99" begun at the first
    value, "window:50" of points, or "none". Raises UsageError for all else."""
    method, _, amount = text.partition(":")
    try:
        if text == "none":
            return "none", 0
        if method in ("ema", "ema-first") and 0 < float(amount) < 1:
            return method, float(amount)
        if method == "window" and int(amount) >= 1:
            return method, int(amount)
    except ValueError:
        pass
    raise UsageError(
        f"--smoothing {text}: give ema:A or ema-first:A with A between 0 and 1, window:POINTS with 1 or more, or none"
    )


@dataclass(frozen=True)
class LossCurve:
    """Bits per token against tokens, and how low and high they may be: float64 [points].

    Without `starts`, a point is the loss at x; else it is the mean of the losses between its start and x. Where means
    are of losses at some places, not of all, these are no further apart than `gap_tokens`.
    """

    name: str
    x: np.ndarray
    bits: np.ndarray
    low: np.ndarray
    high: np.ndarray
    starts: np.ndarray | None
    gap_tokens: float = 0.0

    def steps(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Starts, ends, least and most of the steps that bound the curve between its first and its last point."""
        low, high = self.low, self.high
        if self.starts is not None:
            return self.starts, self.x, low, high
        return self.x[:-1], self.x[1:], np.minimum(low[1:], low[:-1]), np.maximum(high[1:], high[:-1])


def convert_points(
    points: Points, tokens_per_step: float | None, unit: str, kind: Kind, smoothing: Smoothing
) -> LossCurve:
    """The curve that logged points mean. Raises UsageError where they cannot mean one."""
    refuse_broken(points)
    method, amount = smoothing
    if tokens_per_step is None and not points.in_tokens:
        raise UsageError(
            f"{points.x_name} may count steps: say how many tokens one is by --tokens_per_step (1 if it counts tokens)"
        )
    x, scale = points.x * (tokens_per_step or 1.0), BITS[unit]
    y, below, above = points.y * scale, (points.y - points.low) * scale, (points.high - points.y) * scale
    starts, gap_tokens = np.append(0.0, x[:-1]) if kind != "instant" else None, 0.0
    if kind == "total":
        if method != "none" or below.any() or above.any():
            raise UsageError(f"{points.name} as sums so far takes no smoothing and no error: leave them out")
        if (fallen := np.diff(y, prepend=0.0) < 0).any():
            raise UsageError(f"{points.name} falls at {x[fallen][0]:,.0f}: sums so far cannot; say --points instant")
        # At 0, where nothing is coded, the sum is 0.
        x, y, below, above = (part[x > 0] for part in (x, y, below, above))
        starts = np.append(0.0, x[:-1])
        y = np.diff(y, prepend=0.0) / (x - starts)
    elif kind == "mean" and x[0] == 0:
        x, y, below, above, starts = x[1:], y[1:], below[1:], above[1:], x[:-1]
    if method.startswith("ema"):
        y = undo_ema(y, amount, method == "ema")
        if (y < 0).any():
            raise UsageError(
                f"--smoothing {method}:{amount:g} taken back gives {y.min():.4g} bits at "
                f"{x[y.argmin()]:,.0f} tokens: the curve was not smoothed so, or was thinned out or rounded "
                "afterwards; give the right one, or the curve as it was logged"
            )
    elif method == "window":
        ends = np.arange(len(x) - 1, -1, -int(amount))[::-1]
        # Means of fewer points than a window holds, at its beginning, are those since the start.
        first = max(0.0, float(x[ends[0]] - amount * np.median(np.diff(x))))
        if kind == "instant":
            gap_tokens = float(np.diff(x).max())
        x, y, below, above = x[ends], y[ends], below[ends], above[ends]
        starts = np.append(first, x[:-1])
    return LossCurve(points.name, x, y, (y - below).clip(0), y + above, starts, gap_tokens)


def undo_ema(means: np.ndarray, decay: float, divided: bool) -> np.ndarray:
    """What exponential means were made of. If they are `divided` by 1 - decay^i, they begin at 0, else at the first."""
    if divided:
        means = means * (1 - decay ** np.arange(1, len(means) + 1))
    return (means - decay * np.append(0.0 if divided else means[0], means[:-1])) / (1 - decay)


def refuse_broken(points: Points) -> None:
    """Raise UsageError unless x rises and all is a number that a loss can be."""
    x, y, low, high = points.x, points.y, points.low, points.high
    if len(x) < 2:
        raise UsageError(f"{points.name} has {len(x)} points where two are the least: name another column or tag")
    after = np.append(x[1:], np.inf)
    checks = {
        "{name} is {value} at point {number}, {x_name} {x:g}: remove it": ~np.isfinite(x + y + low + high),
        "{x_name} begins at {x:g}: it counts what was trained on, so from 0 or more": x[:1] < 0,
        "{x_name} goes from {x:g} to {after:g} after point {number}: it has to rise; sort the points, and of a run "
        "that was resumed keep what counts": after <= x,
        "{name} is {y:g} at {x_name} {x:g}: code lengths are not negative": y < 0,
        "{name} at {x_name} {x:g} is {y:g}, outside of its own limits {low:g} and {high:g}: is the error negative, or "
        "are columns mixed up?": (low > y) | (high < y),
    }
    for message, wrong in checks.items():
        if wrong.any():
            i = int(wrong.argmax())
            value = next((value for value in (x[i], y[i], low[i], high[i]) if not np.isfinite(value)), None)
            names = {"name": points.name, "x_name": points.x_name, "number": i + 1, "value": value}
            raise UsageError(message.format(**names, x=x[i], y=y[i], low=low[i], high=high[i], after=after[i]))
