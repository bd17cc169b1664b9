"""KDA, RWKV-7, mLSTM and Mamba-3: against loops over time that are written from their papers, and with strong decays.
Their form for CUDA is in test_model_chunks.py too."""

import math
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from test_model_chunks import CPU, passed
from test_model_recurrent import naive_conv
from torch import Tensor

from model.cuda import use_kernels
from model.registry import load_block
from train.config import ModelConfig

TOLERANCE = 1e-10


def build(name: str, noise: float = 0.3, **fields: Any) -> Any:
    torch.manual_seed(5)
    given: dict[str, Any] = {"width": 16, "head_width": 8, "expand": 1.5, "conv": 3, "state": 6} | fields
    block = load_block(name)(ModelConfig(**given))
    with torch.no_grad():
        for p in block.parameters():
            p.add_(noise * torch.randn_like(p))
    return block


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def softplus(x: Tensor) -> Tensor:
    return torch.log1p(torch.exp(x))


def normalised(x: Tensor, eps: float) -> Tensor:
    return x / (x.square().mean() + eps).sqrt()


def naive_kda(block: Any, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    inner, heads, channels = block.inner, block.heads, block.head_width
    columns = x @ block.inputs.weight
    convolved = silu(naive_conv(columns[:, : 3 * inner], block.taps))
    q, k, v = convolved.view(len(x), 3, heads, channels).unbind(1)
    low_fade, low_gate, b = columns[:, 3 * inner :].split([channels, channels, heads], 1)
    fade = (low_fade @ block.fade.weight + block.step).view(len(x), heads, channels)
    gate = torch.sigmoid(low_gate @ block.gate.weight).view(len(x), heads, channels)
    rows, memories = [], []
    for head in range(heads):
        memory = torch.zeros(channels, channels, dtype=x.dtype)
        for t in range(len(x)):
            query, key = (w[t, head] / (w[t, head].square().sum() + 1e-6).sqrt() for w in (q, k))
            alpha = torch.exp(-torch.exp(block.log_rate[head, 0]) * softplus(fade[t, head]))
            beta = torch.sigmoid(b[t, head])
            # Eq. 1, with S of shape keys x values.
            forget = (torch.eye(channels, dtype=x.dtype) - beta * torch.outer(key, key)) @ torch.diag(alpha)
            memory = forget @ memory + beta * torch.outer(key, v[t, head])
            rows.append(normalised(memory.T @ query, 3e-3) * gate[t, head])
        memories.append(memory)
    return torch.stack(rows).view(heads, len(x), channels).transpose(0, 1).flatten(1) @ block.out.weight, memories


def naive_rwkv7(block: Any, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    heads, channels = block.heads, block.head_width
    past = torch.cat([torch.zeros_like(x[:1]), x[:-1]])
    x_r, x_w, x_k, x_v, x_a, x_g = (x + (past - x) * mu for mu in block.blend)
    r, key, v = x_r @ block.r.weight, x_k @ block.k.weight, x_v @ block.v.weight
    d = block.decay + torch.tanh(x_w @ block.to_decay.weight) @ block.from_decay.weight
    w = torch.exp(-math.exp(-0.5) * torch.sigmoid(d))
    a = torch.sigmoid(block.rate + x_a @ block.to_rate.weight @ block.from_rate.weight)
    g = torch.sigmoid(x_g @ block.to_gate.weight) @ block.from_gate.weight
    removal, k = key * block.removal, key * (1 + (a - 1) * block.mixing)
    outputs, memories = torch.zeros_like(r), []
    for head in range(heads):
        c = slice(head * channels, (head + 1) * channels)
        # Values x keys, as in the paper.
        memory, rows = torch.zeros(channels, channels, dtype=x.dtype), []
        for t in range(len(x)):
            kappa = removal[t, c] / (removal[t, c].square().sum() + 1e-12).sqrt()
            forget = torch.diag(w[t, c]) - torch.outer(kappa, a[t, c] * kappa)
            memory = memory @ forget + torch.outer(v[t, c], k[t, c])
            o = memory @ r[t, c]
            o = (o - o.mean()) / (o.var(correction=0) + 1e-5 * channels).sqrt()
            o = o * block.gain[c] + block.bias[c] + (r[t, c] * k[t, c] * block.bonus[c]).sum() * v[t, c]
            rows.append(o * g[t, c])
        outputs = torch.cat([outputs[:, : c.start], torch.stack(rows), outputs[:, c.stop :]], 1)
        memories.append(memory.T)
    return outputs @ block.out.weight, memories


def naive_mlstm(block: Any, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Without a stabiliser: eq. 19-27 as they are."""
    inner, heads, channels = block.inner, block.heads, block.head_width
    columns = x @ block.inputs.weight
    q, k = silu(naive_conv(columns[:, : 2 * inner], block.taps)).view(len(x), 2, heads, channels).unbind(1)
    v, gate = columns[:, 2 * inner : 4 * inner].view(len(x), 2, heads, channels).unbind(1)
    i, f = columns[:, 4 * inner :].chunk(2, 1)
    rows, memories = [], []
    for head in range(heads):
        memory = torch.zeros(channels, channels, dtype=x.dtype)
        n = torch.zeros(channels, dtype=x.dtype)
        for t in range(len(x)):
            write = torch.exp(i[t, head] + block.input_bias[head])
            keep = torch.sigmoid(f[t, head] + block.forget_bias[head])
            key = k[t, head] / math.sqrt(channels)
            memory = keep * memory + write * torch.outer(v[t, head], key)
            n = keep * n + write * key
            h = memory @ q[t, head] / torch.clamp((n @ q[t, head]).abs(), min=1)
            skip = block.skip.view(heads, channels)[head] * q[t, head]
            rows.append((normalised(h, 1e-3) + skip) * silu(gate[t, head]))
        memories.append(torch.cat([memory.T, n[:, None]], 1))
    return torch.stack(rows).view(heads, len(x), channels).transpose(0, 1).flatten(1) @ block.out.weight, memories


def naive_mamba3(block: Any, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """With complex numbers: h[t] = alpha e^(i theta) h[t-1] + .., of which the real part is read."""
    heads, width, size = block.heads, block.head_width, block.size
    inner = heads * width
    columns = (x @ block.inputs.weight).split([inner, inner, size, size, size // 2, heads, heads, heads], 1)
    values, gate = (part.view(len(x), heads, width) for part in columns[:2])
    rows, states = [], []

    def as_complex(row: Tensor, bias: Tensor) -> Tensor:
        left, right = (normalised(row, 1e-6) + bias).chunk(2)
        return torch.complex(left, right)

    for head in range(heads):
        h = torch.zeros(size // 2, width, dtype=torch.complex128)
        before = torch.zeros_like(h)
        turned = torch.ones(size // 2, dtype=torch.complex128)
        for t in range(len(x)):
            step = softplus(columns[5][t, head] + block.bias[head])
            alpha = torch.exp(-step * torch.clamp(softplus(columns[6][t, head]), min=1e-4))
            share = torch.sigmoid(columns[7][t, head])
            # Our states do not turn: keys and queries turn the other way.
            turn = torch.exp(-1j * step * math.pi * torch.tanh(columns[4][t]))
            turned = turned * turn
            key, query = (
                as_complex(columns[n][t], bias[head, 0]) for n, bias in ((2, block.key_bias), (3, block.query_bias))
            )
            now = torch.outer(key, values[t, head].to(h.dtype))
            h = turn[:, None] * alpha * (h + (1 - share) * step * before) + share * step * now
            before = now
            y = (query.conj() @ h).real + block.skip[head, 0, 0] * values[t, head]
            rows.append(normalised(y, 1e-5) * silu(gate[t, head]))
        state = h * turned.conj()[:, None]
        states.append(torch.cat([state.real, state.imag]))
    return torch.stack(rows).view(heads, len(x), width).transpose(0, 1).flatten(1) @ block.out.weight, states


NAIVE: dict[str, Callable[[Any, Tensor], tuple[Tensor, list[Tensor]]]] = {
    "kda": naive_kda, "rwkv7": naive_rwkv7, "mlstm": naive_mlstm, "mamba3": naive_mamba3,
}  # fmt: skip


@pytest.fixture(params=NAIVE)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def strengthen(block: Any, name: str, strength: float) -> None:
    """Decays up to e^-strength a token, weaker in some channels or heads than in others."""
    with torch.no_grad():
        if name == "kda":
            block.log_rate.zero_()
            block.step.copy_(torch.linspace(-8, strength, len(block.step)))
        elif name == "rwkv7":
            block.decay.copy_(torch.linspace(-8, strength, len(block.decay)))
        elif name == "mlstm":
            block.forget_bias.copy_(torch.linspace(6, -strength, block.heads))
            block.input_bias.copy_(torch.linspace(-strength, strength, block.heads))
        else:
            block.bias.copy_(torch.linspace(-8, strength, block.heads))


@pytest.mark.parametrize("kernels", [False, True])
@pytest.mark.parametrize("strength", [1.0, 10.0, 60.0])
def test_strong_decays_stay_exact_in_fp32(name: str, strength: float, kernels: bool, device: torch.device) -> None:
    """Over chunks whose decays multiply to less than any number of fp32, beside channels that forget hardly at all."""
    block = build(name, noise=0.1)
    strengthen(block, name, strength)
    x = torch.randn(2, 200, 16)
    state = block.init_state(2)
    exact = passed(deepcopy(block).double(), x.double(), [part.double() for part in state], [200], CPU)
    found = passed(use_kernels(block) if kernels else block, x, state, [200], device if kernels else CPU)
    assert (found[0] - exact[0]).abs().max() < 2e-4 * exact[0].abs().max()
    for a, b in zip(found, exact, strict=True):
        assert a.isfinite().all()
        assert (a - b).norm() < 2e-3 * b.norm() + 1e-6


def test_the_stabiliser_of_mlstm_cancels_out(device: torch.device) -> None:
    """Whatever the scale of the memory that a segment starts from, and however large a gate."""
    block = build("mlstm").double()
    x = torch.randn(2, 40, 16, dtype=torch.float64)
    with torch.no_grad():
        _, (memory, scale, past) = block(x, block.init_state(2))
        y, _ = block(x, (memory, scale, past))
        for shift in (-30.0, 5.0):
            moved, _ = block(x, (memory * math.exp(-shift), scale + shift, past))
            assert (moved - y).abs().max() < TOLERANCE
        # Without the stabiliser, e^1000 is infinite.
        block.input_bias.fill_(1000.0)
        y, state = block(x, block.init_state(2))
        parts, after = [], block.init_state(2)
        for part in x.split([7, 1, 32], 1):
            found, after = block(part, after)
            parts.append(found)
        assert y.isfinite().all() and (state[1] > 900).all()
        assert (torch.cat(parts, 1) - y).abs().max() < TOLERANCE


def test_kda_with_one_decay_a_head_is_gated_delta() -> None:
    ours, theirs = build("kda").double(), build("gated_delta").double()
    inner, channels = ours.inner, ours.head_width
    with torch.no_grad():
        for p in (ours.fade.weight, theirs.inputs.weight):
            p.zero_()
        for name in ("taps", "step"):
            getattr(ours, name).copy_(theirs.taps if name == "taps" else theirs.step.repeat_interleave(channels))
        ours.log_rate.copy_(theirs.log_rate[:, None, None])
        theirs.inputs.weight[:, : 3 * inner] = ours.inputs.weight[:, : 3 * inner]
        theirs.inputs.weight[:, 4 * inner + ours.heads :] = ours.inputs.weight[:, 3 * inner + 2 * channels :]
        # Constant gates on both sides: sigmoid(0) = 1/2, and silu of a gate of zeros, so compare what is in front.
        ours.gate.weight.zero_()
        x = torch.randn(2, 50, 16, dtype=torch.float64)
        _, (memory, _) = ours(x, ours.init_state(2))
        _, (wanted, _) = theirs(x, theirs.init_state(2))
    assert memory.abs().max() > 0.01
    assert (memory - wanted).abs().max() < TOLERANCE


@pytest.mark.parametrize("name", NAIVE)
def test_heads_that_do_not_divide_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"model\.expand 1\.5 x model\.width 20 .*model\.head_width 8"):
        build(name, width=20)
