"""S4D with all chunks at once: large products in the precision of the inputs, and real numbers, since compilers do not
fuse operators on complex ones.

Shapes: as in blocks/s4d.py.
"""

import torch
from torch import Tensor

from model.blocks import s4d
from model.blocks.s4d import hankel
from model.layers import precise

CHUNK = 128


class S4D(s4d.S4D):
    def chunks(self, u: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
        """The filter's outputs [H, B, T] for inputs u [H, B, T], and the states after them."""
        if rest := u.shape[2] > CHUNK and u.shape[2] % CHUNK:
            y, states = self.chunks(u[..., :-rest], states)
            last, states = self.chunks(u[..., -rest:], states)
            return torch.cat([y, last], 2), states
        size = min(u.shape[2], CHUNK)
        direct, reads, enters, back, far = self.matrices(size)
        # [H, B, L, n] -> [H, B L, n]
        new = u.unflatten(2, (-1, size))
        flat, past = new.flatten(1, 2), []
        entered = precise(flat @ enters.to(u.dtype)).view(*new.shape[:3], -1)
        for chunk in entered.unbind(2):
            past.append(states)
            states = pairs_product(states, far) + chunk - (0 if back is None else states @ back)
        old = torch.stack(past, 2).flatten(1, 2).to(u.dtype)
        return (flat @ direct.to(u.dtype) + old @ reads.mT.to(u.dtype)).view(u.shape), states

    def matrices(self, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor]:
        """For chunks of n = `size` tokens: what each token adds to the outputs [H, n, n]; what these read of the states
        before the chunk [H, n, 2P]; what each token adds to the states after it [H, n, 2P]; what they lose by feedback
        [H, 2P, 2P], if there is one; and the decay over a chunk [H, 1, 2P]."""
        half, damping, log_decay = self.discrete_pairs()
        row = pairs_product(self.readout.flatten(1), damping) * (4 * half)
        wave = waves(log_decay, size)
        # A token's own share is the real part: Re(row A-bar^t), for t to n.
        reads = conjugate(pairs_product(row[:, None], wave))
        return toeplitz(reads[:, :size, ::2].sum(2)), reads[:, 1:], wave[:, :size].flip(1), None, wave[:, size:]

    def discrete_pairs(self) -> tuple[Tensor, Tensor, Tensor]:
        """half [H, 1]; damping and log decay [H, 2P]."""
        half = self.log_step.exp() / 2
        real, imaginary = -half * self.log_decay.exp(), half * self.frequency
        norm = (1 - real).square() + imaginary.square()
        damping = torch.stack([1 - real, imaginary], 2) / norm[..., None]
        turn = torch.atan2(2 * imaginary, 1 - real.square() - imaginary.square())
        return (
            half,
            damping.flatten(1),
            torch.stack([torch.log1p((4 * real / norm).clamp(min=1e-6 - 1)) / 2, turn], 2).flatten(1),
        )


def conjugate(x: Tensor) -> Tensor:
    """Of pairs [..., 2P]."""
    return torch.stack([x[..., ::2], -x[..., 1::2]], -1).flatten(-2)


def pairs_product(x: Tensor, y: Tensor) -> Tensor:
    """Products of complex numbers that are pairs [..., 2P]."""
    a, b, c, d = x[..., ::2], x[..., 1::2], y[..., ::2], y[..., 1::2]
    return torch.stack([a * c - b * d, a * d + b * c], -1).flatten(-2)


def waves(log_decay: Tensor, count: int) -> Tensor:
    """Pairs [H, count + 1, 2P] of the powers 0 to `count`, by their logarithms [H, 2P]."""
    time = torch.arange(count + 1, device=log_decay.device)[:, None]
    size, turn = (time * log_decay[:, None, ::2]).exp(), time * log_decay[:, None, 1::2]
    return torch.stack([size * turn.cos(), size * turn.sin()], -1).flatten(-2)


def toeplitz(kernel: Tensor) -> Tensor:
    """[H, n, n] of kernel [H, n]: entry (i, t) is kernel[t - i], or 0 for i > t."""
    return hankel(kernel[..., None]).flip(1)
