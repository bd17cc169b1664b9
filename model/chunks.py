"""Parts of linear recurrences that compute all chunks of a segment at once: what a chunk needs of the chunks before it
is one matrix, the memory. Shapes: `B` rows, `N` heads, `T` time, `J` chunks of `L` tokens, `C` channels of keys, `P` of
values."""

import torch
from torch import Tensor
from torch.nn import functional as F

from model.layers import precise

# Tokens of a chunk, on a CPU and on a GPU. A segment of the default length is one chunk.
CHUNK, WIDE_CHUNK = 32, 64


def wide(x: Tensor) -> bool:
    """Whether x is on a GPU: long chunks fill it, and some operators are slow there or change from run to run."""
    return x.is_cuda


def for_products(x: Tensor) -> Tensor:
    """x as an operand of big products inside of a block: on a CPU they are as precise as its gates."""
    return x if wide(x) else precise(x)


def split_chunks(*parts: Tensor, fill: float = 0.0) -> list[Tensor]:
    """Parts [B, N, T, ...] as [B, N, J, L, ...], filled at the end. Fewer tokens than a chunk has make one of a power
    of two."""
    time = parts[0].shape[2]
    size = min(WIDE_CHUNK if wide(parts[0]) else CHUNK, 1 << (time - 1).bit_length())
    return [F.pad(x, (0, 0) * (x.ndim - 3) + (0, -time % size), value=fill).unflatten(2, (-1, size)) for x in parts]


def running_sums(x: Tensor) -> Tensor:
    """x[..., 0, :] + ... + x[..., i, :] for every i. On CUDA, cumsum differs from run to run."""
    if not wide(x):
        return x.cumsum(-2)
    shift = 1
    while shift < x.shape[-2]:
        x, shift = x + F.pad(x, (0, 0, shift, -shift)), 2 * shift
    return x


def solve(lower: Tensor, right: Tensor) -> Tensor:
    """(I + the part of `lower` [..., L, L] below its diagonal)^-1 right [..., L, P], L a power of two. On CUDA the
    inverse is made by halves: exact, and stable where powers of `lower` would be huge."""
    if not wide(lower):
        return torch.linalg.solve_triangular(lower, right, upper=False, unitriangular=True)
    inverse, half = torch.ones_like(lower[..., :1, :1])[..., None].expand(*lower.shape[:-1], 1, 1), 1
    while half < lower.shape[-1]:
        first, second = inverse.unflatten(-3, (-1, 2)).unbind(-3)
        # [..., blocks, half, half]: what the second half of each block takes of its first half.
        corners = lower.unflatten(-1, (-1, 2 * half)).unflatten(-3, (-1, 2 * half)).diagonal(dim1=-4, dim2=-2)
        corners = corners.movedim(-1, -3)[..., half:, :half]
        corner = second @ corners @ first
        inverse = torch.cat([F.pad(first, (0, half)), torch.cat([-corner, second], -1)], -2)
        half *= 2
    return inverse.squeeze(-3).to(right.dtype) @ right


def advance(memory: Tensor, kept: Tensor, added: Tensor, taken: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The memories before each chunk [B, N, J, C, P] and after the last [B, N, C, P], of M <- kept M + added - taken M,
    as precise as `memory`. kept [B, N, J, C or 1, 1], added [B, N, J, C, P], taken [B, N, J, C, C]."""
    before = []
    for chunk in range(added.shape[2]):
        before.append(memory)
        change = added[:, :, chunk]
        if taken is not None:
            change = change - taken[:, :, chunk] @ memory.to(taken.dtype)
        memory = memory * kept[:, :, chunk] + change
    return torch.stack(before, 2), memory
