"""The cost of tokens in parts, for vocabularies whose logits for all tokens of a step would take too much memory.

The gradients of a part come right after its logits, which are computed a second time for that. So the logits of a part,
in a few copies, are all that is there at once, and an output layer of any vocabulary takes the memory of its
parameters. Sums run in another order than those of the whole, so bits differ in rounding. Shapes: as in model/lm.py;
`N` tokens.
"""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from model.lm import LanguageModel


class LanguageModelInParts(LanguageModel):
    """LanguageModel, with `cost` in parts of so many logits."""

    part_logits = 1 << 24

    def cost(self, x: Tensor, targets: Tensor, pairs: Tensor | None) -> Tensor:
        most = max(1, self.part_logits // self.vocabulary)
        nats = []
        for start in range(0, targets.numel(), most):
            taken = slice(start, start + most)
            part, wanted = x.flatten(0, 1)[None, taken], targets.flatten()[None, taken]  # [1, N, D], [1, N]
            known = None if pairs is None else pairs.flatten(0, 1)[None, taken]  # [1, N, K, D]
            nats.append(checkpoint(super().cost, part, wanted, known, use_reentrant=False, preserve_rng_state=False))
        return torch.cat(nats, 1).view_as(targets)


def compute_in_parts(model: nn.Module) -> None:
    """Let the language models and networks in a model compute costs in parts."""
    for part in model.modules():
        if type(part) is LanguageModel:
            part.__class__ = LanguageModelInParts
        elif hasattr(part, "network"):
            from model.network_parts import NetworkInParts

            part.__class__ = NetworkInParts
