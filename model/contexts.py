"""Contexts: what stands before a token, as numbers. Tables of counts and of embeddings are looked up by them.

Shapes: `B` rows of the batch, `T` time, `C` tokens that the longest context needs, `K` contexts.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ODD = 0x2545F4914F6CDD1D
# Of the `bytes` tokenizer, whose words we can tell, as far as they stand within so many of the last bytes.
BYTE_SYMBOLS, WORD_TOKENS = 257, 32
# Contexts of words, in the order in which they are taken: 0 is the word so far, 1 the one before it.
WORDS = ([0], [0, 1], [0, 1, 2], [0, 2])


def lower_case(symbol: int) -> int:
    """A letter in lower case, 0 for what is none. Bytes above 127 are parts of letters, as a rule."""
    if 65 <= symbol <= 90:
        return symbol + 32
    return symbol if 97 <= symbol <= 122 or 128 <= symbol <= 255 else 0


class Contexts(nn.Module):
    """None, as many of the latest tokens as each of `orders` says, tokens at the distances of each of `lags`, and the
    latest words in so many ways. `number` is K, `length` C."""

    powers: Tensor
    lower: Tensor

    def __init__(self, vocabulary: int, orders: list[int], lags: list[list[int]], words: int):
        super().__init__()
        self.orders, self.lags = orders, lags
        self.words = WORDS[:words] if vocabulary == BYTE_SYMBOLS else ()
        self.number = 1 + len(orders) + len(lags) + len(self.words)
        self.length = max([*orders, *(lag for far in lags for lag in far), WORD_TOKENS if self.words else 1])
        powers = [pow(0x9E3779B97F4A7C15, length + 1, 1 << 64) for length in range(self.length)]
        self.register_buffer("powers", torch.tensor(powers, dtype=torch.uint64).view(torch.int64), persistent=False)
        lower = torch.tensor([lower_case(symbol) for symbol in range(BYTE_SYMBOLS)])
        self.register_buffer("lower", lower, persistent=False)

    def hashes(self, history: Tensor) -> Tensor:
        """Of the contexts [K, B, T] that end at the last T tokens of `history` [B, C - 1 + T]."""
        latest = history.unfold(1, self.length, 1).flip(-1)  # [B, T, C], latest first
        # Polynomials in an odd number; of their sums modulo 2^64, the upper bits depend on every token.
        longest = max(self.orders)
        sums = ((latest[..., :longest] + 1) * self.powers[:longest]).cumsum(-1)
        hashes = [torch.zeros_like(latest[..., 0]), *(sums[..., order - 1] for order in self.orders)]
        for lags in self.lags:
            at = [lag - 1 for lag in lags]
            hashes.append(((latest[..., at] + 1) * self.powers[at]).sum(-1))
        if self.words:
            lower = self.lower[latest[..., :WORD_TOKENS]]
            letter = lower > 0
            # A letter after none, seen from the end, begins the next word; the one so far may have none.
            number = F.pad(letter[..., 1:] & ~letter[..., :-1], (1, 0)).cumsum(-1)
            spelled = []
            for word in range(3):
                part = letter & (number == word)
                spelled.append((lower * part * self.powers[part.cumsum(-1) - 1]).sum(-1))
            for words in self.words:
                key = torch.zeros_like(hashes[0])
                for word in words:
                    key = key * ODD + spelled[word]
                hashes.append(key)
        return torch.stack(hashes)

    def buckets(self, hashes: Tensor, orders: list[int], count: int) -> Tensor:
        """Of contexts, by their orders and 0 for the word so far, numbers below `count`, a power of two: [E, B, T]."""
        which = [1 + (self.orders.index(order) if order else len(self.orders) + len(self.lags)) for order in orders]
        return hashes[which] * ODD >> 40 & count - 1
