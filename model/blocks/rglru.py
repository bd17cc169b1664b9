"""Griffin's recurrent block: a real-gated linear recurrent unit (RG-LRU).

Paper: De et al. 2024 (arXiv:2402.19427), sections 2.3 and 2.4, eq. 1-4:

    r = sigmoid(u W_a + b_a),  i = sigmoid(u W_x + b_x),  a[t] = a^(8 r),  a = sigmoid(Lambda)
    h[t] = a[t] h[t-1] + sqrt(1 - a[t]^2) (i u)

| here          | paper              | meaning                                               |
|---------------|--------------------|-------------------------------------------------------|
| u             | x[t]               | the recurrence's input, after the short convolution   |
| r, i          | r[t], i[t]         | recurrence and input gates                            |
| gates, bias   | W_a, W_x, b_a, b_x | what makes them                                       |
| decay         | -Lambda            | how fast each channel forgets                         |
| log_a         | log a[t]           | logarithm of the recurrent weight                     |

What we changed: gates see all channels, not a block of them (one matrix, which can be orthogonalised); no bias in the
convolution, as the gates have theirs; Lambda with the other sign, as -log sigmoid(Lambda) = softplus(-Lambda).

Shapes: `B` rows, `T` time, `D` width, `H` inner channels, `K` taps.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.layers import Linear, parameter, precise
from model.recurrence import causal_conv, conv_taps

State = tuple[Tensor, Tensor]


class RGLRU(nn.Module):
    """`forward(x [B, T, D], state) -> (y [B, T, D], state)`; state = (hidden [B, H], past inputs [B, K - 1, H]).

    Config fields read: width, expand, conv.
    """

    def __init__(self, config: Any):
        super().__init__()
        self.inner, self.past = round(config.expand * config.width), config.conv - 1
        inner = self.inner
        self.inputs = Linear(config.width, 2 * inner)
        self.taps = conv_taps(inner, config.conv)
        self.gates = Linear(inner, 2 * inner)
        self.bias = parameter(torch.zeros(2 * inner), "vector")
        # a^8 is uniform in [0.9, 0.999] (section 2.4). The rate is small: a time scale is exponential in it.
        softplus = torch.empty(inner).uniform_(0.9, 0.999).log() / -8
        self.decay = parameter(softplus.expm1().log(), "vector", lr=0.1)
        self.out = Linear(inner, config.width, gain=0.0)

    def init_state(self, batch: int) -> State:
        return self.taps.new_zeros(batch, self.inner), self.taps.new_zeros(batch, self.past, self.inner)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        hidden, past = state
        branch, u = self.inputs(x).chunk(2, 2)
        u, past = causal_conv(u, self.taps, past)
        r, i = torch.sigmoid(precise(self.gates(u)) + self.bias).chunk(2, 2)
        rate = -8 * F.softplus(precise(self.decay))
        # A shut gate (a[t] = 1) would have an infinite slope.
        scale = (-torch.expm1(2 * r * rate)).clamp_min(1e-12).sqrt()
        inputs = scale * i * precise(u)
        h = self.scan(r, rate, inputs, hidden)
        return self.out(F.gelu(branch) * h), (h[:, -1].clone(), past)

    def scan(self, r: Tensor, rate: Tensor, inputs: Tensor, hidden: Tensor) -> Tensor:
        """h [B, T, H] of gates r and `inputs` [B, T, H], and of h before them."""
        return linear_scan((r * rate).exp(), inputs, hidden)


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


def pruning_groups(block: Any) -> tuple[Any, ...]:
    """Channels, as studies/pruning/surgery.py takes them."""
    one = torch.arange(block.inner)
    readers = [("gates.weight", 0, one), ("out.weight", 0, one)]
    owned = [("inputs.weight", 1, one.repeat(2)), ("gates.weight", 1, one.repeat(2)), ("bias", 0, one.repeat(2))]
    owned += [("taps", 0, one), ("decay", 0, one), *readers]
    return "channels", block.inner, owned, readers, lambda left: {"inner": left}
