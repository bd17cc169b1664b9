"""Parts that every architecture shares. Shapes: `B` rows, `T` time, `D` width, `H` hidden channels."""

from math import log

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def parameter(value: Tensor, role: str, lr: float = 1.0) -> nn.Parameter:
    """A trainable tensor that says how it is to be optimised.

    Roles: `matrix` (a linear map between feature spaces: orthogonalised updates), `table` (one row a symbol: Adam),
    `vector` (gains, biases, decays: Adam without weight decay). `lr` multiplies the role's learning rate.
    """
    made = nn.Parameter(value)
    made.role, made.lr = role, lr  # type: ignore[attr-defined]
    return made


def rows(table: Tensor, index: Tensor) -> Tensor:
    """table[index] of a table [rows, columns], with gradients summed in a fixed order. On CUDA that is fast for an
    embedding, and slow for indexing, where many indices are equal. On a CPU, an embedding is faster without gradients,
    and indexing with them."""
    return table[index] if torch.is_grad_enabled() and not table.is_cuda else F.embedding(index, table)


def precise(x: Tensor) -> Tensor:
    """x in fp32, or in its own precision if that is higher: for normalisers, gates and losses under autocast."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def coder_nats(nats: Tensor, digits: Tensor) -> Tensor:
    """What the entropy coder needs for symbols of `nats` [...], whose `digits` have nats [..., S]: it adds 2^-48 to the
    probability of every digit (archive/coder.py). The gradient is that of `nats`."""
    least = digits.new_full((), 48 * log(2))
    return nats - (F.softplus(digits.detach() - least) - F.softplus(-least)).sum(-1)


class Linear(nn.Module):
    """y = x W without bias, W [inputs, outputs]: this layout is faster for a few rows on CPU. W starts
    uniform with variance `gain`^2 / inputs, so that outputs keep the scale of inputs at any width (LeCun et al. 1998,
    "Efficient BackProp", eq. 16)."""

    def __init__(self, inputs: int, outputs: int, gain: float = 1.0):
        super().__init__()
        bound = gain * (3 / inputs) ** 0.5
        self.weight = parameter(torch.empty(inputs, outputs).uniform_(-bound, bound), "matrix")

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


class RMSNorm(nn.Module):
    """x / rms(x) over the last dimension, computed in fp32 or better, without a gain: the next matrix has one (Zhang &
    Sennrich 2019, arXiv:1910.07467, eq. 4)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(precise(x), x.shape[-1:], eps=1e-6).to(x.dtype)


class MLP(nn.Module):
    """relu(x W1)^2 W2 (So et al. 2021, "Primer", arXiv:2109.08668). W2 starts at zero: a new layer is the identity."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.up = Linear(width, hidden)
        self.down = Linear(hidden, width, gain=0.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.relu(self.up(x)).square())
