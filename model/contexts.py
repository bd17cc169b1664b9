"""Contexts: what stands before a token, as numbers. Tables of counts and of embeddings are looked up by them.

Shapes: `B` rows of the batch, `T` time, `C` tokens that the longest context needs, `K` contexts.
"""

import torch
from torch import Tensor, nn

ODD = 0x2545F4914F6CDD1D
# Of the `bytes` tokenizer, whose words we can tell.
BYTE_SYMBOLS = 257


class Contexts(nn.Module):
    """None, as many of the latest tokens as each of `orders` says, tokens at the distances of each of `lags`, and the
    latest words in so many ways. `number` is K, `length` C."""

    powers: Tensor

    def __init__(self, vocabulary: int, orders: list[int], lags: list[list[int]], words: int):
        super().__init__()
        self.orders, self.lags, self.words = orders, lags, None
        self.number = 1 + len(orders) + len(lags)
        self.length = max([1, *orders, *(lag for far in lags for lag in far)])
        if words and vocabulary == BYTE_SYMBOLS:
            from model.words import WORD_TOKENS, Words

            self.words, self.number, self.length = (
                Words(words, vocabulary, ODD),
                self.number + words,
                max(self.length, WORD_TOKENS),
            )
        # Of an odd number, modulo 2^64: the upper bits of sums of their multiples depend on all of them.
        powers = [pow(0x9E3779B97F4A7C15, length + 1, 1 << 64) for length in range(self.length)]
        self.register_buffer("powers", torch.tensor(powers, dtype=torch.uint64).view(torch.int64), persistent=False)

    def hashes(self, history: Tensor) -> Tensor:
        """Of the contexts [K, B, T] that end at the last T tokens of `history` [B, C - 1 + T]."""
        latest = history.unfold(1, self.length, 1).flip(-1)  # [B, T, C], latest first
        longest = max(self.orders)
        sums = ((latest[..., :longest] + 1) * self.powers[:longest]).cumsum(-1)
        hashes = [torch.zeros_like(latest[..., 0]), *(sums[..., order - 1] for order in self.orders)]
        for lags in self.lags:
            at = [lag - 1 for lag in lags]
            hashes.append(((latest[..., at] + 1) * self.powers[at]).sum(-1))
        if self.words:
            hashes += self.words(latest, self.powers)
        return torch.stack(hashes)

    def buckets(self, hashes: Tensor, orders: list[int], count: int) -> Tensor:
        """Of contexts, by their orders and 0 for the word so far, numbers below `count`, a power of two: [E, B, T]."""
        which = [1 + (self.orders.index(order) if order else len(self.orders) + len(self.lags)) for order in orders]
        return hashes[which] * ODD >> 40 & count - 1
