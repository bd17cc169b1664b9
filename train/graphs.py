"""CUDA graphs: a step whose shapes stay the same is recorded once, and then replayed as a whole.

In small steps, a GPU waits for Python and for the launches of its kernels. A replay runs the same kernels, on the same
memory, at once. So the numbers are those of a step that was not recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from data.errors import RunFailed, UsageError
from data.lanes import longest_segment
from train.meta import meta_model

if TYPE_CHECKING:
    from train.config import Config
    from train.engine import Place
    from train.loop import Learner

# Calls that are not recorded: they compile kernels, choose algorithms and create what is kept, such as moments.
WARM_UPS = 3
# In larger steps, the GPU does not wait.
MOST_TOKENS = 1 << 14


class Graph:
    """`function` of tensors and whole numbers, in lists and tuples. After the first calls with tensors of these shapes
    and these numbers, a call replays it; it overwrites the tensors that the replay before it returned.

    `replayed` is called after each replay. Raises RunFailed if the function cannot be recorded.
    """

    stream: Any = None

    def __init__(self, function: Callable[..., Any], replayed: Callable[[], None] = lambda: None):
        self.function, self.replayed = function, replayed
        # For each kind of inputs: the number of calls, or the recorded graph, its inputs and its outputs.
        self.calls: dict[Any, int] = {}
        self.graphs: dict[Any, tuple[Any, list[Any], Any]] = {}

    def __call__(self, *inputs: Any) -> Any:
        leaves, tree = tree_flatten(inputs)
        kind = tuple((leaf.shape, leaf.dtype) if isinstance(leaf, Tensor) else leaf for leaf in leaves)
        if kind in self.graphs:
            self.replayed()
        else:
            # All on one stream, which is not the default: that one cannot be recorded.
            Graph.stream = Graph.stream or torch.cuda.Stream()
            calls = self.calls[kind] = self.calls.get(kind, 0) + 1
            if calls <= WARM_UPS:
                Graph.stream.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(Graph.stream):
                    made = self.function(*inputs)
                torch.cuda.current_stream().wait_stream(Graph.stream)
                return made
            self.graphs[kind] = self.record(leaves, tree)
        graph, kept, made = self.graphs[kind]
        # Whole numbers are the same: they belong to the kind.
        into, new = ([leaf for leaf in one if isinstance(leaf, Tensor)] for one in (kept, leaves))
        torch._foreach_copy_(into, new)
        graph.replay()
        return made

    def record(self, leaves: list[Any], tree: Any) -> tuple[Any, list[Any], Any]:
        """The graph, its inputs and its outputs. Nothing is computed."""
        kept, graph = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves], torch.cuda.CUDAGraph()
        try:
            # Other threads, such as those of a process group, may go on.
            with torch.cuda.graph(graph, stream=Graph.stream, capture_error_mode="thread_local"):
                made = self.function(*tree_unflatten(kept, tree))
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise RunFailed(
                f"a step cannot be recorded as a CUDA graph ({reason}): take --engine.graphs off"
            ) from error
        return graph, kept, made


def record_steps(learner: Learner) -> None:
    """Let `learner` learn, and code single tokens, by graphs."""
    engine, update = learner.engine, learner.update

    def learn(*inputs: Any) -> Any:
        for group in engine.optimizer.param_groups:
            # PyTorch's optimisers want to know.
            group["capturable"] = torch.cuda.is_current_stream_capturing()
        return update(*inputs)

    def count() -> None:
        """What engine.step counts."""
        engine.micro_steps += 1
        engine.global_steps += 1
        engine.global_samples += engine.train_batch_size()

    recorded = Graph(learn, count)

    def run(targets: Tensor, recent: Tensor, states: Any, rate: float, scale: float, again: Any, looked: Any) -> Any:
        # Numbers that change from step to step, as tensors.
        factors = [torch.full((), factor, device=recent.device) for factor in (rate, scale)]
        return recorded(targets, recent, states, *factors, again, looked)

    learner.update = run  # type: ignore[method-assign]
    learner.see = Graph(learner.see)  # type: ignore[assignment, method-assign]
    learner.following = Graph(learner.following)  # type: ignore[assignment, method-assign]


def choose_graphs(config: Config, place: Place, extra: dict[str, Any] | None = None) -> Any:
    """`on` or `off`, for engine.graphs, with the user's DeepSpeed keys `extra`. Raises UsageError where they are asked
    for, and impossible."""
    train, engine, asked = config.train, config.engine, config.engine.graphs
    obstacles = {
        "model.network is given": config.model.network,
        "model.block is of several models": "|" in config.model.block,
        "there is no CUDA device": place.device.type != "cuda",
        "there are several ranks": place.world_size > 1,
        "engine.kernels is off": engine.kernels != "on",
        f"engine.zero_stage is {engine.zero_stage}": engine.zero_stage,
        f"engine.gradient_clipping is {engine.gradient_clipping}": engine.gradient_clipping,
        "engine.deepspeed_config is given": extra,
        f"train.accumulation is {train.accumulation}": train.accumulation > 1,
    }
    found = [text for text, applies in obstacles.items() if applies]
    if asked != "off" and not found:
        with torch.device("meta"):
            leaves = tree_leaves(meta_model(config.model, 257).init_state(1))
        if not all(isinstance(leaf, Tensor) for leaf in leaves):
            found = [f"the state of model.block {config.model.block!r} holds more than tensors"]
    if asked == "on" and found:
        raise UsageError(f"engine.graphs is on, but {found[0]}: take auto or off")
    small = train.lanes * longest_segment(train.segment_tokens) <= MOST_TOKENS
    # With replay, steps were recorded on no GPU yet.
    return "on" if asked == "on" or (asked == "auto" and small and not train.replay and not found) else "off"
