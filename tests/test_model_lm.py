"""The language model, with and without context mixing."""

import math

import pytest
import torch

from model.lm import LanguageModel
from train.config import ModelConfig

ORDERS = [1, 2, 4]


def config(**values: object) -> ModelConfig:
    return ModelConfig(**{"width": 16, "head_width": 8, "depth": 2, "window": 8, "ngram_orders": ORDERS, **values})  # type: ignore[arg-type]


@pytest.mark.parametrize("orders", [[], ORDERS])
def test_untrained_model_codes_every_token_with_log2_v_bits(orders: list[int]) -> None:
    model = LanguageModel(config(ngram_orders=orders), vocabulary=300)
    history = torch.randint(300, (2, model.context + 9))
    predicted, _ = model(history, model.init_state(2))
    assert predicted.shape == (2, 10, 300)
    assert (predicted / math.log(2) + math.log2(300)).abs().max() < 1e-5
    nats, _ = model(history, model.init_state(2), torch.randint(300, (2, 10)))
    assert (nats / math.log(2) - math.log2(300)).abs().max() < 1e-5


def test_stepwise_and_segment_forms_agree() -> None:
    torch.manual_seed(0)
    model = LanguageModel(config(), vocabulary=257).double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    tokens, context = torch.randint(257, (3, 60)), model.context
    assert model.mixing is not None
    model.mixing.learn(tokens[:, :-1], tokens[:, context:])
    whole, _ = model(tokens, model.init_state(3))
    state, parts = model.init_state(3), []
    for t in range(60 - context + 1):
        predicted, state = model(tokens[:, t : t + context], state)
        parts.append(predicted)
    assert (torch.cat(parts, 1) - whole).abs().max() < 1e-10


@pytest.mark.parametrize("orders", [[], ORDERS])
def test_the_cost_of_targets_is_what_the_distribution_says(orders: list[int]) -> None:
    torch.manual_seed(1)
    model = LanguageModel(config(ngram_orders=orders), vocabulary=300).double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    tokens, context = torch.randint(300, (3, 30)), model.context
    if model.mixing is not None:
        model.mixing.learn(tokens[:, :-1], tokens[:, context:])
    targets = torch.randint(300, (3, 31 - context))
    targets[0, 3:], targets[1, 5] = -1, -1
    predicted, _ = model(tokens, model.init_state(3))
    nats, _ = model(tokens, model.init_state(3), targets)
    expected = -predicted.gather(-1, targets.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    assert (nats[targets >= 0] - expected[targets >= 0]).abs().max() < 1e-10
    assert (nats[targets < 0] == 0).all()
    assert expected.std() > 0.1


def test_returned_state_carries_no_gradient() -> None:
    model = LanguageModel(config(), vocabulary=40)
    _, state = model(torch.zeros(1, model.context + 3, dtype=torch.int64), model.init_state(1))
    assert not any(part.requires_grad for layer in state for part in layer if isinstance(part, torch.Tensor))
