"""What a model takes to run: seconds by the clock, and bytes alive at once."""

import time
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from model.lm import LanguageModel

TIMED_ROUNDS = 21


@torch.no_grad()
def latency(model: LanguageModel, whole: LanguageModel, tokens: Tensor) -> tuple[float, float]:
    """Least seconds that `model` and `whole` take, by turns, for tokens [R, T] from the start. What else a machine does
    can only add to them."""
    inputs = tokens.to(whole.embedding.device)
    found: tuple[list[float], list[float]] = ([], [])
    for _ in range(TIMED_ROUNDS):
        for one, secs in zip((model, whole), found, strict=True):
            state, start = one.init_state(len(inputs)), time.perf_counter()
            nats, _ = one(inputs, state, inputs)
            nats[-1, -1].item()  # waits for an accelerator
            secs.append(time.perf_counter() - start)
    return min(found[0]), min(found[1])


@torch.no_grad()
def memory(model: LanguageModel, tokens: Tensor) -> tuple[int, int]:
    """Bytes of all tensors alive at once at most, parameters and state included, while `model` runs over tokens [R, T];
    and of the state that it then carries, for one lane."""
    inputs = tokens.to(model.embedding.device)
    state = model.init_state(len(inputs))
    with AliveTensors([*model.parameters(), *tree_leaves(state)]) as alive:
        _, state = model(inputs, state, inputs)
    carried = sum(leaf.nbytes for leaf in tree_leaves(state) if isinstance(leaf, Tensor))
    return alive.peak_bytes, carried // len(inputs)


class AliveTensors(TorchDispatchMode):
    """Counts the storages that operators return, till they are freed, on top of those of `tensors`. What a kernel
    allocates for itself is not seen."""

    def __init__(self, tensors: list[Any]):
        super().__init__()
        self.alive: dict[StorageWeakRef, int] = {}
        self.peak_bytes = 0
        self.enter(tensors)

    def enter(self, tensors: list[Any]) -> None:
        storages = [leaf.untyped_storage() for leaf in tensors if isinstance(leaf, Tensor)]
        self.alive |= {StorageWeakRef(storage): storage.nbytes() for storage in storages}
        self.alive = {storage: size for storage, size in self.alive.items() if not storage.expired()}
        self.peak_bytes = max(self.peak_bytes, sum(self.alive.values()))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **kwargs or {})
        self.enter(tree_leaves(made))
        return made
