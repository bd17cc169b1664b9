"""Does the shorter description predict the better model? Runs by what they took in training and on text held out.

Agreement is Kendall's tau: of all pairs of runs, the share that both numbers put in the same order less the share that
they do not. Shapes: `N` runs, `B` bootstrap samples.
"""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from studies.scaling.runs import Run

SAMPLES = 2000


@dataclass(frozen=True)
class Scored:
    """A finished run, all rates in bits per byte: of its description in total, of the data term alone, of the last
    tenth of its corpus, and of a file that it has not seen."""

    run: str
    block: str
    vocabulary: int
    width: int
    seed: int
    parameters: int
    total: float
    data: float
    last_tenth: float
    held_out: float


@dataclass(frozen=True)
class Agreement:
    """How a number orders runs as the held-out rates do: Kendall's tau with its 95 % interval over runs, and in how
    many of the pairs. All is None where no pair can be ordered."""

    number: str
    among: str
    pairs: int
    same_order: int
    tau: float | None
    interval: tuple[float, float] | None


# What is held against the held-out rate. Width is the rival that needs no training at all.
NUMBERS: dict[str, Callable[[Scored], float]] = {
    "total description": lambda row: row.total,
    "data alone": lambda row: row.data,
    "last tenth of training": lambda row: row.last_tenth,
    "greater width": lambda row: -row.width,
}
# Which pairs of runs are compared: those for which this is equal.
AMONG: dict[str, Callable[[Scored], Any]] = {
    "all runs": lambda row: None,
    "equal vocabulary and width": lambda row: (row.vocabulary, row.width),
}


def scored(run: Run, held_out: float) -> Scored:
    length, point = run.report["description_length"], run.point
    return Scored(
        run.name, point.block, point.vocabulary, point.width, point.seed, point.parameters, length["bits_per_byte"],
        length["data_bits_per_byte"], run.curve.last_rate(), held_out,
    )  # fmt: skip


def agreements(rows: Sequence[Scored]) -> list[Agreement]:
    """Of every number, among all runs and among those of equal vocabulary and width."""
    held_out = np.array([row.held_out for row in rows])
    found = []
    for among, key in AMONG.items():
        keys = [key(row) for row in rows]
        compared = np.array([[one == other for other in keys] for one in keys])
        for number, value in NUMBERS.items():
            values = np.array([value(row) for row in rows])
            ordered = np.sign(values[:, None] - values) * np.sign(held_out[:, None] - held_out) * compared
            tau = kendall(values, held_out, compared, np.ones((1, len(rows))))[0]
            told = None if np.isnan(tau) else float(tau)
            same_order, pairs = int((ordered > 0).sum()) // 2, int((ordered != 0).sum()) // 2
            found.append(Agreement(number, among, pairs, same_order, told, interval(values, held_out, compared)))
    return found


def kendall(x: np.ndarray, y: np.ndarray, compared: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Kendall's tau-b [B] of samples in which run n stands `counts` [B, N] times, over the pairs that are `compared`
    [N, N]; NaN where all of them are ties. x, y: [N]. With all pairs compared it is scipy.stats.kendalltau.

    A pair of a run with itself, as bootstrap samples have it, is a tie of both and does not count.
    """
    x_signs, y_signs = (np.sign(values[:, None] - values) * compared for values in (x, y))
    agreeing, x_untied, y_untied = (
        np.einsum("bi,ij,bj->b", counts, matrix, counts, optimize=True)
        for matrix in (x_signs * y_signs, np.abs(x_signs), np.abs(y_signs))
    )
    with np.errstate(invalid="ignore"):
        return agreeing / np.sqrt(x_untied * y_untied)


def interval(x: np.ndarray, y: np.ndarray, compared: np.ndarray) -> tuple[float, float] | None:
    """The 95 % interval of tau by drawing the runs again; None where most samples have no pair to order."""
    rng = np.random.default_rng(0)
    counts = rng.multinomial(len(x), np.full(len(x), 1 / len(x)), SAMPLES).astype(np.float64)
    taus = kendall(x, y, compared, counts)
    taus = taus[~np.isnan(taus)]
    if len(taus) < SAMPLES / 2:
        return None
    low, high = np.quantile(taus, [0.025, 0.975])
    return float(low), float(high)


def table(rows: Sequence[Scored], found: Sequence[Agreement]) -> str:
    """The runs, shortest description first, and below how each number orders them."""
    widest = max(len("bits per byte of"), *(len(row.run) for row in rows))
    head = f"{'bits per byte of':<{widest}}{'symbols':>9}{'width':>7}{'parameters':>12}{'total':>9}{'data':>9}"
    lines = [f"{head}{'last tenth':>12}{'held out':>10}"]
    for row in sorted(rows, key=lambda row: row.total):
        lines.append(
            f"{row.run:<{widest}}{row.vocabulary:>9,}{row.width:>7,}{row.parameters:>12,}{row.total:>9.4f}{row.data:>9.4f}"
            f"{row.last_tenth:>12.4f}{row.held_out:>10.4f}"
        )
    by_total, by_held_out = (min(rows, key=key) for key in (NUMBERS["total description"], lambda row: row.held_out))
    rank = 1 + sum(row.held_out < by_total.held_out for row in rows)
    lines.append(
        f"\n{by_total.run} has the shortest description and, of {len(rows)} runs, place {rank} on the held-out text"
        + (f", {by_total.held_out - by_held_out.held_out:.4f} behind {by_held_out.run}." if rank > 1 else ".")
    )
    for among in AMONG:
        heading = f"Kendall's tau, {among}"
        lines.append(f"\n{heading:<44}{'tau':>8}{'95 % over runs':>20}{'pairs in order':>22}")
        for one in found:
            if one.among == among:
                lines.append(f"{one.number:<44}{agreement_text(one)}")
    return "\n".join(lines)


def agreement_text(one: Agreement) -> str:
    if one.tau is None:
        return f"{'-':>8}{'-':>20}{'none to order':>22}"
    span = f"{one.interval[0]:.2f} to {one.interval[1]:.2f}" if one.interval else "-"
    return f"{one.tau:>8.2f}{span:>20}{f'{one.same_order:,} of {one.pairs:,}':>22}"


def as_csv(file: str, rows: Sequence[Scored]) -> str:
    """A line a run, with the name of the held-out file before it."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["file", *(field.name for field in fields(Scored))])
    for row in rows:
        values = asdict(row).values()
        writer.writerow([file, *(f"{value:.6f}" if isinstance(value, float) else value for value in values)])
    return stream.getvalue()
