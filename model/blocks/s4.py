"""Structured state spaces: S4D whose states feed back through one number, which makes them HiPPO's.

Papers: Gu, Goel & Ré 2022, "Efficiently Modeling Long Sequences with Structured State Spaces" (arXiv:2111.00396):
eq. 2 the HiPPO-LegS matrix, eq. 3 the bilinear discretisation, theorem 1 its normal plus low-rank form, theorem 2 the
recurrence, theorem 3 and algorithm 1 the kernel. P = Q for stability: Goel et al. 2022 (arXiv:2202.09729), under
"Stabilizing S4 for Recurrence".

| here      | paper                | meaning                                                                |
|-----------|----------------------|------------------------------------------------------------------------|
| feedback  | P = Q                | A = Lambda - P P*; a state's phase is free, so P is real               |
| readout   | 2^(1/2) P C          | C for states in units of 2^(1/2) P                                     |
| sense     | 2 P* R / Delta       | what the feedback takes of the states before a token, in their units   |
| direct    | P* R P               | what it takes of the token itself; R = R(0) = (2 / Delta - Lambda)^-1  |
| inverse   | (1 + P* R(z) P)^-1   | Woodbury's correction, as a matrix over the tokens of a chunk          |

What we changed. HiPPO has B = 2^(1/2) P, and we keep that: C is free for every channel, so that B and P free apart
would give no other filters. Then states in units of 2^(1/2) P obey S4D's equation for the input less the feedback,
x' = Lambda x + (u - sum of P^2 x), and P^2 >= 0 keeps every parameter stable. Algorithm 1 divides generating functions
at the roots of unity, which needs C (1 - A-bar^L) and says nothing of the state. We divide the same power series by a
triangular solve over their first n coefficients, and what enters the states comes out on the way.

Shapes: as in s4d.py.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from model.blocks.s4d import S4D, hankel, pairs, read, read_now
from model.layers import parameter


class S4(S4D):
    """`forward(x [B, T, D], state) -> (y [B, T, D], state)`; state = (states [H, B, 2P],).

    Config fields read: width, expand, state (64 if 0). Raises ValueError if state is odd.
    """

    def __init__(self, config: Any):
        super().__init__(config)
        frequency, feedback = legs(2 * self.readout.shape[1])
        self.feedback = parameter(feedback.float().repeat(len(self.readout), 1), "vector", 0.1)
        with torch.no_grad():
            self.frequency.copy_(frequency)
            self.readout.mul_(2**0.5 * self.feedback[..., None])

    def entrance(self, half: Tensor, damping: Tensor, basis: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        sense, direct = self.loop(half, damping)
        series = torch.cat([direct, (basis @ pairs(sense.conj())[..., None])[:, :-1]], 1)
        eye = torch.eye(basis.shape[1], dtype=basis.dtype, device=basis.device)
        # Columns flipped: the latest token first.
        inverse = torch.linalg.solve_triangular(eye + hankel(series).flip(1), eye, upper=True).flip(2)
        return lambda new, states: (new - read(states, sense, basis)) @ inverse

    def enter(self, u: Tensor, states: Tensor, half: Tensor, damping: Tensor) -> Tensor:
        sense, direct = self.loop(half, damping)
        return (u - read_now(states, sense)) / (1 + direct)

    def loop(self, half: Tensor, damping: Tensor) -> tuple[Tensor, Tensor]:
        """sense [H, P] and direct [H, 1, 1]: the feedback at a token's midpoint."""
        through = 2 * half * damping * self.feedback.square()
        return 2 * through * damping, through.real.sum(1)[:, None, None]


def legs(states: int) -> tuple[Tensor, Tensor]:
    """Im Lambda and |V* P| of HiPPO-LegS, for one state of each conjugate pair (theorem 1, appendix C.1).

    HiPPO-LegS + P P^T, where P[n] = (n + 1/2)^(1/2), is -1/2 plus a skew-symmetric matrix, V (Lambda + 1/2) V*.
    """
    root = torch.arange(0.5, states, dtype=torch.float64).sqrt()
    rank = torch.outer(root, root)
    frequency, vectors = torch.linalg.eigh(-1j * (rank.triu(1) - rank.tril(-1)))
    return frequency[states // 2 :], ((root + 0j) @ vectors).abs()[states // 2 :]
