"""Gated DeltaNet with all chunks at once, by batched products that fill a GPU.

The triangular system of every chunk is inverted, and gives both factors of the WY form (Yang et al. 2024,
arXiv:2406.06484). A chunk's step from memory to memory is then one product: K^T U tilde and K^T W, with K decayed to
the chunk's end, need no memory.

| here    | paper      | meaning                                                    |
|---------|------------|------------------------------------------------------------|
| inverse | T / beta   | of the triangular system of each chunk: the UT transform   |
| writes  | U tilde, W | what each token writes into an empty memory, and corrects  |

Shapes: as in blocks/gated_delta.py; `J` chunks of `L` tokens.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from model.blocks import gated_delta
from model.recurrence import split_time, sums

CHUNK = 64


class GatedDelta(gated_delta.GatedDelta):
    def recall(
        self, q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_alpha: Tensor, memory: Tensor
    ) -> tuple[Tensor, Tensor]:
        if q.shape[2] == 1:
            return super().recall(q, k, v, beta, log_alpha, memory)
        # Big products take operands in the precision of the layer's products.
        q, k, k_beta, v_beta = (part.to(v.dtype) for part in (q, k, k * beta, v * beta))
        return all_chunks(q, k, k_beta, v_beta, log_alpha, memory)


def all_chunks(
    q: Tensor, k: Tensor, k_beta: Tensor, v_beta: Tensor, log_alpha: Tensor, memory: Tensor
) -> tuple[Tensor, Tensor]:
    """What `one_chunk` returns, for a segment of many chunks. The big products have operands of the type of `q`;
    decays, the triangular system and the memory are as precise as `log_alpha`."""
    time, kind = q.shape[2], q.dtype
    q, k, k_beta, v_beta, log_alpha = split_time((q, k, k_beta, v_beta, log_alpha), 2, CHUNK)
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
