"""What a run costs: operations against numbers worked out by hand, and the rate that they are a part of."""

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from data.lanes import Lanes
from model.lm import LanguageModel
from train.config import ModelConfig, TrainConfig
from train.cost import SIDES, Cost, Peak, device_name, measure_peak, product_secs
from train.engine import Place
from train.flops import OperationCounter, forward_work

A, B = torch.randn(4, 6), torch.randn(6, 5)
SQUARE = torch.eye(8) + torch.randn(8, 8).triu()
SMALL = ModelConfig(block="attention", width=64, head_width=16, window=32, depth=2, expansion=4.0, ngram_orders=[])


@torch.library.custom_op("onepass_test::kernel", mutates_args=())
def kernel(x: Tensor) -> Tensor:
    """A kernel of somebody else's, of which nobody knows what it computes."""
    return x.cos()


COUNTED: list[tuple[Callable[[], Any], int, int]] = [
    (lambda: A @ B, 2 * 4 * 6 * 5, 0),
    (lambda: torch.zeros(4, 5).addmm_(A, B), 2 * 4 * 6 * 5, 0),
    (lambda: torch.complex(A, A) @ torch.complex(B, B), 4 * 2 * 4 * 6 * 5, 24 + 30),
    (lambda: torch.linalg.solve_triangular(SQUARE, torch.ones(8, 3), upper=True), 8 * 8 * 3, 0),
    (lambda: torch.linalg.solve_triangular(SQUARE, torch.ones(3, 8), upper=True, left=False), 8 * 8 * 3, 0),
    (lambda: torch.fft.rfft(torch.ones(3, 64)), round(2.5 * 3 * 64 * 6), 0),
    (lambda: torch.fft.irfft(torch.ones(3, 33, dtype=torch.complex64), n=64), round(2.5 * 3 * 64 * 6), 0),
    (lambda: torch.fft.fft(torch.ones(3, 64, dtype=torch.complex64)), 5 * 3 * 64 * 6, 0),
    (lambda: torch.lstm(
        torch.ones(2, 7, 6), [torch.zeros(1, 2, 5)] * 2, [torch.ones(20, 6), torch.ones(20, 5)] + [torch.ones(20)] * 2,
        True, 1, 0.0, True, False, True,
    ), 2 * 2 * 7 * (20 * 6 + 20 * 5), 0),
    (lambda: A.t().contiguous().view(-1)[2:].clone(), 0, 0),
    (lambda: A.exp().mul_(2).sum(), 0, 3 * 24),
    (lambda: torch.arange(24) * 2, 0, 0),
]  # fmt: skip


@pytest.mark.parametrize(("work", "flops", "elementwise"), COUNTED)
def test_operations_are_those_worked_out_by_hand(work: Callable[[], Any], flops: int, elementwise: int) -> None:
    with torch.no_grad(), OperationCounter() as counter:
        work()
    assert (counter.flops, counter.elementwise, dict(counter.uncounted)) == (flops, elementwise, {})


def test_what_has_no_formula_is_named() -> None:
    with OperationCounter() as counter:
        kernel(A @ B)
        kernel(A)
        torch.linalg.qr(A)
    assert counter.flops == 2 * 4 * 6 * 5
    assert counter.uncounted == {"onepass_test.kernel": 2, "aten.linalg_qr": 1}


def test_cudnn_s_kernel_counts_as_a_loop_over_its_equations_does(device: torch.device) -> None:
    found = []
    for block in ("gru", "lstm"):
        model = LanguageModel(ModelConfig(**vars(SMALL) | {"block": block}), 300)
        work = forward_work(model.to(device), 16, device)
        assert work.uncounted == []
        found.append(work.flops)
    # Gates 6 D^2 or 8 D^2, output D^2, MLP 8 D^2.
    assert found == [2 * 16 * (2 * gates * 64 * 64 + 64 * 300) for gates in (15, 17)]


def test_every_operator_of_every_block_is_counted(device: torch.device) -> None:
    from model.registry import BLOCKS

    for block in sorted(BLOCKS):
        config = ModelConfig(block=block, width=16, head_width=8, window=8, depth=1, ngram_embeddings=[2])
        assert forward_work(LanguageModel(config, 300).to(device), 24, device).uncounted == [], block


def fake_secs(top: float, start_secs: float) -> Callable[..., float]:
    """A device with `top` operations a second that takes `start_secs` to begin."""
    return lambda device, dtype, side, repeats: start_secs + 2 * side**3 / top


def test_the_yardstick_fills_the_device_and_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    # As an H200 does, where a side of 1,024 makes a thirtieth of the rate.
    monkeypatch.setattr("train.cost.product_secs", fake_secs(750e12, 60e-6))
    fast = measure_peak(cpu, torch.bfloat16)
    assert (fast.side, fast.dtype) == (8192, "bfloat16")
    assert fast.flops_per_sec == pytest.approx(720.5e12, rel=1e-3)
    tried: list[int] = []

    def slow(device: torch.device, dtype: torch.dtype, side: int, repeats: int) -> float:
        tried.append(side)
        return 2 * side**3 / 30e9

    monkeypatch.setattr("train.cost.product_secs", slow)
    measure_peak(cpu, torch.float32)
    # At 30 GFLOP/s one of 2,048 would take 0.6 s, and then another.
    assert tried == [256, 512, 1024]


def test_a_processor_without_bf16_makes_its_products_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = {torch.bfloat16: 1.4e9, torch.float32: 89e9}
    monkeypatch.setattr("train.cost.product_secs", lambda device, dtype, side, repeats: 2 * side**3 / rates[dtype])
    for dtype, name in ((torch.bfloat16, "bfloat16"), (torch.float32, "float32")):
        peak = measure_peak(torch.device("cpu"), dtype)
        assert peak.flops_per_sec == pytest.approx(89e9)
        assert peak.dtype == name


def test_the_yardstick_on_this_device(device: torch.device) -> None:
    peak = measure_peak(device, torch.float32)
    assert peak.side in SIDES
    assert peak.dtype in ("float32", "tf32")
    assert 1e8 < peak.flops_per_sec < 1e16
    assert 0 < product_secs(device, torch.bfloat16, 64, repeats=2) < 60
    assert device_name(device)


def cost_of(
    model: LanguageModel, lanes: Lanes, monkeypatch: pytest.MonkeyPatch, replay: int | str = 0
) -> dict[str, Any]:
    """The summary of a run by two ranks that took 2 s, on devices of 1 GFLOP/s."""
    monkeypatch.setattr("train.cost.measure_peak", lambda device, dtype: Peak(1e9, 512, "bfloat16"))
    place = Place(0, 2, torch.device("cpu"))
    engine = SimpleNamespace(torch_autocast_enabled=lambda: True)
    config = TrainConfig(replay=replay)
    learner: Any = SimpleNamespace(model=model, place=place, engine=engine, replay=None, config=config)
    cost = Cost(learner, lanes, 0.0)
    cost.begin()
    monkeypatch.setattr(Cost, "elapsed_secs", 2.0)
    return cost.summary()


def test_both_conventions_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    model = LanguageModel(SMALL, 300)
    summary = cost_of(model, Lanes(800, 4, 16), monkeypatch)
    tokens = 4 * 200
    products = 2 * (2 * 12 * 64 * 64 + 64 * 300)
    scores = 2 * 2 * 2 * (16 + 31) * 64
    assert summary["model_flops"] == pytest.approx(3 * tokens * (products + scores))
    assert summary["mfu"] == pytest.approx(3 * tokens * (products + scores) / 2 / 1e9 / 2)
    # Beside matrices a layer has a temperature a head.
    assert summary["mfu_6n"] == pytest.approx(6 * (2 * (12 * 64 * 64 + 4) + 64 * 300) * tokens / 2 / 1e9 / 2)
    assert summary["elementwise_flops"] > 0
    assert (summary["peak_flops_per_sec"], summary["peak_shape"], summary["peak_dtype"]) == (1e9, [512] * 3, "bfloat16")
    assert "uncounted" not in summary
    mixed = LanguageModel(ModelConfig(**vars(SMALL) | {"ngram_orders": [1, 2], "ngram_embeddings": [2]}), 300)
    assert cost_of(mixed, Lanes(800, 4, 16), monkeypatch)["mfu_6n"] == summary["mfu_6n"]


def test_every_stage_of_a_schedule_is_counted_with_its_own_length(monkeypatch: pytest.MonkeyPatch) -> None:
    model = LanguageModel(SMALL, 300)
    # Of 200 tokens a lane: 13 segments of 8, then 3 of 32, so that none is cut.
    summary = cost_of(model, Lanes(800, 4, "8@0,32@0.5"), monkeypatch)
    products = 2 * (2 * 12 * 64 * 64 + 64 * 300)
    scores = [2 * 2 * 2 * (length + 31) * 64 for length in (8, 32)]
    expected = 3 * 4 * (104 * (products + scores[0]) + 96 * (products + scores[1]))
    assert summary["optimizer_steps"] == 16
    assert summary["model_flops"] == pytest.approx(expected)
    assert summary["mfu_6n"] == cost_of(model, Lanes(800, 4, 16), monkeypatch)["mfu_6n"]


def test_replayed_segments_are_work_as_long_as_there_are_any(monkeypatch: pytest.MonkeyPatch) -> None:
    model = LanguageModel(SMALL, 300)
    plan = Lanes(8000, 4, 16)
    work = {
        replay: cost_of(model, plan, monkeypatch, replay=replay)["model_flops"]
        for replay in (0, 1, 2, "1@0,0@0.7", "3@0,1@0.5")
    }
    assert work[2] - work[0] == pytest.approx(2 * (work[1] - work[0]))
    assert work["1@0,0@0.7"] - work[0] == pytest.approx(0.7 * (work[1] - work[0]))
    assert work["3@0,1@0.5"] == pytest.approx(work[2])


def test_there_is_no_utilisation_where_a_kernel_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    model = LanguageModel(SMALL, 300)
    plain = model.norm.forward
    monkeypatch.setattr(model.norm, "forward", lambda x: kernel(plain(x)))
    summary = cost_of(model, Lanes(800, 4, 16), monkeypatch)
    assert "mfu" not in summary
    assert summary["uncounted"] == ["onepass_test.kernel"]
    assert summary["mfu_6n"] > 0 and math.isfinite(summary["model_flops"])
