"""State-space duality: a linear recurrence with one decay a head, computed as masked matrix products.

Paper: Dao & Gu 2024, "Mamba-2" (arXiv:2405.21060): recurrence eq. 2 with A a number a head, its dual form section 5,
the chunked algorithm section 6, the layer around it section 7.1 (parallel projections, gate, norm), heads that share
keys and queries section 7.2.

| here           | paper       | meaning                                                              |
|----------------|-------------|----------------------------------------------------------------------|
| values         | X           | what is written, a vector a head                                     |
| keys, queries  | B, C        | where it is written and read, shared by the heads                    |
| step           | Delta       | how much of a token is taken in: softplus of its projection and bias |
| rate           | A = -e^rate | speed of forgetting: Mamba's A, before discretisation                |
| fade           | log a       | step * A, the logarithm of a token's decay (a is A[t] of eq. 2)      |
| left           | L o C B^T   | the recurrence as one masked matrix                                  |
| hidden         | h           | the state, [N, P] a head                                             |
| carry          | A~ of 6.3   | what is left at a chunk's start of the state, of each chunk's writes |
| skip           | D           | weight of the token itself                                           |

What we changed: the short convolution has no bias, the norm no gain (the next matrix has one).

Shapes: `B` rows, `T` time, `D` width, `H` heads, `P` head width, `I` = H P inner width, `N` state size, `K` taps,
`J` chunks of `L` tokens.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.layers import Linear, RMSNorm, parameter, precise
from model.recurrence import at_once, causal_conv, conv_taps, split_time, step_bias, sums

State = tuple[Tensor, Tensor]

CHUNK = 64
# Where all chunks are computed at once.
WIDE_CHUNK = 128


class SSD(nn.Module):
    """`forward(x [B, T, D], state) -> (y [B, T, D], state)`; state = (past [B, K - 1, I + 2N], hidden [B, N, I]).

    Config fields read: width, expand, head_width, state (64 if 0), conv. Raises ValueError if heads do not divide the
    inner width.
    """

    def __init__(self, config: Any):
        super().__init__()
        inner, self.head_width, self.size = round(config.expand * config.width), config.head_width, config.state or 64
        if inner % self.head_width:
            raise ValueError(
                f"model.expand {config.expand} x model.width {config.width} is not divisible into heads of "
                f"model.head_width {self.head_width}"
            )
        heads, mixed = inner // self.head_width, inner + 2 * self.size
        self.parts, self.shapes = (inner, mixed, heads), ((config.conv - 1, mixed), (self.size, inner))
        self.input = Linear(config.width, inner + mixed + heads)
        self.taps = conv_taps(mixed, config.conv)
        # The state's time scale is exponential in these two: they take small steps.
        self.rate = parameter(torch.empty(heads).uniform_(1, 16).log(), "vector", lr=0.1)
        self.bias = step_bias(heads)
        self.skip = parameter(torch.ones(heads, 1), "vector")
        self.norm = RMSNorm()
        self.out = Linear(inner, config.width, gain=0.0)

    def init_state(self, batch: int) -> State:
        past, hidden = (self.taps.new_zeros(batch, *shape) for shape in self.shapes)
        return past, hidden

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        past, hidden = state
        gate, mixed, step = self.input(x).split(self.parts, -1)
        mixed, past = causal_conv(mixed, self.taps, past)
        with torch.autocast(x.device.type, enabled=False):
            step = F.softplus(precise(step) + self.bias)
            # Where all chunks are computed at once, the big products take operands in the type of the layer's products.
            kind = gate.dtype if at_once(x) else precise(mixed).dtype
            values, keys, queries = F.silu(mixed).to(kind).split([self.parts[0], self.size, self.size], -1)
            values = values.unflatten(-1, (-1, self.head_width))
            inputs = values * step[..., None], step * -self.rate.exp(), keys, queries
            if at_once(x):
                y, hidden = dual_at_once(hidden, *inputs)
            else:
                parts = []
                for chunk in zip(*(part.split(CHUNK, 1) for part in inputs), strict=True):
                    part, hidden = dual(hidden, *chunk)
                    parts.append(part)
                y = torch.cat(parts, 1)
            y = y + self.skip * values
        return self.out(self.norm(y.flatten(-2) * F.silu(gate))), (past, hidden)


def dual(hidden: Tensor, values: Tensor, fade: Tensor, keys: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
    """One chunk: hidden [B, N, I] before it, values [B, T, H, P], fade [B, T, H], keys and queries [B, T, N].

    Returns y [B, T, H, P] and hidden after it.
    """
    time, head_width = values.shape[1], values.shape[3]
    if time == 1:
        after = torch.addcmul(keys.mT * values.flatten(-2), hidden, fade.exp().repeat_interleave(head_width, 2))
        return (queries @ after).view_as(values), after
    total = fade.new_ones(time, time).tril() @ fade
    last = total[:, -1:]
    # [B, H, T, T]: what is left at a row's time of what a column's time wrote.
    left = (total.mT[..., None] - total.mT[..., None, :]).tril().exp() * (queries @ keys.mT).tril()[:, None]
    y = (left @ values.transpose(1, 2)).transpose(1, 2)
    y = y + total.exp()[..., None] * (queries @ hidden).view_as(values)
    writes = (values * (last - total).exp()[..., None]).flatten(-2)
    return y, torch.baddbmm(hidden * last.exp().repeat_interleave(head_width, 2), keys.mT, writes)


def dual_at_once(hidden: Tensor, values: Tensor, fade: Tensor, keys: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
    """What `dual` returns, for a segment of many chunks. The big products have operands of the type of `keys`; decays,
    sums of chunks and the state are as precise as `fade`."""
    time, heads, kind = values.shape[1], values.shape[2], keys.dtype
    values, fade, keys, queries = split_time((values, fade, keys, queries), 1, WIDE_CHUNK)
    # [B, J, H, L]: sums from a chunk's start.
    total = sums(fade.mT)
    last = total[..., -1:]
    left = ((total[..., None] - total[..., None, :]).tril().exp() * (queries @ keys.mT)[:, :, None]).tril()
    y = (left.to(kind) @ values.transpose(2, 3).to(kind)).transpose(2, 3)
    # [B, J, N, I]: what each chunk writes, as it is at the chunk's end.
    writes = keys.mT @ (values * (last - total).exp().mT[..., None]).flatten(-2).to(kind)
    # [B, H, J + 1, J + 1]: what is left at the start of chunk i, or at the end, of `hidden` and of the chunks' writes.
    # Each exponent is a sum of its own, since a difference of long sums would lose small decays.
    fades = last.transpose(1, 2).mT * fade.new_ones(total.shape[1] + 1, total.shape[1]).triu()
    carry = F.pad(sums(fades), (1, 0)).triu().exp().triu().mT
    # [B, H, J + 1, N P]
    states = torch.cat([hidden[:, None], writes], 1).unflatten(-1, (heads, -1)).permute(0, 3, 1, 2, 4)
    states = (carry @ states.flatten(3)).view(states.shape).permute(0, 2, 3, 1, 4).flatten(3)
    y = y + total.exp().mT[..., None] * (queries @ states[:, :-1].to(kind)).view_as(values)
    # A copy: a view would keep the states of all chunks.
    return y.flatten(1, 2)[:, :time], states[:, -1].clone()
