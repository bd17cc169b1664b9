"""Attention's form for CUDA (tensors in place of numbers, blocks, a ring for single tokens) against that for a CPU."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import flex_attention

from model.blocks import attention
from model.blocks.attention import Attention
from model.cuda import attention as cuda_attention
from model.cuda import use_kernels
from model.lm import Layer
from train.config import ModelConfig

WINDOWS = [1, 7, 100, 128, 130]


@pytest.fixture
def by_blocks(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Call it, and FlexAttention takes every segment, without a compiler."""

    def force() -> None:
        monkeypatch.setattr(cuda_attention, "fits_blocks", lambda queries: True)
        monkeypatch.setattr(cuda_attention, "compiled_blocks", lambda: cuda_attention.attend_blocks)
        monkeypatch.setattr(flex_attention, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)

    return force


def made(window: int, width: int = 16, head_width: int = 8) -> Attention:
    torch.manual_seed(1)
    block = Attention(ModelConfig(width=width, head_width=head_width, window=window)).double()
    with torch.no_grad():
        for p in block.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return block


def run(block: Attention, x: Tensor, cuts: list[int]) -> Tensor:
    state, parts = block.init_state(len(x)), []
    for part in x.split(cuts, 1):
        y, state = block(part, state)
        assert all(isinstance(one, Tensor) for one in state)
        parts.append(y)
    return torch.cat(parts, 1)


@pytest.mark.parametrize("window", WINDOWS)
def test_it_agrees_with_the_form_for_a_cpu(window: int) -> None:
    """Gradients, too, and single tokens, whose ring goes round and then into a segment."""
    block, x = made(window), torch.randn(2, 300, 16, dtype=torch.float64)
    weight = torch.randn_like(x)
    expected = run(block, x, [300])
    gradients = torch.autograd.grad((expected * weight).sum(), list(block.parameters()))
    use_kernels(block)
    y = run(block, x, [20, 1, 9, 150, 120])
    found = torch.autograd.grad((y * weight).sum(), list(block.parameters()))
    for a, b in zip((expected.detach(), *gradients), (y.detach(), *found), strict=True):
        assert (a - b).abs().max() < 1e-10 * max(1.0, float(a.abs().max()))
    with torch.no_grad():
        for cuts in ([1] * 300, [90, *[1] * 160, 50], [30, 1, 1, 200, 1, 67]):
            assert (run(block, x, cuts) - expected).abs().max() < 1e-10


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("cuts", [[300], [256, 44], [130, 1, 169], [5, 295]], ids=str)
def test_flex_attention_agrees_with_the_form_for_a_cpu(window: int, cuts: list[int], by_blocks: Any) -> None:
    """Its outputs: it has no gradients on a CPU."""
    block, x = made(window, 32, 16), torch.randn(2, 300, 32, dtype=torch.float64)
    with torch.no_grad():
        expected = run(block, x, [300])
        use_kernels(block)
        by_blocks()
        y = run(block.float(), x.float(), cuts)
    assert (y - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize(("time", "length"), [(128, 0), (300, 128), (300, 200), (512, 384)])
@pytest.mark.parametrize("trained", [False, True])
def test_blocks_are_those_of_the_mask(time: int, length: int, trained: bool) -> None:
    """A block is left out if nothing in it is seen, and whole only if everything is, whatever was written to memory."""
    size, device = cuda_attention.BLOCK, torch.device("cpu")
    rows, columns = -(-time // size), -(-(length + time) // size)
    for window in (1, 100, 128, 129, 300, 2000):
        numbers = cuda_attention.block_tables(rows, columns, length, window, trained, device).tolist()
        tables = []
        for lines, places in 4 * [(rows, columns)] + 2 * [(columns, rows)]:
            table, indices = torch.zeros(lines, places, dtype=torch.bool), numbers[lines : lines * (1 + places)]
            for line, count in enumerate(numbers[:lines]):
                table[line, indices[line * places : line * places + count]] = True
            assert table.sum() == sum(numbers[:lines])
            tables.append(table)
            numbers = numbers[lines * (1 + places) :]
        part_fresh, whole_fresh, part, whole, learn_part, learn_whole = tables
        seen = []
        for position in (0, window):
            mask = torch.zeros(rows * size, columns * size, dtype=torch.bool)
            dense = cuda_attention.lookback(torch.tensor(position), rows * size, length, window, device)[
                :, : columns * size
            ]
            mask[:, : dense.shape[1]] = dense
            seen.append(mask.view(rows, size, columns, size).transpose(1, 2).flatten(2))
        assert numbers == [] and torch.equal(whole, seen[1].all(2)) and torch.equal(part | whole, seen[1].any(2))
        assert not (part & whole | part_fresh & whole_fresh).any() and not (learn_part & learn_whole).any()
        assert not (whole_fresh & ~seen[0].all(2)).any() and not (seen[0].any(2) & ~(part_fresh | whole_fresh)).any()
        learn = trained | (size * torch.arange(1, columns + 1) > length)
        assert torch.equal((learn_part | learn_whole).T, seen[1].any(2) & learn)
        assert not (learn_whole.T & ~seen[0].all(2)).any()


@pytest.mark.parametrize("position", [0, 12_345, 100_000_000])
def test_the_real_rotation_is_the_complex_one(position: int) -> None:
    x = torch.randn(2, 3, 40, 16)
    expected = attention.rotate(x, attention.rotation(position, 40, 16))
    turn = cuda_attention.angles(torch.tensor(position), 40, 16, x.device)
    found = cuda_attention.rotate_real(x.transpose(1, 2), turn).transpose(1, 2)
    assert (found - expected).abs().max() < 1e-6


def test_single_tokens_leave_the_state_that_they_go_on_from() -> None:
    """The segment that they decode is learned from that state afterwards."""
    block, x = made(7), torch.randn(2, 30, 16, dtype=torch.float64)
    use_kernels(block)
    with torch.no_grad():
        _, state = block(x[:, :10], block.init_state(2))
        kept, after = [part.clone() for part in state], state
        for token in x[:, 10:].split(1, 1):
            _, after = block(token, after)
    assert all(torch.equal(a, b) for a, b in zip(kept, state, strict=True))


def test_segments_of_any_length_leave_states_of_one_shape() -> None:
    """So that only the length of a segment makes a compiler start again."""
    block, x = made(7), torch.randn(2, 200, 16, dtype=torch.float64)
    use_kernels(block)
    state = block.init_state(2)
    layout = [(part.shape, part.stride()) for part in state]
    for part in x.split([150, 1, 9, 40], 1):
        _, state = block(part, state)
        assert [(part.shape, part.stride()) for part in state] == layout


@pytest.mark.parametrize(
    ("time", "channels", "itemsize", "fits"),
    [(128, 64, 2, True), (127, 64, 2, False), (1024, 48, 2, False), (1024, 8, 2, False), (1024, 64, 4, False)],
)
def test_flex_attention_takes_long_segments_of_half_precision(
    time: int, channels: int, itemsize: int, fits: bool
) -> None:
    queries: Any = SimpleNamespace(is_cuda=True, itemsize=itemsize, shape=torch.Size([2, 3, time, channels]))
    assert cuda_attention.fits_blocks(queries) == fits


def test_a_compiled_layer_in_half_precision_agrees_with_the_reference(device: torch.device) -> None:
    """Outputs and gradients of three segments, on CUDA within 3 % of the greatest number, about six roundings of
    bfloat16. On a CPU this is fp32, without a compiler."""
    block = made(200, 64, 32)
    layer, x = Layer(block, 64, 128).double(), torch.randn(3, 700, 64, dtype=torch.float64)
    weight, found = torch.randn_like(x), []
    torch.nn.init.normal_(layer.mlp.down.weight, std=0.1)  # type: ignore[union-attr]
    for place in (torch.device("cpu"), device):
        half = place.type == "cuda"
        layer = layer.to(place, torch.float32 if place is device else torch.float64)
        if half:
            use_kernels(layer)
        compiled = torch.compile(layer, dynamic=False, disable=not half)
        state, parts, inputs = layer.block.init_state(3), [], x.to(place, next(layer.parameters()).dtype)
        layer.zero_grad()
        with torch.autocast(place.type, torch.bfloat16, enabled=half):
            for part, against in zip(
                inputs.split([256, 256, 188], 1), weight.to(inputs).split([256, 256, 188], 1), strict=True
            ):
                y, state = compiled(part, state)
                (y * against).sum().backward()
                parts.append(y.detach())
        numbers = [torch.cat(parts, 1), *(p.grad for p in layer.parameters())]
        found.append([number.double().cpu() for number in numbers if number is not None])
    tolerance = 0.03 if device.type == "cuda" else 1e-4
    for a, b in zip(*found, strict=True):
        assert (a - b).abs().max() < tolerance * a.abs().max()
