"""Golden losses: what each architecture needs for this project's licence, so that no numeric change goes unseen.

After an intended change, and for a new block, whose test fails until then: pytest tests/test_model_golden.py -k NAME
--write_golden; the commit gives before and after.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from plain_engine import PlainEngine

from data.lanes import Lanes
from model.registry import BLOCKS
from train.config import Config, ModelConfig, TrainConfig
from train.corpus import CorpusSource
from train.engine import Place
from train.ledger import Ledger
from train.loop import Learner, one_epoch

GOLDEN = Path(__file__).parent / "golden"
TEXT = (Path(__file__).parents[1] / "LICENSE").read_bytes()[:8192]


@pytest.fixture(autouse=True)
def in_double_precision() -> Iterator[None]:
    """Other processors sum in another order, and training amplifies that: in single precision, to a thousandth of
    mLSTM's bits."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def bits_of_the_licence(model: ModelConfig, optimizer: str, monkeypatch: pytest.MonkeyPatch) -> float:
    monkeypatch.setattr("train.loop.build_engine", PlainEngine)
    torch.set_num_threads(1)
    # At the default rates, what AdamW makes of mLSTM depends on the last bit.
    rates = {"matrix_lr": 0.005, "table_lr": 0.005, "vector_lr": 0.0025} if optimizer == "adamw" else {}
    train = TrainConfig(lanes=4, segment_tokens=32, optimizer=optimizer, **rates)  # type: ignore[arg-type]
    config = Config(model=model, train=train)
    place = Place(0, 1, torch.device("cpu"))
    learner, lanes = Learner(config, 257, 256, place), Lanes(len(TEXT), 4, 32)
    ledger, tokens = Ledger(4, np.ones(257, np.int64), place), np.frombuffer(TEXT, np.uint8)
    source = CorpusSource(lanes, range(4), lambda a, b: tokens[a:b], {})
    for _ in one_epoch(learner, lanes, source, ledger):
        pass
    bits, coded_tokens, _ = ledger.totals()
    assert coded_tokens == len(TEXT)
    return bits


@pytest.mark.parametrize("block", sorted(BLOCKS))
def test_golden_bits(block: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    path = GOLDEN / f"{block}.json"
    if not path.exists() and not request.config.getoption("--write_golden"):
        pytest.fail(f"no golden losses yet: pytest tests/test_model_golden.py -k {block} --write_golden")
    model = ModelConfig(block=block, width=32, head_width=16, depth=2, window=32, ngram_orders=[])
    mixed = ModelConfig(**vars(model) | {"ngram_orders": [1, 2, 3], "ngram_rows_log2": 12})
    measured = {
        "muon": bits_of_the_licence(model, "muon", monkeypatch),
        "adamw": bits_of_the_licence(model, "adamw", monkeypatch),
        "muon with context mixing": bits_of_the_licence(mixed, "muon", monkeypatch),
    }
    if request.config.getoption("--write_golden"):
        path.write_text(json.dumps(measured, indent=1) + "\n")
    golden = json.loads(path.read_text())
    assert measured == pytest.approx(golden, rel=1e-5)
    assert measured["muon with context mixing"] < measured["muon"] < 1.01 * measured["adamw"]
    assert measured["adamw"] < 8 * len(TEXT)
