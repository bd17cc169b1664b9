"""Groups taken out of a model: outputs stay where nothing reads them, tensors shrink, scores mean what they say."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from model.cuda import use_kernels
from model.lm import LanguageModel
from model.registry import BLOCKS
from studies.pruning.surgery import Groups, choose, find_groups, find_largest, list_groups
from train.config import ModelConfig

CONFIG = ModelConfig(depth=2, width=32, head_width=8, state=8, window=6, expansion=1.5, ngram_orders=[])
VOCABULARY = 11


def model_of(block: str) -> LanguageModel:
    torch.manual_seed(0)
    model = LanguageModel(replace(CONFIG, block=block), VOCABULARY).double()
    with torch.no_grad():
        for parameter in model.parameters():
            # Output matrices begin at zero, where nothing would be seen.
            parameter += 0.2 * torch.randn_like(parameter)
    return model


def outputs(model: LanguageModel) -> list[torch.Tensor]:
    """Log-probabilities of two segments and of two single tokens after them."""
    tokens = torch.randint(VOCABULARY, (3, 22), generator=torch.Generator().manual_seed(1))
    state, found = model.init_state(3), []
    with torch.no_grad():
        for part in tokens.split([9, 11, 1, 1], 1):
            y, state = model(part, state)
            found.append(y)
    return found


def silence(groups: Groups, gone: list[int]) -> None:
    """Zero every weight that reads the groups `gone`."""
    with torch.no_grad():
        for name, dimension, owner in groups.readers:
            groups.module.get_parameter(name).movedim(dimension, 0)[torch.from_numpy(np.isin(owner, gone))] = 0


@pytest.mark.parametrize("block", BLOCKS)
def test_a_group_that_nothing_reads_can_go(block: str) -> None:
    model = model_of(block)
    parameters = sum(p.numel() for p in model.parameters())
    spoken = outputs(model)
    gone = [0, 2]
    expected = 0
    for groups in list_groups(model):
        silence(groups, gone)
        for name in {name for name, *_ in groups.owned}:
            # Two dimensions of one matrix meet in what both of them lose.
            left = list(groups.module.get_parameter(name).shape)
            for other, dimension, owner in groups.owned:
                if other == name:
                    left[dimension] -= int(np.isin(owner, gone).sum())
            expected += groups.module.get_parameter(name).numel() - math.prod(left)
    silent = outputs(model)
    assert not torch.allclose(spoken[0], silent[0], atol=1e-3)
    for groups in list_groups(model):
        groups.keep(np.setdiff1d(np.arange(groups.count), gone))
    assert parameters - sum(p.numel() for p in model.parameters()) == expected
    assert all(hasattr(p, "role") and hasattr(p, "lr") for p in model.parameters())
    for before, after in zip(silent, outputs(model), strict=True):
        torch.testing.assert_close(after, before, rtol=0, atol=1e-6)


def test_groups_that_are_read_are_missed_and_order_does_not_matter() -> None:
    left, right = model_of("gru attention"), model_of("gru attention")
    before = outputs(left)
    for kept in ([0, 1, 3], [1, 2]):
        for groups in list_groups(left):
            groups.keep(np.array(kept))
    for groups in list_groups(right):
        groups.keep(np.array([1, 3]))
    assert not torch.allclose(before[0], outputs(left)[0], atol=1e-3)
    for a, b in zip(outputs(left), outputs(right), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("block", BLOCKS)
def test_a_readers_weights_times_gradients_are_the_slope_of_a_gate(block: str) -> None:
    model = model_of(block)
    tokens = torch.randint(VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(2))

    def nats() -> torch.Tensor:
        return model(tokens[:, :-1], model.init_state(2), tokens[:, 1:])[0].sum()

    nats().backward()
    for found in list_groups(model):
        module = found.module
        slopes = found.sum_entries(found.readers, lambda p: p * p.grad)  # type: ignore[operator]
        assert slopes.shape == (found.count,)
        values = []
        for gate in (1 + 1e-5, 1 - 1e-5):
            with torch.no_grad():
                for name, dimension, owner in found.readers:
                    module.get_parameter(name).movedim(dimension, 0)[torch.from_numpy(owner == 1)] *= gate
                values.append(nats().item())
                for name, dimension, owner in found.readers:
                    module.get_parameter(name).movedim(dimension, 0)[torch.from_numpy(owner == 1)] /= gate
        assert slopes[1] == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("block", ["attention", "gru", "kda", "lstm", "s4", "ssd"])
def test_blocks_in_their_form_for_cuda_have_the_same_groups(block: str) -> None:
    model = model_of(block)
    found = [groups.owned for groups in list_groups(model)]
    use_kernels(model)
    for before, after in zip(found, list_groups(model), strict=True):
        assert [name for name, *_ in before] == [name for name, *_ in after.owned]


def test_an_unknown_block_is_refused_by_name() -> None:
    class Novel(nn.Module):
        pass

    with pytest.raises(ValueError, match="block Novel"):
        find_groups(Novel())


def test_what_is_worth_least_a_parameter_goes_first_within_the_budget() -> None:
    scores: list[Any] = [np.array([8.0, 1.0, 9.0]), np.array([3.0, 0.1, 0.2])]
    # Worth a parameter: 4, .5, 4.5 and 3, .1, .2. One is left in each place, whatever it is worth.
    assert [part.tolist() for part in choose(scores, [2, 1], 0.9)] == [[0, 1, 2], [0, 1, 2]]
    assert [part.tolist() for part in choose(scores, [2, 1], 2)] == [[0, 1, 2], [0]]
    assert [part.tolist() for part in choose(scores, [2, 1], 4)] == [[0, 2], [0]]
    assert [part.tolist() for part in choose(scores, [2, 1], 100)] == [[2], [0]]
    assert find_largest(np.array([3.0, 1.0, 5.0, 2.0]), 2).tolist() == [0, 2]
