"""RWKV-7 "Goose": a delta rule whose decay, rate and removed key are vectors that depend on the token.

Paper: Peng et al. 2025, "RWKV-7" (arXiv:2503.14456), section 4.1 (time mixing); initial values are those of its code.
With every token x, mixed with the one before it in six ways:

    S[t] = S[t-1] (diag(w) - kappa^T (a kappa)) + v^T k,    o[t] = S[t] r^T + (r . (rho k)) v behind a norm of the first

| here           | paper      | meaning                                                                   |
|----------------|------------|---------------------------------------------------------------------------|
| blend          | mu         | how far each of six inputs is that of the token before: token shift       |
| r, k, v        | r, k, v    | receptance (the query), key and value                                     |
| log_w          | log w      | decay of each channel, -e^-1/2 sigmoid(decay + a low-rank map): > -0.607  |
| rate           | a          | in-context learning rate: how much of a channel is replaced, in (0, 1)    |
| kappa          | kappa hat  | removal key of unit length, k times removal (xi)                          |
| mixing         | alpha      | how far k is scaled by the rate                                           |
| bonus          | rho        | weight of the token itself                                                |
| memory         | S^T        | keys x values                                                             |

What we changed: no value residual, as blocks do not see the first layer's values; RWKV's channel mixing is the MLP of
the layer. Blends, decays and gains begin as in the first layer of the code; matrices begin at unit gain, as Muon's
steps do not depend on it, and the second ones of decay and rate at zero.

Within a chunk, keys are divided by the decay from the chunk's start: at most e^0.607 a token, e^39 in 64.

Shapes: `B` rows, `T` time, `D` width, `I` inner width, `N` heads, `C` head width, `J` chunks of `L` tokens.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from model.chunks import Chunked, advance
from model.layers import Linear, parameter, precise
from model.recurrence import count_heads

State = tuple[Tensor, Tensor]


class RWKV7(Chunked):
    """`forward(x [B, T, D], state) -> (y [B, T, D], state)`; state = (memory [B, N, C, C], past input [B, 1, D]).

    Config fields read: width, expand, head_width. Raises ValueError if heads do not divide the inner width.
    """

    def __init__(self, config: Any):
        super().__init__()
        inner, self.heads = count_heads(config)
        self.width, self.head_width = config.width, config.head_width
        width = self.width
        rank, gate_rank = (32 * max(1, round(size * width**0.5 / 32)) for size in (2.5, 5))
        # Of r, w, k, v, a and g.
        place = torch.arange(width) / width
        self.blend = parameter(torch.stack([1 - place**power for power in (0.2, 0.9, 0.7, 0.7, 0.9, 0.2)]), "vector")
        self.r, self.k, self.v = (Linear(width, inner) for _ in range(3))
        self.to_decay, self.to_rate, self.to_gate = (Linear(width, size) for size in (rank, rank, gate_rank))
        self.from_decay, self.from_rate = (Linear(rank, inner, gain=0.0) for _ in range(2))
        self.from_gate = Linear(gate_rank, inner)
        place = torch.linspace(-0.5, 0.5, inner)
        wave = torch.linspace(-1, 1, self.head_width).repeat(self.heads)
        wave = wave * wave.abs()
        # Time scales are exponential in it: it learns slowly.
        self.decay = parameter(6 * place - 2.5 + 2.5 * wave, "vector", lr=0.1)
        self.rate = parameter(0.4 * place - 0.19 + 0.3 * wave, "vector")
        self.removal = parameter(0.71 - 0.1 * place, "vector")
        self.mixing = parameter(torch.full((inner,), 1.02), "vector")
        self.bonus = parameter(torch.full((inner,), -0.04), "vector")
        self.gain = parameter(torch.ones(inner), "vector")
        self.bias = parameter(torch.zeros(inner), "vector")
        self.out = Linear(inner, width, gain=0.0)

    def init_state(self, batch: int) -> State:
        memory = self.gain.new_zeros(batch, self.heads, self.head_width, self.head_width)
        return memory, self.gain.new_zeros(batch, 1, self.width)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        memory, past = state
        change = torch.cat([past.to(x.dtype), x[:, :-1]], 1) - x
        inputs = (x + change * self.blend[:, None, None]).unbind()
        r, k, v = (part(inputs[n]) for n, part in ((0, self.r), (2, self.k), (3, self.v)))
        w = self.from_decay(self.to_decay(inputs[1]).tanh())
        rate = self.from_rate(self.to_rate(inputs[4]))
        gate = self.from_gate(self.to_gate(inputs[5]).sigmoid())
        past = x[:, -1:].to(past.dtype, copy=True)
        with torch.autocast(x.device.type, enabled=False):
            r, k, v = (self.operand(part) for part in (r, k, v))
            log_w = -math.exp(-0.5) * (precise(w) + self.decay).sigmoid()
            rate = (precise(rate) + self.rate).sigmoid()
            kappa = precise(k) * self.removal
            k = precise(k) * (1 + (rate - 1) * self.mixing)
            # [B, T, I] -> [B, N, T, C]
            r, k, v, kappa, rate, log_w, direct = (
                part.unflatten(2, (self.heads, -1)).transpose(1, 2).contiguous()
                for part in (r, k, v, kappa, rate, log_w, r * k * self.bonus)
            )
            kappa = kappa * (kappa.square().sum(-1, keepdim=True) + 1e-12).rsqrt()
            form = one_step if x.shape[1] == 1 else self.all_chunks
            y, memory = form(r, k, v, kappa, kappa * rate, log_w, memory)
            # Squares of larger numbers, as inputs of 10^6 give, would overflow.
            y = F.layer_norm(precise(y).clamp(-1e18, 1e18), [self.head_width], eps=1e-5 * self.head_width)
            y, direct = (part.transpose(1, 2).flatten(2) for part in (y, direct.sum(-1, keepdim=True) * v))
            y = torch.addcmul(self.bias, y, self.gain) + direct
        return self.out(y * gate), (memory, past)

    def all_chunks(
        self, r: Tensor, k: Tensor, v: Tensor, kappa: Tensor, removed: Tensor, log_w: Tensor, memory: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Outputs [B, N, T, C] and next memory [B, N, C, C] of receptances, keys, values, removal keys, these times the
        rate, and log decays [B, N, T, C]. Big products have operands of the type of `v`."""
        time, kind = r.shape[2], v.dtype
        r, k, v, kappa, removed, log_w = self.split(r, k, v, kappa, removed, log_w)
        # [B, N, J, L, C]: from the chunk's start to a token, with its own decay.
        total = self.running_sums(log_w)
        back, end = (-total).exp(), (total[..., -1:, :] - total).exp()
        # What is recalled for a removal is the memory before the token's own decay.
        reads = torch.cat([r * total.exp(), kappa * (total - log_w).exp()], -2).to(kind)
        pairs = reads @ torch.cat([k * back, removed * back], -2).to(kind).mT
        (see, miss), (recall, lower) = (rows.chunk(2, -1) for rows in precise(pairs).chunk(2, -2))
        read, look = reads.chunk(2, -2)
        right = torch.cat([recall.tril(-1).to(kind) @ v, look], -1)
        # What each token recalls of an empty memory, and its product with another is what it recalls of that.
        added, taken = self.solve(lower, precise(right)).to(kind).chunk(2, -1)
        write, remove = (k * end).to(kind).mT, (removed * end).to(kind).mT
        memories, memory = advance(memory, total[..., -1:, :].exp().mT, write @ v - remove @ added, remove @ taken)
        memories = memories.to(kind)
        y = read @ memories + see.tril().to(kind) @ v - miss.tril().to(kind) @ (added + taken @ memories)
        return y.flatten(2, 3)[:, :, :time], memory


def one_step(
    r: Tensor, k: Tensor, v: Tensor, kappa: Tensor, removed: Tensor, log_w: Tensor, memory: Tensor
) -> tuple[Tensor, Tensor]:
    """What `all_chunks` returns, for one token."""
    memory = memory * log_w.exp().mT + k.mT * precise(v) - removed.mT * (kappa @ memory)
    return precise(r) @ memory, memory


def pruning_groups(block: Any) -> tuple[Any, ...]:
    """Heads, as studies/pruning/surgery.py takes them."""
    one = torch.arange(block.heads).repeat_interleave(block.head_width)
    out = ("out.weight", 0, one)
    maps = [(f"{name}.weight", 1, one) for name in ("r", "k", "v", "from_decay", "from_rate", "from_gate")]
    gains = [(name, 0, one) for name in ("decay", "rate", "removal", "mixing", "bonus", "gain", "bias")]
    return "heads", block.heads, [*maps, *gains, out], [out], lambda left: {"heads": left}
