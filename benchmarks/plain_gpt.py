"""A plain GPT, as one would write it without this project: what benchmarks/gpu.py measures ours against.

Token and position embeddings, LayerNorm in front, causal SDPA, GELU, cross-entropy, fused AdamW, bf16 autocast on CUDA
with fp32 parameters (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"; the sizes are given).
It has no carried context: a segment's first token sees nothing before it.

Shapes: `B` rows, `T` time, `D` width, `V` vocabulary.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PlainLayer(nn.Module):
    def __init__(self, width: int, head_width: int):
        super().__init__()
        self.head_width = head_width
        self.norms = nn.ModuleList(nn.LayerNorm(width, bias=False) for _ in range(2))
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width, bias=False), nn.GELU(), nn.Linear(4 * width, width, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norms[0](x)).unflatten(-1, (3, -1, self.head_width)).permute(2, 0, 3, 1, 4).unbind()
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norms[1](x))


class PlainGPT(nn.Module):
    """`forward(tokens [B, T], targets [B, T]) -> mean nats`."""

    def __init__(self, width: int, depth: int, head_width: int, vocabulary: int, time: int):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(time, width)
        self.layers = nn.ModuleList(PlainLayer(width, head_width) for _ in range(depth))
        self.norm = nn.LayerNorm(width, bias=False)
        self.output = nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.positions.weight
        for layer in self.layers:
            x = layer(x)
        return F.cross_entropy(self.output(self.norm(x)).flatten(0, 1), targets.flatten())


def plain_step(
    width: int, depth: int, head_width: int, vocabulary: int, rows: int, time: int, device: torch.device, compiled: bool
) -> tuple[Callable[[], object], nn.Module]:
    """A function that takes one training step over random tokens, and the model."""
    model: nn.Module = PlainGPT(width, depth, head_width, vocabulary, time).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    forward = torch.compile(model, dynamic=False) if compiled else model
    tokens = torch.randint(vocabulary, (rows, time + 1), device=device)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = forward(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step, model
