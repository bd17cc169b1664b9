"""The cost of tokens in parts only where the logits of all of them would take too much of a GPU's memory.

Shapes: as in model/lm.py.
"""

from torch import Tensor

from model import lm
from model.parts import LanguageModelInParts


class LanguageModel(LanguageModelInParts):
    # A step keeps several copies of them. For fewer, computing them once is faster.
    part_logits = 1 << 29

    def cost(self, x: Tensor, targets: Tensor, pairs: Tensor | None) -> Tensor:
        if pairs is not None or targets.numel() * self.vocabulary <= self.part_logits:
            return lm.LanguageModel.cost(self, x, targets, pairs)
        return super().cost(x, targets, pairs)
