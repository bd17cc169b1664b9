"""The block contract (docs/your-architecture.md), held by every registered architecture."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from model.blocks.attention import Attention
from model.contract import (
    TOLERANCE,
    Finding,
    check_causality,
    check_determinism,
    check_gradients,
    check_roles,
    check_rows,
    check_shapes,
    check_splits,
)
from model.cuda import use_kernels
from model.registry import BLOCKS, load_block
from train.config import ModelConfig

# Most forms for CUDA run on a CPU, too.
ON_CPU = ["attention", "gated_delta", "gru", "lstm", "s4", "s4d", "ssd"]
FORMS = [*sorted(BLOCKS), *(f"{name} as on CUDA" for name in ON_CPU)]


@pytest.fixture(params=FORMS)
def block(request: pytest.FixtureRequest) -> torch.nn.Module:
    torch.manual_seed(1)
    config = ModelConfig(width=16, head_width=8, window=7)
    name, _, form = request.param.partition(" ")
    made = load_block(name)(config).double()
    if form:
        use_kernels(made)
    with torch.no_grad():
        # Output projections start at zero, which would make every comparison trivial.
        for p in made.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return made


@pytest.mark.parametrize("cuts", [[23], [1] * 23, [11, 12], [1, 7, 15], [20, 1, 2], [6, 8, 9]], ids=str)
def test_any_split_gives_the_same_outputs_and_gradients(
    block: torch.nn.Module, cuts: list[int], device: torch.device
) -> None:
    """As one segment on the CPU does."""
    found = check_splits(block, 16, [cuts], device)
    assert found.verdict == "ok", found


@pytest.mark.parametrize(
    "check",
    [check_shapes, check_causality, check_rows, check_determinism, check_gradients],
    ids=lambda check: check.__name__,
)
def test_the_contract_holds(block: torch.nn.Module, check: Callable[[torch.nn.Module, int], Finding]) -> None:
    found = check(block, 16)
    assert found.verdict != "failed", found


def test_every_parameter_says_its_role(block: torch.nn.Module) -> None:
    found = check_roles(block)
    assert found.verdict == "ok", found
    assert not any(hasattr(p, "order") for p in block.parameters()), "a role was inferred"


def test_attention_agrees_with_its_equations() -> None:
    """A loop over queries and keys, straight from the papers, against the tensor code."""
    torch.manual_seed(2)
    window, channels = 4, 6
    block = Attention(ModelConfig(width=12, head_width=channels, window=window)).double()
    with torch.no_grad():
        block.out.weight.copy_(torch.eye(12))
        block.temperature.copy_(torch.tensor([0.7, 1.9])[:, None, None])
    x = torch.randn(1, 11, 12, dtype=torch.float64)
    y, _ = block(x, block.init_state(1))
    q, k, v = (x[0] @ block.qkv.weight).split(12, 1)

    def turned(vector: Tensor, at: int) -> Tensor:
        vector = vector / (vector.square().mean() + 1e-6).sqrt()
        out = vector.clone()
        for i in range(channels // 2):
            angle = at * 10000 ** (-2 * i / channels)
            left, right = vector[2 * i], vector[2 * i + 1]
            out[2 * i] = left * math.cos(angle) - right * math.sin(angle)
            out[2 * i + 1] = left * math.sin(angle) + right * math.cos(angle)
        return out

    for head, t in [(0, 0), (0, 3), (1, 4), (1, 10)]:
        c = slice(head * channels, (head + 1) * channels)
        seen = range(max(0, t - window + 1), t + 1)
        query = turned(q[t, c], t) * block.temperature[head].item()
        scores = torch.stack([query @ turned(k[s, c], s) / math.sqrt(channels) for s in seen])
        expected = scores.softmax(0) @ torch.stack([v[s, c] for s in seen])
        assert (y[0, t, c] - expected).abs().max() < TOLERANCE


def test_attention_stays_exact_far_from_the_start() -> None:
    """Only differences of positions count, even after 10^8 tokens."""
    torch.manual_seed(3)
    block = Attention(ModelConfig(width=8, head_width=8, window=5))
    torch.nn.init.eye_(block.out.weight)
    x = torch.randn(1, 40, 8)
    near, _ = block(x, block.init_state(1))
    far, _ = block(x, (*block.init_state(1)[:3], torch.tensor(100_000_000)))
    # The first window - 1 outputs may look at a memory that the near run knows to be empty.
    assert (near - far)[:, 4:].abs().max() < 1e-5


def test_width_that_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match=r"model\.width 20 .*model\.head_width 8"):
        Attention(ModelConfig(width=20, head_width=8))
