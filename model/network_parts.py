"""The cost of a whole network's tokens in parts of some rows: model/parts.py, of model/network.py.

What such a network does with its output is its own, so a part is computed from the tokens on, and a second time for its
gradients. A row is the smallest part: its T V logits are there at once. Shapes: as in model/network.py.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from model.network import Network


class NetworkInParts(Network):
    """Network, with targets in parts of so many logits."""

    part_logits = 1 << 24

    def forward(
        self, history: Tensor, state: list[Tensor], targets: Tensor | None = None, alone: bool = False, looked: Any = ()
    ) -> tuple[Any, list[Tensor]]:
        if targets is None or targets.numel() * self.vocabulary <= self.part_logits:
            return super().forward(history, state, targets, alone, looked)
        rows = max(1, self.part_logits // (targets.shape[1] * self.vocabulary))
        parts = [x.split(rows) for x in (history, *state, targets, *looked)]
        nats = [
            checkpoint(self.cost, alone, *part, use_reentrant=False, preserve_rng_state=False)
            for part in zip(*parts, strict=True)
        ]
        return torch.cat(nats), [history[:, :0], state[1]]

    def cost(
        self, alone: bool, history: Tensor, before: Tensor, lanes: Tensor, targets: Tensor, *looked: Tensor
    ) -> Tensor:
        """Nats [B, T] of some rows."""
        return super().forward(history, [before, lanes], targets, alone, looked)[0]
