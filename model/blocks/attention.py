"""Causal attention over a sliding window, carried from segment to segment.

Papers: Vaswani et al. 2017 (arXiv:1706.03762), eq. 1; rotary positions: Su et al. 2021 (arXiv:2104.09864), eq. 34;
memory of earlier segments: Dai et al. 2019, "Transformer-XL" (arXiv:1901.02860), section 3.2; queries and keys
normalised: Henry et al. 2020 (arXiv:2010.04245).

| here             | paper          | meaning                                              |
|------------------|----------------|------------------------------------------------------|
| queries          | Q              | what a position looks for, unit root mean square     |
| keys, values     | K, V           | what positions offer, the window's past in front     |
| temperature      | g / sqrt d_k   | learned sharpness of each head (g of Henry et al.)   |
| angles           | m theta_i      | rotation of channel pair i at position m             |

What we changed: every token sees exactly the `window` latest tokens, itself included, wherever segments are cut,
so that a sequence has the same outputs under every split. Rotated keys are kept; angles are made in float64, so
positions stay exact over a long lane.

Shapes: `B` rows, `T` time, `D` width, `N` heads, `C` head width, `M` = window - 1 remembered tokens, `L` kept.
"""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.layers import Linear, RMSNorm, parameter, precise

State = tuple[Tensor, ...]


class Attention(nn.Module):
    """`forward(x [B, T, D], state) -> (y [B, T, D], state)`; state = (keys, values [B, N, L, C], end, position): the
    latest rotated keys and values, in front of index `end`, and the number of tokens so far.

    Without gradients, new ones are written behind `end`.
    Config fields read: width, head_width, window. Raises ValueError if width is not a multiple of head_width.
    """

    def __init__(self, config: Any):
        super().__init__()
        width, self.head_width, self.window = config.width, config.head_width, config.window
        if width % self.head_width or self.head_width % 2:
            raise ValueError(
                f"model.width {width} is not divisible into heads of an even model.head_width {self.head_width}"
            )
        self.heads = width // self.head_width
        self.qkv = Linear(width, 3 * width)
        self.out = Linear(width, width, gain=0.0)
        self.temperature = parameter(torch.full((self.heads, 1, 1), 1.0), "vector")
        self.norm = RMSNorm()

    def init_state(self, batch: int) -> State:
        shape = batch, self.heads, self.window - 1, self.head_width
        keys, values = (self.qkv.weight.new_zeros(shape) for _ in range(2))
        return keys, values, torch.tensor(self.window - 1), torch.tensor(0)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        batch, time, _ = x.shape
        qkv = self.qkv(x).view(batch, time, 3, self.heads, self.head_width)
        with torch.autocast("cpu", enabled=False):
            y, state = self.attend(qkv, state)
        return self.out(y.transpose(1, 2).reshape(batch, time, -1)), state

    def attend(self, qkv: Tensor, state: State) -> tuple[Tensor, State]:
        """Attention [B, N, T, C] of qkv [B, T, 3, N, C]."""
        end, position, time = int(state[2]), int(state[3]), qkv.shape[1]
        # [3, B, N, T, C]. In bf16, attention on a CPU is several times slower than in fp32, whatever its instructions.
        qkv = precise(qkv).permute(2, 0, 3, 1, 4)
        turned = rotate(self.norm(qkv[:2]), rotation(position, time, self.head_width))
        queries = (turned[0] * self.temperature).to(qkv.dtype)
        key, value, keys, values = turned[1].to(qkv.dtype), qkv[2], state[0], state[1]
        if torch.is_grad_enabled() or end + time > keys.shape[2]:
            keys, values = keys[:, :, end + 1 - self.window : end], values[:, :, end + 1 - self.window : end]
            end = self.window - 1
            if torch.is_grad_enabled():
                keys, values = torch.cat([keys, key], 2), torch.cat([values, value], 2)
            else:
                # Room for a window more, so that a step of one token seldom copies.
                keys, values = (F.pad(part, (0, 0, 0, self.window + time)).to(qkv.dtype) for part in (keys, values))
        if not torch.is_grad_enabled():
            keys[:, :, end : end + time], values[:, :, end : end + time] = key, value
        position, end = position + time, end + time
        # One token sees all that there is in the window.
        mask = visible(position - time, time, self.window).to(qkv.device) if time > 1 else None
        first = end - time + 1 - (min(self.window, position) if time == 1 else self.window)
        y = F.scaled_dot_product_attention(queries, keys[:, :, first:end], values[:, :, first:end], attn_mask=mask)
        return y, (keys, values, torch.tensor(end), torch.tensor(position))


@lru_cache(2)
def rotation(position: int, time: int, channels: int) -> Tensor:
    """Unit complex numbers [T, C/2] of the angles at `position` and the `time` - 1 positions after it."""
    at = torch.arange(position, position + time, dtype=torch.float64)
    turn = torch.outer(at, 10000.0 ** (torch.arange(0, channels, 2, dtype=torch.float64) / -channels))
    return torch.polar(torch.ones_like(turn), turn)


def rotate(x: Tensor, turn: Tensor) -> Tensor:
    """Turn channel pairs (2c, 2c + 1) of x [..., T, C], in fp32 or better."""
    pairs = torch.view_as_complex(precise(x).unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turn.to(pairs)).flatten(-2)


@lru_cache(2)
def visible(position: int, time: int, window: int) -> Tensor:
    """Mask [T, M + T]: True where a query may look. Memory that was never written (a lane's start) is hidden."""
    key = torch.arange(1 - window, time)
    distance = torch.arange(time)[:, None] - key
    return (distance >= 0) & (distance < window) & (key >= -position)


def pruning_groups(block: Any) -> tuple[Any, ...]:
    """Heads, as studies/pruning/surgery.py takes them."""
    heads = torch.arange(block.heads)
    one = heads.repeat_interleave(block.head_width)
    out = ("out.weight", 0, one)
    owned = [("qkv.weight", 1, one.repeat(3)), ("temperature", 0, heads), out]
    return "heads", block.heads, owned, [out], lambda left: {"heads": left}
