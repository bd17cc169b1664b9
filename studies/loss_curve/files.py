"""Training curves that others wrote: CSV files (W&B's exports among them) and TensorBoard's event files."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.errors import UsageError

LIMIT_BYTES = 256 << 20
# Where nothing else is said, the first of these that there is, in any case; then a column that ends in "loss".
X_NAMES = ("tokens", "coded_tokens", "step", "_step", "global_step", "iteration", "iter", "x")
Y_NAMES = ("loss", "train/loss", "train_loss", "training_loss", "value", "y")
# Beside a curve, W&B exports the least and the greatest value of what each point stands for.
EXTREMES = ("__MIN", "__MAX")


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
    for name in [*([x] if x else []), *y, *([error] if error else [])]:
        if name not in columns:
            raise UsageError(f"no column {name!r}: {listed}")
    x = x or next((name for wanted in X_NAMES for name in columns if name.lower() == wanted), None)
    if x is None:
        raise UsageError(f"which column holds the tokens or steps? Say --x NAME; {listed}")
    chosen = list(y) or [_guessed(columns, x, listed)]

    def values(column: str) -> list[float]:
        return [_number(path, line, column, row[column]) for line, row in enumerate(table, 2)]

    places, curves = np.array(values(x)), []
    for name in chosen:
        heights = np.array(values(name))
        low, high = heights, heights
        if all(name + end in columns for end in EXTREMES):
            low, high = (np.array(values(name + end)) for end in EXTREMES)
        if error:
            errors = np.array(values(error))
            low, high = low - errors, high + errors
        there = ~np.isnan(places) & ~np.isnan(heights)
        low, high = (np.where(np.isnan(limit), heights, limit)[there] for limit in (low, high))
        curves.append(Points(name, places[there], heights[there], low, high, x))
    return curves


def _guessed(columns: list[str], x: str, listed: str) -> str:
    """The column of the loss."""
    named = [name for wanted in Y_NAMES for name in columns if name.lower() == wanted]
    losses = [name for name in columns if name.lower().endswith("loss")]
    others = [name for name in columns if name != x and not name.endswith(EXTREMES)]
    if named or len(losses) == 1 or len(others) == 1:
        return (named or losses or others)[0]
    raise UsageError(f"which column holds the loss? Say --y NAME; {listed}")


def _number(path: Path, line: int, column: str, text: str | None) -> float:
    """The number in a cell, NaN where it is blank."""
    if text is None or not text.strip():
        return math.nan
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(f"{path}, row {line}: {column} is {text!r}, not a finite number; remove the row or mend it")
    return number


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
