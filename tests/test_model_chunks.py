"""Blocks that compute all chunks at once, in their form for CUDA, on any device: against the reference, and against
loops over time that are written from the papers."""

from collections.abc import Iterable
from copy import deepcopy
from typing import Any

import pytest
import torch
from test_model_mamba import ssd_by_the_paper
from test_model_recurrent import naive_gated_delta
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

import model.chunks
import model.cuda.gated_delta
import model.cuda.ssd
from model.blocks.mlstm import MLSTM
from model.chunks import split_time
from model.cuda import use_kernels
from model.cuda.chunks import Chunked, Inverse, sums
from model.registry import load_block
from train.config import ModelConfig

TOLERANCE = 1e-10
CHUNKS = {"ssd": model.cuda.ssd.CHUNK, "gated_delta": model.cuda.gated_delta.CHUNK}
CHUNKS |= dict.fromkeys(["kda", "rwkv7", "mlstm", "mamba3"], Chunked.most)
# The parameter of each that sets how fast it forgets.
DECAYS = {
    "ssd": "bias", "gated_delta": "step", "kda": "step", "rwkv7": "decay", "mlstm": "forget_bias", "mamba3": "bias",
}  # fmt: skip
CPU = torch.device("cpu")


@pytest.fixture(params=CHUNKS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def build(name: str, noise: float = 0.3, **fields: Any) -> nn.Module:
    torch.manual_seed(5)
    block = load_block(name)(ModelConfig(**({"width": 16, "head_width": 8} | fields)))  # type: ignore[arg-type]
    with torch.no_grad():
        for p in block.parameters():
            p.add_(noise * torch.randn_like(p))
    return block


def passed(block: nn.Module, x: Tensor, state: Iterable[Tensor], cuts: list[int], device: torch.device) -> list[Tensor]:
    """Outputs, the last state, and gradients of a sum over all of these with regard to x, `state` and parameters."""
    block, before = block.to(device), [part.to(device).requires_grad_() for part in state]
    x, after, outputs = x.to(device).requires_grad_(), before, []
    if isinstance(block, MLSTM):
        # Its scale cancels out, and has no gradient.
        before = before[::2]
    for part in x.split(cuts, 1):
        y, after = block(part, after)
        outputs.append(y)
    y = torch.cat(outputs, 1)
    weight = torch.linspace(0, 1, y.numel(), dtype=y.dtype, device=device).view_as(y)
    total = (y * weight).sum() + sum(part.square().sum() for part in after)
    gradients = torch.autograd.grad(total, [x, *before, *block.parameters()])
    return [part.detach().cpu() for part in (y, *after, *gradients)]


def random_state(block: nn.Module, rows: int) -> list[Tensor]:
    return [torch.randn_like(part) for part in block.init_state(rows)]


@pytest.mark.parametrize("chunks", [(3, 5), (0, 23), (1, -1), (1, 0), (1, 1), (2, 0)], ids=str)
def test_outputs_states_and_gradients_are_the_cpu_forms(
    name: str, chunks: tuple[int, int], device: torch.device
) -> None:
    """A segment ends before, at or after a chunk's end."""
    block = build(name).double()
    time = chunks[0] * CHUNKS[name] + chunks[1]
    x, state = torch.randn(2, time, 16, dtype=torch.float64), random_state(block, 2)
    found = []
    for kernels, place in ((False, CPU), (True, device)):
        if kernels:
            use_kernels(block)
        found.append(passed(block, x, state, [time], place))
    for a, b in zip(*found, strict=True):
        assert a.abs().max() > 0
        assert (a - b).abs().max() < TOLERANCE * max(1.0, float(a.abs().max()))


def test_any_split_gives_the_same(name: str, device: torch.device) -> None:
    """Single tokens, which have a form of their own, between segments of every length."""
    size = CHUNKS[name]
    block = use_kernels(build(name).double())
    time = 3 * size + 5
    x, state = torch.randn(2, time, 16, dtype=torch.float64), random_state(block, 2)
    whole = passed(block, x, state, [time], device)
    for cuts in (
        [1, size - 1, size, size + 1, 4],
        [2 * size, 1, 1, size + 3],
        [size + 2, 2 * size + 3],
        [5] * (time // 5),
    ):
        cuts = [*cuts, time - sum(cuts)] if sum(cuts) < time else cuts
        for a, b in zip(whole, passed(block, x, state, cuts, device), strict=True):
            assert (a - b).abs().max() < TOLERANCE * max(1.0, float(a.abs().max()))


@pytest.mark.parametrize("name", ["ssd", "gated_delta"])
def test_agrees_with_the_papers(name: str, device: torch.device) -> None:
    block = use_kernels(build(name, conv=3).double())
    x = torch.randn(1, 2 * CHUNKS[name] + 3, 16, dtype=torch.float64)
    with torch.no_grad():
        if name == "ssd":
            expected, _ = ssd_by_the_paper(block, x[0], *(part[0] for part in block.init_state(1)))
        else:
            expected = naive_gated_delta(block, x[0])
        block = block.to(device)
        y, _ = block(x.to(device), block.init_state(1))
    assert (y[0].cpu() - expected).abs().max() < TOLERANCE


@pytest.mark.parametrize("decay", [-6.0, 0.0, 3.0])
def test_bf16_autocast_is_as_exact_as_the_cpu_forms(name: str, decay: float, device: torch.device) -> None:
    """Against fp64, over 1,024 tokens that are remembered for long, or hardly at all. The form for a CPU rounds the
    inputs of projections alone."""
    block = build(name, noise=0.05, width=64, head_width=32)
    nn.init.constant_(block.get_parameter(DECAYS[name]), -decay if name == "mlstm" else decay)
    x, state = torch.randn(2, 1024, 64), random_state(block, 2)
    exact = passed(deepcopy(block).double(), x.double(), [part.double() for part in state], [1024], CPU)
    errors = []
    for kernels, place in ((False, CPU), (True, device)):
        if kernels:
            use_kernels(block)
        with torch.autocast(place.type, torch.bfloat16):
            found = passed(block, x, state, [1024], place)
        assert found[0].dtype == torch.bfloat16
        assert found[1].dtype == found[2].dtype == torch.float32
        errors.append([float((a - b).norm() / b.norm()) for a, b in zip(found, exact, strict=True)])
    assert errors[1][0] < 0.02
    for ours, cpu in zip(errors[1], errors[0], strict=True):
        assert ours < 2 * cpu + 0.01


@pytest.mark.parametrize("size", [0.0, 1e3, 1e5])
def test_extreme_inputs_have_finite_gradients(name: str, size: float, device: torch.device) -> None:
    block = use_kernels(build(name))
    for part in passed(block, size * torch.randn(2, 200, 16), block.init_state(2), [200], device):
        assert part.isfinite().all()


def test_states_are_copies(name: str, device: torch.device) -> None:
    """Not views, which would keep what all chunks computed."""
    block = use_kernels(build(name)).to(device)
    with torch.no_grad():
        _, state = block(torch.randn(2, 300, 16, device=device), block.init_state(2))
    for part, empty in zip(state, block.init_state(2), strict=True):
        assert part.shape == empty.shape and part.dtype == empty.dtype
        assert part.untyped_storage().nbytes() == empty.untyped_storage().nbytes()


def test_one_graph_for_all_segments(name: str, device: torch.device) -> None:
    """Compiled without a break, once; gradients under autocast are those without a compiler."""
    torch._dynamo.reset()
    block = use_kernels(build(name, noise=0.05, width=64, head_width=32)).to(device)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(block, backend=counter, fullgraph=True, dynamic=False)
    segments, found = torch.randn(4, 2, 300, 64, device=device), []
    for made in (block, compiled):
        state, outputs = block.init_state(2), []
        for x in segments:
            with torch.autocast(device.type, torch.bfloat16):
                y, state = made(x, state)
            y.float().square().sum().backward()
            state = tuple(part.detach() for part in state)
            outputs.append(y.detach().float())
        found.append([*outputs, *state, *(p.grad.clone() for p in block.parameters())])
        block.zero_grad()
    assert counter.frame_count == 1
    for a, b in zip(*found, strict=True):
        assert (a - b).norm() <= 0.01 * a.norm()


@pytest.mark.parametrize("entry", [0.5, 1.0])
def test_inverse_is_stable(entry: float, device: torch.device) -> None:
    """The same token 64 times: powers of the matrix have entries of up to 10^17, its inverse none above 1."""
    lower = torch.full((3, 64, 64), entry, device=device).tril(-1)
    inverse = Inverse.apply(lower)
    eye = torch.eye(64, device=device)
    assert inverse.abs().max() <= 1
    assert ((eye + lower) @ inverse - eye).abs().max() < 1e-5


def test_inverse_has_its_gradient(device: torch.device) -> None:
    torch.manual_seed(1)
    lower = torch.randn(2, 3, 32, 32, dtype=torch.float64, device=device).tril(-1)
    found = []
    for inverse in (Inverse.apply, lambda x: torch.linalg.inv(x + torch.eye(32, dtype=x.dtype, device=device))):
        entries = lower.clone().requires_grad_()
        y = inverse(entries.tril(-1))
        found.append([y, *torch.autograd.grad(y.square().sum(), entries)])
    for a, b in zip(*found, strict=True):
        assert (a - b).abs().max() < TOLERANCE * b.abs().max()


@pytest.mark.parametrize("kind", [model.chunks.Chunked, Chunked])
def test_parts_of_chunks(kind: type[model.chunks.Chunked], device: torch.device) -> None:
    torch.manual_seed(1)
    part = kind()
    x = torch.arange(20.0, device=device).view(1, 1, 10, 2)
    (chunks,) = part.split(x, fill=7.0)
    assert chunks.shape == (1, 1, 1, 16, 2)
    assert torch.equal(chunks.flatten(2, 3)[:, :, :10], x) and (chunks[:, :, 0, 10:] == 7).all()
    assert torch.equal(part.running_sums(x), x.cumsum(2))
    lower = torch.randn(2, 3, 16, 16, dtype=torch.float64, device=device)
    right = torch.randn(2, 3, 16, 5, dtype=torch.float64, device=device)
    eye = torch.eye(16, dtype=torch.float64, device=device)
    assert ((eye + lower.tril(-1)) @ part.solve(lower, right) - right).abs().max() < 1e-8


def test_time_in_chunks() -> None:
    x = torch.arange(10.0).view(1, 5, 2)
    (chunks,) = split_time((x,), 1, 4)
    assert chunks.shape == (1, 2, 4, 2)
    assert torch.equal(chunks.flatten(1, 2)[:, :5], x)
    assert chunks[0, 1, 1:].abs().sum() == 0
    assert split_time((x,), 1, 64)[0].shape == (1, 1, 8, 2)
    assert torch.equal(sums(x), x.cumsum(-1))
