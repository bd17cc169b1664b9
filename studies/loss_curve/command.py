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

import argparse
import json
from pathlib import Path

from data.errors import UsageError
from data.files import output_file, write_file
from data.streams import publish
from eval.plots import THEMES
from studies.loss_curve.files import read_points
from studies.loss_curve.integral import integrate
from studies.loss_curve.report import as_json, figure, table
from studies.loss_curve.smoothing import BITS, KINDS, Kind, loss_curve, parse_smoothing


def curve_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("file", type=Path, metavar="FILE", help="CSV file, or a file or folder of TensorBoard events")
    add("--x", metavar="COLUMN", help="of the tokens or steps (default: tokens, step and the like)")
    add("--y", metavar="COLUMN", nargs="+", default=[], help="of the loss; several make several (default: loss)")
    add("--tag", help="of TensorBoard's scalars (default: the only one that ends in loss)")
    add("--error", metavar="COLUMN", help="by how much y may be off, either way, in the unit of y")
    add(
        "--tokens_per_step",
        type=float,
        metavar="N",
        help="tokens that one of x is (default: 1 where its name says tokens)",
    )
    add("--unit", choices=list(BITS), default="nats", help="of y, per token (default: nats)")
    add(
        "--points", choices=KINDS, default="instant",
        help="y is the loss at x, or the mean since the point before, or the sum so far (default: instant)",
    )  # fmt: skip
    add(
        "--smoothing", default="none", metavar="HOW",
        help="that y went through: ema:A (TensorBoard's slider), ema-first:A (begun at the first value), window:POINTS",
    )  # fmt: skip
    add("--tokens", type=float, metavar="N", help="of the epoch, if the curve ends before (default: where it ends)")
    add("--vocabulary", type=int, metavar="V", help="an untrained model takes log2 V: bounds what is before the curve")
    add("--corpus_bytes", type=float, metavar="B", help="gives bits per byte and the ratio")
    add("--json", action="store_true", dest="in_json", help="print JSON, a list of one entry a curve")
    add("--png", type=output_file, metavar="NAME", help="write NAME-light.png and NAME-dark.png")


def curve(
    file: Path,
    x: str | None,
    y: list[str],
    tag: str | None,
    error: str | None,
    tokens_per_step: float | None,
    unit: str,
    points: Kind,
    smoothing: str,
    tokens: float | None,
    vocabulary: int | None,
    corpus_bytes: float | None,
    in_json: bool,
    png: Path | None,
) -> None:
    """Raises UsageError for what is wrong with the arguments or the file."""
    refuse_amounts(tokens_per_step=tokens_per_step, tokens=tokens, corpus_bytes=corpus_bytes)
    if vocabulary is not None and vocabulary < 2:
        raise UsageError(f"--vocabulary {vocabulary}: give the number of tokens that there are, 2 or more")
    how = parse_smoothing(smoothing)
    found = [loss_curve(p, tokens_per_step, unit, points, how) for p in read_points(file, x, y, tag, error)]
    measured = [(one, integrate(one, tokens, vocabulary)) for one in found]
    if in_json:
        publish(json.dumps([as_json(integral, corpus_bytes) for _, integral in measured], indent=1, allow_nan=False))
    else:
        publish("\n\n".join(table(integral, corpus_bytes) for _, integral in measured))
    if png:
        for name, theme in THEMES.items():
            write_file(png.with_name(f"{png.name}-{name}.png"), figure(measured, theme))


def refuse_amounts(**amounts: float | None) -> None:
    """Raise UsageError for one that is none."""
    for name, amount in amounts.items():
        if amount is not None and not 0 < amount < float("inf"):
            raise UsageError(f"--{name} {amount:g}: give a number above 0")
