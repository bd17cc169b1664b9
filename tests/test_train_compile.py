"""engine.compile: how many graphs there are, and that they cost every token what the plain layers do."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from plain_engine import PlainEngine
from torch._dynamo.testing import CompileCounterWithBackend

from data.errors import UsageError
from data.lanes import Lanes
from train.config import Config, EngineConfig, ModelConfig, TrainConfig
from train.corpus import CorpusSource
from train.cuda import choose_compile, choose_kernels
from train.engine import Place
from train.ledger import Ledger
from train.loop import Learner, one_epoch

# 12 segments of 8 tokens and one of 5.
TOKENS = np.frombuffer((Path(__file__).parents[1] / "LICENSE").read_bytes()[: 3 * 101], np.uint8)


def epoch(
    compile: Any,
    model: ModelConfig,
    counter: CompileCounterWithBackend | None = None,
    segment_tokens: int | str = 8,
) -> tuple[float, list[int]]:
    """Bits of an epoch, and the number of graphs that were made after each step."""
    config = Config(
        model=model,
        train=TrainConfig(lanes=3, segment_tokens=segment_tokens, accumulation=1),
        engine=EngineConfig(kernels=compile, compile=compile),
    )
    place = Place(0, 1, torch.device("cpu"))
    learner, lanes = Learner(config, 257, 256, place), Lanes(len(TOKENS), 3, segment_tokens)
    ledger = Ledger(3, np.ones(257, np.int64), place)
    source = CorpusSource(lanes, range(3), lambda a, b: TOKENS[a:b], {})
    graphs = [counter.frame_count if counter else 0 for _ in one_epoch(learner, lanes, source, ledger)]
    bits, tokens, _ = ledger.totals()
    assert tokens == len(TOKENS)
    return bits, graphs


@pytest.mark.parametrize(
    ("block", "orders", "expected"), [("ssd", [], 2), ("ssd gated_delta", [], 3), ("s4d", [1, 2], 2)], ids=str
)
def test_one_graph_for_each_kind_of_layer_and_one_for_the_cost(
    block: str, orders: list[int], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None is made after the first step: not for another layer, not at segment ends, not for a ragged tail."""
    model = ModelConfig(block=block, width=16, head_width=8, depth=4, ngram_orders=orders, ngram_rows_log2=8)
    monkeypatch.setattr("train.loop.build_engine", PlainEngine)
    plain_bits, _ = epoch("off", model)
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter, fullgraph=True))
    bits, graphs = epoch("on", model, counter)
    assert graphs == [expected] * 13
    assert bits == pytest.approx(plain_bits, rel=1e-5)


def test_each_length_of_a_schedule_has_its_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """10 segments of 4 tokens, 7 of 8 and one of 5, which is padded."""
    model = ModelConfig(block="ssd", width=16, head_width=8, depth=2, ngram_orders=[])
    monkeypatch.setattr("train.loop.build_engine", PlainEngine)
    plain_bits, _ = epoch("off", model, segment_tokens="4@0,8@0.39")
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter, fullgraph=True))
    bits, graphs = epoch("on", model, counter, segment_tokens="4@0,8@0.39")
    assert graphs == [2] * 10 + [4] * 8
    assert bits == pytest.approx(plain_bits, rel=1e-5)


@pytest.mark.parametrize(
    ("field", "device", "triton", "engine", "expected"),
    [
        ("kernels", "cpu", True, {}, "off"),
        ("kernels", "cuda", True, {}, "on"),
        ("kernels", "cuda", False, {}, "off"),
        ("kernels", "cuda", True, {"kernels": "off"}, "off"),
        ("kernels", "cpu", True, {"kernels": "on"}, "engine.kernels is on, but there is no CUDA device"),
        ("kernels", "cuda", False, {"kernels": "on"}, "engine.kernels is on, but Triton is not installed"),
        ("compile", "cuda", True, {"kernels": "on"}, "on"),
        ("compile", "cuda", True, {"kernels": "on", "compile": "off"}, "off"),
        ("compile", "cuda", True, {"kernels": "on", "zero_stage": 3}, "off"),
        ("compile", "cuda", True, {"kernels": "off"}, "off"),
        ("compile", "cuda", True, {"kernels": "off", "compile": "on"}, "but engine.kernels is off"),
        ("compile", "cpu", True, {"kernels": "off", "compile": "on"}, "but there is no CUDA device"),
    ],
)  # fmt: skip
def test_what_the_machine_has_decides(
    field: str, device: str, triton: bool, engine: dict[str, Any], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.cuda.has_triton", lambda: triton)
    choose = {"kernels": choose_kernels, "compile": choose_compile}[field]
    config, place = Config(engine=EngineConfig(**engine)), Place(0, 1, torch.device(device))
    if expected in ("on", "off"):
        assert choose(config, place) == expected
    else:
        with pytest.raises(UsageError, match=expected):
            choose(config, place)
