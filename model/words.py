"""Contexts of words, for tokens that are bytes: the letters of the one so far, and of those before it.

Shapes: `B` rows of the batch, `T` time, `C` tokens that the longest context needs.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# A hash of words covers at most so many of the latest bytes.
WORD_TOKENS = 32
# Words that a context takes: 0 is the word so far, 1 the word before it. `words` contexts take the first of these.
WORDS = ([0], [0, 1], [0, 1, 2], [0, 2])


def lower_case(symbol: int) -> int:
    """A letter in lower case, 0 for other bytes. Bytes above 127 are taken for parts of letters."""
    if 65 <= symbol <= 90:
        return symbol + 32
    return symbol if 97 <= symbol <= 122 or 128 <= symbol <= 255 else 0


class Words(nn.Module):
    """`forward(latest [B, T, C], powers [C])`, latest first, gives the hashes [B, T] of the first `count` of WORDS."""

    lower: Tensor

    def __init__(self, count: int, symbols: int, odd: int):
        super().__init__()
        self.count, self.odd = count, odd
        lower = torch.tensor([lower_case(symbol) for symbol in range(symbols)])
        self.register_buffer("lower", lower, persistent=False)

    def forward(self, latest: Tensor, powers: Tensor) -> list[Tensor]:
        lower = self.lower[latest[..., :WORD_TOKENS]]
        letter = lower > 0
        # Counted backwards from the latest byte, a word begins at a letter after other bytes. The first may be empty.
        number = F.pad(letter[..., 1:] & ~letter[..., :-1], (1, 0)).cumsum(-1)
        spelled, keys = [], []
        for word in range(3):
            part = letter & (number == word)
            spelled.append((lower * part * powers[part.cumsum(-1) - 1]).sum(-1))
        for words in WORDS[: self.count]:
            key = torch.zeros_like(spelled[0])
            for word in words:
                key = key * self.odd + spelled[word]
            keys.append(key)
        return keys
