"""The network of a configuration without its numbers: on PyTorch's meta device, where tensors have shapes alone."""

import torch

from data.errors import UsageError
from model.lm import LanguageModel
from train.config import ModelConfig


def meta_model(config: ModelConfig, vocabulary: int) -> LanguageModel:
    """The model of `vocabulary` symbols, in no memory. Raises UsageError if a block refuses the configuration: model/,
    which imports nothing of ours, says so with a ValueError that names a field, model.NAME. Any other is a bug."""
    try:
        with torch.device("meta"):
            return LanguageModel(config, vocabulary)
    except ValueError as error:
        if "model." not in str(error):
            raise
        raise UsageError(str(error)) from error
