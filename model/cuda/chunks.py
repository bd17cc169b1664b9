"""Parts of linear recurrences in chunks, by operators that are fast on CUDA and give the same bits in every run."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from model import chunks


class Chunked(chunks.Chunked):
    """Long chunks fill a GPU, and its products have operands in the precision of the layer."""

    most = 64

    def operand(self, x: Tensor) -> Tensor:
        return x

    def running_sums(self, x: Tensor) -> Tensor:
        """By additions of x, shifted by 1, 2, 4 .. tokens: cumsum differs from run to run."""
        shift = 1
        while shift < x.shape[-2]:
            x, shift = x + F.pad(x, (0, 0, shift, -shift)), 2 * shift
        return x

    def solve(self, lower: Tensor, right: Tensor) -> Tensor:
        return Inverse.apply(lower.tril(-1)).to(right.dtype) @ right


def sums(x: Tensor) -> Tensor:
    """x[..., 0] + ... + x[..., i] for every i. cumsum differs from run to run, and compiled autocast takes gradients of
    a product in bf16."""
    return (x[..., None, :] * x.new_ones(x.shape[-1], x.shape[-1]).tril()).sum(-1)


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
