"""S4 with all chunks at once, as in cuda/s4d.py.

Shapes: as in blocks/s4d.py.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from model.blocks import s4
from model.cuda.s4d import S4D, conjugate, pairs_product, toeplitz, waves


class S4(S4D, s4.S4):
    def matrices(self, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor]:
        direct, reads, enters, _, far = super().matrices(size)
        half, damping, log_decay = self.discrete_pairs()
        through = damping * (2 * half * self.feedback.square()).repeat_interleave(2, 1)
        hears = conjugate(pairs_product(2 * pairs_product(through, damping)[:, None], waves(log_decay, size - 1)))
        series = torch.cat([1 + through[:, ::2].sum(1, keepdim=True), hears[:, :-1, ::2].sum(2)], 1)
        # Tokens less the feedback, by tokens.
        inverse = toeplitz(inverse_series(series))
        direct, enters = inverse @ direct, inverse @ enters
        return direct, reads - direct.mT @ hears, enters, hears.mT @ enters, far


def inverse_series(series: Tensor) -> Tensor:
    """The first n coefficients [H, n] of one over a power series, by Newton's iteration, which doubles them."""
    inverse = 1 / series[:, :1]
    while (known := inverse.shape[1]) < (size := min(2 * inverse.shape[1], series.shape[1])):
        inverse = F.pad(inverse, (0, size - known))
        product = inverse[:, None] @ toeplitz(series[:, :size])
        inverse = 2 * inverse - (product @ toeplitz(inverse))[:, 0]
    return inverse
