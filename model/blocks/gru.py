"""Gated recurrent unit.

Paper: Cho et al. 2014 (arXiv:1406.1078), section 2.3, in the variant of torch.nn.GRU:

    r, z = sigmoid(x[t] W_rz + b_rz + h[t-1] U_rz)
    n = tanh(x[t] W_n + b_n + r e),  e = h[t-1] U_n + b_e
    h[t] = (1 - z) n + z h[t-1]

| here      | paper          | meaning                                                  |
|-----------|----------------|----------------------------------------------------------|
| inputs    | W_r, W_z, W    | what gates and candidate hear of the input, with `bias`  |
| recurrent | U_r, U_z, U    | what they hear of the output before                      |
| r, z      | r, z           | reset and update gates                                   |
| n         | h tilde        | candidate output                                         |
| echo      | U h[t-1]       | e: the last output as the candidate would hear it        |

What we changed: r scales the echo and not h, so that one product a step is enough (torch's variant); biases; an output
projection, because the layer adds to a residual stream.

Shapes: `B` rows, `T` time, `D` width, `H` hidden channels.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.layers import Linear, parameter, precise

State = tuple[Tensor]


class GRU(nn.Module):
    """`forward(x [B, T, D], state) -> (y [B, T, D], state)`; state = (hidden [B, H],).

    Config fields read: width, expand.
    """

    def __init__(self, config: Any):
        super().__init__()
        self.hidden = round(config.expand * config.width)
        self.inputs = Linear(config.width, 3 * self.hidden).weight
        self.recurrent = Linear(self.hidden, 3 * self.hidden).weight
        self.bias = parameter(torch.zeros(3 * self.hidden), "vector")
        self.echo_bias = parameter(torch.zeros(self.hidden), "vector")
        self.out = Linear(self.hidden, config.width, gain=0.0)

    def init_state(self, batch: int) -> State:
        return (self.echo_bias.new_zeros(batch, self.hidden),)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        # As torch's kernels want them.
        weights = [self.inputs.t(), self.recurrent.t(), self.bias, F.pad(self.echo_bias, (2 * self.hidden, 0))]
        with torch.autocast(x.device.type, enabled=False):
            x = precise(x)
            if x.shape[1] == 1:
                hidden = torch.gru_cell(x[:, 0], *state, *weights)
                y = hidden[:, None]
            else:
                y, hidden = self.steps(x, *state, weights)
        return self.out(y), (hidden,)

    def steps(self, x: Tensor, hidden: Tensor, weights: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Outputs [B, T, H] of all tokens, and the last one."""
        # Time first, so that the rows of a step are adjacent in memory.
        y = Steps.apply(x.transpose(0, 1) @ self.inputs + self.bias, hidden, self.recurrent, self.echo_bias)
        return y.transpose(0, 1), y[-1].clone()


class Steps(torch.autograd.Function):
    """Outputs [T, B, H] of T steps, from what they hear of the inputs [T, B, 3H], the output [B, H] before them, U and
    b'. This backward takes half the time of autograd's (torch.gru)."""

    @staticmethod
    def forward(ctx: Any, heard: Tensor, before: Tensor, recurrent: Tensor, bias: Tensor) -> Tensor:
        width = len(bias)
        widths = [2 * width, width]
        gates, echo = torch.empty_like(heard), heard.new_empty(*heard.shape[:2], width)
        hidden = torch.cat([before[None], echo])
        u_rz, u_n = recurrent.split(widths, 1)
        h = before
        # Views of every step are made at once.
        views = [*heard.split(widths, 2), gates[..., : 2 * width], *gates.split(width, 2), echo, hidden[1:]]
        for x_rz, x_n, rz, r, z, n, e, after in zip(*(view.unbind() for view in views), strict=True):
            torch.addmm(x_rz, h, u_rz, out=rz).sigmoid_()
            torch.addmm(bias, h, u_n, out=e)
            torch.addcmul(x_n, r, e, out=n).tanh_()
            h = torch.lerp(n, h, z, out=after)
        ctx.save_for_backward(gates, echo, hidden, recurrent)
        return hidden[1:]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        gates, echo, hidden, recurrent = ctx.saved_tensors
        r, z, n = gates.chunk(3, 2)
        # Slopes of h[t] by the arguments of r and z, by the echo, and by the argument of n.
        by_n = (1 - z) * (1 - n * n)
        slopes = torch.stack([by_n * echo * r * (1 - r), (hidden[:-1] - n) * z * (1 - z), by_n * r, by_n], 2)
        change = torch.empty_like(slopes)
        # A view: it fills with `change`.
        by_echo = change[:, :, :3].flatten(2)
        total, back = torch.zeros_like(hidden[0]), recurrent.t()
        views = [part.unbind() for part in (gradient, z, slopes, change, by_echo)]
        for g, keep, slope, c, e in zip(*(reversed(view) for view in views), strict=True):
            total += g
            torch.mul(total[:, None], slope, out=c)
            total.mul_(keep).addmm_(e, back)
        by_echo = by_echo.flatten(0, 1)
        by_heard = torch.cat([change[:, :, :2], change[:, :, 3:]], 2).flatten(2)
        by_bias = change[:, :, 2].sum((0, 1))
        return by_heard, total, hidden[:-1].flatten(0, 1).t() @ by_echo, by_bias


def pruning_groups(block: Any) -> tuple[Any, ...]:
    """Hidden channels, as studies/pruning/surgery.py takes them."""
    one = torch.arange(block.hidden)
    readers = [("recurrent", 0, one), ("out.weight", 0, one)]
    owned = [("inputs", 1, one.repeat(3)), ("recurrent", 1, one.repeat(3)), ("bias", 0, one.repeat(3))]
    return "channels", block.hidden, [*owned, *readers, ("echo_bias", 0, one)], readers, lambda left: {"hidden": left}
