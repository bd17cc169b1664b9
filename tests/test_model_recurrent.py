"""LSTM, GRU, RG-LRU and gated delta: each against a loop over time that is written from its paper's equations. And what
every recurrent block of the registry has to stand: long lanes, bf16, extreme inputs."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model import registry
from model.cuda import use_kernels
from model.registry import load_block
from train.config import ModelConfig

TOLERANCE = 1e-10
BLOCKS = ["lstm", "gru", "rglru", "gated_delta"]
RECURRENT = sorted(registry.BLOCKS.keys() - {"attention"})


def build(name: str, noise: float = 0.3, **fields: float) -> nn.Module:
    torch.manual_seed(5)
    block = load_block(name)(ModelConfig(**{"width": 16, "head_width": 8, "expand": 1.5, "conv": 3} | fields))
    with torch.no_grad():
        for p in block.parameters():
            p.add_(noise * torch.randn_like(p))
    return block


def naive_lstm(block: nn.Module, x: Tensor) -> Tensor:
    h = c = torch.zeros(block.hidden, dtype=x.dtype)
    outputs = []
    for row in x.unbind():
        sums = row @ block.inputs + h @ block.recurrent + block.bias
        write, forget, content, read = sums.view(4, -1).unbind()
        c = c / (1 + torch.exp(-forget)) + torch.tanh(content) / (1 + torch.exp(-write))
        h = torch.tanh(c) / (1 + torch.exp(-read))
        outputs.append(h)
    return torch.stack(outputs) @ block.out.weight


def naive_gru(block: nn.Module, x: Tensor) -> Tensor:
    h, outputs = torch.zeros_like(block.echo_bias), []
    for row in x.unbind():
        x_r, x_z, x_n = (row @ block.inputs + block.bias).view(3, -1).unbind()
        h_r, h_z, h_n = (h @ block.recurrent).view(3, -1).unbind()
        r, z = 1 / (1 + torch.exp(-x_r - h_r)), 1 / (1 + torch.exp(-x_z - h_z))
        n = torch.tanh(x_n + r * (h_n + block.echo_bias))
        h = (1 - z) * n + z * h
        outputs.append(h)
    return torch.stack(outputs) @ block.out.weight


def naive_conv(x: Tensor, taps: Tensor) -> Tensor:
    count = taps.shape[1]
    rows = []
    for t in range(len(x)):
        seen = [(k, t - count + 1 + k) for k in range(count)]
        rows.append(sum(taps[:, k] * x[s] for k, s in seen if s >= 0))
    return torch.stack(rows)


def naive_rglru(block: nn.Module, x: Tensor) -> Tensor:
    branch, u = (x @ block.inputs.weight).chunk(2, 1)
    u = naive_conv(u, block.taps)
    h, outputs = torch.zeros_like(block.decay), []
    for row in u.unbind():
        r, i = torch.sigmoid(row @ block.gates.weight + block.bias).chunk(2)
        # The paper's Lambda, the logit of a, is -decay here.
        a = torch.sigmoid(-block.decay) ** (8 * r)
        h = a * h + (1 - a**2).sqrt() * (i * row)
        outputs.append(h)
    gelu = 0.5 * branch * (1 + torch.erf(branch / 2**0.5))
    return (gelu * torch.stack(outputs)) @ block.out.weight


def naive_gated_delta(block: nn.Module, x: Tensor) -> Tensor:
    inner, heads, channels = len(block.taps) // 3, len(block.step), block.head_width
    columns = x @ block.inputs.weight
    qkv = naive_conv(columns[:, : 3 * inner], block.taps)
    q, k, v = (qkv * torch.sigmoid(qkv)).view(-1, 3, heads, channels).unbind(1)
    gate, a, b = columns[:, 3 * inner :].split([inner, heads, heads], 1)
    outputs = torch.zeros(len(x), heads, channels, dtype=x.dtype)
    rows = []
    for head in range(heads):
        memory = torch.zeros(channels, channels, dtype=x.dtype)
        for t in range(len(x)):
            query, key = (w[t, head] / (w[t, head].square().sum() + 1e-6).sqrt() for w in (q, k))
            alpha = torch.exp(-torch.exp(block.log_rate[head]) * torch.log1p(torch.exp(a[t, head] + block.step[head])))
            beta = torch.sigmoid(b[t, head])
            # Eq. 10, with S of shape values x keys.
            forget = alpha * (torch.eye(channels, dtype=x.dtype) - beta * torch.outer(key, key))
            memory = memory @ forget + beta * torch.outer(v[t, head], key)
            o = memory @ query
            rows.append(o / (o.square().mean() + 3e-3).sqrt())
    outputs = torch.stack(rows).view(heads, len(x), channels).transpose(0, 1).reshape(len(x), inner)
    return (outputs * gate * torch.sigmoid(gate)) @ block.out.weight


NAIVE: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "lstm": naive_lstm,
    "gru": naive_gru,
    "rglru": naive_rglru,
    "gated_delta": naive_gated_delta,
}


@pytest.mark.parametrize("time", [1, 2, 77])
@pytest.mark.parametrize("name", BLOCKS)
def test_agrees_with_the_equations(name: str, time: int) -> None:
    block = build(name).double()
    x = torch.randn(2, time, 16, dtype=torch.float64, requires_grad=True)
    y, _ = block(x, block.init_state(2))
    expected = torch.stack([NAIVE[name](block, row) for row in x])
    assert (y - expected).abs().max() < TOLERANCE
    weight, wanted = torch.randn_like(y), [x, *block.parameters()]
    got = torch.autograd.grad((y * weight).sum(), wanted)
    # Of one token, what only a state before it would reach gets no gradient in the loop.
    loop = torch.autograd.grad((expected * weight).sum(), wanted, allow_unused=True, materialize_grads=True)
    for a, b in zip(got, loop, strict=True):
        assert (a - b).abs().max() < TOLERANCE * max(1.0, float(b.abs().max()))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_cudnn_gets_weights_in_one_chunk(name: str, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """It warns where they are not, and copies them at every call."""
    block = build(name).double()
    x = torch.randn(2, 9, 16, dtype=torch.float64)
    kernel, calls = getattr(torch, name), []

    def noted(inputs: Tensor, state: Any, weights: list[Tensor], *more: Any) -> Any:
        calls.append(weights)
        return kernel(inputs, state, weights, *more)

    monkeypatch.setattr(torch, name, noted)
    found = []
    for place in (torch.device("cpu"), device):
        block = block.to(place)
        if found:
            # The second time as on CUDA, be it there or not.
            use_kernels(block)
        y, _ = block(x.to(place), block.init_state(2))
        gradients = torch.autograd.grad(y.square().sum(), list(block.parameters()))
        found.append([part.detach().cpu() for part in (y, *gradients)])
    for a, b in zip(*found, strict=True):
        assert (a - b).abs().max() < 1e-8 * max(1.0, float(a.abs().max()))
    weights, end = calls[-1], 0
    for part in weights:
        assert part.is_contiguous()
        assert part.untyped_storage().data_ptr() == weights[0].untyped_storage().data_ptr()
        assert part.storage_offset() == end
        end += part.numel()
    assert weights[0].untyped_storage().nbytes() == 8 * end
    assert [part.ndim for part in weights] == [2, 2, 1, 1]


@pytest.mark.parametrize("name", RECURRENT)
def test_single_steps_stay_with_segments_for_5000_steps(name: str) -> None:
    """In fp32, with random parameters: bounded, and the coder's form and training's are the same function."""
    block = build(name, noise=0.2)
    x = torch.randn(1, 5000, 16)
    with torch.inference_mode():
        state, segments = block.init_state(1), []
        for part in x.split(300, 1):
            y, state = block(part, state)
            segments.append(y)
        state, steps = block.init_state(1), []
        for part in x.split(1, 1):
            y, state = block(part, state)
            steps.append(y)
    whole = torch.cat(segments, 1)
    assert whole.isfinite().all()
    # No drift: the end is no larger than the beginning.
    assert whole[:, -1000:].abs().max() < 2 * whole[:, :1000].abs().max()
    assert (whole - torch.cat(steps, 1)).abs().max() < 1e-4 * whole.abs().max()


@pytest.mark.parametrize("time", [1, 100])
@pytest.mark.parametrize("name", RECURRENT)
def test_fp32_gradients_are_those_of_fp64(name: str, time: int) -> None:
    """On CPU the LSTM's kernels differ by type."""
    block = build(name, width=32, noise=0.1)
    x = torch.randn(3, time, 32)
    gradients = []
    for made, inputs in ((block, x), (deepcopy(block).double(), x.double())):
        y, state = made(inputs, made.init_state(3))
        ((y * y).sum() + (state[0] ** 2).sum()).backward()
        gradients.append([p.grad.double() for p in made.parameters()])
    for a, b in zip(*gradients, strict=True):
        assert a.isfinite().all()
        # Some are next to zero: a norm takes the scale of a single token out.
        assert (a - b).abs().max() <= 1e-4 * b.abs().max() + 1e-6


@pytest.mark.parametrize("name", RECURRENT)
def test_bf16_autocast_leaves_the_state_in_fp32(name: str) -> None:
    block = build(name, noise=0.05)
    x = torch.randn(2, 40, 16)
    exact, _ = block(x, block.init_state(2))
    with torch.autocast("cpu", torch.bfloat16):
        y, state = block(x, block.init_state(2))
        step, state = block(x[:, :1], state)
    assert all(part.dtype == torch.float32 for part in state)
    assert y.dtype == step.dtype == torch.bfloat16
    assert (y - exact).abs().max() < 0.05 * exact.abs().max()
    y.float().sum().backward()
    assert all(p.grad.isfinite().all() for p in block.parameters())


@pytest.mark.parametrize("name", RECURRENT)
def test_extreme_inputs_have_finite_gradients(name: str) -> None:
    """Zero inputs (no direction to normalise) and saturated gates (a = 1, alpha = 0)."""
    for size in (0.0, 1e3, 1e6):
        block = build(name)
        x = (size * torch.randn(2, 50, 16)).requires_grad_()
        y, _ = block(x, block.init_state(2))
        y.sum().backward()
        for tensor in (y, x.grad, *(p.grad for p in block.parameters())):
            assert tensor.isfinite().all()


@pytest.mark.parametrize("name", RECURRENT)
def test_states_start_without_the_parameters_data(name: str) -> None:
    """Under ZeRO-3, parameters are empty outside of forward."""
    block = build(name)
    expected = [part.shape for part in block.init_state(3)]
    for p in block.parameters():
        p.data = p.data.new_empty(0)
    assert [part.shape for part in block.init_state(3)] == expected


def test_lstm_starts_remembering() -> None:
    block = build("lstm", noise=0.0)
    assert (block.bias.view(4, -1)[1] == 1).all()
    assert block.bias.sum() == block.hidden


def test_rglru_starts_with_the_paper_s_decays() -> None:
    block = build("rglru", noise=0.0, width=512)
    a_to_the_8 = torch.sigmoid(-block.decay) ** 8
    assert 0.8999 < a_to_the_8.min() < 0.905
    assert 0.994 < a_to_the_8.max() < 0.9991


def test_gated_delta_starts_with_the_paper_s_time_scales() -> None:
    block = build("gated_delta", noise=0.0, width=512)
    step, rate = torch.log1p(block.step.exp()), block.log_rate.exp()
    assert 0.0009 < step.min() < 0.002 and 0.05 < step.max() < 0.101
    assert 1 <= rate.min() < 2 and 15 < rate.max() <= 16.01


def test_gated_delta_replaces_what_a_key_recalls() -> None:
    """With beta = 1 and no decay, the memory holds each key's latest value exactly: the delta rule."""
    from model.blocks.gated_delta import one_chunk

    torch.manual_seed(6)
    keys = torch.eye(4, dtype=torch.float64)[torch.tensor([0, 1, 0, 2, 1])][None, None]
    values = torch.randn(1, 1, 5, 4, dtype=torch.float64)
    never, empty = torch.zeros(1, 1, 5, dtype=torch.float64), torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    y, memory = one_chunk(keys, keys, keys, values, never, empty)
    assert (y - values).abs().max() < TOLERANCE
    assert (memory[0, 0, :3] - values[0, 0, [2, 4, 3]]).abs().max() < TOLERANCE


def test_gated_delta_refuses_heads_that_do_not_divide() -> None:
    with pytest.raises(ValueError, match=r"model\.expand 1\.5 x model\.width 20 = 30 .*model\.head_width 8"):
        build("gated_delta", width=20)
