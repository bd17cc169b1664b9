"""Fair comparisons: the MLP width at which two architectures have the same parameters, or take the same arithmetic."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from data.errors import UsageError
from model.lm import LanguageModel
from train.config import ModelConfig
from train.flops import forward_flops
from train.meta import meta_model

# Hidden channels of an MLP, as a multiple of the width, between which a match is sought.
LEAST_EXPANSION, LARGEST_EXPANSION = 0.25, 64.0
TOLERANCE = 0.02


def layer_parameters(config: ModelConfig, vocabulary: int) -> int:
    """Parameters of the network without its tables, whose size only the width and the vocabulary decide."""
    parameters: Any = meta_model(replace(config, ngram_orders=[]), vocabulary).parameters()
    return sum(p.numel() for p in parameters if p.role != "table")


def layer_flops(config: ModelConfig, vocabulary: int) -> int:
    """Floating-point operations of a forward pass over 128 tokens."""
    return forward_flops(LanguageModel(replace(config, ngram_orders=[]), vocabulary), time=128)


MEASURES: dict[str, Callable[[ModelConfig, int], int]] = {"parameters": layer_parameters, "flops": layer_flops}


def match(config: ModelConfig, reference: ModelConfig, vocabulary: int, measure: str) -> ModelConfig:
    """`config` with the MLP expansion that brings it to the parameters or flops of `reference`.

    Raises UsageError if none does within 2 %.
    """
    size = MEASURES[measure]
    target = size(reference, vocabulary)

    def at(hidden: int) -> ModelConfig:
        return replace(config, expansion=hidden / config.width)

    low, high = (round(bound * config.width) for bound in (LEAST_EXPANSION, LARGEST_EXPANSION))
    while low < high:
        middle = (low + high) // 2
        if size(at(middle), vocabulary) < target:
            low = middle + 1
        else:
            high = middle
    best = min((at(low), at(max(low - 1, 1))), key=lambda found: abs(size(found, vocabulary) - target))
    found = size(best, vocabulary)
    if abs(found - target) > TOLERANCE * target:
        raise UsageError(
            f"model.block {config.block!r} at width {config.width} cannot have the {target:,} {measure} of "
            f"{reference.block!r}: the nearest is {found:,}, at model.expansion {best.expansion:g}; change "
            "model.expand or --match"
        )
    return best
