"""Parts of linear recurrences that compute all chunks of a segment at once: what a chunk needs of the chunks before it
is one matrix, the memory. Shapes: `B` rows, `N` heads, `T` time, `J` chunks of `L` tokens, `C` channels of keys, `P` of
values."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.layers import precise


class Chunked(nn.Module):
    """A block that computes in chunks. model/cuda/chunks.py has what is fast on CUDA, and the same in every run."""

    # Most tokens of a chunk.
    most = 32

    def operand(self, x: Tensor) -> Tensor:
        """x as an operand of big products inside of a block: as precise as the block's gates."""
        return precise(x)

    def split(self, *parts: Tensor, fill: float = 0.0) -> list[Tensor]:
        """Parts [B, N, T, ...] as chunks [B, N, J, L, ...]."""
        return split_time(parts, 2, self.most, fill)

    def running_sums(self, x: Tensor) -> Tensor:
        """x[..., 0, :] + ... + x[..., i, :] for every i."""
        return x.cumsum(-2)

    def solve(self, lower: Tensor, right: Tensor) -> Tensor:
        """(I + the part of `lower` [..., L, L] below its diagonal)^-1 right [..., L, P], L a power of two."""
        return torch.linalg.solve_triangular(lower, right, upper=False, unitriangular=True)


def split_time(parts: tuple[Tensor, ...], dim: int, most: int, fill: float = 0.0) -> list[Tensor]:
    """Each part with its dimension T, `dim`, as two: chunks, and L tokens of a chunk, the last one padded by `fill`. L
    is `most`, or the next power of two for fewer tokens."""
    time = parts[0].shape[dim]
    size = min(most, 1 << (time - 1).bit_length())
    return [
        F.pad(x, (0, 0) * (x.ndim - 1 - dim) + (0, -time % size), value=fill).unflatten(dim, (-1, size)) for x in parts
    ]


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
