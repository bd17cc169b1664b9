"""torch.compile of a model, for engine.compile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from data.errors import UsageError

if TYPE_CHECKING:
    from train.config import Config
    from train.engine import Place


def compile_parts(model: Any) -> None:
    """Let torch.compile fuse the operators of a LanguageModel: one graph for each kind of layer, and one for the cost
    of tokens. Layers share graphs, so that a deep model compiles as fast as a shallow one."""
    from torch._inductor.decomposition import decompositions

    # All kinds of layers are one function to PyTorch, which has a limit of 8 graphs for a function.
    torch._dynamo.config.recompile_limit = 64
    # What a block computes without autocast gets its gradient without it, too.
    torch._functorch.config.backward_pass_autocast = "off"
    # PyTorch's own kernel adds up the gradients of a row in parallel. Where the order is fixed, what the compiler makes
    # of it takes one after the other; new contexts all have one row.
    decompositions.pop(torch.ops.aten.embedding_dense_backward.default, None)
    for layer in model.layers:
        layer.compile(dynamic=False)
    model.cost = torch.compile(model.cost, dynamic=False)


def choose_compile(config: Config, place: Place) -> Any:
    """`on` or `off`, for engine.compile. Raises UsageError where it is asked for, and impossible."""
    engine, cuda = config.engine, place.device.type == "cuda"
    if config.model.network:
        if engine.compile == "on":
            raise UsageError("engine.compile is on, and model.network is not made of our layers: take auto or off")
        return "off"
    if engine.compile == "on" and not cuda:
        raise UsageError("engine.compile is on, but there is no CUDA device: take auto or off")
    return "on" if engine.compile != "off" and cuda and engine.zero_stage < 3 else "off"
