"""Taking groups of parameters out of a finished model: heads and channels, so that its tensors are smaller.

model/ makes all layers alike; here they become different ones, by slicing their parameters. A group is what goes
together: a head of attention or of the gated delta rule, a hidden channel of an MLP or a recurrence, a state of SSD.
(SSD's heads meet in one norm, so that none of them goes without changing the others.) Where nothing reads a group, the
outputs are the same without it.

Shapes: `G` groups of a module.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data.errors import UsageError
from model.layers import parameter
from model.lm import LanguageModel

# A parameter, one of its dimensions, and the group that owns each entry there, -1 for none.
Owned = tuple[str, int, np.ndarray]


@dataclass(frozen=True)
class Groups:
    """What can be taken out of a module: every entry that goes with a group, the weights that read it (zeros there
    make it superfluous), and what the module's attributes become when so many groups are left."""

    kind: str
    count: int
    owned: list[Owned]
    readers: list[Owned]
    attributes: Callable[[int], dict[str, Any]]

    def entries(self, module: nn.Module) -> float:
        """Parameters that go with one group."""
        sizes = [
            read(module, name).numel() / len(owner) * (owner >= 0).sum() / self.count for name, _, owner in self.owned
        ]
        return float(sum(sizes))

    def sums(self, module: nn.Module, owned: list[Owned], of: Callable[[Tensor], Tensor]) -> np.ndarray:
        """Sums [G] of `of(parameter)`, a tensor like it, over the entries that belong to each group."""
        total = np.zeros(self.count)
        for name, dimension, owner in owned:
            values = of(read(module, name)).detach().double().movedim(dimension, 0)
            total += np.bincount(owner + 1, values.reshape(len(owner), -1).sum(1).cpu().numpy(), self.count + 1)[1:]
        return total


def read(module: nn.Module, name: str) -> nn.Parameter:
    return module.get_parameter(name)


def attention(block: Any) -> Groups:
    heads, one = np.arange(block.heads), np.repeat(np.arange(block.heads), block.head_width)
    out = ("out.weight", 0, one)
    owned = [("qkv.weight", 1, np.tile(one, 3)), ("temperature", 0, heads), out]
    return Groups("heads", block.heads, owned, [out], lambda left: {"heads": left})


def gated_delta(block: Any) -> Groups:
    heads, one = np.arange(block.heads), np.repeat(np.arange(block.heads), block.head_width)
    out = ("out.weight", 0, one)
    owned = [
        ("inputs.weight", 1, np.concatenate([np.tile(one, 4), np.tile(heads, 2)])),
        ("taps", 0, np.tile(one, 3)),
        ("log_rate", 0, heads),
        ("step", 0, heads),
        out,
    ]
    return Groups("heads", block.heads, owned, [out], lambda left: {"heads": left, "inner": left * block.head_width})


def gru(block: Any) -> Groups:
    one = np.arange(block.hidden)
    readers = [("recurrent", 0, one), ("out.weight", 0, one)]
    owned = [(name, dimension, np.tile(one, 3)) for name, dimension in (("inputs", 1), ("recurrent", 1), ("bias", 0))]
    return Groups(
        "channels", block.hidden, [*owned, ("echo_bias", 0, one), *readers], readers, lambda left: {"hidden": left}
    )


def lstm(block: Any) -> Groups:
    one = np.arange(block.hidden)
    readers = [("recurrent", 0, one), ("out.weight", 0, one)]
    owned = [(name, dimension, np.tile(one, 4)) for name, dimension in (("inputs", 1), ("recurrent", 1), ("bias", 0))]
    return Groups("channels", block.hidden, [*owned, *readers], readers, lambda left: {"hidden": left})


def rglru(block: Any) -> Groups:
    one = np.arange(block.inner)
    two = np.tile(one, 2)
    readers = [("gates.weight", 0, one), ("out.weight", 0, one)]
    owned = [("inputs.weight", 1, two), ("gates.weight", 1, two), ("bias", 0, two), ("taps", 0, one), ("decay", 0, one)]
    return Groups("channels", block.inner, [*owned, *readers], readers, lambda left: {"inner": left})


def mamba(block: Any) -> Groups:
    (past, inner), (size, _) = block.shapes
    one = np.arange(inner)
    readers = [("select.weight", 0, one), ("out.weight", 0, one)]
    owned = [("input.weight", 1, np.tile(one, 2)), ("step.weight", 1, one), ("rate", 1, one)]
    owned += [(name, 0, one) for name in ("taps", "bias", "skip")]
    return Groups("channels", inner, [*owned, *readers], readers, lambda left: {"shapes": ((past, left), (size, left))})


def s4d(block: Any) -> Groups:
    one = np.arange(block.channels)
    out = ("out.weight", 0, one)
    # S4 has a parameter more.
    names = set(dict(block.named_parameters())) - {"input", "out.weight"}
    owned = [("input", 1, one), *((name, 0, one) for name in sorted(names)), out]
    return Groups("channels", block.channels, owned, [out], lambda left: {"channels": left})


def ssd(block: Any) -> Groups:
    inner, _, heads = block.parts
    (past, _), _ = block.shapes
    states, others = np.arange(block.size), np.full(inner, -1)
    # Gate and values, keys, queries, steps.
    columns = np.concatenate([others, others, states, states, np.full(heads, -1)])
    owned = [("input.weight", 1, columns), ("taps", 0, np.concatenate([others, states, states]))]
    queries = ("taps", 0, np.concatenate([others, np.full(block.size, -1), states]))

    def attributes(left: int) -> dict[str, Any]:
        mixed = inner + 2 * left
        return {"size": left, "parts": (inner, mixed, heads), "shapes": ((past, mixed), (left, inner))}

    return Groups("states", block.size, owned, [queries], attributes)


def mlp(module: Any) -> Groups:
    one = np.arange(module.down.weight.shape[0])
    out = ("down.weight", 0, one)
    return Groups("MLP channels", len(one), [("up.weight", 1, one), out], [out], lambda _: {})


# By name of the class.
PRUNABLE: dict[str, Callable[[Any], Groups]] = {
    "Attention": attention,
    "GatedDelta": gated_delta,
    "GRU": gru,
    "LSTM": lstm,
    "MLP": mlp,
    "Mamba": mamba,
    "RGLRU": rglru,
    "S4": s4d,
    "S4D": s4d,
    "SSD": ssd,
}


def groups(module: nn.Module) -> Groups:
    """What can be taken out of a block or an MLP. Raises UsageError for a block that is not known here."""
    name = type(module).__name__
    if name not in PRUNABLE:
        raise UsageError(f"nothing is known of how to prune block {name}: known are {', '.join(PRUNABLE)}")
    return PRUNABLE[name](module)


def prunable(model: LanguageModel) -> list[nn.Module]:
    """Block and MLP, if it has one, of every layer, in order."""
    return [part for layer in model.layers for part in (layer.block, layer.mlp) if part]  # type: ignore[misc]


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def keep(module: nn.Module, kept: np.ndarray) -> None:
    """Leave only the groups with the numbers `kept`, in place."""
    found = groups(module)
    for name, dimension, owner in found.owned:
        path, _, leaf = name.rpartition(".")
        old: Any = read(module, name)
        index = torch.from_numpy(np.flatnonzero((owner < 0) | np.isin(owner, kept))).to(old.device)
        setattr(
            module.get_submodule(path), leaf, parameter(old.detach().index_select(dimension, index), old.role, old.lr)
        )
    for attribute, value in found.attributes(len(kept)).items():
        setattr(module, attribute, value)
