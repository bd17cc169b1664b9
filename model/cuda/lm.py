"""The cost of tokens in parts, where the logits of all of them would take too much memory.

Shapes: as in model/lm.py.
"""

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from model import lm

# A part has so many logits, of which a step keeps several copies. For fewer, computing them once is faster.
MOST_LOGITS = 1 << 29


class LanguageModel(lm.LanguageModel):
    def cost(self, x: Tensor, targets: Tensor, hashes: Tensor | None) -> Tensor:
        """The logits of a part are computed again for its gradients."""
        most = max(1, MOST_LOGITS // self.vocabulary)
        if hashes is not None or targets.numel() <= most:
            return super().cost(x, targets, hashes)
        parts = zip(x.flatten(0, 1).split(most), targets.flatten().split(most), strict=True)
        whole = lm.LanguageModel.cost
        nats = [
            checkpoint(whole, self, part[None], wanted[None], None, use_reentrant=False, preserve_rng_state=False)
            for part, wanted in parts
        ]
        return torch.cat(nats, 1).view_as(targets)
