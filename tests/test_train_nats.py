"""The nats that a run keeps are the ledger's own, at each token's place in the corpus, whatever happens on the way."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_archive_coding import MODEL, PLACE, TRAIN, Case, corpus_source, new_learner, plain_engine  # noqa: F401

from data.errors import RunFailed
from train import nats as kept_nats
from train.checkpoint import POINTER
from train.command_line import CONFIG_FILE, save_config
from train.config import Config, RunConfig
from train.loop import one_epoch
from train.nats import NATS_FILE, SUMS_FILE, NatsLedger, keeps_nats, map_nats, read_nats
from train.run_dir import CHECKPOINTS

TOKEN_BYTES = np.array([1] * 256 + [0])
CASES = {
    "context mixing": Case(637),
    "growing segments, ragged": Case(637, replace(MODEL, ngram_orders=[]), replace(TRAIN, segment_tokens="2@0,8@0.2")),
    "accumulation and replay": Case(301, train=replace(TRAIN, accumulation=2, replay=1)),
    "last lanes empty": Case(9),
}


def new_ledger(case: Case, folder: Path) -> NatsLedger:
    return NatsLedger(case.train.lanes, TOKEN_BYTES, PLACE, case.lanes, folder)


def run_epoch(case: Case, folder: Path, log_steps: int = 3) -> tuple[NatsLedger, np.ndarray]:
    """An epoch's ledger, and what the model said of each token, collected apart from it."""
    learner, ledger = new_learner(case), new_ledger(case, folder)
    ledger.begin(0)
    said, learn, places = np.full(case.tokens, np.nan, np.float32), learner.learn, np.arange(case.tokens)

    def watched(targets: torch.Tensor, lanes: object, step: int) -> torch.Tensor:
        nats = learn(targets, case.lanes, step)
        where = case.lanes.targets(step, range(case.train.lanes), lambda start, stop: places[start:stop])
        said[where[where >= 0]] = nats.numpy()[where >= 0]
        return nats

    learner.learn = watched  # type: ignore[method-assign, assignment]
    for done in one_epoch(learner, case.lanes, corpus_source(case), ledger):
        if done % log_steps == 0:
            ledger.totals()
    ledger.finish()
    ledger.close()
    return ledger, said


@pytest.mark.parametrize("name", CASES)
def test_every_token_is_kept_at_its_place_to_the_last_bit(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES[name]
    # So small that they are written between two logged steps, too.
    monkeypatch.setattr(kept_nats, "WAITING", 100)
    ledger, said = run_epoch(case, tmp_path)
    save_config(Config(train=case.train), tmp_path / CONFIG_FILE)
    found = read_nats(tmp_path)
    assert np.array_equal(found.nats, said)
    assert found.nats.dtype == np.float32
    assert found.lane_nats == ledger.lane_nats.tolist()
    assert found.bits == pytest.approx(ledger.totals()[0], rel=1e-15)
    assert math.fsum(said.tolist()) / math.log(2) == pytest.approx(found.bits, rel=1e-12)


@pytest.mark.parametrize("step", [1, 4, 8])
def test_a_run_that_was_killed_ends_with_the_same_file(step: int, tmp_path: Path) -> None:
    """It had gone on beyond its checkpoint, and other numbers are there."""
    case = CASES["growing segments, ragged"]
    whole, said = run_epoch(case, tmp_path)
    expected = (tmp_path / NATS_FILE).read_bytes(), (tmp_path / SUMS_FILE).read_bytes()
    offset = case.lanes.segment(step - 1)[1]
    with (tmp_path / NATS_FILE).open("r+b") as file:
        for lane in range(case.train.lanes):
            first, stop = kept_nats.lane_span(case.lanes, lane, offset, case.lanes.lane_tokens)
            file.seek(128 + 4 * first)
            file.write(np.full(stop - first, 7, np.float32).tobytes())
    resumed, places = new_ledger(case, tmp_path), np.arange(case.tokens)
    for done in range(case.lanes.steps):
        where = case.lanes.targets(done, range(case.train.lanes), lambda start, stop: places[start:stop])
        nats = torch.from_numpy(np.where(where >= 0, said[where], np.float32(0)))
        if done < step:
            # As a checkpoint brings it back.
            resumed.lane_nats += nats.double().sum(1)
            continue
        if done == step:
            resumed.begin(step)
        resumed.add(nats, where.clip(max=255))
    resumed.finish()
    resumed.close()
    assert torch.equal(resumed.lane_nats, whole.lane_nats)
    assert ((tmp_path / NATS_FILE).read_bytes(), (tmp_path / SUMS_FILE).read_bytes()) == expected


def test_a_file_that_is_not_what_the_ledger_says_is_refused(tmp_path: Path) -> None:
    case = CASES["last lanes empty"]
    ledger, _ = run_epoch(case, tmp_path)
    save_config(Config(train=case.train), tmp_path / CONFIG_FILE)
    nats = np.load(tmp_path / NATS_FILE)
    # By less than a millionth of the whole.
    nats[3] *= 1 + 1e-6
    np.save(tmp_path / NATS_FILE, nats)
    with pytest.raises(ValueError, match=r"nats\.npy does not sum to what .*nats\.json says"):
        read_nats(tmp_path)
    ledger.file = (tmp_path / NATS_FILE).open("r+b")
    with pytest.raises(RunFailed, match=r"does not sum to the ledger.*--run\.keep_nats off"):
        ledger.finish()
    ledger.close()
    with pytest.raises(ValueError, match="does not hold what the checkpoint's ledger says: put back"):
        ledger.begin(case.lanes.steps)
    for content in (nats.astype(np.float64), nats[:-1], np.array([object()])):
        np.save(tmp_path / NATS_FILE, content)
        with pytest.raises(ValueError, match=r"nats\.npy (does not hold 9 nats|cannot be read)"):
            map_nats(tmp_path / NATS_FILE, 9)
    (tmp_path / SUMS_FILE).unlink()
    with pytest.raises(ValueError, match=r"holds no nats\.json.*--run\.keep_nats on"):
        read_nats(tmp_path)


def test_what_a_run_keeps_by_the_size_of_its_corpus(tmp_path: Path) -> None:
    run = RunConfig(str(tmp_path))
    assert keeps_nats(run, 1 << 27, PLACE)
    assert not keeps_nats(run, (1 << 27) + 1, PLACE)
    assert keeps_nats(replace(run, keep_nats="on"), 1 << 40, PLACE)
    assert not keeps_nats(replace(run, keep_nats="off"), 1, PLACE)
    # Resumed: one that saved nothing begins anew, and one that kept nothing goes on so.
    again = replace(run, resume=True)
    assert keeps_nats(again, 1, PLACE)
    (tmp_path / CHECKPOINTS).mkdir()
    (tmp_path / CHECKPOINTS / POINTER).touch()
    assert not keeps_nats(again, 1, PLACE)
    with pytest.raises(ValueError, match=r"keep_nats is on, but .*nats\.npy is not there"):
        keeps_nats(replace(again, keep_nats="on"), 1, PLACE)
    (tmp_path / NATS_FILE).touch()
    assert keeps_nats(again, 1, PLACE)
