"""What it takes to tell two cells apart, and what runs kept of every token's cost in their verdicts and fits."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from finished_run import finished_cell
from scipy.stats import ttest_ind

from data.errors import UsageError
from data.lanes import Lanes
from studies.diff.evidence import half_width_bits
from studies.diff.power import MOST_TIMES, Needed, seeds_needed, spread_growth, times_for, times_needed
from studies.scaling.analysis import analyse
from studies.scaling.kept import all_lane_bits, interval_bits, lane_bits, other_texts
from studies.scaling.lines import lines_of
from studies.scaling.runs import load_runs
from studies.scaling.tables import compare_runs, comparison_text, law_text
from train.nats import NATS_FILE, SUMS_FILE

LANES = 16
TOKENS = 16 * 50


def keep_nats(run: Path, nats: np.ndarray, told: float = 1.0) -> None:
    """Let a made-up run have kept these nats of its TOKENS tokens; its ledger had `told` times as many."""
    np.save(run / NATS_FILE, nats.astype(np.float32))
    sums = nats.astype(np.float32).astype(np.float64).reshape(LANES, -1).sum(1) * told
    text = json.dumps({"format": 1, "tokens": TOKENS, "sha256": "", "lane_nats": sums.tolist()})
    (run / SUMS_FILE).write_text(text)


def cell(runs: Path, block: str, width: int, nats: np.ndarray, seed: int = 0) -> None:
    data_bytes = float(nats.astype(np.float32).sum(dtype=np.float64)) / math.log(2) / 8
    run = runs / f"{block}-{width}-{seed}"
    train = {"lanes": LANES, "segment_tokens": 10}
    finished_cell(run, data_bytes, width, 36 * width**2, block, seed=seed, noise=width, train=train)
    keep_nats(run, nats)


def text_nats(generator: np.random.Generator) -> np.ndarray:
    """Of tokens in parts of 50 that are easier and harder."""
    return np.repeat(generator.normal(4, 0.5, LANES), TOKENS // LANES) + generator.normal(0, 0.1, TOKENS)


def test_lanes_are_what_two_runs_are_compared_by(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    nats = text_nats(generator)
    lead = np.repeat(generator.normal(0.02, 0.01, LANES), TOKENS // LANES)
    cell(tmp_path, "attention", 32, nats)
    cell(tmp_path, "ssd", 32, nats + lead)
    comparison = compare_runs(load_runs(tmp_path))
    ((other, data, _),) = comparison.standing.others
    assert data.interval_from == "16 lanes, one seed each"
    expected = half_width_bits(lead.reshape(LANES, -1).sum(1) / math.log(2))
    assert data.interval_bits is not None and expected is not None
    assert (data.interval_bits[1] - data.interval_bits[0]) / 2 == pytest.approx(float(expected), rel=1e-3)
    assert (other.name, data.word) == ("ssd-32-0", "longer")
    assert comparison.standing.needed() == []


def test_what_is_not_shown_says_what_would_show_it(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    nats = text_nats(generator)
    cell(tmp_path, "attention", 32, nats)
    cell(tmp_path, "ssd", 32, nats + 0.001 + generator.normal(0, 0.05, TOKENS))
    alone = compare_runs(load_runs(tmp_path)).standing
    head, line = alone.needed()
    assert "80 % of cases" in head
    assert line.startswith("ssd-32-0: ") and "times the corpus (" in line and "seeds" not in line
    # Two seeds of one cell say how much seeds vary.
    for seed, noise in ((0, 1.0), (1, 1.002)):
        cell(tmp_path, "lstm", 32, 1.5 * noise * nats, seed)
    comparison = compare_runs(load_runs(tmp_path))
    line = next(line for line in comparison.standing.needed() if line.startswith("ssd"))
    assert " seeds each, or " in line
    assert line.split(": ")[1] in " ".join(comparison_text(comparison).split())


def test_nats_of_another_run_are_refused(tmp_path: Path) -> None:
    cell(tmp_path, "attention", 32, np.ones(TOKENS))
    keep_nats(tmp_path / "attention-32-0", np.ones(TOKENS), told=1.001)
    (run,) = load_runs(tmp_path)
    with pytest.raises(UsageError, match=r"nats\.json does not sum to the data bits of report\.json"):
        lane_bits(run)


def test_a_fit_says_what_other_text_would_change(tmp_path: Path) -> None:
    generator = np.random.default_rng(2)
    nats = text_nats(generator)
    widths = (16, 24, 32, 48, 64)
    for width in widths:
        own = np.repeat(generator.normal(1, 0.002, LANES), TOKENS // LANES)
        cell(tmp_path, "attention", width, nats * own * (0.5 + 0.5 * (width / 16) ** -0.6))
    lines = lines_of(load_runs(tmp_path))
    kept = all_lane_bits(lines[0].runs)
    assert kept is not None and kept.shape == (len(widths), LANES)
    found = analyse(lines)
    assert found is not None
    (result,) = found.results
    assert result.data.fit and result.data.other_text
    low, high = result.data.other_text
    assert low < result.data.fit.law.exponent < high
    assert high - low < 0.5
    assert "; other text: " in law_text(result.data.fit, result.data.other_text)
    # A run that kept nothing leaves the fit as it is.
    (tmp_path / "attention-16-0" / SUMS_FILE).unlink()
    bare = analyse(lines_of(load_runs(tmp_path)))
    assert bare is not None and bare.results[0].data.other_text is None


def test_intervals_add_up_to_lanes(tmp_path: Path) -> None:
    nats = text_nats(np.random.default_rng(3))
    cell(tmp_path, "attention", 32, nats)
    (run,) = load_runs(tmp_path)
    bits = interval_bits(run.directory)
    assert bits.shape == (Lanes(TOKENS, LANES, 10).steps, LANES)
    assert bits.sum(0) == pytest.approx(lane_bits(run), rel=1e-12)
    assert bits[2, 3] == pytest.approx(nats[3 * 50 + 20 : 3 * 50 + 30].sum() / math.log(2), rel=1e-6)


def test_other_texts_vary_as_lanes_do() -> None:
    bits = np.random.default_rng(4).normal(100, [[3], [5]], (2, 40))
    texts = other_texts(bits, 4000)
    assert texts.mean(0) == pytest.approx(bits.sum(1), rel=1e-2)
    assert texts.std(0) == pytest.approx(np.sqrt(40) * bits.std(1, ddof=1), rel=0.06)


@pytest.mark.parametrize("effect", [0.7, 1.5, 4.0])
def test_so_many_seeds_show_a_difference_in_four_of_five_cases(effect: float) -> None:
    generator = np.random.default_rng(5)
    count = int(seeds_needed(effect, 1.0))

    def power(seeds: int) -> float:
        first, second = generator.normal([0], 1, (4000, seeds)), generator.normal([effect], 1, (4000, seeds))
        return float((ttest_ind(first, second, axis=1).pvalue < 0.05).mean())

    assert power(count) > 0.78
    assert count == 2 or power(count - 1) < 0.82


def test_no_number_of_seeds_shows_what_is_not_there() -> None:
    assert seeds_needed(0.0, 1.0) == math.inf
    assert seeds_needed(1.0, 0.0) == 2
    assert Needed(math.inf, None).text(1) == "more than 1,000 seeds"
    assert Needed(None, None).text(1) == ""
    assert Needed(3, 2.5).text(4_000_000) == "3 seeds each, or 2.5 times the corpus (10.0 MB)"
    assert Needed(None, math.inf).text(1) == "more than 1,000 times the corpus"


@pytest.mark.parametrize(("difference", "growth"), [(10.0, 0.5), (30.0, 0.5), (30.0, 0.8)])
def test_so_long_a_corpus_shows_a_difference_in_four_of_five_cases(difference: float, growth: float) -> None:
    lanes, error = 32, 25.0
    times = times_for(difference, error, lanes, growth)
    assert 1 < times < MOST_TIMES
    # What lanes of so many times the length save.
    spread = error / np.sqrt(lanes) * times**growth
    saved = np.random.default_rng(6).normal(difference * times / lanes, spread, (4000, lanes))
    half = half_width_bits(saved)
    assert half is not None
    assert (np.abs(saved.sum(1)) > half).mean() == pytest.approx(0.8, abs=0.03)


def test_how_the_spread_of_a_difference_grows() -> None:
    generator = np.random.default_rng(7)
    apart = generator.normal(0, 1, (64, 2000))
    assert spread_growth(apart) == pytest.approx(0.5, abs=0.05)
    # Each lane has a difference of its own, which more of the same lanes do not average out.
    assert spread_growth(np.repeat(generator.normal(0, 1, (1, 2000)), 64, 0)) == pytest.approx(1.0)
    lasting = np.repeat(generator.normal(0.01, 1, (1, 16)), 64, 0)
    assert times_needed(lasting) == math.inf
    assert times_needed(lasting[:, :4]) is None
    assert times_needed(np.full((8, 16), 1.0)) == 1.0
