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

What we changed: chunks of n = 32 tokens replace an FFT over the sequence. A chunk's tokens meet each
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

# Tokens of a chunk.
CHUNK = 32


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
            y, states = (self.chunks if time > 1 or torch.is_grad_enabled() else self.step)(u, state[0])
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


def pruning_groups(block: Any) -> tuple[Any, ...]:
    """Channels, as studies/pruning/surgery.py takes them."""
    one = torch.arange(block.channels)
    out = ("out.weight", 0, one)
    names = {name for name, _ in block.named_parameters()} - {"input", "out.weight"}
    owned = [("input", 1, one), *((name, 0, one) for name in sorted(names)), out]
    return "channels", block.channels, owned, [out], lambda left: {"channels": left}
