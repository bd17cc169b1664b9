"""S4D and S4 against their papers' equations: dense matrices, one token after the other."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from model.blocks.s4 import S4, legs
from model.blocks.s4d import S4D
from train.config import ModelConfig

TOLERANCE = 1e-10
BLOCKS = [S4D, S4]


def noisy(kind: type[S4D], **changes: float) -> S4D:
    torch.manual_seed(4)
    block = kind(ModelConfig(**{"width": 6, "state": 8} | changes)).double()  # type: ignore[arg-type]
    with torch.no_grad():
        for p in block.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return block


def dense(block: S4D, channel: int) -> tuple[Tensor, Tensor, Tensor]:
    """A [N, N], B [N] and C [N] of one channel in continuous time, each state followed by its conjugate."""
    pole = torch.complex(-block.log_decay[channel].exp(), block.frequency[channel])
    readout = torch.view_as_complex(block.readout[channel])
    inputs = torch.ones_like(pole)
    a = torch.diag(torch.cat([pole, pole.conj()]))
    if isinstance(block, S4):
        rank = torch.cat([block.feedback[channel]] * 2).to(a.dtype)
        a = a - torch.outer(rank, rank)
        inputs = 2**0.5 * block.feedback[channel].to(a.dtype)
        readout = readout / inputs
    return a, torch.cat([inputs, inputs]), torch.cat([readout, readout.conj()])


def bilinear(a: Tensor, b: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    """A-bar and B-bar: S4 paper, eq. 3."""
    eye = torch.eye(len(a), dtype=a.dtype)
    inverse = torch.linalg.inv(eye - step / 2 * a)
    return inverse @ (eye + step / 2 * a), inverse @ (step * b)


def naive(block: S4D, x: Tensor) -> Tensor:
    filtered = []
    for channel, u in enumerate((x @ block.input).unbind(2)):
        a, b, c = dense(block, channel)
        a, b = bilinear(a, b, block.log_step[channel].exp())
        state, outputs = torch.zeros(len(x), len(a), dtype=a.dtype), []
        for t in range(x.shape[1]):
            state = state @ a.T + u[:, t, None] * b
            outputs.append((state @ c).real + block.skip[channel, 0, 0] * u[:, t])
        filtered.append(torch.stack(outputs, 1))
    y = torch.stack(filtered, 2)
    y = y * (1 + torch.erf(y / 2**0.5)) / 2
    left, right = (y @ block.out.weight).chunk(2, 2)
    return left * torch.sigmoid(right)


@pytest.mark.parametrize("kind", BLOCKS)
@pytest.mark.parametrize("cuts", [[75], [32, 43], [1, 33, 41]], ids=str)
def test_agrees_with_a_loop_over_dense_matrices(kind: type[S4D], cuts: list[int]) -> None:
    block, x = noisy(kind, expand=1.5), torch.randn(2, 75, 6, dtype=torch.float64)
    expected = naive(block, x)
    assert expected.abs().max() > 0.1
    state, parts = block.init_state(2), []
    for part in x.split(cuts, 1):
        y, state = block(part, state)
        parts.append(y)
    assert (torch.cat(parts, 1) - expected).abs().max() < TOLERANCE
    with torch.inference_mode():
        state = block.init_state(2)
        for t in range(75):
            y, state = block(x[:, t : t + 1], state)
            assert (y[:, 0] - expected[:, t]).abs().max() < TOLERANCE


@pytest.mark.parametrize("kind", BLOCKS)
def test_gradients_agree_with_the_loop(kind: type[S4D]) -> None:
    block, x = noisy(kind), torch.randn(2, 40, 6, dtype=torch.float64)
    weight = torch.randn(2, 40, 6, dtype=torch.float64)
    parameters = list(block.parameters())
    expected = torch.autograd.grad((naive(block, x) * weight).sum(), parameters)
    ours = torch.autograd.grad((block(x, block.init_state(2))[0] * weight).sum(), parameters)
    for a, b in zip(expected, ours, strict=True):
        assert (a - b).abs().max() < TOLERANCE * max(1.0, float(a.abs().max()))


def hippo(states: int) -> Tensor:
    """HiPPO-LegS: S4 paper, eq. 2."""
    a = torch.zeros(states, states, dtype=torch.float64)
    for n in range(states):
        for k in range(n):
            a[n, k] = -math.sqrt(2 * n + 1) * math.sqrt(2 * k + 1)
        a[n, n] = -(n + 1)
    return a


def eigenvectors(a: Tensor) -> Tensor:
    """V [N, P] of the normal part of HiPPO-LegS for growing positive frequencies, with V* P > 0."""
    p = (torch.arange(len(a), dtype=torch.float64) + 0.5).sqrt()
    skew = a + torch.outer(p, p) + torch.eye(len(a)) / 2
    assert (skew + skew.T).abs().max() < 1e-11
    _, vectors = torch.linalg.eigh(skew / 1j)
    vectors = vectors[:, len(a) // 2 :]
    phase = vectors.mH @ p.to(vectors.dtype)
    return vectors * (phase / phase.abs())


@pytest.mark.parametrize("states", [2, 8, 64])
def test_low_rank_form_reproduces_hippo(states: int) -> None:
    a = hippo(states)
    assert a[1].tolist()[:2] == [pytest.approx(-math.sqrt(3)), -2]
    frequency, feedback = legs(states)
    half = eigenvectors(a)
    v = torch.cat([half, half.conj()], 1)
    poles = torch.complex(torch.full_like(frequency, -0.5), frequency)
    rank = torch.cat([feedback, feedback]).to(v.dtype)
    form = torch.diag(torch.cat([poles, poles.conj()])) - torch.outer(rank, rank)
    assert (v @ v.mH - torch.eye(states)).abs().max() < 1e-11
    assert (v @ form @ v.mH - a).abs().max() < 1e-9
    # B[n] = (2n + 1)^(1/2) is 2^(1/2) P.
    b = (2 * torch.arange(states, dtype=torch.float64) + 1).sqrt().to(v.dtype)
    assert (v.mH @ b - 2**0.5 * rank).abs().max() < 1e-10


def test_new_kernels_are_powers_of_hippo() -> None:
    """The impulse response of a new block with 64 states against C A-bar^t B-bar of HiPPO's own real matrices."""
    torch.manual_seed(5)
    block = S4(ModelConfig(width=3)).double()
    a, (frequency, feedback) = hippo(64), legs(64)
    b = (2 * torch.arange(64, dtype=torch.float64) + 1).sqrt()
    assert (block.frequency - frequency).abs().max() < 1e-3 and (block.feedback - feedback).abs().max() < 1e-6
    with torch.no_grad():
        # The same numbers without their rounding to fp32.
        block.frequency.copy_(frequency)
        block.feedback.copy_(feedback)
        block.log_decay.fill_(math.log(0.5))
        impulse = F.pad(torch.ones(3, 1, 1, dtype=torch.float64), (0, 69))
        kernels, _ = block.chunks(impulse, block.init_state(1)[0])
    for channel in range(3):
        power, b_bar = bilinear(a, b, block.log_step[channel].exp().detach())
        readout = torch.view_as_complex(block.readout[channel].detach()) / (2**0.5 * feedback)
        c = 2 * (eigenvectors(a).conj() @ readout).real
        for t in range(70):
            assert abs(float(c @ b_bar) - float(kernels[channel, 0, t])) < 1e-9
            b_bar = power @ b_bar


def test_new_diagonal_blocks_are_s4d_inv() -> None:
    block = S4D(ModelConfig(width=5, state=16))
    expected = [16 / math.pi * (16 / (2 * n + 1) - 1) for n in range(8)]
    assert block.frequency.tolist() == [pytest.approx(expected)] * 5
    assert torch.equal(block.log_decay.exp(), torch.full((5, 8), 0.5))


@pytest.mark.parametrize("kind", BLOCKS)
def test_time_scales_span_two_decades(kind: type[S4D]) -> None:
    step = kind(ModelConfig(width=400)).log_step.exp()
    assert 1e-3 <= step.min() < 1.2e-3 and 0.08 < step.max() <= 0.1


@pytest.mark.parametrize("kind", BLOCKS)
def test_stays_exact_over_5000_tokens_in_fp32(kind: type[S4D]) -> None:
    exact = noisy(kind, state=64)
    block = kind(ModelConfig(width=6))
    block.load_state_dict(exact.state_dict())
    exact.load_state_dict(block.state_dict())
    x = torch.randn(2, 5000, 6)
    with torch.inference_mode():
        expected, _ = exact(x.double(), exact.init_state(2))
        parallel, _ = block(x, block.init_state(2))
        state, steps = block.init_state(2), []
        for t in range(5000):
            y, state = block(x[:, t : t + 1], state)
            steps.append(y)
    for y in (parallel, torch.cat(steps, 1)):
        assert (y - expected).abs().max() < 1e-3 * expected.abs().max()


@pytest.mark.parametrize("kind", BLOCKS)
@pytest.mark.parametrize("scale", [0.3, 3.0])
def test_no_parameters_make_it_grow(kind: type[S4D], scale: float) -> None:
    torch.manual_seed(6)
    block = kind(ModelConfig(width=16)).double()
    with torch.no_grad():
        for p in block.parameters():
            p.add_(scale * torch.randn_like(p))
        _, state = block(torch.randn(1, 100, 16, dtype=torch.float64), block.init_state(1))
        largest = state[0].abs().max()
        for _ in range(50):
            _, state = block(torch.zeros(1, 100, 16, dtype=torch.float64), state)
        assert state[0].abs().max() < 10 * largest


@pytest.mark.parametrize("kind", BLOCKS)
@pytest.mark.parametrize("time", [1, 100])
def test_gradients_are_finite(kind: type[S4D], time: int) -> None:
    torch.manual_seed(7)
    block = kind(ModelConfig(width=16))
    torch.nn.init.normal_(block.out.weight)
    y, (states,) = block(torch.randn(2, time, 16), block.init_state(2))
    for gradient in torch.autograd.grad(y.square().sum() + states.sum(), list(block.parameters())):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("kind", BLOCKS)
@pytest.mark.parametrize("time", [1, 40])
def test_autocast_leaves_the_recurrence_in_fp32(kind: type[S4D], time: int) -> None:
    torch.manual_seed(8)
    block, x = kind(ModelConfig(width=16)), torch.randn(2, time, 16)
    torch.nn.init.normal_(block.out.weight)
    with torch.no_grad():
        expected, (states,) = block(x, block.init_state(2))
        with torch.autocast("cpu", torch.bfloat16):
            y, (cast,) = block(x, block.init_state(2))
    assert cast.dtype == torch.float32
    assert (cast - states).abs().max() < 0.02 * states.abs().max()
    assert (y - expected).abs().max() < 0.05 * expected.abs().max()


@pytest.mark.parametrize("kind", BLOCKS)
def test_an_odd_state_is_refused(kind: type[S4D]) -> None:
    with pytest.raises(ValueError, match=r"model\.state 7 "):
        kind(ModelConfig(state=7))
