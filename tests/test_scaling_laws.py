"""The arithmetic of scaling, against curves whose laws, crossings and minima are known by construction."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import UsageError
from studies.scaling.laws import PowerLaw, crossings, fit, fit_power_law, minimum, predict_largest
from studies.scaling.plots import round_ticks

LAW = PowerLaw(5e6, 1.6e8, 0.35)
SIZES = np.geomspace(5e4, 5e6, 5)


def noisy(sizes: np.ndarray, seed: int, spread: float = 0.002) -> np.ndarray:
    return LAW.bits(sizes) * np.exp(spread * np.random.default_rng(seed).standard_normal(len(sizes)))


def test_a_known_law_is_recovered() -> None:
    law = fit_power_law(SIZES, LAW.bits(SIZES))
    assert (law.floor_bits, law.scale_bits, law.exponent) == pytest.approx((5e6, 1.6e8, 0.35), rel=1e-6)
    found = fit(SIZES, noisy(SIZES, 0, 1e-4), samples=50)
    assert (found.law.floor_bits, found.law.exponent) == pytest.approx((5e6, 0.35), rel=0.01)
    assert found.error == pytest.approx(1e-4, rel=0.9)


@settings(max_examples=40, deadline=None)
@given(
    floor=st.floats(0.0, 5.0),
    fall=st.floats(0.05, 5.0),
    exponent=st.floats(0.1, 1.5),
    unit=st.sampled_from([1.0, 1e6, 1e12]),
    first=st.floats(1e2, 1e7),
)
def test_any_law_is_followed(floor: float, fall: float, exponent: float, unit: float, first: float) -> None:
    sizes = first * np.array([1.0, 2.0, 5.0, 12.0, 40.0])
    truth = PowerLaw(floor * unit, fall * unit * first**exponent, exponent)
    law = fit_power_law(sizes, truth.bits(sizes))
    assert law.floor_bits >= 0
    assert law.scale_bits > 0
    assert law.exponent > 0
    np.testing.assert_allclose(law.bits(sizes), truth.bits(sizes), rtol=1e-4)


def test_without_a_floor_the_floor_is_nothing() -> None:
    truth = PowerLaw(0.0, 1e8, 0.2)
    law = fit_power_law(SIZES, truth.bits(SIZES))
    assert law.floor_bits < 1e-3 * truth.bits(SIZES).min()
    assert law.exponent == pytest.approx(0.2, rel=1e-3)


@pytest.mark.parametrize(("sizes", "seeds"), [(SIZES, 1), (np.geomspace(5e4, 5e6, 4), 1), (SIZES[1:], 3)])
def test_the_intervals_cover_the_truth(sizes: np.ndarray, seeds: int) -> None:
    """19 of 20 would be 95 %; a plain bootstrap of the residuals of 4 cells covers 65 %."""
    cells = np.repeat(sizes, seeds)
    covered = np.zeros(2)
    for seed in range(40):
        found = fit(cells, noisy(cells, seed), samples=100)
        for at, (low, high), truth in (
            (0, found.floor_interval, LAW.floor_bits),
            (1, found.exponent_interval, LAW.exponent),
        ):
            covered[at] += low <= truth <= high
    assert (covered >= 34).all(), covered


def test_the_largest_is_predicted_by_the_others() -> None:
    inside = 0
    for seed in range(40):
        found = predict_largest(SIZES, noisy(SIZES, seed), samples=100)
        assert found.size == SIZES[-1]
        assert found.measured_bits == noisy(SIZES, seed)[-1]
        assert found.predicted_bits == pytest.approx(LAW.bits(5e6), rel=0.03)
        assert found.interval_bits is not None
        inside += found.interval_bits[0] <= found.measured_bits <= found.interval_bits[1]
    assert inside >= 34


def test_a_law_through_three_measurements_predicts_without_an_interval() -> None:
    sizes = SIZES[:4]
    found = predict_largest(sizes, LAW.bits(sizes))
    assert found.predicted_bits == pytest.approx(LAW.bits(sizes[-1]), rel=1e-6)
    assert found.interval_bits is None
    twice = np.repeat(sizes, 2)
    assert predict_largest(twice, noisy(twice, 0), samples=20).interval_bits is not None


def test_the_same_numbers_every_time() -> None:
    assert fit(SIZES, noisy(SIZES, 1), 30) == fit(SIZES, noisy(SIZES, 1), 30)
    assert predict_largest(SIZES, noisy(SIZES, 1), 30) == predict_largest(SIZES, noisy(SIZES, 1), 30)


def test_too_few_widths_are_refused_with_the_reason() -> None:
    three = SIZES[:3]
    with pytest.raises(ValueError, match="needs 4 widths or more, and there are 3"):
        fit(three, LAW.bits(three))
    seeds = np.repeat(three, 4)
    with pytest.raises(ValueError, match="there are 3"):
        fit(seeds, noisy(seeds, 0))
    with pytest.raises(ValueError, match="takes 3 widths to predict another, and there are 2"):
        predict_largest(three, LAW.bits(three))


@pytest.mark.parametrize(
    ("bits", "why"),
    [
        ([5.0, 6.0, 7.0, 8.0, 9.0], "does not fall"),
        ([7.0, 7.0, 7.0, 7.0, 7.0], "does not fall"),
        ([9.0, 8.0, 7.5, 7.6, 8.1], "rises again beyond 500,000 parameters"),
        ([9.0, 7.0, 7.0, 7.0, 7.0], "falls between the smallest widths and not after"),
    ],
)
def test_what_is_no_power_law_is_refused_with_the_reason(bits: list[float], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        fit(SIZES, np.array(bits))


def test_a_little_noise_on_a_plateau_is_no_rise() -> None:
    fit(SIZES, np.array([9.0, 8.0, 7.5, 7.2, 7.25]), samples=10)


def straight(exponent: float, at: float, bits: float, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A line in log-log through one point."""
    return sizes, bits * (sizes / at) ** -exponent


def test_a_crossing_is_found_where_it_was_made() -> None:
    steep = straight(0.3, 2e5, 700.0, np.geomspace(1e4, 1e6, 5))
    flat = straight(0.1, 2e5, 700.0, np.geomspace(2e4, 4e6, 4))
    found = crossings(flat, steep)
    assert found is not None
    (crossing,), common = found
    assert (crossing.size, crossing.bits) == pytest.approx((2e5, 700.0))
    assert crossing.first_below
    assert common == pytest.approx((2e4, 1e6))
    mirrored = crossings(steep, flat)
    assert mirrored is not None
    assert mirrored[0][0].size == pytest.approx(2e5)
    assert not mirrored[0][0].first_below


def test_crossings_that_are_none_are_told_apart() -> None:
    sizes = np.array([1.0, 2, 4, 8])
    bits = np.array([8.0, 7, 6, 5])
    above = crossings((sizes, bits + 1), (sizes, bits))
    assert above == ([], (1.0, 8.0))
    # They touch and part again.
    assert crossings((sizes, bits + np.array([1, 0, 1, 1])), (sizes, bits)) == ([], (1.0, 8.0))
    assert crossings((sizes, bits), (sizes, bits)) is None
    assert crossings((sizes, bits), (10 * sizes, bits)) is None
    # One size in common.
    assert crossings((sizes, bits), (8 * sizes, bits)) == ([], (8.0, 8.0))


def test_two_crossings_and_one_at_a_measurement() -> None:
    sizes = np.array([1.0, 2, 4, 8, 16])
    flat = np.full(5, 8.0)
    found = crossings((sizes, np.array([9.0, 7, 9, 9, 9])), (sizes, flat))
    assert found is not None
    assert [crossing.first_below for crossing in found[0]] == [False, True]
    assert 1 < found[0][0].size < 2 < found[0][1].size < 4
    through = crossings((sizes, np.array([9.0, 8.5, 8, 7, 6])), (sizes, flat))
    assert through is not None
    assert [(crossing.size, crossing.bits) for crossing in through[0]] == [pytest.approx((4.0, 8.0))]


def test_the_minimum_of_a_parabola_in_log_width() -> None:
    widths = np.array([64.0, 128, 256, 512])
    bits = 1000 + 30 * np.log(widths / 200) ** 2
    found = minimum(widths, bits)
    assert (found.size, found.bits, found.edge) == (256, bits[2], "")
    assert (found.parabola_size, found.parabola_bits) == pytest.approx((200.0, 1000.0))


def test_a_minimum_at_the_end_says_so() -> None:
    widths = np.array([64.0, 128, 256])
    assert minimum(widths, np.array([3.0, 2, 1])).edge == "largest"
    assert minimum(widths, np.array([1.0, 2, 3])).edge == "smallest"
    assert minimum(widths, np.array([1.0, 2, 3])).parabola_size is None
    # A tie with a neighbor is inside, with a parabola between the two.
    tie = minimum(widths, np.array([3.0, 1, 1]))
    assert tie.parabola_size == pytest.approx(128 * 2**0.5)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (540, 710, [550, 600, 650, 700]),
        (0.9, 1.3, [0.9, 1.0, 1.1, 1.2, 1.3]),
        (80, 2500, [100, 200, 500, 1000, 2000]),
        (2e11, 3e15, [1e12, 1e13, 1e14, 1e15]),
    ],
)
def test_ticks_of_logarithmic_axes_are_round(low: float, high: float, ticks: list[float]) -> None:
    assert round_ticks(low, high, 6) == pytest.approx(ticks)


def test_a_law_whose_exponent_is_anywhere_is_not_identified() -> None:
    """Four widths of an LSTM over the King James Bible: a table said N^-0.37, from 0.05 to 19.99."""
    sizes = np.array([32_800.0, 67_632.0, 114_752.0, 174_160.0])
    bits = np.array([8_602_890.0, 8_118_207.0, 7_783_068.0, 7_624_585.0])
    with pytest.raises(UsageError, match=r"^not identified: the 95 % interval of the exponent (ends|spans)"):
        fit(sizes, bits)
    # The prediction of the largest has an interval of its own, of lengths.
    assert predict_largest(sizes, bits).measured_bits == bits[-1]


def test_coefficients_are_identified_one_by_one() -> None:
    exact = fit(SIZES, PowerLaw(4e6, 1e9, 0.5).bits(SIZES))
    assert exact.floor_interval is not None
    assert exact.scale_interval is not None
    noisy_floor = fit(
        np.repeat(SIZES, 6), np.concatenate([noisy(SIZES, seed, 0.01) for seed in range(6)]).reshape(6, -1).T.ravel()
    )
    for interval in (noisy_floor.floor_interval, noisy_floor.scale_interval):
        assert interval is None or interval[1] <= 10 * interval[0]
