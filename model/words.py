"""Contexts of words, for tokens that are bytes: the letters of the one so far, of those before it, and of a long one
further back, which says what a text is about.

Shapes: `B` rows of the batch, `T` time, `C` tokens that the longest context needs.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# A word counts by its last letters, as many as LETTERS, if it ended within so many of the latest bytes.
LETTERS, WINDOW = 16, 512
LOW = (1 << 40) - 1
# Words that a context takes: -1 is the word so far, -2 and -3 those before it, -4 the longest. `words` contexts take
# the first of these.
WORDS = ([-1], [-1, -2], [-1, -2, -3], [-1, -3], [-1, -4], [-1, -2, -4])
# The first ones do without the longest.
NEAR = 4


def lower_case(symbol: int) -> int:
    """A letter in lower case, 0 for other bytes. Bytes above 127 are taken for parts of letters."""
    if 65 <= symbol <= 90:
        return symbol + 32
    return symbol if 97 <= symbol <= 122 or 128 <= symbol <= 255 else 0


class Words(nn.Module):
    """`forward(history [B, C - 1 + T], T)` gives the hashes [B, T, `number`] of the words that the first `count` of
    WORDS take. They need the latest `length` tokens, or more."""

    lower: Tensor

    def __init__(self, count: int, symbols: int, odd: int):
        super().__init__()
        self.count, self.number, self.length = count, 3 + (count > NEAR), LETTERS + WINDOW
        # Powers of the inverse undo those of `odd`, modulo 2^64.
        self.odd, self.inverse = odd, pow(odd, -1, 1 << 64)
        lower = torch.tensor([lower_case(symbol) for symbol in range(symbols)])
        self.register_buffer("lower", lower, persistent=False)

    def forward(self, history: Tensor, time: int) -> Tensor:
        letters = self.lower.index_select(0, history.flatten()).view_as(history)
        letter, place = letters > 0, torch.arange(history.shape[1], device=history.device)
        # The first byte of the word at each byte: after the latest one that is no letter.
        after = place + 1
        first = torch.where(letter, 0, after).cummax(1).values.maximum(after - LETTERS)
        # sum_j odd^(i - j) letter_j, over the letters j of the word so far, as a difference of two sums.
        sums = F.pad((letters * self.inverse**place).cumsum(1), (1, 0))
        word = (sums[:, 1:] - sums.gather(1, first)) * self.odd**place
        spelled = [word[:, -time:]]
        # Where a word has ended: no letter follows.
        ends = letter[:, :-1] > letter[:, 1:]
        # Where the latest one before each byte did.
        latest = F.pad(torch.where(ends, place[:-1], 0).cummax(1).values, (1, 0))
        at, oldest = place[-time:].expand(len(ends), -1), place[-WINDOW - time :][:time]
        for _ in range(2):
            at = latest.gather(1, at)
            spelled.append(word.gather(1, at) * (at >= oldest))
        if self.number > 3:
            # Its length, above 40 bits of its hash.
            sized = (after - first << 40 | word & LOW)[:, :-1] * ends
            spelled.append(sized[:, 1 - WINDOW - time :].unfold(1, WINDOW, 1).amax(-1))
        return torch.stack(spelled, -1)
