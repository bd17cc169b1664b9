"""Contexts: what precedes a token, as hashes. They choose rows in the tables of counts and of embeddings.

Shapes: `B` rows of the batch, `T` time, `C` tokens that the longest context needs, `K` contexts.
"""

from typing import Any

import torch
from torch import Tensor, nn

# Multiples of powers of an odd number, modulo 2^64: the upper bits of a sum of such depend on every term.
ODD, OTHER_ODD = -0x61C8864680B583EB, 0x2545F4914F6CDD1D
# Vocabulary of the `bytes` tokenizer, the only one in whose tokens we recognise letters.
BYTE_SYMBOLS = 257


class Contexts(nn.Module):
    """The empty context, the latest tokens (as many as each of ngram_orders), tokens at distances (ngram_lags), the
    highest of some tokens (ngram_highest), the latest tokens in one lane (ngram_local), and the first ngram_words of
    WORDS (model/words.py), as a ModelConfig says. `number` is K, `length` C.

    A hash is a sum of multiples of numbers: tokens, highest tokens, the number of the lane and words."""

    places: Tensor
    factors: Tensor

    def __init__(self, config: Any, vocabulary: int):
        super().__init__()
        self.orders, self.highest, self.words = config.ngram_orders, config.ngram_highest, None
        # What each context takes: tokens, by distances; the highest, by pairs; the lane, as 0; words, below 0.
        taken: list[Any] = [[*range(1, order + 1)] for order in (0, *self.orders)] + config.ngram_lags
        taken += [[*range(1, pair[0] + 1), pair] for pair in self.highest]
        taken += [[*range(order + 1)] for order in config.ngram_local]
        distances = sorted({number for one in taken for number in one if isinstance(number, int) and number})
        self.length, numbers = max(sum(self.highest, distances)), [*distances, *self.highest, 0]
        if config.ngram_words and vocabulary == BYTE_SYMBOLS:
            from model.words import WORDS, Words

            self.words = Words(config.ngram_words, vocabulary, OTHER_ODD)
            self.length = max(self.length, self.words.length)
            # In one lane, only the word so far.
            taken += [[-1, 0]] * bool(config.ngram_local) + [*WORDS[: config.ngram_words]]
            numbers += [-1, -2, -3, -4][: self.words.number]
        self.number, factors = len(taken), ODD ** torch.arange(1, len(numbers) + 1)
        factors = factors * torch.tensor([[number in one for number in numbers] for one in taken])
        self.register_buffer("places", self.length - torch.tensor(distances), persistent=False)
        self.register_buffer("factors", factors.view(self.number, 1, 1, -1), persistent=False)

    def hashes(self, history: Tensor, lanes: Tensor) -> Tensor:
        """Hashes [K, B, T] of the contexts that end at the last T tokens of `history` [B, C - 1 + T], which are in the
        lanes of these numbers [B]."""
        before = history.unfold(1, self.length, 1)  # [B, T, C], latest last
        numbers = [before[..., self.places]]
        for start, stop in self.highest:
            numbers.append(before[..., -stop : self.length - start].amax(-1, keepdim=True))
        numbers.append(lanes.view(-1, 1, 1).expand(-1, before.shape[1], -1))
        if self.words:
            numbers.append(self.words(history, before.shape[1]))
        return (torch.cat(numbers, -1) * self.factors).sum(-1)

    def buckets(self, hashes: Tensor, orders: list[int], count: int) -> Tensor:
        """Numbers [E, B, T] below `count`, a power of two, for the contexts of `orders`; 0 is the word so far."""
        which = [1 + self.orders.index(order) if order else -self.words.count for order in orders]  # type: ignore[union-attr]
        return torch.stack([hashes[one] for one in which]) >> 40 & count - 1
