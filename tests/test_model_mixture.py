"""Several models side by side: what is coded, what is learned, token by token and in segments."""

import itertools
import math
from typing import Any

import pytest
import torch

from data.errors import UsageError
from model.build import build_model
from model.mixture import SHARE, split_members
from model.registry import block_folder, block_names, display_name
from studies.sampling.command import distribution
from train.command_line import check
from train.config import Config, ModelConfig, TrainConfig

PATTERN = "attention | lstm ssd @24"


def mixture(vocabulary: int, orders: list[int]) -> Any:
    """Of members that disagree."""
    torch.manual_seed(1)
    config = ModelConfig(block=PATTERN, width=16, head_width=8, depth=2, window=8, ngram_orders=orders)
    model = build_model(config, vocabulary).double()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.add_((0.1 if ".mixing." in name else 0.3) * torch.randn_like(p))
    return model


def test_a_pattern_names_members_blocks_and_widths() -> None:
    assert split_members("ssd  attention @64|lstm") == [("ssd attention", 64), ("lstm", None)]
    pattern = "ssd attention @64 | ssd | my.blocks:Mine@8"
    assert block_names(pattern) == ["ssd", "attention", "my.blocks:Mine"]
    assert display_name(pattern) == "ssd attention@64 | ssd | Mine@8"
    assert block_folder(display_name(pattern)) == "ssd+attention@64~ssd~Mine@8"
    assert block_names("ssd attention ssd") == ["ssd", "attention"]


@pytest.mark.parametrize(("orders", "vocabulary"), [([], 30), ([1, 2], 300)])
def test_a_token_costs_the_same_in_a_segment_and_alone(orders: list[int], vocabulary: int) -> None:
    model = mixture(vocabulary, orders)
    context, tokens = model.context, torch.randint(vocabulary, (3, 20 + model.context))
    if model.mixing is not None:
        model.mixing.take_in(tokens, [])
    history, targets = tokens[:, :-1], tokens[:, context:].clone()
    targets[0, 12:], targets[1, 5] = -1, -1
    nats, _ = model(history, model.init_state(3), targets)
    state, parts = model.init_state(3), []
    for t in range(targets.shape[1]):
        seen, state = model(history[:, t : t + context], state)
        parts.append(distribution(model, seen, 3))
    predicted = torch.stack(parts, 1)
    assert (predicted.sum(-1) - 1).abs().max() < 1e-10
    expected = -predicted.gather(-1, targets.clamp(min=0).unsqueeze(-1)).squeeze(-1).log()
    # A target that is no token tells the members nothing, and the stepwise form has one there.
    counted = targets >= 0
    counted[1, 5:] = False
    assert (nats[counted] - expected[counted]).abs().max() < 1e-10
    assert (nats[targets < 0] == 0).all()
    assert expected.std() > 0.1


@pytest.mark.parametrize("split", [1, 7, 12])
def test_any_split_into_segments_costs_the_same(split: int) -> None:
    model = mixture(30, [])
    tokens = torch.randint(30, (2, 21))
    whole, _ = model(tokens[:, :-1], model.init_state(2), tokens[:, 1:])
    first, state = model(tokens[:, :split], model.init_state(2), tokens[:, 1 : split + 1])
    second, _ = model(tokens[:, split:-1], state, tokens[:, split + 1 :])
    assert (torch.cat([first, second], 1) - whole).abs().max() < 1e-10


def test_the_code_sums_over_all_ways_to_choose_a_member_for_each_token() -> None:
    model = mixture(30, [])
    tokens, state = torch.randint(30, (1, 7)), model.init_state(1)
    own = [
        member(tokens[:, :-1], one, tokens[:, 1:])[0][0].tolist()
        for member, one in zip(model.members, state[0], strict=True)
    ]
    total = 0.0
    for path in itertools.product(range(2), repeat=6):
        chances = [0.5] + [SHARE / 2 + (1 - SHARE) * (now == then) for then, now in itertools.pairwise(path)]
        total += math.prod(chances) * math.exp(-sum(own[member][place] for place, member in enumerate(path)))
    nats, _ = model(tokens[:, :-1], state, tokens[:, 1:])
    assert nats.sum().item() == pytest.approx(-math.log(total), rel=1e-10)


def test_members_learn_as_if_they_were_alone() -> None:
    model = mixture(30, [])
    tokens, state = torch.randint(30, (2, 9)), model.init_state(2)
    model(tokens[:, :-1], state, tokens[:, 1:])[0].sum().backward()
    for member, one in zip(model.members, state[0], strict=True):
        expected = torch.autograd.grad(member(tokens[:, :-1], one, tokens[:, 1:])[0].sum(), [*member.parameters()])
        for p, gradient in zip(member.parameters(), expected, strict=True):
            assert torch.equal(p.grad, gradient)  # type: ignore[arg-type]


def test_the_better_member_leads() -> None:
    """Of two members, one pays 0.1 nats a token and the other 3: soon, the code pays little more than 0.1."""
    model = mixture(30, [])
    for member, price in zip(model.members, (3.0, 0.1), strict=True):
        member.cost = lambda x, targets, hashes, price=price: x.new_full(targets.shape, price)
    tokens = torch.randint(30, (1, 31))
    nats, (_, weights, _) = model(tokens[:, :-1], model.init_state(1), tokens[:, 1:])
    assert weights.exp()[0].tolist() == pytest.approx([SHARE / 2, 1 - SHARE / 2], abs=0.01)
    assert 0.1 < nats[0, -1] < 0.17 < 0.5 < nats[0, 0]


@pytest.mark.parametrize(
    ("block", "optimizer", "said"),
    [
        ("attention | ", "muon", "give each model's blocks"),
        ("attention @16 ssd | lstm", "muon", "give each model's blocks"),
        ("attention @0 | lstm", "muon", "give each model's blocks"),
        ("attention | lsmt", "muon", "'lsmt' is unknown"),
        ("attention @32 | lstm", "adamw", "one width for all"),
    ],
)
def test_what_is_no_mixture_is_refused(block: str, optimizer: str, said: str) -> None:
    train = TrainConfig(optimizer=optimizer)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=said):
        check(Config(model=ModelConfig(block=block), train=train))
