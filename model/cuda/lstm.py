"""LSTM by cuDNN's kernel."""

from typing import Any

import torch
from torch import Tensor

from model.blocks import lstm
from model.cuda.cudnn import one_chunk


class LSTM(lstm.LSTM):
    # A compiler would write it out, token by token.
    @torch.compiler.disable
    def steps(self, x: Tensor, state: Any, weights: list[Tensor]) -> Any:
        return super().steps(x, state, one_chunk(weights))
