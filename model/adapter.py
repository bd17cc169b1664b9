"""Blocks from anywhere, `PACKAGE.MODULE:CLASS`: how they are built, what their parameters are, and state for those that
have none. A decoder of registered blocks is not charged for this file.

| a constructor's parameter | gets |
|---|---|
| `config` | the ModelConfig |
| a name of a field of ModelConfig: `width`, `head_width`, `window`, ... | that field |
| any other | its own default |

| a parameter that declares no role (model.layers.parameter) | role |
|---|---|
| the table of an nn.Embedding | table |
| a 2-D weight of nn.Linear, nn.GRU, nn.LSTM, nn.RNN, their cells, nn.MultiheadAttention | matrix, [outputs, inputs] |
| any other: biases, gains, convolutions, tensors of your own | vector |

A matrix that declares its role is [inputs, outputs], as model.layers.Linear has it. Shapes: `B` rows, `T` time, `D`
width, `W` = model.window.
"""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from inspect import getfullargspec
from typing import Any

import torch
from torch import Tensor, nn

LINEAR_MAPS = (nn.Linear, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)


def adapt(name: str) -> Callable[[Any], nn.Module]:
    """What makes the block MODULE:CLASS from a ModelConfig."""
    module, _, kind = name.partition(":")
    return partial(build, getattr(import_module(module), kind))


def build(kind: Any, config: Any) -> nn.Module:
    """A block of this class, which holds the block contract (docs/your-architecture.md) if the class does, or keeps no
    state."""
    block = kind(**arguments(kind, config))
    give_roles(block)
    return block if hasattr(block, "init_state") else Stateless(block, config.width, config.window)


def arguments(kind: Any, config: Any) -> dict[str, Any]:
    """What the constructor of a class gets, by name, as the table above says."""
    spec = getfullargspec(kind.__init__)
    given = vars(config) | {"config": config}
    return {name: given[name] for name in (*spec.args[1:], *spec.kwonlyargs) if name in given}


def give_roles(block: nn.Module) -> None:
    """Give parameters their roles and rates, as the table above says, unless they have them."""
    for module in block.modules():
        for p in module.parameters(recurse=False):
            if hasattr(p, "role"):
                continue
            table, matrix = isinstance(module, nn.Embedding), isinstance(module, LINEAR_MAPS) and p.ndim == 2
            p.role, p.lr = "table" if table else "matrix" if matrix else "vector", 1.0  # type: ignore[attr-defined]
            p.order = -1 if matrix else 1  # type: ignore[attr-defined]


class Stateless(nn.Module):
    """A module that only maps [B, T, D] to [B, T, D], as a block: it gets its last W - 1 inputs again, in front of the
    new ones. They are zeros before a lane begins, and no gradient goes through them."""

    def __init__(self, block: nn.Module, width: int, window: int):
        super().__init__()
        self.block = block
        self.register_buffer("past", torch.zeros(1, window - 1, width), persistent=False)

    def init_state(self, batch: int) -> tuple[Tensor]:
        return (self.past.repeat(batch, 1, 1),)  # type: ignore[operator]

    def forward(self, x: Tensor, state: tuple[Tensor]) -> tuple[Tensor, tuple[Tensor]]:
        whole = torch.cat([state[0], x], 1)
        # A copy: the strides of a view would not be those of the first state, for which a graph is compiled.
        past = whole[:, x.shape[1] :].detach().clone(memory_format=torch.contiguous_format)
        return self.block(whole)[:, -x.shape[1] :], (past,)
