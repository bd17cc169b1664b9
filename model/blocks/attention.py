"""Causal attention over a sliding window, carried from segment to segment.

Papers: Vaswani et al. 2017 (arXiv:1706.03762), eq. 1; rotary positions: Su et al. 2021 (arXiv:2104.09864), eq. 34;
memory of earlier segments: Dai et al. 2019, "Transformer-XL" (arXiv:1901.02860), section 3.2; queries and keys
normalised: Henry et al. 2020 (arXiv:2010.04245); on CUDA, attention by blocks: Dong et al. 2024, "Flex Attention"
(arXiv:2412.05496).

| here             | paper          | meaning                                              |
|------------------|----------------|------------------------------------------------------|
| queries          | Q              | what a position looks for, unit root mean square     |
| keys, values     | K, V           | what positions offer, the window's past in front     |
| temperature      | g / sqrt d_k   | learned sharpness of each head (g of Henry et al.)   |
| angles           | m theta_i      | rotation of channel pair i at position m             |

What we changed: every token sees exactly the `window` latest tokens, itself included, wherever segments are cut,
so that a sequence has the same outputs under every split. Rotated keys are kept; angles are made in float64, so
positions stay exact over a long lane.

Shapes: `B` rows, `T` time, `D` width, `N` heads, `C` head width, `M` remembered tokens, at least window - 1.
"""

from functools import lru_cache
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.layers import Linear, RMSNorm, parameter, precise

State = tuple[Tensor, ...]

# FlexAttention skips blocks of so many queries and keys.
BLOCK = 128


class Attention(nn.Module):
    """`forward(x [B, T, D], state) -> (y [B, T, D], state)`; state = (keys, values [B, N, L, C], end, position): the
    latest rotated keys and values, in front of index `end`, and the number of tokens so far.

    Without gradients, new ones are written behind `end`. On CUDA, L is a ring for single tokens, whose state no other
    step may go on from.
    Config fields read: width, head_width, window. Raises ValueError if width is not a multiple of head_width.
    """

    def __init__(self, config: Any):
        super().__init__()
        width, self.head_width, self.window = config.width, config.head_width, config.window
        if width % self.head_width or self.head_width % 2:
            raise ValueError(
                f"model.width {width} is not divisible into heads of an even model.head_width {self.head_width}"
            )
        self.heads = width // self.head_width
        self.qkv = Linear(width, 3 * width)
        self.out = Linear(width, width, gain=0.0)
        self.temperature = parameter(torch.full((self.heads, 1, 1), 1.0), "vector")
        self.norm = RMSNorm()

    def init_state(self, batch: int) -> State:
        weight = self.qkv.weight
        # On CUDA in autocast's precision. Another one replaces it at the first step.
        dtype = torch.bfloat16 if on_cuda(weight) else weight.dtype
        shape = batch, self.heads, self.remembered(weight), self.head_width
        keys, values = (weight.new_zeros(shape, dtype=dtype) for _ in range(2))
        end, position = (torch.tensor(number, device=weight.device) for number in (shape[2], 0))
        return keys, values, end, position

    def remembered(self, x: Tensor) -> int:
        """M: on CUDA a multiple of BLOCK, so that blocks begin where segments do."""
        return -(-self.window // BLOCK) * BLOCK if on_cuda(x) else self.window - 1

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        batch, time, _ = x.shape
        qkv = self.qkv(x)
        # Attention in bf16 is several times slower than in fp32 on a CPU, whatever its instructions.
        qkv = qkv if qkv.is_cuda else precise(qkv)
        qkv = qkv.view(batch, time, 3, self.heads, self.head_width)
        attend = self.attend_by_tensors if on_cuda(x) or torch.compiler.is_compiling() else self.attend
        with torch.autocast("cpu", enabled=False):
            y, state = attend(qkv, state)
        return self.out(y.transpose(1, 2).reshape(batch, time, -1)), state

    def attend(self, qkv: Tensor, state: State) -> tuple[Tensor, State]:
        """Attention [B, N, T, C] of qkv [B, T, 3, N, C]: the form for a CPU, where numbers cost nothing."""
        end, position, time = int(state[2]), int(state[3]), qkv.shape[1]
        # [3, B, N, T, C]
        qkv = qkv.permute(2, 0, 3, 1, 4)
        turned = rotate(self.norm(qkv[:2]), rotation(position, time, self.head_width))
        queries = (turned[0] * self.temperature).to(qkv.dtype)
        key, value, keys, values = turned[1].to(qkv.dtype), qkv[2], state[0], state[1]
        if torch.is_grad_enabled() or end + time > keys.shape[2]:
            keys, values = keys[:, :, end + 1 - self.window : end], values[:, :, end + 1 - self.window : end]
            end = self.window - 1
            if torch.is_grad_enabled():
                keys, values = torch.cat([keys, key], 2), torch.cat([values, value], 2)
            else:
                # Room for a window more, so that a step of one token seldom copies.
                keys, values = (F.pad(part, (0, 0, 0, self.window + time)).to(qkv.dtype) for part in (keys, values))
        if not torch.is_grad_enabled():
            keys[:, :, end : end + time], values[:, :, end : end + time] = key, value
        position, end = position + time, end + time
        # One token sees all that there is in the window.
        mask = visible(position - time, time, self.window) if time > 1 else None
        first = end - time + 1 - (min(self.window, position) if time == 1 else self.window)
        y = F.scaled_dot_product_attention(queries, keys[:, :, first:end], values[:, :, first:end], attn_mask=mask)
        return y, (keys, values, torch.tensor(end), torch.tensor(position))

    def attend_by_tensors(self, qkv: Tensor, state: State) -> tuple[Tensor, State]:
        """The same without a number that changes from step to step, as a compiler and a CUDA graph need it."""
        keys, values, end, position = state
        time, length, slots = qkv.shape[1], self.remembered(qkv), keys.shape[2]
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


def on_cuda(x: Tensor) -> bool:
    """Whether x takes the form for CUDA."""
    return x.is_cuda


def fits_blocks(queries: Tensor) -> bool:
    """Whether FlexAttention has kernels for queries [B, N, T, C], and blocks to skip."""
    time, channels = queries.shape[2:]
    return queries.is_cuda and queries.itemsize == 2 and time >= BLOCK and channels in (16, 32, 64, 128, 256)


def angles(position: int | Tensor, time: int, channels: int, device: torch.device) -> Tensor:
    """Angles [T, C/2] at `position` and the `time` - 1 positions after it."""
    at = position + torch.arange(time, device=device, dtype=torch.float64)
    speed = 10000.0 ** (torch.arange(0, channels, 2, device=device, dtype=torch.float64) / -channels)
    return torch.outer(at, speed)


@lru_cache(2)
def rotation(position: int, time: int, channels: int) -> Tensor:
    """Unit complex numbers [T, C/2] of these angles."""
    turn = angles(position, time, channels, torch.device("cpu"))
    return torch.polar(torch.ones_like(turn), turn)


def rotate(x: Tensor, turn: Tensor) -> Tensor:
    """Turn channel pairs (2c, 2c + 1) of x [..., T, C], in fp32 or better."""
    pairs = torch.view_as_complex(precise(x).unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turn.to(pairs.dtype)).flatten(-2)


def rotate_real(x: Tensor, turn: Tensor) -> Tensor:
    """The same of x [B, T, N, C] by angles [T, C/2], in real numbers, for which a compiler makes kernels."""
    cos, sin = turn.cos().to(x.dtype), turn.sin().to(x.dtype)
    table = torch.stack([cos, cos, -sin, sin], -1)[:, None]
    pairs = x.unflatten(-1, (-1, 2))
    return (pairs * table[..., :2] + pairs.flip(-1) * table[..., 2:]).flatten(-2)


def within(distance: Tensor, window: int) -> Tensor:
    """Whether a query sees the key that is so many tokens before it."""
    return (distance >= 0) & (distance < window)


def lookback(position: int | Tensor, time: int, length: int, window: int, device: torch.device) -> Tensor:
    """Mask [T, M + T]: True where a query may look. Memory that was never written (a lane's start) is hidden."""
    key = torch.arange(-length, time, device=device)
    return within(torch.arange(time, device=device)[:, None] - key, window) & (key >= -position)


@lru_cache(2)
def visible(position: int, time: int, window: int) -> Tensor:
    return lookback(position, time, window - 1, window, torch.device("cpu"))


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
