"""GRU by cuDNN's kernel."""

import torch
from torch import Tensor

from model.blocks import gru
from model.cuda.cudnn import one_chunk


class GRU(gru.GRU):
    # A compiler would write it out, token by token.
    @torch.compiler.disable
    def steps(self, x: Tensor, hidden: Tensor, weights: list[Tensor]) -> tuple[Tensor, Tensor]:
        y, last = torch.gru(x, hidden[None], one_chunk(weights), True, 1, 0.0, True, False, True)
        return y, last[0]
