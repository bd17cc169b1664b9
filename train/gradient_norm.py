"""The norm of the gradient, as the optimiser gets it: for charts, not for what is coded."""

from typing import Any

import torch
from torch.nn.utils import get_total_norm


class GradientNorm:
    """The norm at every `every`-th step of a learner: over all parameters and ranks, of the gradient of nats a token,
    after clipping."""

    def __init__(self, learner: Any, every: int, first_step: int, hooks: bool):
        """Without `hooks`, it measures nothing: steps that are replayed as CUDA graphs call none, and ranks without
        charts need none."""
        self.engine, self.every, self.steps = learner.engine, every, first_step
        self.value: torch.Tensor | None = None
        self.hooked = hooks and isinstance(self.engine.optimizer, torch.optim.Optimizer)
        if self.hooked:
            self.engine.optimizer.register_step_pre_hook(self.measure)

    def measure(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        """Called before each update. Ranks have the same gradient then."""
        self.steps += 1
        if self.steps % self.every == 0:
            parameters = (p for group in optimizer.param_groups for p in group["params"])
            self.value = get_total_norm([p.grad for p in parameters if p.grad is not None])

    def points(self) -> dict[str, float]:
        """Its chart, if there is a norm: ZeRO has its own."""
        value = self.value if self.hooked else self.engine.get_global_grad_norm()
        return {} if value is None else {"optim/gradient_norm": float(value)}
