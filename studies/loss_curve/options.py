"""The description length that a training curve stands for: its integral over the tokens, with bounds.

    python launch/evaluate.py curve loss.csv --tokens_per_step 4e6 --vocabulary 32000 --corpus_bytes 5.6e12
    python launch/evaluate.py curve export.csv --x Step --y "run - train/loss" --tokens_per_step 524288
    python launch/evaluate.py curve runs/theirs/events --tag train/loss --tokens_per_step 524288 --smoothing ema:0.9
    python launch/evaluate.py curve runs/mine/curve.csv --y data_bits --points total --unit bits

FILE is a CSV file with a header (lines that begin with # are skipped), W&B's export among them, whose columns __MIN and
__MAX bound the curve; or a file or folder of TensorBoard events. Of a model that was trained for one epoch, the area
under the curve of its training loss is the length of its data, coded; the program comes on top. What the points leave
open is bounded, and what is assumed for that is printed. Exit status 2: bad arguments, or FILE is no such curve.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from studies.common import argument, option, png_option
from studies.loss_curve.points import BITS, KINDS, Kind


@dataclass
class Curve:
    """Turn a training curve into a description length, with bounds."""

    file: Path = argument("CSV file, or a file or folder of TensorBoard events", metavar="FILE")
    x: str | None = option("of the tokens or steps (default: tokens, step and the like)", None, metavar="COLUMN")
    y: Sequence[str] = option("of the loss; several make several (default: loss)", (), metavar="COLUMN", nargs="+")
    tag: str | None = option("of TensorBoard's scalars (default: the only one that ends in loss)", None)
    error: str | None = option("by how much y may be off, either way, in the unit of y", None, metavar="COLUMN")
    tokens_per_step: float | None = option(
        "tokens that one of x is (default: 1 where its name says tokens)", None, metavar="N"
    )
    unit: str = option("of y, per token (default: nats)", "nats", choices=list(BITS))
    points: Kind = option(
        "y is the loss at x, or the mean since the point before, or the sum so far (default: instant)", "instant",
        type=str, choices=KINDS,
    )  # fmt: skip
    smoothing: str = option(
        "that y went through: ema:A (TensorBoard's slider), ema-first:A (begun at the first value), window:POINTS",
        "none", metavar="HOW",
    )  # fmt: skip
    tokens: float | None = option("of the epoch, if the curve ends before (default: where it ends)", None, metavar="N")
    vocabulary: int | None = option(
        "an untrained model takes log2 V: bounds what is before the curve", None, metavar="V"
    )
    corpus_bytes: float | None = option("gives bits per byte and the ratio", None, metavar="B")
    json: bool = option("print JSON, a list of one entry a curve", False)
    png: Path | None = png_option()
