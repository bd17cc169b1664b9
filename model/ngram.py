"""An online n-gram prior beside the network: what followed this context when it was last seen?

Every order k keeps a table of 2^rows_log2 hashed contexts (the k latest tokens); a row is a ring of the `slots` latest
successors. The predictions r_k of the rows are interpolated from low to high order, as in PPM with escapes (Cleary &
Witten 1984, IEEE Trans. Comm. 32) or Witten-Bell smoothing (1991, IEEE Trans. IT 37), but the escape probabilities are
learned by gradient, one for each number of successors held and of different ones among them:

    p_k = (1 - e_k) r_k + e_k p_(k-1),      p_0 = uniform

The network sees this prediction, as the mean embedding of the expected tokens, and has log p_K added to its logits.

Tables take in only tokens that are already coded, after each step, from all lanes of all ranks: every rank holds the
same tables. They need K * 2^rows_log2 * (2 S + 4) bytes (4 S + 4 for more than 32,768 tokens), however long the corpus.

Shapes: `B` rows of the batch, `T` time, `D` width, `K` orders, `S` slots, `V` vocabulary.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.layers import parameter


class NgramPrior(nn.Module):
    """`forward(history [B, C - 1 + T]) -> (log-probabilities [B, T, V], mean embedding [B, T, D])` of the next token at
    the T last positions, where `context` C is the highest order; `learn(history, targets)` writes what followed."""

    successors: Tensor
    written: Tensor
    powers: Tensor

    def __init__(self, vocabulary: int, width: int, orders: list[int], rows_log2: int, slots: int):
        super().__init__()
        self.vocabulary, self.orders, self.slots, self.context = vocabulary, sorted(orders), slots, max(orders)
        rows = 1 << rows_log2
        token = torch.int16 if vocabulary <= 1 << 15 else torch.int32
        self.register_buffer("successors", torch.full((len(orders), rows, slots), -1, dtype=token))
        powers = [pow(0x9E3779B97F4A7C15, length + 1, 1 << 64) for length in range(self.context)]
        self.register_buffer("powers", torch.tensor(powers, dtype=torch.uint64).view(torch.int64), persistent=False)
        self.register_buffer("written", torch.zeros(len(orders), rows, dtype=torch.int32))
        self.expected = parameter(torch.randn(vocabulary, width), "table")
        # Escape logits [K, held, distinct]; they start at Witten-Bell's distinct / (held + distinct).
        counts = torch.arange(slots + 1.0)
        start = counts.clamp(min=1).log() - counts.clamp(min=1).log()[:, None]
        self.escape = parameter(start.repeat(len(orders), 1, 1), "vector")

    def rows(self, history: Tensor) -> Tensor:
        """Table rows [K, B, T] of the contexts that end at the last T tokens of `history` [B, C - 1 + T]."""
        latest_first = history.unfold(1, self.context, 1).flip(-1)  # [B, T, C]
        # Polynomials in an odd number; of their sums modulo 2^64, the upper bits depend on every token.
        hashed = ((latest_first + 1) * self.powers).cumsum(-1)[..., [order - 1 for order in self.orders]]
        return (hashed >> 32 & self.written.shape[1] - 1).movedim(-1, 0)

    def forward(self, history: Tensor) -> tuple[Tensor, Tensor]:
        rows = self.rows(history)
        order = torch.arange(len(rows), device=rows.device)[:, None, None]
        successors = self.successors[order, rows].long().sort(-1).values  # [K, B, T, S], empty slots (-1) first
        seen = successors >= 0
        held = seen.sum(-1)
        distinct = (seen[..., 1:] & (successors[..., 1:] != successors[..., :-1])).sum(-1) + seen[..., 0]
        escape = torch.where(held > 0, self.escape[order, held, distinct].sigmoid(), 1.0)
        # From the highest order down: (1 - e_k) of what reaches an order stays there, the rest escapes to the next.
        reach, stays = torch.ones_like(escape[0]), []
        for down in escape.unbind()[::-1]:
            stays.append(reach * (1 - down))
            reach = reach * down
        each = torch.stack(stays[::-1], -1) / held.clamp(min=1).movedim(0, -1)  # [B, T, K], the share of one slot
        uniform = (reach / self.vocabulary).unsqueeze(-1).repeat(1, 1, self.vocabulary)
        shares = torch.where(seen.movedim(0, 2), each.unsqueeze(-1), 0.0).flatten(2)  # [B, T, K * S]
        slots = successors.movedim(0, 2).clamp(min=0).flatten(2)
        bags = (part.flatten(0, 1) for part in (slots, shares.detach()))
        mean = F.embedding_bag(next(bags), self.expected, per_sample_weights=next(bags), mode="sum")
        return uniform.scatter_add(-1, slots, shares).log(), mean.view(*slots.shape[:2], -1)

    @torch.no_grad()
    def learn(self, history: Tensor, targets: Tensor) -> None:
        """Write `targets` [B, T] as the latest successors of their contexts; -1 stands for no token. Within a step,
        rows of the batch count as one after the other."""
        coded = targets.flatten() >= 0
        tokens = targets.flatten()[coded].to(self.successors.dtype)
        place = torch.arange(len(tokens), device=tokens.device)
        for order, rows in enumerate(self.rows(history).flatten(1)[:, coded]):
            rows, arrival = rows.sort(stable=True)
            first, end = torch.searchsorted(rows, rows), torch.searchsorted(rows, rows, right=True)
            # A row keeps its latest successors, so no slot is written twice and the outcome is deterministic.
            latest = end - place <= self.slots
            slot = (self.written[order, rows] + place - first) % self.slots
            self.successors[order, rows[latest], slot[latest]] = tokens[arrival[latest]]
            self.written[order, rows] += (end - first).int()
