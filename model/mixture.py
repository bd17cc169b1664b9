"""Several models side by side, and one code from them: the switch distribution. `model.block` names them with `|`.

Each member is a whole language model, which learns from its own nats as if it was alone. Coded is the sum over all ways
to choose a member for each token, where with probability SHARE the member of a lane is drawn again, each alike (fixed
share: Herbster & Warmuth 1998, "Tracking the best expert"; van Erven, Grünwald & de Rooij 2012, "Catching up faster by
switching sooner", arXiv:0807.1005). So each lane follows the member that predicts it best at the moment: at first a
small one, because large members take longer to learn.

Shapes: `B` rows, `T` time, `K` members, `P` paths through the digits of a token (LanguageModel.following).
"""

from math import prod
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from model.lm import LanguageModel

# The best of the rates where runs were put together afterwards: docs/mixtures.md.
SHARE = 1 / 8


def split_members(pattern: str) -> list[tuple[str, int | None]]:
    """Blocks and width of each member of "ssd attention @64 | lstm"; None is model.width."""
    found = []
    for member in pattern.split("|"):
        blocks, _, width = member.partition("@")
        found.append((" ".join(blocks.split()), int(width) if width else None))
    return found


class Mixture(nn.Module):
    """What LanguageModel is to its users. A state is: those of the members, the log weights [B, K] that they have for
    the next token, and what the last token was predicted from if it was predicted alone."""

    radices: list[int]

    def __init__(self, config: Any, vocabulary: int):
        super().__init__()
        self.members: Any = nn.ModuleList()
        for block, width in split_members(config.block):
            own = {**config.__dict__, "block": block, "width": width or config.width}
            self.members.append(LanguageModel(SimpleNamespace(**own), vocabulary))
        first: Any = self.members[0]
        self.context, self.radices, self.vocabulary = first.context, first.radices, vocabulary

    @property
    def mixing(self) -> Any:
        """What counts coded tokens, if members mix contexts: all of them do."""
        return self if self.members[0].mixing is not None else None

    @property
    def chunk(self) -> int:
        return int(self.members[0].mixing.chunk)

    def take_in(self, whole: Tensor, looked: list[Tensor]) -> list[Tensor]:
        members = zip(self.members, self.parts(looked), strict=True)
        return [tensor for member, part in members for tensor in member.mixing.take_in(whole, part)]

    def parts(self, looked: list[Tensor]) -> list[list[Tensor]]:
        """What the counts of each member said: three tensors, if there are any."""
        return [looked[at : at + 3] for at in range(0, 3 * len(self.members), 3)]

    def init_state(self, batch: int, first: int = 0) -> list[Any]:
        weights = next(self.parameters()).new_zeros(batch, len(self.members)).log_softmax(-1)
        return [[member.init_state(batch, first) for member in self.members], weights, ()]

    def forward(
        self, history: Tensor, state: list[Any], targets: Tensor | None = None, alone: bool = False, looked: Any = ()
    ) -> tuple[Any, list[Any]]:
        """As LanguageModel.forward; one token at a time where there are no targets. The gradient of the nats is that of
        the members' own, added up."""
        before, weights, seen = state
        if seen:
            node = prod(self.radices) + history[:, -1:]
            weights = self.weigh(weights, -self.path(seen, node, len(self.radices)))[1]
        members = zip(self.members, before, self.parts(looked), strict=True)
        results = [member(history, one, targets, alone, part) for member, one, part in members]
        firsts, after = map(list, zip(*results, strict=True))
        if targets is None:
            seen = weights, firsts, {}
            return seen, [after, weights, seen]
        costs = torch.stack(firsts, -1)
        mixed = []
        for nats in costs.detach().split(1, 1):
            cost, weights = self.weigh(weights, nats)
            mixed.append(cost)
        cost = torch.cat(mixed, 1).masked_fill(targets < 0, 0)
        return cost + (costs - costs.detach()).sum(-1), [after, weights, ()]

    def weigh(self, weights: Tensor, nats: Tensor) -> tuple[Tensor, Tensor]:
        """The nats [B, 1] of a token that costs the members `nats` [B, 1, K], and the log weights after it."""
        joint = weights - nats[:, 0]
        total = joint.logsumexp(-1, keepdim=True)
        posterior = (joint - total).exp()
        return -total, (posterior * (1 - SHARE) + SHARE / len(self.members)).log()

    def path(self, seen: Any, node: Tensor, digits: int) -> Tensor:
        """The members' log probabilities [B, P, K] of the first `digits` digits of a token, which `node` [B, P] has
        after its leading 1."""
        if not digits:
            return torch.zeros((), device=node.device)
        radix = self.radices[digits - 1]
        ways = self.ways(seen, node // radix, digits - 1)
        chosen = (node % radix)[..., None, None].expand(-1, -1, 1, ways.shape[-1])
        return self.path(seen, node // radix, digits - 1) + ways.gather(2, chosen)[:, :, 0].log()

    def ways(self, seen: Any, node: Tensor, digit: int) -> Tensor:
        """The members' probabilities [B, P, radix, K] of a digit. The last ones are kept: the next digits ask again."""
        _, firsts, kept = seen
        if digit not in kept or not torch.equal(kept[digit][0], node):
            each = zip(self.members, firsts, strict=True)
            kept[digit] = node, torch.stack([member.following(one, node, digit) for member, one in each], -1)
        return kept[digit][1]

    def following(self, seen: Any, node: Tensor, digit: int) -> Tensor:
        """As LanguageModel.following: members count by what they gave the digits before."""
        chosen = (seen[0][:, None] + self.path(seen, node, digit)).softmax(-1)
        return (self.ways(seen, node, digit) @ chosen.unsqueeze(-1))[..., 0]
