"""Agreement of orders is Kendall's tau, and pairs are those that are asked for."""

import csv
import io
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import kendalltau

from eval.plots import LIGHT, png, use_style
from studies.generalisation.correlation import ScoredRun, agreements, kendall, rows_csv, table
from studies.generalisation.plots import draw_agreement


def row(
    name: str, total: float, held_out: float, width: int = 32, block: str = "ssd", vocabulary: int = 257
) -> ScoredRun:
    return ScoredRun(name, block, vocabulary, width, 0, 100 * width, total, total - 0.1, total - 0.5, held_out)


def test_tau_is_that_of_scipy_and_repeated_runs_are_ties() -> None:
    rng = np.random.default_rng(3)
    all_pairs = np.ones((12, 12))
    for levels in (4, 1000):
        x, y = rng.integers(0, levels, (2, 12)).astype(float)
        counts = rng.multinomial(12, np.full(12, 1 / 12), 5).astype(float)
        for tau, count in zip(kendall(x, y, all_pairs, counts), counts.astype(int), strict=True):
            assert tau == pytest.approx(kendalltau(np.repeat(x, count), np.repeat(y, count)).statistic)
    assert np.isnan(kendall(np.zeros(12), y, all_pairs, np.ones((1, 12)))[0])


def test_width_may_make_all_the_agreement_that_there_is() -> None:
    """Wider is shorter and better; within a width the shorter is the worse."""
    rows = [row("a", 2.0, 1.6, 64), row("b", 2.1, 1.5, 64), row("c", 3.0, 2.6), row("d", 3.1, 2.5)]
    found = {(one.number, one.among): one for one in agreements(rows)}
    overall, within = (found["total description", among] for among in ("all runs", "equal vocabulary and width"))
    assert (overall.same_order, overall.pairs, overall.tau) == (4, 6, pytest.approx(1 / 3))
    assert (within.same_order, within.pairs, within.tau) == (0, 2, -1)
    assert overall.interval is not None
    assert overall.interval[0] < 0 < overall.interval[1]
    # Two pairs of runs have the same width: they cannot be put in order.
    assert (found["greater width", "all runs"].same_order, found["greater width", "all runs"].pairs) == (4, 4)
    assert found["greater width", "equal vocabulary and width"].tau is None
    # Another vocabulary is another group.
    alone = agreements([*rows[:1], replace(rows[1], vocabulary=1024), *rows[2:]])
    assert [one.pairs for one in alone if one.among != "all runs" and one.number == "total description"] == [1]


def test_tables_and_figures_hold_every_run() -> None:
    rows = [row("ssd-32", 3.0, 2.6), row("lstm-32", 2.9, 2.7, block="lstm"), row("ssd-64", 2.4, 2.2, 64)]
    found = agreements(rows)
    text = table(rows, found)
    assert [line.split()[0] for line in text.splitlines()[1:4]] == ["ssd-64", "lstm-32", "ssd-32"]
    assert "ssd-64 has the shortest description and, of 3 runs, place 1 on the held-out text." in text
    worse = [replace(rows[2], held_out=2.65), *rows[:2]]
    assert "place 2 on the held-out text, 0.0500 behind ssd-32." in table(worse, agreements(worse))
    read = list(csv.DictReader(io.StringIO(rows_csv("new.txt", rows))))
    assert [(one["file"], one["run"], float(one["held_out"])) for one in read] == [
        ("new.txt", one.run, one.held_out) for one in rows
    ]
    mixed = [*rows, row("bytes", 2.5, 2.3, vocabulary=1024)]
    for some in (rows, rows[:2], mixed):
        with use_style(LIGHT):
            assert png(draw_agreement(some, agreements(some), "new.txt", LIGHT))[:4] == b"\x89PNG"
