"""Taking groups of parameters out of a finished model: heads and channels, so that its tensors are smaller.

model/ makes all layers of one shape; here they become different ones, by slicing their parameters. A group is what goes
together: a head of attention or of the gated delta rule, a hidden channel of an MLP or a recurrence, a state of SSD.
Where nothing reads a group, the outputs are the same without it. Single weights that are zero leave tensors as large as
they were.

A block says in its own file what can be taken out of it, as a function at the top of the module, which no decoder runs:

    pruning_groups(block) -> (kind, count, owned, readers, attributes): the fields of Groups, with owners as tensors

A class that derives from a block has those of the block. Blocks without any are refused by name.

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
from model.layers import MLP, parameter
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


def mlp_groups(block: Any) -> Groups:
    one = np.arange(block.down.weight.shape[0])
    out = ("down.weight", 0, one)
    return Groups(block, "MLP channels", len(one), [("up.weight", 1, one), out], [out])


def find_groups(module: nn.Module) -> Groups:
    """What can be taken out of a block or an MLP. Raises UsageError for a block of which nothing is known."""
    if isinstance(module, MLP):
        return mlp_groups(module)
    kind = type(module)
    files = (sys.modules[base.__module__] for base in kind.__mro__)
    own = next((file.pruning_groups for file in files if hasattr(file, "pruning_groups")), None)
    if own is None:
        raise UsageError(
            f"nothing is known of how to prune block {kind.__name__}: write pruning_groups in its file, as "
            "studies/pruning/surgery.py says"
        )
    name, count, owned, readers, attributes = own(module)
    owned, readers = ([(path, n, owner.numpy()) for path, n, owner in part] for part in (owned, readers))
    return Groups(module, name, count, owned, readers, attributes)


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
