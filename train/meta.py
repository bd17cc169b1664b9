"""The network of a configuration, for its shapes: on PyTorch's meta device, where tensors take no memory."""

import os
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from data.errors import UsageError
from data.lanes import WHOLE_LOGITS, longest_segment
from model.build import build_model
from train.config import ModelConfig, TrainConfig

# Entries of its parameters, about, up to which a model is built in no time.
SMALL_MODEL = 1 << 22


def shape_device(config: Any, vocabulary: int) -> torch.device:
    """Where a model is built of which only shapes are wanted: on the meta device, or on the CPU if it is small and made
    of our own blocks. On the meta device PyTorch imports its compiler to find shapes, which takes seconds."""
    if config.network or ":" in config.block:
        return torch.device("meta")
    channels = int(config.width * max(1.0, config.expand, config.expansion))
    layer = channels * (channels + config.state)
    small = config.depth * layer + vocabulary * config.width < SMALL_MODEL and config.ngram_rows_log2 <= 22
    return torch.device("cpu" if small else "meta")


def meta_model(config: ModelConfig, vocabulary: int) -> Any:
    """The model of `vocabulary` symbols, with hardly any memory. Raises UsageError if a block refuses the
    configuration: for that, model/ raises a ValueError that names a field, model.NAME. Other ValueErrors are bugs."""
    try:
        with shape_device(config, vocabulary):
            return build_model(config, vocabulary)
    except ValueError as error:
        if "model." not in str(error):
            raise
        raise UsageError(str(error)) from error


def refuse_giant(config: ModelConfig, train: TrainConfig, vocabulary: int, world_size: int) -> None:
    """Raise UsageError if one of `world_size` ranks needs more than this machine's memory for parameters, tables, the
    states of its lanes, and the logits of a micro-batch."""
    model, rows = meta_model(config, vocabulary), max(1, train.lanes // world_size)
    with shape_device(config, vocabulary):
        state_bytes = sum(tensor.nbytes for tensor in tree_leaves(model.init_state(1)))
    needed_bytes = rows * state_bytes + sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])
    row_logits = longest_segment(train.segment_tokens) * vocabulary
    part_logits = max(WHOLE_LOGITS, row_logits) if config.network else WHOLE_LOGITS
    needed_bytes += 4 * min(rows // train.accumulation * row_logits, part_logits)
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed_bytes > memory_bytes:
        raise UsageError(
            f"the model and {rows:,} lanes take {needed_bytes:,} bytes, and this machine has {memory_bytes:,} of "
            "memory: take a smaller model, fewer lanes, shorter segments or more accumulation"
        )
