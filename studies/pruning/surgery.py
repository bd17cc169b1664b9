"""Taking groups of parameters out of a finished model: heads and channels, so that its tensors are smaller.

model/ makes all layers of one shape; here they become different ones, by slicing their parameters. A group is what goes
together: a head of attention or of the gated delta rule, a hidden channel of an MLP or a recurrence, a state of SSD.
(SSD's heads meet in one norm, so that no head can go without a change of the others.) Where nothing reads a group, the
outputs are the same without it. Single weights that are zero leave tensors as large as they were.

A block says in its own file what can be taken out of it, as a function at the top of the module, which no decoder runs:

    pruning_groups(block) -> (kind, count, owned, readers, attributes): the fields of Groups, with owners as tensors

Blocks without one are below, or refused by name.

Shapes: `G` groups of a module.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.prune import L1Unstructured

from data.errors import UsageError
from model.layers import parameter
from model.lm import LanguageModel
from studies.scoring import small_vectors

# A parameter, one of its dimensions, and the group that owns each entry there, or -1.
Owned = tuple[str, int, np.ndarray]


@dataclass(frozen=True)
class Groups:
    """What can be taken out of a module: every entry that goes with a group, the weights that read it (zeros there
    make it superfluous), and what the module's attributes become when so many groups are left."""

    module: Any
    kind: str
    count: int
    owned: list[Owned]
    readers: list[Owned]
    attributes: Callable[[int], dict[str, Any]] = lambda left: {}

    def sum_entries(self, owned: list[Owned], of: Callable[[Tensor], Tensor]) -> np.ndarray:
        """Sums [G] of `of(parameter)`, a tensor like it, over the entries that belong to each group."""
        total = np.zeros(self.count)
        for name, dimension, owner in owned:
            values = of(self.module.get_parameter(name)).detach().double().movedim(dimension, 0)
            total += np.bincount(owner + 1, values.reshape(len(owner), -1).sum(1).cpu().numpy(), self.count + 1)[1:]
        return total

    def keep(self, kept: np.ndarray) -> None:
        """Leave only the groups with the numbers `kept` in the module, which then has other groups than these."""
        for name, dimension, owner in self.owned:
            path, _, leaf = name.rpartition(".")
            old = self.module.get_parameter(name)
            index = torch.from_numpy(np.flatnonzero((owner < 0) | np.isin(owner, kept))).to(old.device)
            left = parameter(old.detach().index_select(dimension, index), old.role, old.lr)
            setattr(self.module.get_submodule(path), leaf, left)
        for attribute, value in self.attributes(len(kept)).items():
            setattr(self.module, attribute, value)


def attention_groups(block: Any) -> Groups:
    heads, one = np.arange(block.heads), np.repeat(np.arange(block.heads), block.head_width)
    out = ("out.weight", 0, one)
    owned = [("qkv.weight", 1, np.tile(one, 3)), ("temperature", 0, heads), out]
    return Groups(block, "heads", block.heads, owned, [out], lambda left: {"heads": left})


def gated_delta_groups(block: Any) -> Groups:
    heads, one = np.arange(block.heads), np.repeat(np.arange(block.heads), block.head_width)
    out = ("out.weight", 0, one)
    inputs = np.concatenate([np.tile(one, 4), np.tile(heads, 2)])
    owned = [("inputs.weight", 1, inputs), ("taps", 0, np.tile(one, 3)), out]
    owned += [(name, 0, heads) for name in ("log_rate", "step")]
    return Groups(
        block, "heads", block.heads, owned, [out], lambda left: {"heads": left, "inner": left * block.head_width}
    )


def gated_rnn_groups(block: Any) -> Groups:
    """Of a GRU, which has three gates and a parameter more, or an LSTM, which has four gates."""
    one = np.arange(block.hidden)
    gates = np.tile(one, len(block.bias) // block.hidden)
    readers = [("recurrent", 0, one), ("out.weight", 0, one)]
    owned = [("inputs", 1, gates), ("recurrent", 1, gates), ("bias", 0, gates), *readers]
    owned += [("echo_bias", 0, one)] if hasattr(block, "echo_bias") else []
    return Groups(block, "channels", block.hidden, owned, readers, lambda left: {"hidden": left})


def rglru_groups(block: Any) -> Groups:
    one = np.arange(block.inner)
    two = np.tile(one, 2)
    readers = [("gates.weight", 0, one), ("out.weight", 0, one)]
    owned = [("inputs.weight", 1, two), ("gates.weight", 1, two), ("bias", 0, two), ("taps", 0, one), ("decay", 0, one)]
    return Groups(block, "channels", block.inner, [*owned, *readers], readers, lambda left: {"inner": left})


def mamba_groups(block: Any) -> Groups:
    (past, inner), (size, _) = block.shapes
    one = np.arange(inner)
    readers = [("select.weight", 0, one), ("out.weight", 0, one)]
    owned = [("input.weight", 1, np.tile(one, 2)), ("step.weight", 1, one), ("rate", 1, one), *readers]
    owned += [(name, 0, one) for name in ("taps", "bias", "skip")]
    return Groups(block, "channels", inner, owned, readers, lambda left: {"shapes": ((past, left), (size, left))})


def s4_groups(block: Any) -> Groups:
    """Of S4D, or of S4, which has a parameter more."""
    one = np.arange(block.channels)
    out = ("out.weight", 0, one)
    names = set(dict(block.named_parameters())) - {"input", "out.weight"}
    owned = [("input", 1, one), *((name, 0, one) for name in sorted(names)), out]
    return Groups(block, "channels", block.channels, owned, [out], lambda left: {"channels": left})


def ssd_groups(block: Any) -> Groups:
    inner, _, heads = block.parts
    (past, _), _ = block.shapes
    states, others, no_states = np.arange(block.size), np.full(inner, -1), np.full(block.size, -1)
    # Gate and values, keys, queries, steps.
    columns = np.concatenate([others, others, states, states, np.full(heads, -1)])
    owned = [("input.weight", 1, columns), ("taps", 0, np.concatenate([others, states, states]))]
    queries = ("taps", 0, np.concatenate([others, no_states, states]))

    def attributes(left: int) -> dict[str, Any]:
        mixed = inner + 2 * left
        return {"size": left, "parts": (inner, mixed, heads), "shapes": ((past, mixed), (left, inner))}

    return Groups(block, "states", block.size, owned, [queries], attributes)


def mlp_groups(block: Any) -> Groups:
    one = np.arange(block.down.weight.shape[0])
    out = ("down.weight", 0, one)
    return Groups(block, "MLP channels", len(one), [("up.weight", 1, one), out], [out])


# By name of the class.
PRUNABLE: dict[str, Callable[[Any], Groups]] = {
    "Attention": attention_groups, "GatedDelta": gated_delta_groups, "GRU": gated_rnn_groups, "LSTM": gated_rnn_groups,
    "MLP": mlp_groups, "Mamba": mamba_groups, "RGLRU": rglru_groups, "S4": s4_groups, "S4D": s4_groups,
    "SSD": ssd_groups,
}  # fmt: skip


def find_groups(module: nn.Module) -> Groups:
    """What can be taken out of a block or an MLP. Raises UsageError for a block of which nothing is known."""
    kind = type(module)
    if own := getattr(sys.modules[kind.__module__], "pruning_groups", None):
        name, count, owned, readers, attributes = own(module)
        owned, readers = ([(path, n, owner.numpy()) for path, n, owner in part] for part in (owned, readers))
        return Groups(module, name, count, owned, readers, attributes)
    if kind.__name__ not in PRUNABLE:
        raise UsageError(
            f"nothing is known of how to prune block {kind.__name__}: write pruning_groups in its file, as "
            "studies/pruning/surgery.py says"
        )
    return PRUNABLE[kind.__name__](module)


def list_groups(model: LanguageModel) -> list[Groups]:
    """Those of the block and of the MLP, if it has one, of every layer, in order."""
    return [find_groups(part) for layer in model.layers for part in (layer.block, layer.mlp) if part]  # type: ignore[arg-type]


def list_sizes(model: LanguageModel) -> np.ndarray:
    """Parameters of the same, [places]."""
    return np.array([count_parameters(groups.module) for groups in list_groups(model)])


def count_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def choose(scores: Sequence[np.ndarray], entries: Sequence[float], budget: float) -> list[np.ndarray]:
    """Groups to keep in each place, as rising numbers, when `budget` parameters are to go from all places together. A
    place is a block or an MLP of one layer.

    `scores` [G] a place say what a group is worth, `entries` how many parameters go with one. The groups that are worth
    least a parameter go first; one is left in every place.
    """
    worth = np.concatenate([score / size for score, size in zip(scores, entries, strict=True)])
    left = [len(score) for score in scores]
    ends, place = np.cumsum(left)[:-1], np.repeat(np.arange(len(left)), left)
    gone, kept = 0.0, np.ones(len(worth), bool)
    for group in np.argsort(worth, kind="stable"):
        at = place[group]
        if gone + entries[at] <= budget and left[at] > 1:
            kept[group], gone, left[at] = False, gone + entries[at], left[at] - 1
    return [np.flatnonzero(part) for part in np.split(kept, ends)]


def find_largest(scores: np.ndarray, count: int) -> np.ndarray:
    """The numbers of the `count` groups with the largest scores, rising."""
    return np.sort(np.argsort(scores, kind="stable")[len(scores) - count :])


def zero_smallest(model: LanguageModel, share: float) -> dict[nn.Parameter, Tensor]:
    """Set the smallest weights to zero, this share of each matrix of blocks and MLPs. Returns what is left of each, as
    masks of ones and zeros."""
    small, masks = small_vectors(model), {}
    for name, weights in model.named_parameters():
        if name.startswith("layers.") and name not in small:
            masks[weights] = L1Unstructured(share).compute_mask(weights.detach(), torch.ones_like(weights))
    apply_masks(masks)
    return masks


@torch.no_grad()
def apply_masks(masks: dict[nn.Parameter, Tensor]) -> None:
    for weights, mask in masks.items():
        weights.mul_(mask)
