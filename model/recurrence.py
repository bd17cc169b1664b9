"""Parts that recurrent blocks share. Shapes: `B` rows, `T` time, `D` channels, `K` taps."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from model.layers import parameter


def causal_conv(x: Tensor, taps: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
    """Each channel's convolution with its own taps: y[t] = sum over k of taps[:, k] x[t - K + 1 + k].

    x [B, T, D], taps [D, K], past [B, K - 1, D] (the inputs before x). Returns y [B, T, D] and the next `past`.
    """
    time = x.shape[1]
    inputs = torch.cat([past, x], 1)
    y = inputs[:, :time] * taps[:, 0]
    for k in range(1, taps.shape[1]):
        y = torch.addcmul(y, inputs[:, k : k + time], taps[:, k])
    # A copy: a view would keep the whole segment in memory and in checkpoints.
    return y, inputs[:, time:].clone()


def conv_taps(channels: int, taps: int) -> nn.Parameter:
    """Taps [D, K] for `causal_conv`, uniform with variance 1 / 3K as the state-space papers' codes have them."""
    return parameter(torch.empty(channels, taps).uniform_(-(taps**-0.5), taps**-0.5), "vector")


def step_bias(channels: int) -> nn.Parameter:
    """What softplus takes to step sizes log-uniform in [0.001, 0.1] (Gu & Dao 2023, arXiv:2312.00752, section 3.6).

    Its learning rate is small: a time scale is exponential in it.
    """
    step = torch.empty(channels).uniform_(math.log(0.001), math.log(0.1)).exp()
    return parameter(step.expm1().log(), "vector", lr=0.1)


def linear_scan(decay: Tensor, inputs: Tensor, hidden: Tensor) -> Tensor:
    """h[t] = decay[t] h[t - 1] + inputs[t] for t = 0 .. T - 1, with h[-1] = hidden.

    decay and inputs [B, T, ...], hidden [B, ...]; returns h [B, T, ...]. One operation a step each way: elementwise
    recurrences have no faster form on a CPU.
    """
    if inputs.shape[1] == 1:
        return torch.addcmul(inputs, decay, hidden[:, None])
    return LinearScan.apply(decay, inputs, hidden)


class LinearScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, decay: Tensor, inputs: Tensor, hidden: Tensor) -> Tensor:
        out = torch.empty_like(inputs)
        before = hidden
        for a, b, h in zip(decay.unbind(1), inputs.unbind(1), out.unbind(1), strict=True):
            before = torch.addcmul(b, a, before, out=h)
        ctx.save_for_backward(decay, hidden, out)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        decay, hidden, out = ctx.saved_tensors
        total = torch.empty_like(out)
        total[:, -1] = gradient[:, -1]
        rows = [part.unbind(1) for part in (gradient, decay, total)]
        for t in range(out.shape[1] - 2, -1, -1):
            torch.addcmul(rows[0][t], rows[1][t + 1], rows[2][t + 1], out=rows[2][t])
        by_decay = torch.empty_like(out)
        torch.mul(total[:, 1:], out[:, :-1], out=by_decay[:, 1:])
        torch.mul(total[:, 0], hidden, out=by_decay[:, 0])
        return by_decay, total, total[:, 0] * decay[:, 0]
