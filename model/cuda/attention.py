"""Attention in which no number changes from step to step, as a compiler and a CUDA graph need it.

Segments take FlexAttention (Dong et al. 2024, arXiv:2412.05496), which skips what is outside the window; single tokens
write into a ring.

Shapes: as in blocks/attention.py, except that `M`, the remembered tokens, are a multiple of BLOCK.
"""

from functools import lru_cache
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from model.blocks import attention
from model.blocks.attention import State
from model.layers import precise

# FlexAttention skips blocks of so many queries and keys.
BLOCK = 128


class Attention(attention.Attention):
    """The state's keys and values have L = M tokens. After a step of one token they are a ring of more, and no other
    step may go on from the state before it."""

    def remembered_tokens(self) -> int:
        """M, so that blocks begin where segments do."""
        return -(-self.window // BLOCK) * BLOCK

    def init_state(self, batch: int) -> State:
        weight, length = self.qkv.weight, self.remembered_tokens()
        # In autocast's precision. Another one replaces it at the first step.
        shape = batch, self.heads, length, self.head_width
        keys, values = (weight.new_zeros(shape, dtype=torch.bfloat16) for _ in range(2))
        end, position = (torch.tensor(number, device=weight.device) for number in (length, 0))
        return keys, values, end, position

    def attend(self, qkv: Tensor, state: State) -> tuple[Tensor, State]:
        keys, values, end, position = state
        time, length, slots = qkv.shape[1], self.remembered_tokens(), keys.shape[2]
        turn = angles(position, time, self.head_width, qkv.device)
        # [B, T, N, C], and from then on [B, N, T, C]
        query, key = (self.norm(precise(part)) for part in qkv[:, :, :2].unbind(2))
        query, key = rotate_real(query * self.temperature[:, 0], turn), rotate_real(key, turn)
        query, key, value = (part.to(qkv.dtype).transpose(1, 2) for part in (query, key, qkv[:, :, 2]))
        if time == 1 and not torch.is_grad_enabled():
            if slots == length:
                # A copy, for this step and the next ones to write into.
                keys, values = (F.pad(part.to(qkv.dtype), (0, 0, 0, 8)) for part in (keys, values))
                slots += 8
            keys.index_copy_(2, (end % slots)[None], key)
            values.index_copy_(2, (end % slots)[None], value)
            age = (end - torch.arange(slots, device=qkv.device)) % slots
            mask = (within(age, self.window) & (age <= position))[None]
            y = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
            return y, (keys, values, end + 1, position + 1)
        if slots != length:
            order = (end - length + torch.arange(length, device=qkv.device)) % slots
            keys, values = keys.index_select(2, order), values.index_select(2, order)
        trained = keys.requires_grad
        keys, values = torch.cat([keys.to(qkv.dtype), key], 2), torch.cat([values.to(qkv.dtype), value], 2)
        if fits_blocks(query):
            run = attend_blocks if torch.compiler.is_compiling() else compiled_blocks()
            y = run(query, keys, values, position, self.window, trained)
        else:
            mask = lookback(position, time, length, self.window, qkv.device)
            y = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
        keys, values = (part[:, :, time:].clone(memory_format=torch.contiguous_format) for part in (keys, values))
        return y, (keys, values, torch.full_like(end, length), position + time)


def fits_blocks(queries: Tensor) -> bool:
    """Whether FlexAttention has kernels for queries [B, N, T, C], and blocks to skip."""
    time, channels = queries.shape[2:]
    return queries.is_cuda and queries.itemsize == 2 and time >= BLOCK and channels in (16, 32, 64, 128, 256)


def angles(position: Tensor, time: int, channels: int, device: torch.device) -> Tensor:
    """Angles [T, C/2] at `position` and the `time` - 1 positions after it."""
    at = position + torch.arange(time, device=device, dtype=torch.float64)
    speed = 10000.0 ** (torch.arange(0, channels, 2, device=device, dtype=torch.float64) / -channels)
    return torch.outer(at, speed)


def rotate_real(x: Tensor, turn: Tensor) -> Tensor:
    """Turn channel pairs (2c, 2c + 1) of x [B, T, N, C] by angles [T, C/2]: in real numbers, for which a compiler makes
    kernels."""
    cos, sin = turn.cos().to(x.dtype), turn.sin().to(x.dtype)
    table = torch.stack([cos, cos, -sin, sin], -1)[:, None]
    pairs = x.unflatten(-1, (-1, 2))
    return (pairs * table[..., :2] + pairs.flip(-1) * table[..., 2:]).flatten(-2)


def within(distance: Tensor, window: int) -> Tensor:
    """Whether a query sees the key that is so many tokens before it."""
    return (distance >= 0) & (distance < window)


def lookback(position: Tensor, time: int, length: int, window: int, device: torch.device) -> Tensor:
    """Mask [T, M + T]: True where a query may look. Memory that was never written (a lane's start) is hidden."""
    key = torch.arange(-length, time, device=device)
    return within(torch.arange(time, device=device)[:, None] - key, window) & (key >= -position)


def attend_blocks(
    queries: Tensor, keys: Tensor, values: Tensor, position: Tensor, window: int, trained: bool
) -> Tensor:
    """Attention of queries [B, N, T, C] on keys and values [B, N, M + T, C]. What lies outside the window costs
    nothing, and only if memory is `trained` does it get gradients."""
    from torch.nn.attention.flex_attention import BlockMask, flex_attention

    time, length = queries.shape[2], keys.shape[2] - queries.shape[2]
    rows, columns = -(-time // BLOCK), -(-keys.shape[2] // BLOCK)
    shapes = 2 * [(rows,), (rows, columns)] + 2 * [(columns,), (columns, rows)]
    sizes = [prod(shape) for shape in shapes]
    tables = block_tables(rows, columns, length, window, trained, queries.device)
    fresh, written, learn = tables.split([sum(sizes[:4]), sum(sizes[:4]), sum(sizes[4:])])
    looks = torch.where(position >= window - 1, written, fresh)
    parts = [*looks.split(sizes[:4]), *learn.split(sizes[4:])]
    parts = [part.view(1, 1, *shape) for part, shape in zip(parts, shapes, strict=True)]

    def mask(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return within(query + length - key, window) & (key >= length - position)

    # By place: the names of what comes last are not the same in all versions.
    make: Any = BlockMask
    blocks = make((time, keys.shape[2]), *parts, (BLOCK, BLOCK), mask)
    return flex_attention(queries, keys, values, block_mask=blocks)


@lru_cache(1)
def compiled_blocks() -> Any:
    return torch.compile(attend_blocks, dynamic=False)


@torch.compiler.assume_constant_result
def block_tables(rows: int, columns: int, length: int, window: int, trained: bool, device: torch.device) -> Tensor:
    """Which blocks of keys a block of queries looks at, in part and whole, each as numbers of blocks and their indices:
    while some memory may not be written, and after that; then, for gradients, which blocks of queries look at keys."""
    row, column = torch.arange(rows)[:, None], torch.arange(columns)
    # Distances between tokens of two blocks are `middle` - reach to `middle` + reach.
    middle, reach = length + BLOCK * (row - column), BLOCK - 1
    some = (middle + reach >= 0) & (middle - reach < window)
    whole = (middle - reach >= 0) & (middle + reach < window)
    fresh = whole & (BLOCK * column >= length)
    learn = trained | (BLOCK * (column + 1) > length)
    looks = [some & ~fresh, fresh, some & ~whole, whole, (some & ~fresh & learn).T, (fresh & learn).T]
    parts = [(look.sum(1), look.int().argsort(dim=1, descending=True, stable=True).flatten()) for look in looks]
    return torch.cat([part for pair in parts for part in pair]).int().to(device)
