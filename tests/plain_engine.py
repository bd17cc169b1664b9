"""A DeepSpeed engine's four verbs for one rank, so that tests of the loop need no process group."""

from typing import Any

import torch


class PlainEngine:
    """Stands in for train.engine.build_engine."""

    def __init__(self, module: torch.nn.Module, optimizer: torch.optim.Optimizer, settings: dict[str, Any]):
        self.module, self.optimizer = module, optimizer
        self.accumulation, self.micro_batches = settings["gradient_accumulation_steps"], 0

    def __call__(self, *inputs: object) -> object:
        return self.module(*inputs)

    def backward(self, loss: torch.Tensor) -> None:
        (loss / self.accumulation).backward()

    def step(self) -> None:
        self.micro_batches += 1
        if self.micro_batches % self.accumulation == 0:
            self.optimizer.step()
            self.optimizer.zero_grad()
