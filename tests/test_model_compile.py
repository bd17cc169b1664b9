"""Compiled layers: one graph for a kind of block, and the same one from step to step.

A graph break, or a number that changes in a block's state, would end that, and torch._dynamo gives up after eight
recompilations. On a CPU the graphs are traced, and not made into kernels.
"""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from model.blocks.attention import Attention
from model.cuda import use_kernels
from model.lm import Layer
from train.config import ModelConfig


@pytest.fixture
def layer() -> Layer:
    """Attention, in its form for CUDA. test_model_chunks.py and test_model_scans.py have the other blocks."""
    torch._dynamo.reset()
    torch.manual_seed(1)
    made = Layer(Attention(ModelConfig(width=32, head_width=16, window=24)), 32, 64)
    use_kernels(made)
    return made


def test_segments_make_one_graph(layer: Layer) -> None:
    """With gradients, over carried state; a segment of another length, such as the last one, makes one more."""
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(layer, backend=counter, dynamic=False, fullgraph=True)
    whole = layer.block.init_state(2)
    state, made = whole, []
    for time in [40] * 6 + [13] * 2 + [40]:
        x = torch.randn(2, time, 32, requires_grad=True)
        expected, _ = layer(x, state)
        y, state = compiled(x, state)
        assert not any(part.requires_grad for part in state)
        (gradient,) = torch.autograd.grad(y.square().sum(), x)
        assert gradient.isfinite().all() and (y - expected).abs().max() < 1e-4
        made.append(counter.frame_count)
    assert made[1] <= 2
    assert made[5] == made[1]
    assert made[-1] == made[6] == made[5] + 1


def test_single_tokens_make_one_graph(layer: Layer) -> None:
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(layer, backend=counter, dynamic=False, fullgraph=True)
    x, made = torch.randn(2, 60, 32), []
    with torch.no_grad():
        expected, _ = layer(x, layer.block.init_state(2))
        state, parts = layer.block.init_state(2), []
        for token in x.split(1, 1):
            y, state = compiled(token, state)
            parts.append(y)
            made.append(counter.frame_count)
    assert (torch.cat(parts, 1) - expected).abs().max() < 1e-4
    assert made[1] <= 2
    assert made[-1] == made[1]
