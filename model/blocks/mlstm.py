"""mLSTM: the matrix memory of xLSTM, whose input gate is exponential.

Paper: Beck et al. 2024, "xLSTM" (arXiv:2405.04517): eq. 19-27, the stabiliser eq. 15-17, the parallel form appendix
A.3; layers without block-diagonal maps: Beck et al. 2025, "xLSTM 7B" (arXiv:2503.13427).

    C[t] = f C[t-1] + i v k^T,  n[t] = f n[t-1] + i k,  h[t] = C[t] q / max(|n[t] . q|, 1)

| here         | paper        | meaning                                                                       |
|--------------|--------------|-------------------------------------------------------------------------------|
| q, k, v      | q, k, v      | queries, keys and values; keys are divided by sqrt(C)                         |
| log_i, log_f | i~, log f    | logarithms of the gates, f a sigmoid                                          |
| memory       | C^T, n       | keys x values, and n as one more value that is always 1; both times e^-scale  |
| scale        | m            | stabiliser: log of the largest weight of a token in the memory                |
| left         | D            | logarithms of what is left at a row's token of what a column's token wrote    |
| most         | m            | the same stabiliser at each token                                             |

What we changed: q, k and v are linear in the input, as in the 7B model; the short convolution with its SiLU, beside
which there is a skip, comes after q and k, and not before; no biases except those of the gates; no gains in the norm of
each head, as the next matrix has some; forget gates begin at 1/2 to 0.95, and not above, as corpora here have few
tokens; a query's divisor is at least e^-14 of the largest weight, near the 1e-6 that their code adds. The stabiliser
cancels out of outputs, so that no gradient goes through it; at every token it is that of eq. 15.

Shapes: `B` rows, `T` time, `D` width, `N` heads, `C` head width, `K` taps, `J` chunks of `L` tokens.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from model.chunks import Chunked, advance
from model.layers import Linear, parameter, precise
from model.recurrence import causal_conv, conv_taps, count_heads

State = tuple[Tensor, Tensor, Tensor]


class MLSTM(Chunked):
    """`forward(x [B, T, D], state) -> (y [B, T, D], state)`; state = (memory [B, N, C, C + 1], scale [B, N], past
    inputs [B, K - 1, 2NC]).

    Config fields read: width, expand, head_width, conv. Raises ValueError if heads do not divide the inner width.
    """

    def __init__(self, config: Any):
        super().__init__()
        self.inner, self.heads = count_heads(config)
        self.head_width, self.past = config.head_width, config.conv - 1
        self.inputs = Linear(config.width, 4 * self.inner + 2 * self.heads)
        self.taps = conv_taps(2 * self.inner, config.conv)
        self.input_bias = parameter(torch.zeros(self.heads), "vector")
        # Memories of 2 to 20 tokens. Time scales are exponential in it: it learns slowly.
        self.forget_bias = parameter(torch.linspace(0, 3, self.heads), "vector", lr=0.1)
        self.skip = parameter(torch.ones(self.inner), "vector")
        self.out = Linear(self.inner, config.width, gain=0.0)

    def init_state(self, batch: int) -> State:
        memory = self.taps.new_zeros(batch, self.heads, self.head_width, self.head_width + 1)
        return memory, self.taps.new_zeros(batch, self.heads), self.taps.new_zeros(batch, self.past, 2 * self.inner)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        memory, scale, past = state
        qk, v, gate, *gates = self.inputs(x).split([2 * self.inner, self.inner, self.inner, self.heads, self.heads], 2)
        qk, past = causal_conv(qk, self.taps, past)
        with torch.autocast(x.device.type, enabled=False):
            queries, keys = F.silu(self.operand(qk)).chunk(2, 2)
            # [B, T, NC] -> [B, N, T, C]
            q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (queries, keys, self.operand(v)))
            log_i, log_f = precise(gates[0]) + self.input_bias, -F.softplus(-precise(gates[1]) - self.forget_bias)
            form = one_step if x.shape[1] == 1 else self.all_chunks
            y, memory, scale = form(
                q, k * self.head_width**-0.5, v, log_i.transpose(1, 2), log_f.transpose(1, 2), memory, scale
            )
            y = F.rms_norm(y, [self.head_width], eps=1e-3).transpose(1, 2).flatten(2) + self.skip * queries
        return self.out(y * F.silu(gate)), (memory, scale, past)

    def all_chunks(
        self, q: Tensor, k: Tensor, v: Tensor, log_i: Tensor, log_f: Tensor, memory: Tensor, scale: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Outputs [B, N, T, C], next memory [B, N, C, C + 1] and scale [B, N] of queries, keys, values [B, N, T, C],
        and logarithms of the gates [B, N, T]. Big products have operands of the type of `v`."""
        time, kind = q.shape[2], v.dtype
        q, k, v, log_f = self.split(q, k, v, log_f)
        (log_i,) = self.split(log_i, fill=-torch.inf)
        v = F.pad(v, (0, 1), value=1.0)
        # [B, N, J, L]: from the chunk's start.
        total = self.running_sums(log_f[..., None])[..., 0]
        last = total[..., -1]
        future = torch.ones(total.shape[-1], total.shape[-1], dtype=torch.bool, device=q.device).triu(1)
        left = (total[..., None] - total[..., None, :] + log_i[..., None, :]).masked_fill(future, -torch.inf)
        with torch.no_grad():
            scales = [scale]
            for sums, largest in zip(last.unbind(2), left[..., -1, :].amax(-1).unbind(2), strict=True):
                scales.append(torch.maximum(scales[-1] + sums, largest))
            before, after = (torch.stack(part, 2) for part in (scales[:-1], scales[1:]))
            most = torch.maximum(left.amax(-1), before[..., None] + total)
        added = (k * (left[..., -1, :] - after[..., None]).exp()[..., None]).to(kind).mT @ v
        memories, memory = advance(memory, (before + last - after).exp()[..., None, None], added)
        weights = precise(q @ k.mT) * (left - most[..., None]).exp()
        reads = q * (before[..., None] + total - most).exp()[..., None]
        y = precise(weights.to(kind) @ v) + precise(reads.to(kind) @ memories.to(kind))
        return divide(y, most).flatten(2, 3)[:, :, :time], memory, scales[-1]


def one_step(
    q: Tensor, k: Tensor, v: Tensor, log_i: Tensor, log_f: Tensor, memory: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """What `all_chunks` returns, for one token."""
    before = log_f + scale[..., None]
    most = torch.maximum(before, log_i).detach()
    written = precise(k).mT * (log_i - most).exp()[..., None] * F.pad(precise(v), (0, 1), value=1.0)
    memory = memory * (before - most).exp()[..., None] + written
    return divide(precise(q) @ memory, most), memory, most[..., 0]


def divide(y: Tensor, most: Tensor) -> Tensor:
    """What is recalled of the values, divided by what is recalled of the ones beside them, or by 1 where that is more;
    both times e^-most. At least e^-14, where a query recalls next to nothing of large weights."""
    return y[..., :-1] / torch.maximum(y[..., -1:].abs(), (-most).clamp_min(-14)[..., None].exp())


def pruning_groups(block: Any) -> tuple[Any, ...]:
    """Heads, as studies/pruning/surgery.py takes them."""
    heads = torch.arange(block.heads)
    one = heads.repeat_interleave(block.head_width)
    out = ("out.weight", 0, one)
    owned = [("inputs.weight", 1, torch.cat([one.repeat(4), heads.repeat(2)])), ("taps", 0, one.repeat(2)), out]
    owned += [("input_bias", 0, heads), ("forget_bias", 0, heads), ("skip", 0, one)]
    return "heads", block.heads, owned, [out], lambda left: {"heads": left, "inner": left * block.head_width}
