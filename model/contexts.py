"""Contexts: what precedes a token, as hashes. They choose rows in the tables of counts and of embeddings.

Shapes: `B` rows of the batch, `T` time, `C` tokens that the longest context needs, `K` contexts.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ODD = 0x2545F4914F6CDD1D
# Vocabulary of the `bytes` tokenizer, the only one in whose tokens we recognise letters.
BYTE_SYMBOLS = 257


class Contexts(nn.Module):
    """The empty context, the latest tokens (as many as each of ngram_orders), tokens at distances (ngram_lags), the
    highest of some tokens (ngram_highest), the latest tokens in one lane (ngram_local), and the first ngram_words of
    WORDS (model/words.py), as a ModelConfig says. `number` is K, `length` C."""

    powers: Tensor

    def __init__(self, config: Any, vocabulary: int):
        super().__init__()
        self.orders, self.lags, self.highest = config.ngram_orders, config.ngram_lags, config.ngram_highest
        self.local, self.words = config.ngram_local, None
        self.length = max(1, *self.orders, *self.local, *(far for one in self.lags + self.highest for far in one))
        if config.ngram_words and vocabulary == BYTE_SYMBOLS:
            from model.words import Words

            self.words = Words(config.ngram_words, vocabulary, ODD)
            self.length = max(self.length, self.words.length)
        # Powers of an odd number modulo 2^64: the upper bits of a sum of multiples of them depend on every term. The
        # last one is for the lane.
        powers = [pow(0x9E3779B97F4A7C15, length, 1 << 64) for length in range(1, self.length + 2)]
        self.register_buffer("powers", torch.tensor(powers, dtype=torch.uint64).view(torch.int64), persistent=False)
        tokens = torch.zeros(1, self.length, dtype=torch.int64)
        self.number = len(self.hashes(tokens, tokens[:, 0]))

    def hashes(self, history: Tensor, lanes: Tensor) -> Tensor:
        """Hashes [K, B, T] of the contexts that end at the last T tokens of `history` [B, C - 1 + T], which are in the
        lanes of these numbers [B]."""
        before, longest = history.unfold(1, self.length, 1), max(self.orders + self.local)  # [B, T, C], latest last
        latest = before[..., -longest:].flip(-1)
        sums = F.pad(((latest + 1) * self.powers[:longest]).cumsum(-1), (1, 0))
        hashes = [sums[..., order] for order in (0, *self.orders)]
        for lags in self.lags:
            hashes.append(sum((before[..., -lag] + 1) * self.powers[lag - 1] for lag in lags))  # type: ignore[arg-type]
        for start, stop in self.highest:
            hashes.append(sums[..., start] + before[..., -stop : self.length - start].amax(-1) * self.powers[start])
        words = self.words(history, before.shape[1], self.powers) if self.words else []
        if self.local:
            lane = (lanes + 1).unsqueeze(-1) * self.powers[-1]
            # Of words, only the one so far.
            hashes += [context + lane for context in [sums[..., order] for order in self.local] + words[:1]]
        return torch.stack(hashes + words)

    def buckets(self, hashes: Tensor, orders: list[int], count: int) -> Tensor:
        """Numbers [E, B, T] below `count`, a power of two, for the contexts of `orders`; 0 is the word so far."""
        which = [1 + self.orders.index(order) if order else -self.words.count for order in orders]  # type: ignore[union-attr]
        return torch.stack([hashes[one] for one in which]) * ODD >> 40 & count - 1
