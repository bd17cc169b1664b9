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
| inverse       | T / beta          | of the triangular system of each chunk: the UT transform    |
| writes        | U tilde, W        | what each token writes into an empty memory, and corrects   |

What we changed: chunk after chunk, the triangular system is solved for `news` alone, instead of for the two factors of
the WY form. All chunks at once, as on a GPU, need both; a chunk's step from memory to memory is then one product, as
K^T U tilde and K^T W, with K decayed to the chunk's end, need no memory. One matrix makes q, k, v, gate, beta and
alpha; no gains in the output norm, as the next matrix has some; queries are not divided by sqrt(C), which that norm
would undo.

Shapes: `B` rows, `T` time, `D` width, `N` heads, `C` head width, `K` taps, `J` chunks of `L` tokens.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.layers import Linear, parameter, precise
from model.recurrence import at_once, causal_conv, conv_taps, split_time, step_bias, sums

# Tokens a chunk: 32 is somewhat faster than 64 here, and a segment of the default length.
CHUNK = 32
# Where all chunks are computed at once.
WIDE_CHUNK = 64
State = tuple[Tensor, Tensor]


class GatedDelta(nn.Module):
    """`forward(x [B, T, D], state) -> (y [B, T, D], state)`; state = (memory [B, N, C, C], past inputs
    [B, K - 1, 3NC]).

    Config fields read: width, expand, head_width, conv. Raises ValueError if heads do not divide the inner width.
    """

    def __init__(self, config: Any):
        super().__init__()
        self.inner, self.head_width = round(config.expand * config.width), config.head_width
        if self.inner % self.head_width:
            raise ValueError(
                f"model.expand {config.expand} x model.width {config.width} = {self.inner} channels are not divisible "
                f"into heads of model.head_width {self.head_width}"
            )
        self.heads, self.past = self.inner // self.head_width, config.conv - 1
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
            qkv = F.silu(precise(qkv)).view(batch, time, 3, self.heads, self.head_width)
            if at_once(x):
                # Big products take operands in the type of the layer's products.
                qkv = qkv.to(gate.dtype)
            q, k, v = qkv.permute(2, 0, 3, 1, 4).contiguous().unbind()
            q, k = (p * (p.square().sum(-1, keepdim=True) + 1e-6).rsqrt() for p in map(precise, (q, k)))
            # [B, T, 2N] -> 2 x [B, N, T]
            a, beta = precise(steps).transpose(1, 2).chunk(2, 1)
            log_alpha = -self.log_rate.exp()[:, None] * F.softplus(a + self.step[:, None])
            beta = beta.sigmoid()[..., None]
            parts, outputs = (q, k, k * beta, v * beta, log_alpha), []
            if at_once(x):
                q, k, k_beta, v_beta = (part.to(v.dtype) for part in parts[:4])
                y, memory = all_chunks(q, k, k_beta, v_beta, log_alpha, memory)
            else:
                advance: Any = one_step if time == 1 else one_chunk
                for chunk in zip(*(part.split(CHUNK, 2) for part in parts), strict=True):
                    y, memory = advance(*chunk, memory)
                    outputs.append(y)
                y = torch.cat(outputs, 2)
            # Where next to nothing is recalled it must stay small: under an eps of 1e-6, rounding errors grow to whole
            # bits within 50 steps. The published code's 1e-5, after queries / sqrt(256), is 2.6e-3 here.
            y = F.rms_norm(y, [self.head_width], eps=3e-3)
            y = y.transpose(1, 2).reshape(batch, time, self.inner)
        return self.out(y * F.silu(gate)), (memory, past)


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


def all_chunks(
    q: Tensor, k: Tensor, k_beta: Tensor, v_beta: Tensor, log_alpha: Tensor, memory: Tensor
) -> tuple[Tensor, Tensor]:
    """What `one_chunk` returns, for a segment of many chunks. The big products have operands of the type of `q`;
    decays, the triangular system and the memory are as precise as `log_alpha`."""
    time, kind = q.shape[2], q.dtype
    q, k, k_beta, v_beta, log_alpha = split_time((q, k, k_beta, v_beta, log_alpha), 2, WIDE_CHUNK)
    # [B, N, J, L]: sums from a chunk's start.
    total = sums(log_alpha)
    decay = (total[..., None] - total[..., None, :]).tril().exp()
    start, end = total.exp()[..., None], (total[..., -1:] - total).exp()[..., None]
    inverse = Inverse.apply((k_beta @ k.mT * decay).tril(-1)).to(kind)
    # [B, N, J, L, 2C], then [B, N, J, C, 2C]
    writes = inverse @ torch.cat([v_beta, (k_beta * start).to(kind)], -1)
    moves = (k * end).to(kind).mT @ writes
    before = []
    for move, kept in zip(moves.unbind(2), start[..., -1:, :].unbind(2), strict=True):
        before.append(memory.to(kind))
        added, taken = move.chunk(2, -1)
        memory = memory * kept + added - taken @ before[-1]
    memories = torch.stack(before, 2)
    added, taken = writes.chunk(2, -1)
    news = added - taken @ memories
    y = start * (q @ memories) + (q @ k.mT * decay).tril().to(kind) @ news
    return y.flatten(2, 3)[:, :, :time], memory


class Inverse(torch.autograd.Function):
    """(I + lower)^-1 [..., L, L] of strictly lower triangular matrices, L a power of two. Its gradient needs two
    products, however it was computed."""

    @staticmethod
    def forward(ctx: Any, lower: Tensor) -> Tensor:
        inverse = invert(lower.flatten(0, -3)).view_as(lower)
        ctx.save_for_backward(inverse)
        return inverse

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (inverse,) = ctx.saved_tensors
        with torch.autocast(inverse.device.type, enabled=False):
            return -inverse.mT @ gradient @ inverse.mT


def invert(lower: Tensor) -> Tensor:
    """(I + lower)^-1 of lower [S, L, L] by halves: exact, and stable where powers of `lower` would be huge."""
    half = lower.shape[1] // 2
    if not half:
        return torch.ones_like(lower)
    first, second = invert(torch.cat([lower[:, :half, :half], lower[:, half:, half:]])).chunk(2)
    corner = multiply(multiply(second, lower[:, half:, :half]), first)
    return torch.cat([F.pad(first, (0, half)), torch.cat([-corner, second], 2)], 1)


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """a @ b of many matrices. Kernels for products waste most of a GPU on tiny ones."""
    return a @ b if a.shape[2] > 8 else (a[..., None] * b[:, None]).sum(2)
