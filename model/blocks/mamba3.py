"""Mamba-3: a state-space model with a trapezoidal rule for its inputs and states that turn.

Paper: Lahoti et al. 2026, "Mamba-3" (arXiv:2603.15569): the exponential-trapezoidal rule, complex states as rotations
that depend on the data, biases of B and C; with one input and one output a channel (SISO). The parametrisation is that
of the published code, mamba-ssm 2.3:

    h[t] = alpha h[t-1] + (1 - lambda) Delta alpha B[t-1] x[t-1] + lambda Delta B[t] x[t],  y[t] = C[t]^T h[t] + D x[t]

with alpha = e^(Delta A). B and C are turned by the sum of the angles so far: a state that is a complex number.

| here          | paper           | meaning                                                                   |
|---------------|-----------------|---------------------------------------------------------------------------|
| values        | x               | what is written, a vector a head                                          |
| keys, queries | B, C            | where it is written and read: normalised, plus a bias a head, turned      |
| step          | Delta           | how much of a token is taken in: softplus of its projection and bias      |
| fade          | log alpha       | step A, A = -softplus of its projection                                   |
| now, later    | gamma, beta     | lambda Delta; (1 - lambda) Delta of the next token, which decays with it  |
| angle         | theta           | sum of Delta pi tanh of a projection, for each pair of states             |
| hidden        | h               | the state, [S, P] a head                                                  |
| skip          | D               | weight of the token itself                                                |

What we changed: all pairs of states turn (half of them in the code), a pair has a channel of each half of a head's
states, and norms have no gain, as biases are free and the next matrix has some. Outputs are normalised a head, before
the gate: an option of the code, without which they grow with the width. Steps begin at 0.01 to 1, ten times those of
the code: A begins near -0.7, where Mamba-2's is -1 to -16, and corpora here have few tokens. As in the paper, there is
no short convolution.

Shapes: `B` rows, `T` time, `D` width, `I` inner width, `N` heads, `P` head width, `S` states, `J` chunks of `L` tokens.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from model.chunks import Chunked, advance
from model.layers import Linear, RMSNorm, parameter, precise
from model.recurrence import count_heads

State = tuple[Tensor, Tensor, Tensor, Tensor]


class Mamba3(Chunked):
    """`forward(x [B, T, D], state) -> (y [B, T, D], state)`; state = (hidden [B, N, S, P], angle [B, N, 1, S / 2], and
    of the last token key [B, N, 1, S] and value [B, N, 1, P]).

    Config fields read: width, expand, head_width, state (64 if 0; the paper's is 128). Raises ValueError if heads do
    not divide the inner width, or the state is odd.
    """

    def __init__(self, config: Any):
        super().__init__()
        inner, self.heads = count_heads(config)
        self.head_width, self.size = config.head_width, config.state or 64
        if self.size % 2:
            raise ValueError(f"model.state {self.size} is odd: it is the width of pairs that turn")
        self.inputs = Linear(config.width, 2 * inner + 2 * self.size + self.size // 2 + 3 * self.heads)
        # Its softplus is a step, log-uniform in [0.01, 1]. Time scales are exponential in it: it learns slowly.
        step = torch.empty(self.heads).uniform_(math.log(0.01), 0).exp()
        self.bias = parameter(step.expm1().log(), "vector", lr=0.1)
        self.key_bias, self.query_bias = (parameter(torch.ones(self.heads, 1, self.size), "vector") for _ in range(2))
        self.skip = parameter(torch.ones(self.heads, 1, 1), "vector")
        self.norm = RMSNorm()
        self.out = Linear(inner, config.width, gain=0.0)

    def init_state(self, batch: int) -> State:
        shapes = (self.size, self.head_width), (1, self.size // 2), (1, self.size), (1, self.head_width)
        hidden, angle, key, value = (self.bias.new_zeros(batch, self.heads, *shape) for shape in shapes)
        return hidden, angle, key, value

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        hidden, angle, key, value = state
        inner = self.heads * self.head_width
        values, gate, *shared, turn, steps = self.inputs(x).split(
            [inner, inner, self.size, self.size, self.size // 2, 3 * self.heads], 2
        )
        with torch.autocast(x.device.type, enabled=False):
            values = self.operand(values).unflatten(2, (self.heads, -1)).transpose(1, 2)
            # [B, T, 3N] -> 3 x [B, N, T]
            step, rate, share = precise(steps).transpose(1, 2).chunk(3, 1)
            step = F.softplus(step + self.bias[:, None])
            fade = -step * F.softplus(rate).clamp_min(1e-4)
            now = step * share.sigmoid()
            # [B, N, T, S / 2], modulo full turns.
            angles = angle + self.running_sums(step[..., None] * (math.pi * precise(turn).tanh())[:, None])
            keys, queries = (
                rotate(self.norm(precise(part))[:, None] + bias, angles)
                for part, bias in zip(shared, (self.key_bias, self.query_bias), strict=True)
            )
            # What the trapezoidal rule adds of a token when the next one comes.
            wait = step - now
            hidden = hidden + wait[..., :1, None] * key.mT * value
            later = F.pad(wait[..., 1:], (0, 1))
            form = one_step if x.shape[1] == 1 else self.all_chunks
            y, hidden = form(keys, queries, values, fade, now, later, hidden)
            y = F.rms_norm(y + self.skip * values, [self.head_width], eps=1e-5).transpose(1, 2).flatten(2)
            # Copies: views would keep the whole segment.
            angle, key, value = (
                part[:, :, -1:].to(hidden.dtype).clone(memory_format=torch.contiguous_format)
                for part in (angles.remainder(2 * math.pi), keys, values)
            )
        return self.out(y * F.silu(gate)), (hidden, angle, key, value)

    def all_chunks(
        self, keys: Tensor, queries: Tensor, values: Tensor, fade: Tensor, now: Tensor, later: Tensor, hidden: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Outputs [B, N, T, P] and next hidden [B, N, S, P] of keys and queries [B, N, T, S], values [B, N, T, P], and
        for each token [B, N, T] the logarithm of its decay, its weight in its own output and what later outputs add to
        that. Big products have operands of the type of `values`."""
        time, kind = keys.shape[2], values.dtype
        keys, queries, values, fade, now, later = self.split(keys, queries, values, fade, now, later)
        # [B, N, J, L]: from the chunk's start.
        total = self.running_sums(fade[..., None])[..., 0]
        last = total[..., -1:]
        square = total.new_ones(total.shape[-1], total.shape[-1])
        # Masked before exp, which would overflow there. Rounding errors of huge sums may be above 0.
        decay = (total[..., None] - total[..., None, :]).tril().clamp_max(0).exp()
        weight = (now[..., None, :] * square + later[..., None, :] * square.tril(-1)) * decay
        left = (weight * precise(queries.to(kind) @ keys.to(kind).mT)).tril()
        added = (keys * ((now + later) * decay[..., -1, :])[..., None]).to(kind).mT @ values
        states, hidden = advance(hidden, last.exp()[..., None], added)
        y = left.to(kind) @ values + (queries * total.exp()[..., None]).to(kind) @ states.to(kind)
        return y.flatten(2, 3)[:, :, :time], hidden


def rotate(x: Tensor, angle: Tensor) -> Tensor:
    """Pairs of a channel in the first half of x [..., S] and one in the second, turned by angle [..., S / 2]."""
    left, right = x.chunk(2, -1)
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([left * cos - right * sin, left * sin + right * cos], -1)


def one_step(
    keys: Tensor, queries: Tensor, values: Tensor, fade: Tensor, now: Tensor, later: Tensor, hidden: Tensor
) -> tuple[Tensor, Tensor]:
    """What `all_chunks` returns, for one token, of which no later one follows."""
    hidden = hidden * fade.exp()[..., None] + (keys * now[..., None]).mT * values
    return queries @ hidden, hidden


def pruning_groups(block: Any) -> tuple[Any, ...]:
    """Heads, as studies/pruning/surgery.py takes them."""
    heads, shared = torch.arange(block.heads), torch.full((2 * block.size + block.size // 2,), -1)
    one = heads.repeat_interleave(block.head_width)
    out = ("out.weight", 0, one)
    owned = [("inputs.weight", 1, torch.cat([one.repeat(2), shared, heads.repeat(3)])), out]
    owned += [(name, 0, heads) for name in ("bias", "key_bias", "query_bias", "skip")]
    return "heads", block.heads, owned, [out], lambda left: {"heads": left}
