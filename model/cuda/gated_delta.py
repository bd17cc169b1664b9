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

import torch
from torch import Tensor

from model.blocks import gated_delta
from model.chunks import split_time
from model.cuda.chunks import Inverse, sums

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
