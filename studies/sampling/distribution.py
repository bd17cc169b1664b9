"""The whole distribution of a token, which coding never needs: it goes digit by digit.

Shapes: `B` rows, `P` prefixes, `V` vocabulary.
"""

from typing import Any

import torch
from torch import Tensor

from model.lm import LanguageModel


def distribution(model: LanguageModel, seen: Any, rows: int) -> Tensor:
    """Probabilities [B, V] of the next token, of what `model` saw of B histories of C tokens, without targets."""
    node = torch.ones(rows, 1, dtype=torch.int64, device=next(model.parameters()).device)
    reached = node
    for digit, radix in enumerate(model.radices):
        ways = model.following(seen, node, digit)  # [B, P, radix]
        reached = (reached.unsqueeze(-1) * ways).flatten(1)
        node = (node.unsqueeze(-1) * radix + torch.arange(radix, device=node.device)).flatten(1)
    return reached[:, : model.vocabulary]
