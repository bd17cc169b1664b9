"""Mamba and SSD: against their papers' equations, one token and one number at a time; initial values; stability."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from model.blocks.mamba import Mamba
from model.blocks.ssd import SSD
from model.recurrence import causal_conv, step_bias
from train.config import ModelConfig

BLOCKS = {"ssd": SSD, "mamba": Mamba}
TOLERANCE = 1e-10


def made(name: str, **fields: int) -> nn.Module:
    """A block in float64 whose every parameter is off its initial value."""
    torch.manual_seed(4)
    block = BLOCKS[name](ModelConfig(width=12, head_width=6, expand=1.5, **fields)).double()
    with torch.no_grad():
        for p in block.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return block


def silu(x: Tensor) -> Tensor:
    return x / (1 + (-x).exp())


def softplus(x: Tensor) -> Tensor:
    return (1 + x.exp()).log()


def convolved(x: Tensor, taps: Tensor, past: Tensor) -> list[Tensor]:
    """[T, C], one row's: the last tap meets the newest input."""
    rows, count = [*past, *x], taps.shape[1]
    return [sum(taps[:, k] * rows[t + k] for k in range(count)) for t in range(len(x))]  # type: ignore[misc]


def ssd_by_the_paper(block: nn.Module, x: Tensor, past: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """Mamba-2's layer for one row: x [T, D], past [K - 1, I + 2N], h [N, I]."""
    inner, size, width = h.shape[1], h.shape[0], block.head_width
    z, xbc, dt = (x @ block.input.weight).split([inner, inner + 2 * size, inner // width], 1)
    out = []
    for t, mixed in enumerate(convolved(xbc, block.taps, past)):
        v, b, c = silu(mixed).split([inner, size, size])
        delta = softplus(dt[t] + block.bias)
        states, read = [], []
        for head in range(inner // width):
            part = slice(head * width, (head + 1) * width)
            a = (-block.rate[head].exp() * delta[head]).exp()
            states.append(a * h[:, part] + delta[head] * torch.outer(b, v[part]))
            read.append(c @ states[-1] + block.skip[head] * v[part])
        h = torch.cat(states, 1)
        gated = torch.cat(read) * silu(z[t])
        out.append(gated / (gated.square().mean() + 1e-6).sqrt() @ block.out.weight)
    return torch.stack(out), h


def mamba_by_the_paper(block: nn.Module, x: Tensor, past: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """Mamba's block for one row: x [T, D], past [K - 1, I], h [N, I]."""
    size, inner = h.shape
    u, z = (x @ block.input.weight).split(inner, 1)
    out = []
    for t, mixed in enumerate(convolved(u, block.taps, past)):
        v = silu(mixed)
        low, b, c = (v @ block.select.weight).split([len(block.step.weight), size, size])
        delta = softplus(low @ block.step.weight + block.bias)
        h = torch.stack([(-block.rate[n].exp() * delta).exp() * h[n] + delta * b[n] * v for n in range(size)])
        y = sum(c[n] * h[n] for n in range(size)) + block.skip * v
        out.append(y * silu(z[t]) @ block.out.weight)
    return torch.stack(out), h


@pytest.mark.parametrize(
    ("name", "reference", "time"),
    [("ssd", ssd_by_the_paper, 1), ("ssd", ssd_by_the_paper, 100), ("mamba", mamba_by_the_paper, 37)],
)
def test_outputs_states_and_gradients_are_the_papers(name: str, reference: Callable, time: int) -> None:
    """Several chunks, a ragged last one; gradients into the state before and from the state after, too."""
    block = made(name, state=5, conv=3)
    x = torch.randn(1, time, 12, dtype=torch.float64, requires_grad=True)
    state = [torch.randn_like(part).requires_grad_() for part in block.init_state(1)]
    y, (_, h) = block(x, state)
    expected_y, expected_h = reference(block, x[0], *(part[0] for part in state))
    assert (y[0] - expected_y).abs().max() < TOLERANCE
    assert (h[0] - expected_h).abs().max() < TOLERANCE
    wanted = [x, *state, *block.parameters()]
    by_y, by_h = torch.randn_like(y), torch.randn_like(h)
    gradients = torch.autograd.grad([y, h], wanted, [by_y, by_h])
    expected = torch.autograd.grad([expected_y, expected_h], wanted, [by_y[0], by_h[0]])
    for a, b in zip(gradients, expected, strict=True):
        assert a.abs().max() > 0
        assert (a - b).abs().max() < TOLERANCE * max(1.0, float(b.abs().max()))


def test_initial_time_scales_are_the_papers() -> None:
    torch.manual_seed(5)
    config = ModelConfig(width=64, head_width=2, expand=2)
    ssd, mamba = SSD(config), Mamba(config)
    steps = softplus(step_bias(10_000).detach().double())
    assert 0.00099 < steps.min() < 0.0011 < 0.09 < steps.max() < 0.101
    assert steps.median() == pytest.approx(0.01, rel=0.1)
    assert 1 <= ssd.rate.exp().min() < 3 and 14 < ssd.rate.exp().max() <= 16.001
    assert (mamba.rate.exp() - torch.arange(1, 17)[:, None]).abs().max() < 1e-4
    assert ssd.shapes[1] == (64, 128) and mamba.shapes[1] == (16, 128)
    assert mamba.step.weight.shape == (4, 128)
    for block in (ssd, mamba):
        assert block.rate.lr == block.bias.lr == 0.1
        assert block(torch.randn(2, 3, 64), block.init_state(2))[0].abs().max() == 0


@pytest.mark.parametrize("name", sorted(BLOCKS))
def test_five_thousand_steps_stay_bounded(name: str) -> None:
    block = made(name).float()
    state = block.init_state(3)
    torch.manual_seed(6)
    with torch.inference_mode():
        largest = []
        for _ in range(5000):
            y, state = block(torch.randn(3, 1, 12), state)
            largest.append(float(max(y.abs().max(), state[1].abs().max())))
    assert math.isfinite(max(largest))
    assert max(largest[2500:]) < 2 * max(largest[:2500])


@pytest.mark.parametrize("shift", [-12.0, 0.0, 12.0])
@pytest.mark.parametrize("time", [1, 100])
@pytest.mark.parametrize("name", sorted(BLOCKS))
def test_gradients_are_finite_at_any_time_scale(name: str, time: int, shift: float) -> None:
    """Decays from next to one to an underflow to zero, in fp32."""
    block = made(name).float()
    with torch.no_grad():
        block.rate.add_(shift)
        block.bias.add_(shift / 4)
    y, state = block(torch.randn(2, time, 12), block.init_state(2))
    (y.square().mean() + state[1].mean()).backward()
    assert y.isfinite().all()
    for p in block.parameters():
        assert p.grad is not None and p.grad.isfinite().all()


@pytest.mark.parametrize("name", sorted(BLOCKS))
def test_autocast_leaves_the_recurrence_in_full_precision(name: str) -> None:
    block = made(name).float()
    x = torch.randn(2, 40, 12)
    expected, _ = block(x, block.init_state(2))
    with torch.autocast("cpu", torch.bfloat16):
        y, state = block(x, block.init_state(2))
        steps, after = [], block.init_state(2)
        for t in range(40):
            step, after = block(x[:, t : t + 1], after)
            steps.append(step)
    assert state[1].dtype == torch.float32
    assert (y - expected).norm() < 0.03 * expected.norm()
    assert (torch.cat(steps, 1) - y).norm() < 0.03 * expected.norm()


def test_one_tap_is_no_convolution() -> None:
    x, taps = torch.randn(2, 3, 4), torch.randn(4, 1)
    y, past = causal_conv(x, taps, x.new_zeros(2, 0, 4))
    assert torch.equal(y, x * taps[:, 0]) and past.shape == (2, 0, 4)


def test_inner_width_that_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match=r"model\.expand 1\.5 x model\.width 20 .*model\.head_width 8"):
        SSD(ModelConfig(width=20, head_width=8, expand=1.5))
