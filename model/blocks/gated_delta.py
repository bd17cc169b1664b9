"""Gated DeltaNet: an associative memory that forgets and corrects what it recalls.

Papers: Yang, Kautz & Hatamizadeh 2024 (arXiv:2412.06464), eq. 10; the chunked form: its section 3.3, after DeltaNet's,
Yang et al. 2024 (arXiv:2406.06484):

    S[t] = alpha S[t-1] + beta k (v - alpha S[t-1]^T k)^T,    o[t] = S[t]^T q

| here          | paper             | meaning                                                     |
|---------------|-------------------|-------------------------------------------------------------|
| q, k, v       | q, k, v           | queries and keys of unit length, values                     |
| beta          | beta[t]           | how far the memory moves to the new value, in (0, 1)        |
| log_alpha     | log alpha[t]      | decay, -exp(log_rate) softplus(a + step)                    |
| memory        | S[t] transposed   | S above: what is remembered, keys x values                  |
| decay         | Gamma             | products of alpha from one token of a chunk to another      |
| news          | U tilde - W S^T   | what each token of a chunk writes, S before the chunk       |

What we changed: the triangular system of a chunk is solved for `news` alone, instead of for the two factors of the WY
form. One matrix makes q, k, v, gate, beta and alpha; no gains in the output norm, as the next matrix has some; queries
are not divided by sqrt(C), which that norm would undo.

Shapes: `B` rows, `T` time, `D` width, `N` heads, `C` head width, `K` taps.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.layers import Linear, parameter, precise
from model.recurrence import causal_conv, conv_taps, count_heads, step_bias

# Tokens a chunk: 32 is somewhat faster than 64 here, and a segment of the default length.
CHUNK = 32
State = tuple[Tensor, Tensor]


class GatedDelta(nn.Module):
    """`forward(x [B, T, D], state) -> (y [B, T, D], state)`; state = (memory [B, N, C, C], past inputs
    [B, K - 1, 3NC]).

    Config fields read: width, expand, head_width, conv. Raises ValueError if heads do not divide the inner width.
    """

    def __init__(self, config: Any):
        super().__init__()
        self.inner, self.heads = count_heads(config)
        self.head_width, self.past = config.head_width, config.conv - 1
        self.inputs = Linear(config.width, 4 * self.inner + 2 * self.heads)
        self.taps = conv_taps(3 * self.inner, config.conv)
        # As in Mamba-2: rates uniform in [1, 16]. Time scales are exponential in both: they learn slowly.
        self.log_rate = parameter(torch.empty(self.heads).uniform_(1, 16).log(), "vector", lr=0.1)
        self.step = step_bias(self.heads)
        self.out = Linear(self.inner, config.width, gain=0.0)

    def init_state(self, batch: int) -> State:
        memory = self.taps.new_zeros(batch, self.heads, self.head_width, self.head_width)
        return memory, self.taps.new_zeros(batch, self.past, 3 * self.inner)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        memory, past = state
        batch, time, _ = x.shape
        qkv, gate, steps = self.inputs(x).split([3 * self.inner, self.inner, 2 * self.heads], 2)
        qkv, past = causal_conv(qkv, self.taps, past)
        with torch.autocast(x.device.type, enabled=False):
            # [B, T, 3NC] -> 3 x [B, N, T, C]
            qkv = F.silu(precise(qkv)).to(gate.dtype).view(batch, time, 3, self.heads, self.head_width)
            q, k, v = qkv.permute(2, 0, 3, 1, 4).contiguous().unbind()
            q, k = (p * (p.square().sum(-1, keepdim=True) + 1e-6).rsqrt() for p in map(precise, (q, k)))
            # [B, T, 2N] -> 2 x [B, N, T]
            a, beta = precise(steps).transpose(1, 2).chunk(2, 1)
            log_alpha = -self.log_rate.exp()[:, None] * F.softplus(a + self.step[:, None])
            y, memory = self.recall(q, k, v, beta.sigmoid()[..., None], log_alpha, memory)
            # Where next to nothing is recalled it must stay small: under an eps of 1e-6, rounding errors grow to whole
            # bits within 50 steps. The published code's 1e-5, after queries / sqrt(256), is 2.6e-3 here.
            y = F.rms_norm(y, [self.head_width], eps=3e-3)
            y = y.transpose(1, 2).reshape(batch, time, self.inner)
        return self.out(y * F.silu(gate)), (memory, past)

    def recall(
        self, q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_alpha: Tensor, memory: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Outputs [B, N, T, C] and next memory [B, N, C, C] of queries, keys, values [B, N, T, C], beta [B, N, T, 1]
        and log alpha [B, N, T]."""
        outputs, parts = [], (q, k, k * beta, v * beta, log_alpha)
        advance: Any = one_step if q.shape[2] == 1 else one_chunk
        for chunk in zip(*(part.split(CHUNK, 2) for part in parts), strict=True):
            y, memory = advance(*chunk, memory)
            outputs.append(y)
        return torch.cat(outputs, 2), memory


def one_step(
    q: Tensor, k: Tensor, k_beta: Tensor, v_beta: Tensor, log_alpha: Tensor, memory: Tensor
) -> tuple[Tensor, Tensor]:
    """Output [B, N, 1, C] and next memory [B, N, C, C] of one token."""
    memory = memory * log_alpha.exp()[..., None]
    memory = torch.addcmul(memory, k.mT, v_beta - k_beta @ memory)
    return q @ memory, memory


def one_chunk(
    q: Tensor, k: Tensor, k_beta: Tensor, v_beta: Tensor, log_alpha: Tensor, memory: Tensor
) -> tuple[Tensor, Tensor]:
    """Outputs [B, N, T, C] and next memory [B, N, C, C] of queries, keys, beta keys and beta values [B, N, T, C] and
    log alphas [B, N, T] of a few tokens."""
    total, time, back = log_alpha.cumsum(-1), q.shape[2], k.mT
    future = torch.ones(time, time, dtype=torch.bool, device=q.device).triu(1)
    # Masked before exp, which would overflow there.
    decay = (total[..., None] - total[..., None, :]).masked_fill(future, -torch.inf).exp()
    start = total.exp()[..., None]
    # news[i] = beta[i] (v[i] - what memory and news[j], j < i, recall for k[i]); the solver reads no entry with j >= i.
    news = torch.linalg.solve_triangular(
        k_beta @ back * decay, v_beta - k_beta * start @ memory, upper=False, unitriangular=True
    )
    y = q * start @ memory + (q @ back * decay) @ news
    return y, memory * start[..., -1:, :] + (back * decay[..., -1:, :]) @ news


def pruning_groups(block: Any) -> tuple[Any, ...]:
    """Heads, as studies/pruning/surgery.py takes them."""
    heads = torch.arange(block.heads)
    one = heads.repeat_interleave(block.head_width)
    out = ("out.weight", 0, one)
    owned = [("inputs.weight", 1, torch.cat([one.repeat(4), heads.repeat(2)])), ("taps", 0, one.repeat(3)), out]
    owned += [(name, 0, heads) for name in ("log_rate", "step")]
    return "heads", block.heads, owned, [out], lambda left: {"heads": left, "inner": left * block.head_width}
