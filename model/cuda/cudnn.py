"""What cuDNN's recurrent kernels need. They go through all tokens at once; one layer, one direction."""

import torch
from torch import Tensor


def one_chunk(weights: list[Tensor]) -> list[Tensor]:
    """Copies of matrices and biases in one piece of memory. Otherwise cuDNN's recurrent kernels make such a copy at
    every call, with a warning."""
    flat = torch.cat([weight.flatten() for weight in weights]).split([weight.numel() for weight in weights])
    return [part.view(weight.shape) for part, weight in zip(flat, weights, strict=True)]
