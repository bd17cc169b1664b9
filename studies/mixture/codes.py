"""Codes that use several models at once, and how much each of them counts as the corpus grows.

Each code is a probability of the whole corpus, summed exactly over all ways to choose a model, by dynamic programming
(van Erven, Grünwald & de Rooij 2012, "Catching up faster by switching sooner", arXiv:0807.1005, section 2.3). Weights
before a symbol depend on nothing except what was coded before it, so a decoder that trains the same models has them.

Shapes: `K` models, `n` steps of training, `R` lanes, `T` tokens of a lane in a step, `A` rates.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

# A token-level code takes the mean of these, weighted by what they come to: a switch in 2 to 4,096 tokens.
RATES = 2.0 ** -np.arange(1, 13)


@dataclass(frozen=True)
class Code:
    """A code's length in nats; the nats [n] of each step, which may be those of one of several codes that it is the
    mixture of; and the weights [n, K] that the models had, before a step or on average within it."""

    nats: float
    step_nats: np.ndarray
    weights: np.ndarray


def log_sum(values: np.ndarray) -> np.ndarray:
    """log sum exp over the last axis."""
    highest = values.max(-1, keepdims=True)
    return highest[..., 0] + np.log(np.exp(values - highest).sum(-1))


def mixture_nats(nats: np.ndarray) -> float:
    """The Bayesian mixture of models that take `nats` [K] for the whole corpus: at most log K more than the best."""
    return float(np.log(len(nats)) - log_sum(-nats))


def switch_rates(steps: int) -> np.ndarray:
    """1/t before step t [n], counted from 1: a switch grows less likely as evidence grows. Never to switch, as one
    model would, has probability 1/n (van Erven et al. 2012, section 2.2, with their prior 1/(t (t + 1)))."""
    return 1 / np.arange(1, steps + 1)


def share(nats: np.ndarray, rates: np.ndarray) -> Code:
    """Before each step, with probability `rates` [n], the model is drawn again, each of K alike. `nats` are [n, K].

    Fixed share of Herbster & Warmuth (1998, "Tracking the best expert") with a rate for each step; zero rates are the
    Bayesian mixture.
    """
    steps, models = nats.shape
    log_weights = np.full(models, -np.log(models))
    step_nats, weights = np.empty(steps), np.empty((steps, models))
    for step in range(steps):
        stay = np.log1p(-rates[step]) + log_weights if rates[step] < 1 else np.full(models, -np.inf)
        log_weights = np.logaddexp(stay, np.log(rates[step] / models)) if rates[step] else log_weights
        weights[step] = np.exp(log_weights)
        joint = log_weights - nats[step]
        step_nats[step] = -log_sum(joint)
        log_weights = joint + step_nats[step]
    return Code(float(step_nats.sum()), step_nats, weights)


def likeliest_path(nats: np.ndarray, rates: np.ndarray) -> np.ndarray:
    """The model [n] of each step on the one path that is likeliest given the corpus, by the same prior as `share`
    (Viterbi 1967)."""
    steps, models = nats.shape
    came_from = np.empty((steps, models), np.int32)
    lengths = np.full(models, np.log(models))
    for step in range(steps):
        best = int(lengths.argmin())
        with np.errstate(divide="ignore"):
            stay = lengths - np.log(1 - rates[step] + rates[step] / models)
            move = lengths[best] - np.log(rates[step] / models)
        came_from[step] = np.where(stay <= move, np.arange(models), best)
        lengths = np.minimum(stay, move) + nats[step]
    path = np.empty(steps, np.int32)
    model = int(lengths.argmin())
    for step in reversed(range(steps)):
        path[step] = model
        model = came_from[step, model]
    return path


@dataclass
class TokenSwitch:
    """A switch at any token: each lane has weights of its own, which change with each of its tokens.

    Before a token, a lane's model is drawn again with probability `rate`: half of the draws are uniform, half follow
    the mean of all lanes' weights at the end of the step before. `nats` [A] is what each rate has come to.
    """

    models: int
    lanes: int

    def __post_init__(self) -> None:
        self.nats = np.zeros(len(RATES))
        self.weights = np.full((len(RATES), self.lanes, self.models), 1 / self.models)
        self.drawn = np.full((len(RATES), 1, self.models), 1 / self.models)

    def code(self, block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Code the tokens of one step, whose nats are `block` [K, R, T]; NaN is no token. Returns its nats [A], and the
        mean weights [A, K] over it."""
        rates, weights = RATES[:, None, None], self.weights
        nats, means = np.zeros(len(RATES)), np.zeros((len(RATES), self.models))
        there = ~np.isnan(block[0])
        # [T, R, K]
        likelihoods = np.exp(-np.nan_to_num(block)).transpose(2, 1, 0)
        for token, likelihood in enumerate(likelihoods):
            weights = (1 - rates) * weights + rates * self.drawn
            means += weights.mean(1)
            joint = weights * likelihood
            total = joint.sum(-1, keepdims=True)
            weights = joint / total
            nats -= np.log(total[..., 0]).sum(1, where=there[:, token])
        self.weights, self.nats = weights, self.nats + nats
        self.drawn = (weights.mean(1, keepdims=True) + 1 / self.models) / 2
        return nats, means / block.shape[2]


def token_switch(blocks: Iterable[np.ndarray], models: int, lanes: int) -> tuple[Code, float, np.ndarray]:
    """The mixture of a TokenSwitch of each rate, over the `blocks` [K, R, T] of all steps; the best of the rates, of
    which the nats and weights of the steps are; and the models' own nats [n, K]."""
    switch = TokenSwitch(models, lanes)
    found = [(*switch.code(block), np.nansum(block, (1, 2))) for block in blocks]
    step_nats, weights, own = map(np.array, zip(*found, strict=True))
    best = int(switch.nats.argmin())
    return Code(mixture_nats(switch.nats), step_nats[:, best], weights[:, best]), float(RATES[best]), own
