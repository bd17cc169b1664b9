"""SSD with all chunks at once, by batched products that fill a GPU.

Each chunk writes what it would leave in an empty state. One small matrix for each head then says what is left of these
writes at the start of every later chunk: A~ in section 6.3 of Dao & Gu 2024 (arXiv:2405.21060), `carry` here.

Shapes: as in blocks/ssd.py; `J` chunks of `L` tokens.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from model.blocks import ssd
from model.chunks import split_time
from model.cuda.chunks import sums

CHUNK = 128


class SSD(ssd.SSD):
    def mix(self, hidden: Tensor, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        return all_chunks(hidden, *inputs) if inputs[0].shape[1] > 1 else super().mix(hidden, *inputs)


def all_chunks(hidden: Tensor, values: Tensor, fade: Tensor, keys: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
    """What `dual` returns, for a segment of many chunks. The big products have operands of the type of `keys`; decays,
    sums of chunks and the state are as precise as `fade`."""
    time, heads, kind = values.shape[1], values.shape[2], keys.dtype
    values, fade, keys, queries = split_time((values, fade, keys, queries), 1, CHUNK)
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
