"""Does the shorter description predict the better model? Runs by what they took in training and on held-out text.

Agreement is Kendall's tau: of all pairs of runs, the share that both numbers put in the same order less the share that
they do not. Shapes: `N` runs, `B` bootstrap samples.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from eval.layout import csv_text, lay_out
from studies.scaling.laws import Interval, interval_of
from studies.scaling.runs import ComparedRun

SAMPLES = 2000


@dataclass(frozen=True)
class ScoredRun:
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
    many of the pairs. Both are None where no pair can be ordered."""

    number: str
    among: str
    pairs: int
    same_order: int
    tau: float | None
    interval: Interval | None


# What is compared with the held-out rate. Width is the rival that needs no training at all.
NUMBERS: dict[str, Callable[[ScoredRun], float]] = {
    "total description": lambda row: row.total,
    "data alone": lambda row: row.data,
    "last tenth of training": lambda row: row.last_tenth,
    "greater width": lambda row: -row.width,
}
# Which pairs of runs are compared: those for which this is equal.
AMONG: dict[str, Callable[[ScoredRun], Any]] = {
    "all runs": lambda row: None,
    "equal vocabulary and width": lambda row: (row.vocabulary, row.width),
}


def score_run(run: ComparedRun, held_out: float) -> ScoredRun:
    length = run.report.description_length
    return ScoredRun(
        run.name, run.block, run.vocabulary, run.width, run.seed, run.parameters, length.bits_per_byte,
        length.data_bits_per_byte, run.curve.last_rate(), held_out,
    )  # fmt: skip


def agreements(rows: Sequence[ScoredRun]) -> list[Agreement]:
    """Of every number, among all runs and among those of equal vocabulary and width."""
    held_out = np.array([row.held_out for row in rows])
    found = []
    for among, key in AMONG.items():
        keys = [key(row) for row in rows]
        compared = np.array([[one == other for other in keys] for one in keys])
        for number, value in NUMBERS.items():
            values = np.array([value(row) for row in rows])
            ordered = np.sign(values[:, None] - values) * np.sign(held_out[:, None] - held_out) * compared
            same_order, pairs = int((ordered > 0).sum()) // 2, int((ordered != 0).sum()) // 2
            tau = float(kendall(values, held_out, compared, np.ones((1, len(rows))))[0])
            span = tau_interval(values, held_out, compared)
            found.append(Agreement(number, among, pairs, same_order, None if np.isnan(tau) else tau, span))
    return found


def kendall(x: np.ndarray, y: np.ndarray, compared: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Kendall's tau-b [B] of samples that contain run n `counts` [B, N] times, over the pairs that are `compared`
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


def tau_interval(x: np.ndarray, y: np.ndarray, compared: np.ndarray) -> Interval | None:
    """The 95 % interval of tau by drawing the runs again; None where most samples have no pair to order.

    By how often each run is drawn, all samples are three products of matrices; scipy.stats.bootstrap would order the
    pairs of each sample anew.
    """
    rng = np.random.default_rng(0)
    counts = rng.multinomial(len(x), np.full(len(x), 1 / len(x)), SAMPLES).astype(np.float64)
    taus = kendall(x, y, compared, counts)
    taus = taus[~np.isnan(taus)]
    return None if len(taus) < SAMPLES / 2 else interval_of(taus)


def table(rows: Sequence[ScoredRun], found: Sequence[Agreement]) -> str:
    """The runs, shortest description first, and below how each number orders them."""
    widest = max(len("bits per byte of"), *(len(row.run) for row in rows))
    head = ("bits per byte of", "symbols", "width", "parameters", "total", "data", "last tenth", "held out")
    cells: list[tuple[str, ...]] = [head]
    for row in sorted(rows, key=lambda row: row.total):
        rates = (f"{rate:.4f}" for rate in (row.total, row.data, row.last_tenth, row.held_out))
        cells.append((row.run, f"{row.vocabulary:,}", f"{row.width:,}", f"{row.parameters:,}", *rates))
    lines = lay_out(cells, f"<{widest}", ">9", ">7", ">12", ">9", ">9", ">12", ">10")
    shortest, best = min(rows, key=lambda row: row.total), min(rows, key=lambda row: row.held_out)
    rank = 1 + sum(row.held_out < shortest.held_out for row in rows)
    lines.append(
        f"\n{shortest.run} has the shortest description and, of {len(rows)} runs, place {rank} on the held-out text"
        + (f", {shortest.held_out - best.held_out:.4f} behind {best.run}." if rank > 1 else ".")
    )
    for among in AMONG:
        names = (f"Kendall's tau, {among}", "tau", "95 % over runs", "pairs in order")
        taus = [(one.number, *agreement_cells(one)) for one in found if one.among == among]
        lines += ["", *lay_out([names, *taus], "<44", ">8", ">20", ">22")]
    return "\n".join(lines)


def agreement_cells(one: Agreement) -> tuple[str, str, str]:
    if one.tau is None:
        return "-", "-", "none to order"
    span = f"{one.interval[0]:.2f} to {one.interval[1]:.2f}" if one.interval else "-"
    return f"{one.tau:.2f}", span, f"{one.same_order:,} of {one.pairs:,}"


def rows_csv(file: str, rows: Sequence[ScoredRun]) -> str:
    """A line a run, with the name of the held-out file before it."""
    values = ({"file": file} | asdict(row) for row in rows)
    return csv_text([{n: f"{v:.6f}" if isinstance(v, float) else v for n, v in row.items()} for row in values])
