"""The network of a configuration on PyTorch's meta device, where tensors have a shape and no memory."""

import os
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from data.errors import UsageError
from data.lanes import WHOLE_LOGITS, longest_segment
from model.lm import LanguageModel
from train.config import ModelConfig, TrainConfig


def build_model(config: ModelConfig, vocabulary: int) -> Any:
    """The LanguageModel of a configuration, or its Network, which is used in the same way."""
    if config.network:
        from model.network import Network

        return Network(config, vocabulary)
    return LanguageModel(config, vocabulary)


def meta_model(config: ModelConfig, vocabulary: int) -> Any:
    """The model of `vocabulary` symbols, without memory. Raises UsageError if a block refuses the configuration: for
    that, model/ raises a ValueError that names a field, model.NAME. Other ValueErrors are bugs."""
    try:
        with torch.device("meta"):
            return build_model(config, vocabulary)
    except ValueError as error:
        if "model." not in str(error):
            raise
        raise UsageError(str(error)) from error


def refuse_giant(config: ModelConfig, train: TrainConfig, vocabulary: int, world_size: int) -> None:
    """Raise UsageError if one of `world_size` ranks needs more than this machine's memory for parameters, tables, the
    states of its lanes, and the logits of a micro-batch."""
    model, rows = meta_model(config, vocabulary), max(1, train.lanes // world_size)
    with torch.device("meta"):
        tensors = [*model.parameters(), *model.buffers(), *tree_leaves(model.init_state(rows))]
    needed_bytes = sum(tensor.nbytes for tensor in tensors)
    logits = rows // train.accumulation * longest_segment(train.segment_tokens) * vocabulary
    needed_bytes += 4 * (logits if config.network else min(logits, WHOLE_LOGITS))
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed_bytes > memory_bytes:
        raise UsageError(
            f"the model and {rows:,} lanes take {needed_bytes:,} bytes, and this machine has {memory_bytes:,} of "
            "memory: take a smaller model, fewer lanes, shorter segments or more accumulation"
        )
