"""The language model: embedding, layers, output. Shapes: `B` rows, `T` time, `D` width, `V` vocabulary."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.layers import MLP, RMSNorm, parameter, precise
from model.registry import load_block


class Layer(nn.Module):
    """x + block(norm(x)), then x + mlp(norm(x)): residual layers with the norm in front (Xiong et al. 2020,
    arXiv:2002.04745)."""

    def __init__(self, block: nn.Module, width: int, hidden: int):
        super().__init__()
        self.block, self.norm, self.mlp = block, RMSNorm(), MLP(width, hidden)
        self.init_state = block.init_state

    def forward(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        y, state = self.block(self.norm(x), state)
        x = x + y
        return x + self.mlp(self.norm(x)), state


class LanguageModel(nn.Module):
    """`forward(history [B, C - 1 + T], state) -> (logits [B, T, V] in fp32, state)`.

    The last T tokens of `history` are the inputs; the C - 1 before them, C = `context`, only help the n-gram prior.
    The state returned is detached: gradients end at a segment's start. `config` is a ModelConfig.
    """

    def __init__(self, config: Any, vocabulary: int):
        super().__init__()
        width, self.cap = config.width, config.logit_cap
        names = config.block.split()
        self.embedding = parameter(torch.randn(vocabulary, width), "table")
        self.layers = nn.ModuleList(
            Layer(load_block(names[depth % len(names)])(config), width, round(config.expansion * width))
            for depth in range(config.depth)
        )
        self.norm = RMSNorm()
        # Zero: an untrained model codes every token with log2 V bits. Updates of the table's rows add up over the
        # width, so their rate falls with it (Yang et al. 2022, arXiv:2203.03466, table 3).
        self.output = parameter(torch.zeros(width, vocabulary), "table", lr=64 / width)
        self.prior, self.context = None, 1
        if config.ngram_orders:
            from model.ngram import NgramPrior

            self.prior = NgramPrior(vocabulary, width, config.ngram_orders, config.ngram_rows_log2, config.ngram_slots)
            self.context = self.prior.context
            self.gate = parameter(torch.zeros(width), "vector")
            self.gate_bias = parameter(torch.full((1,), 0.5), "vector")

    def init_state(self, batch: int) -> list[Any]:
        """State of `batch` rows before their first token."""
        return [layer.init_state(batch) for layer in self.layers]  # type: ignore[operator]

    def forward(self, history: Tensor, state: list[Any]) -> tuple[Tensor, list[Any]]:
        x = F.embedding(history[:, self.context - 1 :], self.embedding)
        if self.prior is not None:
            expected, mean = self.prior(history)
            x = x + mean
        x = self.norm(x)
        after = []
        for layer, before in zip(self.layers, state, strict=True):
            x, then = layer(x, before)
            after.append(tuple(part.detach() if isinstance(part, Tensor) else part for part in then))
        x = self.norm(x)
        logits = precise(x @ self.output)
        if self.cap:
            logits = self.cap * torch.tanh(logits / self.cap)
        if self.prior is not None:
            # A weighted product of the two experts, as in PAQ's logistic mixing (Mahoney 2005).
            weight = (precise(x) * self.gate).sum(-1, keepdim=True) + self.gate_bias
            logits = logits + weight * expected
        return logits, after
