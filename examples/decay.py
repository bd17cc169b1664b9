"""A block in a file of its own: a gated, leaky average of each channel.

    u, g = x W_in;   h[t] = a h[t-1] + (1 - a) u[t];   y = (h * gelu(g)) W_out

To check it and to train with it:

    python launch/check_block.py examples/decay.py:Decay
    deepspeed launch/train.py --model.block examples/decay.py:Decay --model.ngram_orders '[]'

Shapes: `B` rows, `T` time, `D` width.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.layers import Linear, parameter


class Decay(nn.Module):
    """`forward(x [B, T, D], state) -> (y [B, T, D], state)`; state = (h [B, D],).

    Config fields read: width.
    """

    def __init__(self, config: Any):
        super().__init__()
        width = config.width
        self.inputs = Linear(width, 2 * width)
        # Memories of 2 to 500 tokens. The rate is small: a time scale is exponential in it.
        self.memory = parameter(torch.linspace(0.0, 6.2, width), "vector", lr=0.1)
        # Zero, so that a new layer is the identity.
        self.out = Linear(width, width, gain=0.0)

    def init_state(self, batch: int) -> tuple[Tensor]:
        return (self.memory.new_zeros(batch, len(self.memory)),)

    def forward(self, x: Tensor, state: tuple[Tensor]) -> tuple[Tensor, tuple[Tensor]]:
        (h,) = state
        u, gate = self.inputs(x).chunk(2, 2)
        keep = torch.sigmoid(self.memory)
        found = []
        for now in u.unbind(1):
            h = torch.lerp(now, h, keep)
            found.append(h)
        return self.out(torch.stack(found, 1) * F.gelu(gate)), (h,)
