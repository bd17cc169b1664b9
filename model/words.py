"""Contexts of words, for tokens that are bytes: the letters of the one so far, of those before it, and of a long one
further back, which says what a text is about.

Shapes: `B` rows of the batch, `T` time, `C` tokens that the longest context needs.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# A hash of words covers at most so many of the latest bytes.
WORD_TOKENS = 32
# The longest word counts by its last letters, as many as LETTERS, if it ended within so many of the latest bytes.
LETTERS, WINDOW = 16, 512
# Words that a context takes: 0 is the word so far, 1 the word before it, 3 the longest. `words` contexts take the first
# of these.
WORDS = ([0], [0, 1], [0, 1, 2], [0, 2], [0, 3], [0, 1, 3])
# The first ones do without the longest.
NEAR = 4


def lower_case(symbol: int) -> int:
    """A letter in lower case, 0 for other bytes. Bytes above 127 are taken for parts of letters."""
    if 65 <= symbol <= 90:
        return symbol + 32
    return symbol if 97 <= symbol <= 122 or 128 <= symbol <= 255 else 0


class Words(nn.Module):
    """`forward(history [B, C - 1 + T], T, powers [C])` gives the hashes [B, T] of the first `count` of WORDS. They need
    the latest `length` tokens."""

    lower: Tensor

    def __init__(self, count: int, symbols: int, odd: int):
        super().__init__()
        self.count, self.odd = count, odd
        self.length = WORD_TOKENS if count <= NEAR else LETTERS + 1 + WINDOW
        lower = torch.tensor([lower_case(symbol) for symbol in range(symbols)])
        self.register_buffer("lower", lower, persistent=False)

    def forward(self, history: Tensor, number: int, powers: Tensor) -> list[Tensor]:
        letters = self.lower[history]
        # Latest first. Backwards, a word begins at a letter after other bytes. The first one may be empty.
        lower = letters.unfold(1, WORD_TOKENS, 1)[:, -number:].flip(-1)
        letter = lower > 0
        which = F.pad(letter[..., 1:] & ~letter[..., :-1], (1, 0)).cumsum(-1)
        spelled, keys = [], []
        for word in range(3):
            part = letter & (which == word)
            spelled.append((lower * part * powers[part.cumsum(-1) - 1]).sum(-1))
        if self.count > NEAR:
            spelled.append(self.longest(letters, number, powers))
        for words in WORDS[: self.count]:
            key = torch.zeros_like(spelled[0])
            for word in words:
                key = key * self.odd + spelled[word]
            keys.append(key)
        return keys

    def longest(self, letters: Tensor, number: int, powers: Tensor) -> Tensor:
        """The longest word that ended within WINDOW: its length, above 40 bits of its hash."""
        # Of 1, 2, 4, 8 and 16 letters, as far as they are letters: a half, and before it another one if it is full.
        word, run = letters, (letters > 0).long()
        for half in (1, 2, 4, 8):
            full = run[:, half:] == half
            word = word[:, half:] + word[:, :-half] * full * powers[half - 1]
            run = run[:, half:] + run[:, :-half] * full
        # A word has ended where no letter follows.
        ended = (run << 40 | word & (1 << 40) - 1)[:, :-1] * (letters[:, LETTERS:] == 0)
        return ended.unfold(1, WINDOW, 1)[:, -number:].amax(-1)
