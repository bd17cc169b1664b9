"""What makes steps fast on CUDA: engine.kernels, engine.compile and engine.graphs, and where each is on."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from data.errors import UsageError
from model.cuda import use_kernels

if TYPE_CHECKING:
    from data.lanes import Lanes
    from train.config import Config, EngineConfig
    from train.engine import Place
    from train.loop import Learner


def speed_up(learner: Learner, engine: EngineConfig) -> None:
    """Let `learner`, which has no states yet, use kernels, and what else `engine` has on."""
    # train/engine.py says this to PyTorch, and not to its compiler, which takes a second to import.
    torch.use_deterministic_algorithms(True)
    use_kernels(learner.model)
    if engine.compile == "on":
        compile_parts(learner)
    if engine.graphs == "on":
        from train.graphs import record_steps

        record_steps(learner)


def compile_parts(learner: Learner) -> None:
    """Let torch.compile fuse the operators of the model: one graph for each kind of layer, and one for the cost of
    tokens. Layers share graphs, so that a deep model compiles as fast as a shallow one."""
    from torch._inductor.decomposition import decompositions

    # All kinds of layers are one function to PyTorch, which has a limit of 8 graphs for a function.
    torch._dynamo.config.recompile_limit = 64
    # What a block computes without autocast gets its gradient without it, too.
    torch._functorch.config.backward_pass_autocast = "off"
    # PyTorch's own kernel adds up the gradients of a row in parallel. Where the order is fixed, what the compiler makes
    # of it takes one after the other; new contexts all have one row.
    decompositions.pop(torch.ops.aten.embedding_dense_backward.default, None)
    model, learn = learner.model, learner.learn
    for layer in model.layers:
        layer.compile(dynamic=False)
    model.cost = torch.compile(model.cost, dynamic=False)  # type: ignore[method-assign]

    def learn_padded(targets: Tensor, lanes: Lanes, step: int) -> Tensor:
        """There is a graph for each length: the last segment is padded to that of its stage."""
        return learn(F.pad(targets, (0, lanes.stage(step)[2] - targets.shape[1]), value=-1), lanes, step)

    learner.learn = learn_padded  # type: ignore[method-assign]


def choose_kernels(config: Config, place: Place) -> Any:
    """`on` or `off`, for engine.kernels. Raises UsageError where they are asked for, and impossible."""
    lacking = "" if has_triton() else "Triton is not installed"
    if "|" in config.model.block:
        lacking = "models side by side have no such forms"
    if place.device.type != "cuda":
        lacking = "there is no CUDA device"
    if config.engine.kernels == "on" and lacking:
        raise UsageError(f"engine.kernels is on, but {lacking}: take auto or off")
    return "off" if lacking else config.engine.kernels.replace("auto", "on")


def has_triton() -> bool:
    return find_spec("triton") is not None


def choose_compile(config: Config, place: Place) -> Any:
    """`on` or `off`, for engine.compile, where engine.kernels is chosen. Raises UsageError where it is asked for, and
    impossible."""
    engine = config.engine
    if config.model.network:
        if engine.compile == "on":
            raise UsageError("engine.compile is on, and model.network is not made of our layers: take auto or off")
        return "off"
    if engine.compile == "on" and engine.kernels != "on":
        lacking = "there is no CUDA device" if place.device.type != "cuda" else "engine.kernels is off"
        raise UsageError(f"engine.compile is on, but {lacking}: take auto or off")
    return "on" if engine.compile != "off" and engine.kernels == "on" and engine.zero_stage < 3 else "off"
