"""Codes that use several models: their lengths are those of sums over all ways to choose, written out."""

import itertools
import math

import numpy as np
import pytest

from studies.mixture.codes import (
    RATES,
    TokenSwitch,
    likeliest_path,
    mixture_nats,
    share,
    switch_rates,
    token_switch,
)

STEPS, MODELS = 5, 3


@pytest.fixture
def nats() -> np.ndarray:
    """[n, K]. The first model is the best at the start, the last at the end."""
    random = np.random.default_rng(0)
    drift = np.linspace(0, 3, STEPS)[:, None] * np.array([1.0, 0.4, -0.5])
    return random.exponential(1.0, (STEPS, MODELS)) + drift + 2


def enumerate_paths(nats: np.ndarray, rates: np.ndarray) -> dict[tuple[int, ...], float]:
    """Probability of the corpus and of each path together, by definition: before each step the model stays, or with
    probability `rates` it is drawn again from all alike."""
    found = {}
    for path in itertools.product(range(MODELS), repeat=STEPS):
        probability = 1 / MODELS
        for step, model in enumerate(path):
            if step:
                probability *= rates[step] / MODELS + (1 - rates[step]) * (model == path[step - 1])
            probability *= math.exp(-nats[step, model])
        found[path] = probability
    return found


@pytest.mark.parametrize("rates", [switch_rates(STEPS), np.full(STEPS, 0.25), np.zeros(STEPS)], ids=["1/t", "1/4", "0"])
def test_a_switching_code_sums_over_all_paths(nats: np.ndarray, rates: np.ndarray) -> None:
    paths, code = enumerate_paths(nats, rates), share(nats, rates)
    assert code.nats == pytest.approx(-math.log(sum(paths.values())), rel=1e-12)
    assert code.step_nats.sum() == pytest.approx(code.nats, rel=1e-12)
    assert np.allclose(code.weights.sum(1), 1)
    assert tuple(likeliest_path(nats, rates)) == max(paths, key=paths.__getitem__)


def test_the_mixture_is_at_most_log_k_longer_than_the_best(nats: np.ndarray) -> None:
    best, mixture = nats.sum(0).min(), mixture_nats(nats.sum(0))
    assert mixture == pytest.approx(share(nats, np.zeros(STEPS)).nats, rel=1e-12)
    assert mixture <= best + math.log(MODELS)
    # Sums of real corpora are beyond what exp can hold.
    assert mixture_nats(np.array([1e6, 1e6 + 800.0])) == pytest.approx(1e6 + math.log(2))


def test_the_switch_costs_little_where_nothing_is_to_be_switched() -> None:
    steps = 1000
    nats = np.tile([2.0, 3.0], (steps, 1))
    assert 0 < share(nats, switch_rates(steps)).nats - 2.0 * steps <= math.log(2) + math.log(steps)


def test_the_switch_catches_up_sooner_than_the_mixture() -> None:
    nats = np.repeat([[1.0, 2.0], [2.0, 1.0]], 500, 0)
    mixture, switch = share(nats, np.zeros(1000)), share(nats, switch_rates(1000))
    assert switch.nats < mixture.nats - 450
    assert (likeliest_path(nats, switch_rates(1000)) == np.repeat([0, 1], 500)).all()
    # The mixture believes in the second model only when that has paid back what it owed.
    assert switch.weights[520, 1] > 0.99 > 0.01 > mixture.weights[520, 1]


def test_a_switch_at_every_token_is_a_code() -> None:
    """Lanes of 3, 3 and 2 tokens in steps of 2 and 1: what all corpora of 3 symbols cost sums to 1, by any rate."""
    random = np.random.default_rng(1)
    # Each model's probabilities of 2 symbols, given everything before in the lane.
    tables = random.dirichlet(np.ones(2), (MODELS, 3, 3))
    total = np.zeros(len(RATES))
    for corpus in itertools.product(range(2), repeat=8):
        lanes = [corpus[0:3], corpus[3:6], (*corpus[6:8], None)]
        block = np.full((MODELS, 3, 3), np.nan)
        for (lane, symbols), model in itertools.product(enumerate(lanes), range(MODELS)):
            for place, symbol in enumerate(symbols):
                if symbol is not None:
                    block[model, lane, place] = -math.log(tables[model, lane, place, symbol])
        switch = TokenSwitch(MODELS, 3)
        for part in (block[..., :2], block[..., 2:]):
            switch.code(part)
        total += np.exp(-switch.nats)
    assert total == pytest.approx(np.ones(len(RATES)), rel=1e-12)


def test_the_tokens_of_a_step_cost_what_they_cost_one_by_one() -> None:
    """With one lane and uniform draws, the switch at every token is the same code as the switch between steps of one
    token, except for what the lanes draw from: here it stays uniform, because there is one step."""
    nats = np.random.default_rng(2).exponential(1.0, (40, MODELS))
    switch = TokenSwitch(MODELS, 1)
    step_nats, means = switch.code(nats.T[:, None, :])
    for rate, length in zip(RATES, switch.nats, strict=True):
        assert length == pytest.approx(share(nats, np.full(40, rate)).nats, rel=1e-9)
    assert step_nats == pytest.approx(switch.nats)
    assert np.allclose(means.sum(1), 1)


def test_the_best_rate_is_found_and_paid_for() -> None:
    """Two models that take turns of 64 tokens: no rate of them is told to the code."""
    turns = np.repeat(np.arange(64) % 2, 64)
    nats = np.where(turns == np.arange(2)[:, None], 0.2, 3.0)
    blocks = nats.reshape(2, 1, 64, 64).transpose(2, 0, 1, 3)
    code, rate, own = token_switch(blocks, 2, 1)
    assert own.sum(0) == pytest.approx(nats.sum(1))
    assert rate in (1 / 32, 1 / 64, 1 / 128)
    assert code.step_nats.sum() <= code.nats <= code.step_nats.sum() + math.log(len(RATES))
    assert code.nats < nats.sum(1).min() / 4
