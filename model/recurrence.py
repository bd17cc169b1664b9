"""Parts that recurrent blocks share. Shapes: `B` rows, `T` time, `D` channels, `K` taps."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from model.layers import parameter


def count_heads(config: Any) -> tuple[int, int]:
    """The inner width, expand x width, and its heads of head_width channels. Raises ValueError if there is a rest."""
    inner = round(config.expand * config.width)
    heads, rest = divmod(inner, config.head_width)
    if rest:
        raise ValueError(
            f"model.expand {config.expand} x model.width {config.width} = {inner} channels are not divisible into "
            f"heads of model.head_width {config.head_width}"
        )
    return inner, heads


def causal_conv(x: Tensor, taps: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
    """Each channel's convolution with its own taps: y[t] = sum over k of taps[:, k] x[t - K + 1 + k].

    x [B, T, D], taps [D, K], past [B, K - 1, D] (the inputs before x). Returns y [B, T, D] and the next `past`.
    """
    time = x.shape[1]
    inputs = torch.cat([past.to(x.dtype), x], 1)
    y = inputs[:, :time] * taps[:, 0]
    for k in range(1, taps.shape[1]):
        y = torch.addcmul(y, inputs[:, k : k + time], taps[:, k])
    # A copy: a view would keep the whole segment in memory and in checkpoints.
    return y, inputs[:, time:].to(past.dtype, copy=True)


def conv_taps(channels: int, taps: int) -> nn.Parameter:
    """Taps [D, K] for `causal_conv`, uniform with variance 1 / 3K, as in the code of the state-space papers."""
    return parameter(torch.empty(channels, taps).uniform_(-(taps**-0.5), taps**-0.5), "vector")


def step_bias(channels: int) -> nn.Parameter:
    """Biases whose softplus is a step size, log-uniform in [0.001, 0.1]: the range is in Gu & Dao 2023
    (arXiv:2312.00752), section 3.6, the logarithm in their code.

    Their learning rate is small, because time scales are exponential in them.
    """
    step = torch.empty(channels).uniform_(math.log(0.001), math.log(0.1)).exp()
    return parameter(step.expm1().log(), "vector", lr=0.1)
