"""Contexts of words, for tokens that are bytes: the letters of the one so far, of those before it, and of a long one
further back, which says what a text is about.

Shapes: `B` rows of the batch, `T` time, `C` tokens that the longest context needs.
"""

import torch
from torch import Tensor, nn

# A word counts by its last letters, as many as LETTERS, if it ended within so many of the latest bytes.
LETTERS, WINDOW = 16, 512
LOW = (1 << 40) - 1
# Words that a context takes: 0 is the word so far, 1 and 2 those before it, 3 the longest. `words` contexts take the
# first of these.
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
        self.count, self.odd, self.length = count, odd, LETTERS + WINDOW
        lower = torch.tensor([lower_case(symbol) for symbol in range(symbols)])
        self.register_buffer("lower", lower, persistent=False)

    def forward(self, history: Tensor, number: int, powers: Tensor) -> list[Tensor]:
        letters = self.lower[history]
        # Of 1, 2, 4, 8 and 16 letters, as far as they are letters: a half, and before it another one if it is full.
        word, run = letters, (letters > 0).long()
        for half in (1, 2, 4, 8):
            full = run[:, half:] == half
            word = word[:, half:] + word[:, :-half] * full * powers[half - 1]
            run = run[:, half:] + run[:, :-half] * full
        spelled = [word[:, -number:]]
        # Where no letter follows, a word has ended: its length, above 40 bits of its hash. The latest one: where it is.
        ended = (run << 40 | word & LOW)[:, :-1] * (letters[:, LETTERS:] == 0)  # [B, WINDOW - 1 + T]
        place = torch.arange(ended.shape[1], device=ended.device)
        latest = torch.where(ended > 0, place + 1 << 40 | ended & LOW, 0).cummax(-1).values
        at = place[-number:].expand(len(ended), -1)
        for _ in range(2):
            before = latest.gather(1, at)
            spelled.append((before & LOW) * (before >> 40 > place[:number]))
            at = ((before >> 40) - 2).clamp(min=0)
        if self.count > NEAR:
            spelled.append(ended.unfold(1, WINDOW, 1).amax(-1))
        keys = []
        for words in WORDS[: self.count]:
            key = torch.zeros_like(spelled[0])
            for one in words:
                key = key * self.odd + spelled[one]
            keys.append(key)
        return keys
