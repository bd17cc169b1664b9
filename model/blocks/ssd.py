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
| skip           | D           | weight of the token itself                                           |

What we changed: the short convolution has no bias, the norm no gain (the next matrix has one).

Shapes: `B` rows, `T` time, `D` width, `H` heads, `P` head width, `I` = H P inner width, `N` state size, `K` taps.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.layers import Linear, RMSNorm, parameter, precise
from model.recurrence import causal_conv, conv_taps, count_heads, step_bias

State = tuple[Tensor, Tensor]

CHUNK = 64


class SSD(nn.Module):
    """`forward(x [B, T, D], state) -> (y [B, T, D], state)`; state = (past [B, K - 1, I + 2N], hidden [B, N, I]).

    Config fields read: width, expand, head_width, state (64 if 0), conv. Raises ValueError if heads do not divide the
    inner width.
    """

    def __init__(self, config: Any):
        super().__init__()
        inner, heads = count_heads(config)
        self.head_width, self.size = config.head_width, config.state or 64
        mixed = inner + 2 * self.size
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
            # In the precision of the layer's products.
            values, keys, queries = F.silu(mixed).to(gate.dtype).split([self.parts[0], self.size, self.size], -1)
            values = values.unflatten(-1, (-1, self.head_width))
            y, hidden = self.mix(hidden, values * step[..., None], step * -self.rate.exp(), keys, queries)
            y = y + self.skip * values
        return self.out(self.norm(y.flatten(-2) * F.silu(gate))), (past, hidden)

    def mix(self, hidden: Tensor, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """What `dual` returns, for a segment of any length."""
        parts = []
        for chunk in zip(*(precise(part).split(CHUNK, 1) for part in inputs), strict=True):
            part, hidden = dual(hidden, *chunk)
            parts.append(part)
        return torch.cat(parts, 1), hidden


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


def pruning_groups(block: Any) -> tuple[Any, ...]:
    """States, as studies/pruning/surgery.py takes them. Heads share a norm, so that no head can go without a change of
    the others."""
    inner, _, heads = block.parts
    (past, _), _ = block.shapes
    states, others, no_states = torch.arange(block.size), torch.full((inner,), -1), torch.full((block.size,), -1)
    # Gate and values, keys, queries, steps.
    columns = torch.cat([others, others, states, states, others[:heads]])
    owned = [("input.weight", 1, columns), ("taps", 0, torch.cat([others, states, states]))]
    queries = ("taps", 0, torch.cat([others, no_states, states]))

    def attributes(left: int) -> dict[str, Any]:
        mixed = inner + 2 * left
        return {"size": left, "parts": (inner, mixed, heads), "shapes": ((past, mixed), (left, inner))}

    return "states", block.size, owned, [queries], attributes
