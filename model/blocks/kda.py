"""Kimi Delta Attention (KDA): the gated delta rule with a decay for every channel of the keys.

Paper: Kimi Team 2025, "Kimi Linear" (arXiv:2510.26692): the recurrence eq. 1, its chunked form section 3.1, the layer
around it section 4. The short convolution and the chunked form without decay: Yang et al. 2024 (arXiv:2406.06484).

    S[t] = (I - beta k k^T) Diag(alpha) S[t-1] + beta k v^T,    o[t] = S[t]^T q

| here          | paper            | meaning                                                                |
|---------------|------------------|------------------------------------------------------------------------|
| q, k, v       | q, k, v          | queries and keys of unit length, values                                |
| beta          | beta             | how far the memory moves to the new value, in (0, 1)                   |
| log_alpha     | log alpha        | decay of each channel, -exp(log_rate) softplus(fade + step)            |
| memory        | S                | what is remembered, keys x values                                      |
| start, end    | Gamma            | products of alpha from a chunk's start to a token, from there to its end |
| seen, recalled | Q K^T, K K^T    | what queries, and keys, see of the keys before them, decayed           |
| added, taken  | U, W             | what each token writes into an empty memory, and corrects in another   |

What we changed: the decay between two tokens is the product of the decays from each to a point between them, of which
none is above 1, so that no decay is too strong for a chunk; one matrix makes q, k, v, beta and the inputs of the
low-rank maps; no gains in the output norm, as the next matrix has some; no bias in the gate; queries are not divided by
sqrt(C), which that norm would undo.

Shapes: `B` rows, `T` time, `D` width, `N` heads, `C` head width, `K` taps, `J` chunks of `L` tokens, `H` = log2 L.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from model.chunks import Chunked, advance
from model.layers import Linear, parameter, precise
from model.recurrence import causal_conv, conv_taps, count_heads, step_bias

State = tuple[Tensor, Tensor]


class KDA(Chunked):
    """`forward(x [B, T, D], state) -> (y [B, T, D], state)`; state = (memory [B, N, C, C], past inputs
    [B, K - 1, 3NC]).

    Config fields read: width, expand, head_width (also the rank of decays and gate), conv. Raises ValueError if heads
    do not divide the inner width.
    """

    def __init__(self, config: Any):
        super().__init__()
        self.inner, self.heads = count_heads(config)
        self.head_width, self.past = config.head_width, config.conv - 1
        self.inputs = Linear(config.width, 3 * self.inner + 2 * self.head_width + self.heads)
        self.taps = conv_taps(3 * self.inner, config.conv)
        self.fade, self.gate = (Linear(self.head_width, self.inner) for _ in range(2))
        # As in Mamba-2: rates uniform in [1, 16]. Time scales are exponential in both: they learn slowly.
        self.log_rate = parameter(torch.empty(self.heads, 1, 1).uniform_(1, 16).log(), "vector", lr=0.1)
        self.step = step_bias(self.inner)
        self.out = Linear(self.inner, config.width, gain=0.0)

    def init_state(self, batch: int) -> State:
        memory = self.taps.new_zeros(batch, self.heads, self.head_width, self.head_width)
        return memory, self.taps.new_zeros(batch, self.past, 3 * self.inner)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        memory, past = state
        qkv, *low, beta = self.inputs(x).split([3 * self.inner, self.head_width, self.head_width, self.heads], 2)
        qkv, past = causal_conv(qkv, self.taps, past)
        fade, gate = self.fade(low[0]), self.gate(low[1])
        with torch.autocast(x.device.type, enabled=False):
            # [B, T, NC] -> [B, N, T, C]
            fade, q, k, v = (
                part.unflatten(2, (self.heads, -1)).transpose(1, 2).contiguous()
                for part in (precise(fade) + self.step, *F.silu(self.operand(qkv)).chunk(3, 2))
            )
            log_alpha = -self.log_rate.exp() * F.softplus(fade)
            q, k = (p * (p.square().sum(-1, keepdim=True) + 1e-6).rsqrt() for p in map(precise, (q, k)))
            # [B, T, N] -> [B, N, T, 1]
            beta = precise(beta).sigmoid().transpose(1, 2)[..., None]
            form = one_step if x.shape[1] == 1 else self.all_chunks
            y, memory = form(q.to(v.dtype), k.to(v.dtype), beta, v * beta, log_alpha, memory)
            # Where next to nothing is recalled it must stay small, as in gated_delta.
            y = F.rms_norm(precise(y), [self.head_width], eps=3e-3).transpose(1, 2).flatten(2)
        return self.out(y * gate.sigmoid()), (memory, past)

    def all_chunks(
        self, q: Tensor, k: Tensor, beta: Tensor, v_beta: Tensor, log_alpha: Tensor, memory: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Outputs [B, N, T, C] and next memory [B, N, C, C] of queries, keys, beta values and log alphas [B, N, T, C]
        and betas [B, N, T, 1]. Big products have operands of the type of `q`."""
        time, kind = q.shape[2], q.dtype
        q, k, beta, v_beta, log_alpha = self.split(q, k, beta, v_beta, log_alpha)
        # [B, N, J, H + 2, L, C]
        sums = sums_by_halves(log_alpha)
        *halves, start, end = (sums.flatten(0, 1) @ log_alpha).unflatten(-2, sums.shape[:2]).exp().unbind(-3)
        seen, recalled = decayed_products(q, k, halves)
        right = torch.cat([v_beta, beta * (k * start)], -1)
        added, taken = self.solve(beta * recalled, right.to(beta.dtype)).to(kind).chunk(2, -1)
        back = (k * end).to(kind).mT
        memories, memory = advance(memory, start[..., -1:, :].mT, back @ added, back @ taken)
        memories = memories.to(kind)
        y = (q * start).to(kind) @ memories + seen.to(kind) @ (added - taken @ memories)
        return y.flatten(2, 3)[:, :, :time], memory


def one_step(
    q: Tensor, k: Tensor, beta: Tensor, v_beta: Tensor, log_alpha: Tensor, memory: Tensor
) -> tuple[Tensor, Tensor]:
    """What `all_chunks` returns, for one token."""
    memory = memory * log_alpha.exp().mT
    memory = torch.addcmul(memory, k.mT, v_beta - beta * (precise(k) @ memory))
    return precise(q) @ memory, memory


def sums_by_halves(x: Tensor) -> Tensor:
    """Matrices [H + 2, L, L] that sum numbers x [..., L, C] of a chunk, cut into blocks of 2, 4 .. L tokens, H ways:
    what is between each token and the middle of its block, between it and the chunk's start, and its end."""
    time = torch.arange(x.shape[-2], device=x.device)
    half = time // 2 ** torch.arange(x.shape[-2].bit_length() - 1, device=x.device)[:, None]
    row, before = half[..., None], time <= time[:, None]
    between = (row == half[:, None]) & (before == (row % 2 == 1))
    return torch.cat([between, before[None], ~before[None]]).to(x.dtype)


def decayed_products(q: Tensor, k: Tensor, halves: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Products [..., L, L] of queries, and of keys, with the keys [..., L, C] up to them, decayed by the alphas between
    them. A token in the second half of a block sees those in the first half through the middle, so that no factor is
    above 1: no decay is too strong."""
    seen, recalled = (q * k).sum(-1)[..., None, None], k.new_zeros(*k.shape[:-1], 1, 1)
    for factor in halves:
        size = seen.shape[-1]
        early, late = (k * factor).to(k.dtype).unflatten(-2, (-1, 2, size)).unbind(-3)
        looking, decay = (part.unflatten(-2, (-1, 2, size))[..., 1, :, :] for part in (q, factor))
        corners = torch.cat([(looking * decay).to(k.dtype), late], -2) @ early.mT
        seen, recalled = (
            torch.cat([F.pad(above, (0, size)), torch.cat([corner, below], -1)], -2)
            for corner, (above, below) in zip(
                precise(corners).chunk(2, -2),
                (part.unflatten(-3, (-1, 2)).unbind(-3) for part in (seen, recalled)),
                strict=True,
            )
        )
    return seen.squeeze(-3), recalled.squeeze(-3)


def pruning_groups(block: Any) -> tuple[Any, ...]:
    """Heads, as studies/pruning/surgery.py takes them."""
    heads = torch.arange(block.heads)
    one, rest = heads.repeat_interleave(block.head_width), torch.full((2 * block.head_width,), -1)
    out = ("out.weight", 0, one)
    owned = [("inputs.weight", 1, torch.cat([one.repeat(3), rest, heads])), ("taps", 0, one.repeat(3)), out]
    owned += [("log_rate", 0, heads), ("step", 0, one), ("fade.weight", 1, one), ("gate.weight", 1, one)]
    return "heads", block.heads, owned, [out], lambda left: {"heads": left, "inner": left * block.head_width}
