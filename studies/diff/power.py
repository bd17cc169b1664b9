"""What it would take to tell two cells apart, at the difference that was seen: seeds of each, or a longer corpus.

Both for a two-sided test at 5 % that finds the difference in 80 % of cases. Seeds: Student's two-sample test, whose
power is that of the noncentral t distribution (J. Cohen, "Statistical Power Analysis for the Behavioral Sciences",
1988). A corpus: the difference grows with its length, and the spread of the difference over the lanes grows with a
power of it that the runs show; it is 1/2 for parts of the corpus that have nothing to do with each other.

Shapes: `K` intervals of the epoch, `R` lanes.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.stats import nct, norm
from scipy.stats import t as student

from studies.diff.evidence import LEAST_BLOCKS, LEVEL

POWER = 0.8
MOST_SEEDS = 1000
MOST_TIMES = 1000.0


@dataclass(frozen=True)
class Needed:
    """Seeds of each of two cells, and how many times the corpus, with which their data terms could be told apart; None
    where the runs do not say. More than MOST_SEEDS or MOST_TIMES is infinity."""

    seeds: float | None
    times: float | None

    def text(self, corpus_bytes: int) -> str:
        """ "4 seeds each, or 2.3 times the corpus (10.5 MB)"; empty if nothing is known."""
        parts = []
        if self.seeds is not None:
            parts.append(f"more than {MOST_SEEDS:,} seeds" if np.isinf(self.seeds) else f"{self.seeds:.0f} seeds each")
        if self.times is not None:
            size = f"{self.times:.1f} times the corpus ({self.times * corpus_bytes / 1e6:,.1f} MB)"
            parts.append(f"more than {MOST_TIMES:,.0f} times the corpus" if np.isinf(self.times) else size)
        return ", or ".join(parts)


def seeds_needed(difference: float, spread: float) -> float:
    """Seeds of each of two cells, whose seeds have this standard deviation; infinity beyond MOST_SEEDS."""
    for count in range(2, MOST_SEEDS + 1):
        freedom, shift = 2 * count - 2, abs(difference) / spread * np.sqrt(count / 2) if spread else np.inf
        limit = student.ppf((1 + LEVEL) / 2, freedom)
        if np.isinf(shift) or nct.sf(limit, freedom, shift) + nct.cdf(-limit, freedom, shift) >= POWER:
            return float(count)
    return np.inf


def spread_growth(saved_bits: np.ndarray) -> float:
    """With which power of the length the spread grows of what is saved [K, R] over the lanes: by least squares in the
    logarithms, from a quarter of the epoch on, between 0 and 1."""
    spread = saved_bits.cumsum(0).std(1, ddof=1)
    places = np.arange(1, len(spread) + 1)
    late = (places >= len(spread) / 4) & (spread > 0)
    if late.sum() < 2:
        return 0.5
    slope = np.polyfit(np.log(places[late]), np.log(spread[late]), 1)[0]
    return float(np.clip(slope, 0.0, 1.0))


def times_needed(saved_bits: np.ndarray) -> float | None:
    """How many times the corpus, from what is saved in each interval and lane [K, R]; None for too few lanes, infinity
    beyond MOST_TIMES."""
    lanes = saved_bits.shape[1]
    if lanes < LEAST_BLOCKS:
        return None
    error = np.sqrt(lanes) * saved_bits.sum(0).std(ddof=1)
    return times_for(abs(float(saved_bits.sum())), float(error), lanes, spread_growth(saved_bits))


def times_for(difference: float, error: float, lanes: int, growth: float) -> float:
    """The same from a difference, its standard error, and the power by which that grows."""
    wanted = (student.ppf((1 + LEVEL) / 2, lanes - 1) + norm.ppf(POWER)) * error
    if difference >= wanted:
        return 1.0
    if growth >= 1 or not difference:
        return np.inf
    log_times = np.log(wanted / difference) / (1 - growth)
    return float(np.exp(log_times)) if log_times <= np.log(MOST_TIMES) else np.inf


def seed_spread(cells: Iterable[np.ndarray]) -> float | None:
    """The standard deviation of a seed's data bits, as a part of them, pooled over all cells of two seeds or more, from
    the data bits [seeds] of each. None without any."""
    squares, freedom = 0.0, 0
    for seeds in cells:
        squares += float(((seeds / seeds.mean() - 1) ** 2).sum())
        freedom += len(seeds) - 1
    return float(np.sqrt(squares / freedom)) if freedom else None
