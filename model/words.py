"""Contexts of words, for tokens that are bytes: the letters of the one so far, and of those before it.

Shapes: `B` rows of the batch, `T` time, `C` tokens that the longest context needs.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Words count as far as they stand within so many of the last bytes.
WORD_TOKENS = 32
# In the order in which they are taken: 0 is the word so far, 1 the one before it.
WORDS = ([0], [0, 1], [0, 1, 2], [0, 2])


def lower_case(symbol: int) -> int:
    """A letter in lower case, 0 for what is none. Bytes above 127 are parts of letters, as a rule."""
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
        # A letter after none, seen from the end, begins the next word; the one so far may have none.
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
