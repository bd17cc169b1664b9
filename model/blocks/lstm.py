"""Long short-term memory: a cell that gates write, keep and read.

Papers: Hochreiter & Schmidhuber 1997 (Neural Computation 9:1735); forget gate: Gers et al. 2000, "Learning to Forget"
(Neural Computation 12:2451); its bias of 1: Jozefowicz et al. 2015 (ICML). The equations are those of torch.nn.LSTM:

    i, f, g, o = sigmoid, sigmoid, tanh, sigmoid of (x[t] W + h[t-1] U + b)
    c[t] = f c[t-1] + i g,    h[t] = o tanh(c[t])

| here      | equations | meaning                                        |
|-----------|-----------|------------------------------------------------|
| inputs    | W         | what the gates hear of the input               |
| recurrent | U         | what the gates hear of the output before       |
| bias      | b         | of the gates, 1 where they forget              |
| hidden    | h         | outputs                                        |
| cell      | c         | contents                                       |

What we changed: an output projection, because the layer adds to a residual stream.

Shapes: `B` rows, `T` time, `D` width, `H` hidden channels.
"""

from typing import Any

import torch
from torch import Tensor, nn

from model.layers import Linear, parameter, precise

State = tuple[Tensor, Tensor]


class LSTM(nn.Module):
    """`forward(x [B, T, D], state) -> (y [B, T, D], state)`; state = (hidden [B, H], cell [B, H]).

    Config fields read: width, expand.
    """

    def __init__(self, config: Any):
        super().__init__()
        self.hidden = round(config.expand * config.width)
        # Plain parameters, as torch applies them itself.
        self.inputs = Linear(config.width, 4 * self.hidden).weight
        self.recurrent = Linear(self.hidden, 4 * self.hidden).weight
        self.bias = parameter(torch.tensor([0.0, 1.0, 0.0, 0.0]).repeat_interleave(self.hidden), "vector")
        self.out = Linear(self.hidden, config.width, gain=0.0)

    def init_state(self, batch: int) -> State:
        return self.bias.new_zeros(batch, self.hidden), self.bias.new_zeros(batch, self.hidden)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        hidden, cell = state
        # Torch's kernels want [outputs, inputs] and a second bias.
        weights = [self.inputs.t(), self.recurrent.t(), self.bias, torch.zeros_like(self.bias)]
        with torch.autocast(x.device.type, enabled=False):
            x = precise(x)
            if x.shape[1] == 1:
                hidden, cell = torch.lstm_cell(x[:, 0], (hidden, cell), *weights)
                y = hidden[:, None]
            else:
                y, last, cells = self.steps(x, (hidden[None], cell[None]), weights)
                hidden, cell = last[0], cells[0]
        return self.out(y), (hidden, cell)

    def steps(self, x: Tensor, state: Any, weights: list[Tensor]) -> Any:
        """PyTorch's kernel for all tokens. One layer, one direction. On a CPU in fp32 it is oneDNN's, twice as fast as
        an own backward."""
        return torch.lstm(x, state, weights, True, 1, 0.0, True, False, True)


def pruning_groups(block: Any) -> tuple[Any, ...]:
    """Hidden channels, as studies/pruning/surgery.py takes them."""
    one = torch.arange(block.hidden)
    readers = [("recurrent", 0, one), ("out.weight", 0, one)]
    owned = [("inputs", 1, one.repeat(4)), ("recurrent", 1, one.repeat(4)), ("bias", 0, one.repeat(4))]
    return "channels", block.hidden, [*owned, *readers], readers, lambda left: {"hidden": left}
