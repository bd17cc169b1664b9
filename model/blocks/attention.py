"""Causal attention over a sliding window, carried from segment to segment.

Papers: Vaswani et al. 2017 (arXiv:1706.03762), eq. 1; rotary positions: Su et al. 2021 (arXiv:2104.09864), eq. 34;
memory of earlier segments: Dai et al. 2019, "Transformer-XL" (arXiv:1901.02860), section 3.2; queries and keys
normalised: Henry et al. 2020 (arXiv:2010.04245).

| here             | paper          | meaning                                              |
|------------------|----------------|------------------------------------------------------|
| queries          | Q              | what a position looks for, unit root mean square     |
| keys, values     | K, V           | what positions offer, the window's past in front     |
| temperature      | (sqrt d_k)     | learned sharpness of each head                       |
| angles           | m theta_i      | rotation of channel pair i at position m             |

What we changed: every token sees exactly the `window` latest tokens, itself included, wherever segments are cut,
so that a sequence has the same outputs under every split. Rotated keys are kept; angles are made in float64, so
positions stay exact over a long lane.

Shapes: `B` rows, `T` time, `D` width, `N` heads, `C` head width, `M` = window - 1 remembered tokens.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.layers import Linear, RMSNorm, parameter

State = tuple[Tensor, Tensor, int]


class Attention(nn.Module):
    """`forward(x [B, T, D], state) -> (y [B, T, D], state)`; state = (keys [B, N, M, C], values, position).

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
        like = self.qkv.weight
        memory = like.new_zeros(batch, self.heads, self.window - 1, self.head_width)
        return memory, memory, 0

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        batch, time, _ = x.shape
        past_keys, past_values, position = state
        # [B, T, 3D] -> three of [B, N, T, C]
        queries, keys, values = self.qkv(x).view(batch, time, 3, self.heads, self.head_width).permute(2, 0, 3, 1, 4)
        turn = rotation(position, time, self.head_width, x.device)
        queries = rotate(self.norm(queries), turn) * self.temperature
        keys = torch.cat([past_keys, rotate(self.norm(keys), turn).to(values.dtype)], 2)
        values = torch.cat([past_values, values], 2)
        mask = visible(position, time, self.window, x.device)
        y = F.scaled_dot_product_attention(queries.to(values.dtype), keys, values, attn_mask=mask)
        y = self.out(y.transpose(1, 2).reshape(batch, time, -1))
        return y, (keys[:, :, time:], values[:, :, time:], position + time)


def rotation(position: int, time: int, channels: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines [T, C/2] of the angles at `position` and the `time` - 1 positions after it."""
    at = torch.arange(position, position + time, device=device, dtype=torch.float64)
    speed = 10000.0 ** (torch.arange(0, channels, 2, device=device, dtype=torch.float64) / -channels)
    angles = torch.outer(at, speed)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Turn channel pairs (c, c + C/2) of x [B, N, T, C]."""
    cos, sin = (part.to(x.dtype) for part in turn)
    left, right = x.chunk(2, -1)
    return torch.cat([left * cos - right * sin, left * sin + right * cos], -1)


def visible(position: int, time: int, window: int, device: torch.device) -> Tensor:
    """Mask [T, M + T]: True where a query may look. Memory that was never written (a lane's start) is hidden."""
    key = torch.arange(1 - window, time, device=device)
    distance = torch.arange(time, device=device)[:, None] - key
    return (distance >= 0) & (distance < window) & (key >= -position)
