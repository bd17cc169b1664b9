"""The cluster plan's formulas against what benchmarks/zero_state.py counted in the running engine."""

import json

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.cluster_plan import predicted, saved_bytes, sent_bytes, state_bytes
from model.blocks import attention
from model.lm import LanguageModel
from train.config import Config

# Width 512 on two ranks, AdamW: most bytes a parameter by stage and accumulation, less the lanes' carried state (0.34).
COUNTED = {(0, 1): 16.0, (1, 1): 13.14, (2, 1): 13.14, (1, 2): 14.0, (2, 2): 13.14}
# Parameters gathered, gradients reduced: all-reduces count twice.
SENT = {(0, 1): 2, (1, 1): 3, (2, 1): 3, (3, 1): 2, (1, 2): 3, (2, 2): 5, (3, 2): 4}


@pytest.mark.parametrize(("stage", "accumulation"), COUNTED)
def test_states_are_no_less_than_was_counted_and_at_most_a_byte_more(stage: int, accumulation: int) -> None:
    formula = state_bytes("adamw", stage, 2, 1_000_000, 900_000, accumulation) / 1_000_000
    counted = COUNTED[stage, accumulation]
    assert counted <= formula <= counted + 1


def test_muon_keeps_one_moment_of_matrices() -> None:
    assert state_bytes("muon", 0, 8, 1000, 900, 1) == 16 * 1000 - 4 * 900


@pytest.mark.parametrize(("stage", "accumulation"), SENT)
def test_messages_are_those_counted(stage: int, accumulation: int) -> None:
    assert sent_bytes(stage, 2, 1000, accumulation)[0] == SENT[stage, accumulation] * 4 * 1000 // 2
    assert sent_bytes(stage, 1, 1000, accumulation) == (0, 0)


def test_the_paper_counts_two_and_three() -> None:
    assert [sent_bytes(stage, 2, 1000, 1)[1] for stage in range(4)] == [4000, 4000, 4000, 6000]
    assert sent_bytes(3, 2, 2 * 10**9, 1)[0] == 3 * 4 * 10**9


@pytest.mark.parametrize("block", ["attention", "gru", "ssd"])
def test_fake_tensors_save_the_bytes_that_real_ones_do(block: str) -> None:
    config = Config()
    config.model.block, config.model.width, config.model.ngram_rows_log2 = block, 64, 10
    real = saved_bytes(LanguageModel(config.model, 300), 2, 24)
    forget()
    with FakeTensorMode():
        fake = saved_bytes(LanguageModel(config.model, 300), 2, 24)
    forget()
    assert real == fake > 0


def forget() -> None:
    """Attention's cached masks and angles: real ones do not mix with fake ones."""
    attention.rotation.cache_clear()
    attention.visible.cache_clear()


def test_a_law_says_whether_it_was_fitted_there(tmp_path) -> None:
    law = {"floor_bits": 8e6, "scale_bits": 0.0, "exponent": 0.5}
    line = {"block": "attention", "vocabulary": 300, "widths": [32, 64], "total": {"fit": {"law": law}}}
    (tmp_path / "scaling.json").write_text(json.dumps({"lines": [line]}))
    config = Config()
    config.model.block, config.model.width = "attention", 64
    with torch.device("meta"):
        assert predicted(tmp_path, config, 300) == (1_000_000, "inside")
        config.model.width = 128
        assert predicted(tmp_path, config, 300) == (1_000_000, "extrapolated from widths 32 to 64, depth 2")
        config.model.block = "gru"
        assert predicted(tmp_path, config, 300) == (None, "no law of gru, 300 symbols")
