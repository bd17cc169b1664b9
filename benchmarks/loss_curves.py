"""Loss curves against truth: the ledger of finished runs beside what `evaluate.py curve` makes of samples of them.

    python benchmarks/loss_curves.py RUN [RUN ...]        runs made with --run.log_steps 1

Each run's loss, step by step, is logged again as others do: every 10th to 1000th step, as the loss of the batch,
as a mean, smoothed, in buckets with least and greatest value, late, or cut off. For each way, and up to ten offsets of
the first point, the bounds are compared with the bits that the run took. Writes benchmarks/results/loss_curves.csv:
curves, how many have the truth inside, the bounds' mean distance from the truth and the estimate's largest, in percent.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)
from launch import entry

entry.begin(__name__)

import csv
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from eval.schema import load_report
from studies.loss_curve.command import integrate
from studies.loss_curve.points import Kind, Points, convert_points, parse_smoothing
from studies.scaling.runs import load_settings
from train.config import BYTE_SYMBOLS

RESULTS = ROOT / "benchmarks" / "results" / "loss_curves.csv"
COLUMNS = ["run", "corpus", "bytes", "steps", "logged", "every", "points", "curves", "inside", "truth_bytes"]
COLUMNS += ["low_percent", "high_percent", "worst_percent"]
EVERY = (1, 10, 30, 100, 300, 1000)
OFFSETS = 10


@dataclass(frozen=True)
class Steps:
    """Of every step: tokens so far, and the bits per token of the step."""

    x: np.ndarray
    bits: np.ndarray


def read_steps(run: Path) -> Steps:
    with (run / "curve.csv").open() as file:
        rows = [(float(row["coded_tokens"]), float(row["data_bits"])) for row in csv.DictReader(file)]
    x, total_bits = np.array(rows).T
    return Steps(x, np.diff(total_bits, prepend=0.0) / np.diff(x, prepend=0.0))


def logged(steps: Steps) -> Iterator[tuple[str, int, Kind, str, list[Points]]]:
    """(name, steps between points, kind, smoothing, curves) of each way of logging."""
    x, bits = steps.x, steps.bits
    total_bits = np.cumsum(bits * np.diff(x, prepend=0.0))
    ema = ema_of(bits, 0.99)
    window = np.convolve(bits, np.ones(50) / 50)[: len(bits)] * 50 / np.minimum(np.arange(len(bits)) + 1, 50)
    for every in EVERY:
        if 3 * every >= len(x):
            continue
        starts = range(every - 1, -1, -max(1, every // OFFSETS))[:OFFSETS]
        kept = [np.arange(start, len(x), every) for start in starts]
        yield "loss of the batch", every, "instant", "none", [points(x[k], bits[k]) for k in kept]
        late = [k[(x[k] > 0.05 * x[-1]) & (x[k] < 0.8 * x[-1])] for k in kept]
        late = [k for k in late if len(k) > 2]
        yield "the same, 5 % to 80 %", every, "instant", "none", [points(x[k], bits[k]) for k in late]
        if every > 1:
            means = [np.diff(total_bits[k], prepend=0.0) / np.diff(x[k], prepend=0.0) for k in kept]
            yield (
                "mean since the last point",
                every,
                "mean",
                "none",
                [points(x[k], m) for k, m in zip(kept, means, strict=True)],
            )
            yield "buckets, least and greatest", every, "instant", "none", [bucketed(x, bits, k) for k in kept]
    tenth = np.arange(9, len(x), 10)
    yield "every 10th, then ema:0.9", 10, "instant", "ema:0.9", [points(x[tenth], ema_of(bits[tenth], 0.9))]
    yield "ema:0.99", 1, "instant", "ema:0.99", [points(x, ema)]
    yield "window:50", 1, "instant", "window:50", [points(x, window)]


def ema_of(values: np.ndarray, decay: float) -> np.ndarray:
    """As TensorBoard's slider has it."""
    found, last = [], 0.0
    for place, value in enumerate(values, 1):
        last = decay * last + (1 - decay) * value
        found.append(last / (1 - decay**place))
    return np.array(found)


def points(x: np.ndarray, y: np.ndarray) -> Points:
    return Points("loss", x, y, y, y, "tokens")


def bucketed(x: np.ndarray, bits: np.ndarray, kept: np.ndarray) -> Points:
    """Of each bucket its last loss, its least and its greatest."""
    starts = np.append(0, kept[:-1] + 1)
    low, high = (reduce.reduceat(bits[: kept[-1] + 1], starts) for reduce in (np.minimum, np.maximum))
    return Points("loss", x[kept], bits[kept], low, high, "tokens")


def rows_of(run: Path) -> Iterator[dict[str, object]]:
    report, settings, steps = load_report(run / "report.json"), load_settings(run / "config.yaml"), read_steps(run)
    truth_bits, tokens = report.description_length.data_bits, report.coded.tokens
    vocabulary = BYTE_SYMBOLS if settings["data.tokenizer"] == "bytes" else settings["data.vocabulary"]
    corpus = {"corpus": report.corpus.name, "bytes": report.corpus.bytes, "steps": len(steps.x)}
    for name, every, kind, smoothing, curves in logged(steps):
        how = parse_smoothing(smoothing)
        found = [integrate(convert_points(c, None, "bits", kind, how), tokens, vocabulary) for c in curves]
        low, bits, high = (np.array([getattr(f, n) for f in found]) for n in ("low_bits", "bits", "high_bits"))
        percent = [100 * (values / truth_bits - 1) for values in (low, bits, high)]
        # Exact integrals are other sums than the ledger's.
        inside = (low <= truth_bits * (1 + 1e-9)) & (high >= truth_bits * (1 - 1e-9))
        yield {
            "run": run.name, **corpus, "logged": name, "every": every, "points": len(curves[0].x),
            "curves": len(found), "inside": int(inside.sum()), "truth_bytes": round(truth_bits / 8),
            "low_percent": f"{percent[0].mean():.3f}", "high_percent": f"{percent[2].mean():.3f}",
            "worst_percent": f"{percent[1][np.abs(percent[1]).argmax()]:.3f}",
        }  # fmt: skip


def main() -> None:
    parser = entry.Parser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    options = parser.parse_args()
    with RESULTS.open("w", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        for run in options.runs:
            for row in rows_of(run):
                table.writerow(row)
                start = f"{row['run']:<18}{row['logged']:<32}{row['every']:>5}{row['points']:>6}"
                entry.publish(f"{start}  {row['inside']:>2} of {row['curves']:>2}  {row['low_percent']:>8} "
                      f"{row['worst_percent']:>8} {row['high_percent']:>8}")  # fmt: skip


if __name__ == "__main__":
    sys.exit(entry.exit_status(main))
