"""A block in a file of its own: a gated, leaky average of each channel.

    u, g = x W_in;   h[t] = a h[t-1] + (1 - a) u[t];   y = (h * gelu(g)) W_out

To see that it holds the block contract:   python examples/decay.py
To train with it:

    cp examples/decay.py model/blocks/decay.py
    # add the line  "decay": "Decay",  to BLOCKS in model/registry.py
    pytest tests/test_model_blocks.py -k decay
    deepspeed launch/train.py --model.block decay --model.ngram_orders '[]'

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


def largest_difference(time: int = 23) -> float:
    """How far outputs token by token are from those of one segment, in double precision."""
    torch.manual_seed(0)

    class Config:
        width = 16

    block = Decay(Config()).double().requires_grad_(False)
    nn.init.normal_(block.out.weight)
    x = torch.randn(3, time, 16, dtype=torch.float64)
    whole, _ = block(x, block.init_state(3))
    state, single = block.init_state(3), []
    for part in x.split(1, 1):
        y, state = block(part, state)
        single.append(y)
    return float((whole - torch.cat(single, 1)).abs().max())


if __name__ == "__main__":
    print(f"one segment and single tokens differ by {largest_difference():.1e}; the contract allows 1e-10")
