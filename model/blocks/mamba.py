"""Mamba's selective scan (S6): a diagonal state-space model whose step size, input and output depend on the token.

Paper: Gu & Dao 2023, "Mamba" (arXiv:2312.00752): recurrence eq. 2a-2b, discretisation eq. 4 (exact for A, Euler's for
B, as in the paper's code), selection algorithm 2, the block around it section 3.4, initial values section 3.6.

| here          | paper        | meaning                                                                   |
|---------------|--------------|---------------------------------------------------------------------------|
| values        | x            | what is written, a number a channel                                       |
| step          | Delta        | how much of a token is taken in; softplus of a projection of rank R       |
| keys, queries | B, C         | where it is written and read, shared by the channels                      |
| rate          | A = -e^rate  | speed of forgetting; -1, -2 .. -N in every channel at first (S4D-Real)    |
| hidden        | h            | the state                                                                 |
| skip          | D            | weight of the token itself                                                |

What we changed: the short convolution has no bias.

Shapes: `B` rows, `T` time, `D` width, `I` inner width, `N` state size, `R` rank of the steps, `K` taps.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.layers import Linear, parameter, precise
from model.recurrence import causal_conv, conv_taps, step_bias

State = tuple[Tensor, Tensor]

CHUNK = 8


class Mamba(nn.Module):
    """`forward(x [B, T, D], state) -> (y [B, T, D], state)`; state = (past [B, K - 1, I], hidden [B, N, I]).

    Config fields read: width, expand, state (16 if 0), conv.
    """

    def __init__(self, config: Any):
        super().__init__()
        inner, size, rank = round(config.expand * config.width), config.state or 16, -(-config.width // 16)
        self.parts, self.shapes = (rank, size, size), ((config.conv - 1, inner), (size, inner))
        self.input = Linear(config.width, 2 * inner)
        self.taps = conv_taps(inner, config.conv)
        self.select = Linear(inner, sum(self.parts))
        self.step = Linear(rank, inner, gain=3**-0.5)
        self.bias = step_bias(inner)
        # The state's time scale is exponential in it: a small rate.
        self.rate = parameter(torch.arange(1.0, size + 1).log()[:, None].repeat(1, inner), "vector", lr=0.1)
        self.skip = parameter(torch.ones(inner), "vector")
        self.out = Linear(inner, config.width, gain=0.0)

    def init_state(self, batch: int) -> State:
        past, hidden = (self.taps.new_zeros(batch, *shape) for shape in self.shapes)
        return past, hidden

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        past, hidden = state
        values, gate = self.input(x).chunk(2, -1)
        values, past = causal_conv(values, self.taps, past)
        values = F.silu(values)
        step, keys, queries = self.select(values).split(self.parts, -1)
        step = self.step(step)
        with torch.autocast(x.device.type, enabled=False):
            step, values = F.softplus(precise(step) + self.bias), precise(values)
            inputs = step, step * values, precise(keys), precise(queries), -self.rate.exp(), hidden
            y, hidden = self.scan(*inputs)
            y = y + self.skip * values
        return self.out(y * F.silu(gate)), (past, hidden)

    def scan(self, *inputs: Tensor) -> Any:
        return SelectiveScan.apply(*inputs)


def chunks(*parts: Tensor) -> list[tuple[Tensor, ...]]:
    """Pieces of CHUNK tokens of tensors [B, T, ...]: small enough that buffers are used again."""
    return list(zip(*(part.split(CHUNK, 1) for part in parts), strict=True))


def unroll(step: Tensor, writes: Tensor, keys: Tensor, rate: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Decays and states, both [B, T, N, I]."""
    decay = (step[..., None, :] * rate).exp_()
    history = keys[..., None] * writes[..., None, :]
    for a, h in zip(decay.unbind(1), history.unbind(1), strict=True):
        hidden = h.addcmul_(a, hidden)
    return decay, history


class SelectiveScan(torch.autograd.Function):
    """h[t] = exp(step[t] rate) h[t - 1] + keys[t] writes[t], y[t] = sum over N of queries[t] h[t].

    step and writes [B, T, I], keys and queries [B, T, N], rate [N, I], hidden [B, N, I]; returns y [B, T, I] and the
    last h. States are computed again for the gradients, chunk by chunk: to keep [B, T, N, I] costs more than that.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        *tokens, rate, hidden = inputs
        y, starts = [], []
        for step, writes, keys, queries in chunks(*tokens):
            starts.append(hidden)
            history = unroll(step, writes, keys, rate, hidden)[1]
            hidden = history[:, -1].contiguous()
            y.append((queries[..., None, :] @ history).squeeze(-2))
        ctx.save_for_backward(*tokens, rate, *starts)
        return torch.cat(y, 1), hidden

    @staticmethod
    def backward(ctx: Any, by_y: Tensor, by_hidden: Tensor) -> tuple[Tensor, ...]:
        *tokens, rate = ctx.saved_tensors[:5]
        by_rate, by_tokens = torch.zeros_like(rate), []
        for start, chunk in zip(ctx.saved_tensors[:4:-1], chunks(*tokens, by_y)[::-1], strict=True):
            step, writes, keys, queries, by_read = chunk
            decay, history = unroll(step, writes, keys, rate, start)
            by_history = queries[..., None] * by_read[..., None, :]
            before = start, *history.unbind(1)[:-1]
            for a, h, by_h in list(zip(decay.unbind(1), before, by_history.unbind(1), strict=True))[::-1]:
                by_hidden = by_h.add_(by_hidden) * a
                # From here on, decay holds the gradient by its logarithm.
                torch.mul(by_hidden, h, out=a)
            by_tokens.append(
                (
                    (decay * rate).sum(2),
                    (keys[..., None, :] @ by_history).squeeze(-2),
                    (by_history @ writes[..., None]).squeeze(-1),
                    (history @ by_read[..., None]).squeeze(-1),
                )
            )
            by_rate += decay.mul_(step[..., None, :]).sum((0, 1))
        return *(torch.cat(parts[::-1], 1) for parts in zip(*by_tokens, strict=True)), by_rate, by_hidden


def pruning_groups(block: Any) -> tuple[Any, ...]:
    """Channels, as studies/pruning/surgery.py takes them."""
    (past, inner), (size, _) = block.shapes
    one = torch.arange(inner)
    readers = [("select.weight", 0, one), ("out.weight", 0, one)]
    owned = [("input.weight", 1, one.repeat(2)), ("step.weight", 1, one), ("rate", 1, one), *readers]
    owned += [(name, 0, one) for name in ("taps", "bias", "skip")]
    return "channels", inner, owned, readers, lambda left: {"shapes": ((past, left), (size, left))}
