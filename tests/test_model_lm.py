"""The language model and its n-gram prior."""

import math

import pytest
import torch
from torch.nn import functional as F

from model.lm import LanguageModel
from model.ngram import NgramPrior
from train.config import ModelConfig

ORDERS = [1, 2, 4]


def config(**values: object) -> ModelConfig:
    return ModelConfig(**{"width": 16, "head_width": 8, "depth": 2, "window": 8, "ngram_orders": ORDERS, **values})  # type: ignore[arg-type]


@pytest.mark.parametrize("orders", [[], ORDERS])
def test_untrained_model_codes_every_token_with_log2_v_bits(orders: list[int]) -> None:
    model = LanguageModel(config(ngram_orders=orders), vocabulary=300)
    history = torch.randint(300, (2, model.context + 9))
    logits, _ = model(history, model.init_state(2))
    assert logits.shape == (2, 10, 300)
    bits = F.cross_entropy(logits.flatten(0, 1), torch.randint(300, (20,)), reduction="none") / math.log(2)
    assert (bits - math.log2(300)).abs().max() < 1e-5


def test_stepwise_and_segment_forms_agree() -> None:
    torch.manual_seed(0)
    model = LanguageModel(config(), vocabulary=40).double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    tokens, context = torch.randint(40, (3, 30)), model.context
    assert model.prior is not None
    model.prior.learn(tokens[:, :-1], tokens[:, context:])
    whole, _ = model(tokens, model.init_state(3))
    state, parts = model.init_state(3), []
    for t in range(30 - context + 1):
        logits, state = model(tokens[:, t : t + context], state)
        parts.append(logits)
    assert (torch.cat(parts, 1) - whole).abs().max() < 1e-10


def test_returned_state_carries_no_gradient() -> None:
    model = LanguageModel(config(), vocabulary=40)
    _, state = model(torch.zeros(1, model.context + 3, dtype=torch.int64), model.init_state(1))
    assert not any(part.requires_grad for layer in state for part in layer if isinstance(part, torch.Tensor))


def test_prior_is_a_distribution_and_learns_what_follows() -> None:
    prior = NgramPrior(vocabulary=50, width=4, orders=[1, 2, 3], rows_log2=10, slots=4)
    tokens = torch.tensor([[7, 8, 9, 1, 7, 8, 9, 2, 7, 8, 9, 2]])
    uniform = prior(tokens)[0].exp()
    assert (uniform - 1 / 50).abs().max() < 1e-6
    prior.learn(tokens[:, :-1], tokens[:, 3:])
    p = prior(torch.tensor([[7, 8, 9]]))[0].exp()[0, 0]
    assert abs(p.sum().item() - 1) < 1e-5
    assert p[2] > p[1] > 10 * p[3], "2 followed 7 8 9 twice, 1 once, 3 never"


def test_prior_shows_the_network_the_mean_embedding_of_what_it_expects() -> None:
    prior = NgramPrior(vocabulary=50, width=4, orders=[1, 2], rows_log2=10, slots=4)
    history = torch.tensor([[7, 8]])
    assert prior(history)[1].abs().max() == 0
    prior.learn(torch.tensor([[7, 8], [7, 8], [7, 8]]), torch.tensor([[20], [20], [30]]))
    log_p, mean = prior(history)
    p = (log_p.exp()[0, 0] - log_p.exp()[0, 0, 0]).detach()
    assert (mean[0, 0] - p @ prior.expected).abs().max() < 1e-5
    assert p[20] == pytest.approx(2 * p[30].item(), rel=1e-4)


def test_prior_keeps_the_latest_successors_only() -> None:
    prior = NgramPrior(vocabulary=50, width=4, orders=[1], rows_log2=8, slots=3)
    history = torch.full((1, 7), 5)
    prior.learn(history, torch.tensor([[10, 11, 12, 13, 14, -1, 15]]))
    row = prior.rows(torch.tensor([[5]]))[0, 0, 0]
    assert sorted(prior.successors[0, row].tolist()) == [13, 14, 15]
    assert prior.written[0, row] == 6
    prior.learn(history[:, :1], torch.tensor([[16]]))
    assert sorted(prior.successors[0, row].tolist()) == [14, 15, 16]


def test_prior_learns_the_same_in_one_step_or_many() -> None:
    torch.manual_seed(5)
    tokens = torch.randint(6, (1, 200))
    once, often = (NgramPrior(6, 4, [1, 2, 3], rows_log2=6, slots=5) for _ in range(2))
    once.learn(tokens[:, :-1], tokens[:, 3:])
    for start in range(0, 197, 10):
        stop = min(start + 10, 197)
        often.learn(tokens[:, start : stop + 2], tokens[:, start + 3 : stop + 3])
    assert torch.equal(once.successors, often.successors)
    assert torch.equal(once.written, often.written)


def test_prior_of_a_context_that_was_never_seen_is_that_of_the_shorter_one() -> None:
    prior = NgramPrior(vocabulary=50, width=4, orders=[1, 3], rows_log2=12, slots=4)
    prior.learn(torch.tensor([[1, 2, 3]]), torch.tensor([[4]]))
    known, half, new = (
        prior(torch.tensor([history]))[0].exp()[0, 0, 4] for history in ([1, 2, 3], [9, 9, 3], [9, 9, 9])
    )
    assert known > half > 5 * new
    assert abs(new.item() - 1 / 50) < 1e-6
