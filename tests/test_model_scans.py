"""Forms for a GPU, of blocks that go through time step by step, against those for a CPU.

On a CPU, Triton's kernels run in its interpreter: TRITON_INTERPRET=1 pytest tests/test_model_scans.py
"""

import os
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from model.cuda import s4d, use_kernels
from model.lm import Layer
from model.registry import load_block
from train.config import ModelConfig

SPAN = 8
SCANS, CUDNN = ["mamba", "rglru"], ["gru", "lstm"]
BLOCKS = [*SCANS, *CUDNN, "s4d", "s4"]


def needs_triton(device: torch.device) -> None:
    if find_spec("triton") is None or (device.type == "cpu" and os.environ.get("TRITON_INTERPRET") != "1"):
        pytest.skip("needs Triton, and on a CPU its interpreter: TRITON_INTERPRET=1")


def run(block: nn.Module, x: Tensor, cuts: list[int]) -> tuple[Tensor, list[Tensor]]:
    """Outputs and the last state."""
    state, parts = block.init_state(len(x)), []
    for part in x.split(cuts, 1):
        y, state = block(part, state)
        parts.append(y)
    return torch.cat(parts, 1), list(state)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short spans and chunks, so that few tokens make several."""
    monkeypatch.setattr(s4d, "CHUNK", SPAN)
    if find_spec("triton"):
        monkeypatch.setattr("model.cuda.scans.SPAN", SPAN)
        monkeypatch.setattr("model.cuda.scans.BLOCK", 16)


def force(name: str, block: nn.Module, device: torch.device) -> None:
    """The form for CUDA, on this device."""
    if name in SCANS:
        needs_triton(device)
    use_kernels(block)


def made(name: str, **fields: int) -> nn.Module:
    torch.manual_seed(3)
    block = load_block(name)(ModelConfig(**{"width": 16, "expand": 1.25, "state": 6} | fields))  # type: ignore[arg-type]
    with torch.no_grad():
        for p in block.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return block


@pytest.mark.parametrize(
    "cuts", [[1], [SPAN - 1], [SPAN], [SPAN + 1], [3 * SPAN + 5], [1, SPAN, SPAN - 1, 9], [1] * 5], ids=str
)
@pytest.mark.parametrize("name", BLOCKS)
def test_any_split_gives_the_same_outputs_states_and_gradients(
    name: str, cuts: list[int], device: torch.device, short: None
) -> None:
    """20 channels are more than one program's, and not a multiple of them; 6 states are not a power of two."""
    block, time = made(name).double(), sum(cuts)
    x, weight = torch.randn(2, 2, time, 16, dtype=torch.float64)
    found = []
    for place, parts in ((torch.device("cpu"), [time]), (device, cuts)):
        if found:
            force(name, block, device)
        inputs, block = x.to(place).requires_grad_(), block.to(place)
        y, state = run(block, inputs, parts)
        total = (y * weight.to(place)).sum() + sum(part.square().sum() for part in state)
        gradients = torch.autograd.grad(total, [inputs, *block.parameters()])
        found.append([part.detach().cpu() for part in (y, *state, *gradients)])
    assert found[0][0].abs().max() > 0.1
    tolerance = 1e-10 if device.type == "cpu" else 1e-8
    for a, b in zip(*found, strict=True):
        assert (a - b).abs().max() < tolerance * max(1.0, float(a.abs().max()))


@pytest.mark.parametrize("name", [*SCANS, "s4d", "s4"])
def test_long_segments_stay_exact_in_fp32(name: str, device: torch.device) -> None:
    """With the lengths of spans and chunks that a GPU gets."""
    time = 130 if device.type == "cpu" and name in SCANS else 3000
    exact = made(name, width=4, state=16).float().double()
    block = made(name, width=4, state=16).float()
    block.load_state_dict(exact.state_dict())
    x = torch.randn(1, time, 4, dtype=torch.float64)
    expected, _ = run(exact, x, [time])
    gradients = torch.autograd.grad(expected.square().sum(), list(exact.parameters()))
    force(name, block, device)
    y, _ = run(block.to(device), x.float().to(device), [time])
    assert (y.cpu() - expected).abs().max() < 1e-3 * expected.abs().max()
    ours = torch.autograd.grad(y.square().sum(), list(block.parameters()))
    for a, b in zip(gradients, ours, strict=True):
        assert (a - b.cpu()).norm() < 1e-3 * a.norm()


@pytest.mark.parametrize("name", BLOCKS)
def test_autocast_leaves_the_recurrence_in_fp32(name: str, device: torch.device, short: None) -> None:
    block, x = made(name), torch.randn(2, 29, 16)
    expected, states = run(block, x, [29])
    force(name, block, device)
    block = block.to(device)
    with torch.autocast(device.type, torch.bfloat16):
        y, state = run(block, x.to(device), [20, 9])
    assert all(part.dtype == torch.float32 for part in state)
    for a, b in zip([expected, *states], [y, *state], strict=True):
        assert (a - b.float().cpu()).norm() < 0.03 * a.norm()
    y.float().square().sum().backward()
    assert all(p.grad.isfinite().all() for p in block.parameters())


@pytest.mark.parametrize("name", BLOCKS)
def test_graphs_serve_all_segments(name: str, device: torch.device, short: None) -> None:
    """A layer compiles once and as one graph, and changes no number. On CUDA, kernels of cuDNN stand between four."""
    block = made(name)
    force(name, block, device)
    layer = Layer(block, 16, 32).to(device)
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    whole = name not in CUDNN
    compiled = torch.compile(layer, backend=counter, fullgraph=whole, dynamic=False)
    state = after = layer.block.init_state(2)
    for _ in range(3):
        x = torch.randn(2, 2 * SPAN + 1, 16, device=device)
        y, state = layer(x, state)
        z, after = compiled(x, after)
        plain = torch.autograd.grad(y.square().sum(), list(layer.parameters()))
        ours = torch.autograd.grad(z.square().sum(), list(layer.parameters()))
        state, after = (tuple(part.detach() for part in parts) for parts in (state, after))
        for a, b in zip([y, *state, *plain], [z, *after, *ours], strict=True):
            assert (a - b).abs().max() <= 1e-4 * a.abs().max()
        assert counter.frame_count == (1 if whole else 4)


def test_the_kernels_are_an_operator_as_pytorch_wants_it(device: torch.device, short: None) -> None:
    needs_triton(device)
    from model.scans import selective_scan

    torch.manual_seed(3)
    shapes = [(2, 9, 20), (2, 9, 20), (2, 9, 3), (2, 9, 3), (3, 20), (2, 3, 20)]
    inputs = tuple(torch.rand(shape, dtype=torch.float64, device=device, requires_grad=True) for shape in shapes)
    torch.library.opcheck(selective_scan, inputs)


@pytest.mark.parametrize("name", SCANS)
def test_the_same_bits_at_every_run(name: str, device: torch.device, short: None) -> None:
    block, x = made(name).to(device), torch.randn(3, 21, 16, device=device)
    force(name, block, device)
    runs = []
    for _ in range(2):
        y, state = run(block, x, [21])
        runs.append([y, *state, *torch.autograd.grad(y.square().sum(), list(block.parameters()))])
    for a, b in zip(*runs, strict=True):
        assert torch.equal(a, b)
