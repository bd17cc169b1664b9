"""Diagonal state spaces: every channel is filtered by a learned sum of fading waves, then channels are mixed.

Paper: Gu, Gupta, Goel & Ré 2022, "On the Parameterization and Initialization of Diagonal State Space Models"
(arXiv:2206.11893): eq. 1 the system; section 3 its bilinear discretisation, the kernel as a Vandermonde product and
conjugate pairs; section 4 the initialisation S4D-Inv. The layer around it: Gu, Goel & Ré 2022 (arXiv:2111.00396),
section 3.4; GELU and the gated linear unit are those of its code.

| here      | paper           | meaning                                                             |
|-----------|-----------------|---------------------------------------------------------------------|
| log_step  | log Delta       | time that passes with a token, each channel its own                 |
| log_decay | log(-Re A)      | how fast a state fades; through exp, no value can make it grow      |
| frequency | Im A            | how fast it turns                                                   |
| readout   | C B             | what the output takes of it; only the product of C and B matters    |
| skip      | D               | direct path                                                         |
| half      | Delta / 2       |                                                                     |
| damping   |                 | 1 / (1 - Delta A / 2)                                               |
| decay     | A-bar           | (1 + Delta A / 2) damping                                           |
| row       | C B-bar         | readout times Delta damping, times 2 for the conjugate's share      |
| basis     | V_L(A-bar)      | A-bar^t for t < n: a Vandermonde matrix, by doubling                |

What we changed: chunks of n = 32 tokens, 128 on a GPU, replace an FFT over the sequence. A chunk's tokens meet each
other through the first n entries of the kernel, as a matrix product, and all that is older through the state. On one
CPU thread that is as fast at T = 32, 2.2 times faster at 256 and 4.6 times at 1024. A linear map in front sets the
number of channels. The readout starts with variance 1 / N in place of 1: in one epoch, memory is better added than
unlearned.

Shapes: `B` rows, `T` time, `D` width, `H` channels, `P` = N / 2 conjugate pairs of states, `n` tokens of a chunk, `L`
chunks. States are real and imaginary parts by turns, [H, B, 2P]. A row [H, P] reads Re(row states).
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.layers import Linear, parameter, precise
from model.recurrence import at_once

# Tokens of a chunk. A GPU prefers a few large products.
CHUNK, GPU_CHUNK = 32, 128


class S4D(nn.Module):
    """`forward(x [B, T, D], state) -> (y [B, T, D], state)`; state = (states [H, B, 2P],).

    Config fields read: width, expand, state (64 if 0). Raises ValueError if state is odd.
    """

    def __init__(self, config: Any):
        super().__init__()
        channels, states = round(config.expand * config.width), config.state or 64
        if states % 2:
            raise ValueError(f"model.state {states} is odd, but states come in conjugate pairs: make it even")
        self.channels, self.states = channels, states
        odd = torch.arange(1, states, 2)
        self.input = Linear(config.width, channels).weight
        self.readout = parameter(torch.randn(channels, states // 2, 2) * states**-0.5, "vector")
        self.skip = parameter(torch.randn(channels, 1, 1), "vector")
        # The paper's smaller rate: an error of a pole grows with the length of the memory.
        self.log_step = parameter(torch.empty(channels, 1).uniform_(math.log(1e-3), math.log(1e-1)), "vector", 0.1)
        self.log_decay = parameter(torch.full((channels, states // 2), math.log(0.5)), "vector", 0.1)
        self.frequency = parameter((states / math.pi * (states / odd - 1)).repeat(channels, 1), "vector", 0.1)
        self.out = Linear(channels, 2 * config.width, gain=0.0)

    def init_state(self, batch: int) -> tuple[Tensor]:
        return (self.readout.new_zeros(self.channels, batch, self.states),)

    def forward(self, x: Tensor, state: tuple[Tensor]) -> tuple[Tensor, tuple[Tensor]]:
        batch, time, _ = x.shape
        # Channels first, because each has its own matrices. [H, B, T]
        u = (self.input.T @ x.flatten(0, 1).T).view(-1, batch, time)
        with torch.autocast(x.device.type, enabled=False):
            several = self.chunks_at_once if at_once(x) else self.chunks
            y, states = (several if time > 1 or torch.is_grad_enabled() else self.step)(u, state[0])
            y = F.gelu(torch.addcmul(precise(y), precise(u), self.skip)).flatten(1)
        return F.glu(self.out(y.T)).view(batch, time, -1), (states,)

    def chunks(self, u: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
        """The filter's outputs [H, B, T] for inputs u [H, B, T], and the states after them."""
        if rest := u.shape[2] > CHUNK and u.shape[2] % CHUNK:
            y, states = self.chunks(u[..., :-rest], states)
            last, states = self.chunks(u[..., -rest:], states)
            return torch.cat([y, last], 2), states
        u = precise(u)
        half, damping, decay, row = self.discrete()
        # [H, n, P], [H, n, 2P]
        power = powers(decay, min(u.shape[2], CHUNK))
        basis = pairs(power)
        far = power[:, -1:] * decay[:, None]
        enter = self.entrance(half, damping, basis)
        entered, past = [], []
        for new in u.split(power.shape[1], 2):
            past.append(states)
            # Latest token first, so that it meets the lowest power.
            entered.append(enter(new, states))
            states = pairs(complexes(states) * far) + entered[-1] @ basis
        # [H, B, L, n] -> [H, B L, n]
        y = torch.stack(entered, 2).flatten(1, 2) @ hankel(basis @ pairs(row.conj())[..., None])
        return (y + read(torch.stack(past, 2).flatten(1, 2), row * decay, basis)).view(u.shape), states

    def chunks_at_once(self, u: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
        """`chunks` for a GPU: large products in the precision of u, for all chunks at once, and real numbers, since
        compilers do not fuse operators on complex ones."""
        if rest := u.shape[2] > GPU_CHUNK and u.shape[2] % GPU_CHUNK:
            y, states = self.chunks_at_once(u[..., :-rest], states)
            last, states = self.chunks_at_once(u[..., -rest:], states)
            return torch.cat([y, last], 2), states
        size = min(u.shape[2], GPU_CHUNK)
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

    def step(self, u: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
        """`chunks` for one token, as the recurrence."""
        u = precise(u)
        half, damping, decay, row = self.discrete()
        entered = self.enter(u, states, half, damping)
        states = pairs(torch.addcmul(entered.to(decay.dtype), complexes(states), decay[:, None]))
        return read_now(states, row), states

    def discrete(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """half [H, 1], damping, decay and row [H, P]."""
        half = self.log_step.exp() / 2
        damping = 1 / (1 - half * torch.complex(-self.log_decay.exp(), self.frequency))
        return half, damping, 2 * damping - 1, torch.view_as_complex(self.readout) * damping * (4 * half)

    def entrance(self, half: Tensor, damping: Tensor, basis: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """A function from a chunk's inputs [H, B, n] and the states before it to what enters the states, latest first.
        Here, it is the inputs; S4 takes a feedback from them."""
        return lambda new, states: new.flip(2)

    def enter(self, u: Tensor, states: Tensor, half: Tensor, damping: Tensor) -> Tensor:
        """The same for one token."""
        return u


def pairs(z: Tensor) -> Tensor:
    """Complex [..., P] to real [..., 2P]."""
    return torch.view_as_real(z.resolve_conj()).flatten(-2)


def complexes(x: Tensor) -> Tensor:
    """Real [..., 2P] to complex [..., P]."""
    return torch.view_as_complex(x.unflatten(-1, (-1, 2)))


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


def powers(base: Tensor, count: int) -> Tensor:
    """base^t for t < count: [H, count, P] of base [H, P]."""
    base = base[:, None]
    power = torch.ones_like(base)
    while power.shape[1] < count:
        power = torch.cat([power, power[:, : count - power.shape[1]] * base], 1)
        base = base * base
    return power


def hankel(kernel: Tensor) -> Tensor:
    """[H, n, n] of kernel [H, n, 1]: entry (i, t) is kernel[i + t - n + 1], or 0 before its start."""
    count = kernel.shape[1]
    # 2n - 1 entries, repeated and cut into rows of 2n: each row starts one entry later.
    rows = F.pad(kernel.mT, (count - 1, 0)).expand(-1, count + 1, -1).flatten(1)
    return rows[:, : 2 * count * count].unflatten(1, (count, -1))[..., :count]


def read(states: Tensor, row: Tensor, basis: Tensor) -> Tensor:
    """[H, B, n]: what `row` would read of the states 0 .. n - 1 tokens later, were there no inputs."""
    return pairs((complexes(states) * row[:, None]).conj()) @ basis.mT


def read_now(states: Tensor, row: Tensor) -> Tensor:
    """[H, B, 1]: what `row` reads of the states. As a transposed product, since one column is slow."""
    return (pairs(row.conj())[:, None] @ states.mT).mT
