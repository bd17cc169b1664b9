"""Checkpoints that are not what they should be: one line that names the file, and nothing of them is run or used.

The pointer's SHA-256 finds accidents, so here it is always made to fit.
"""

import errno
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plain_engine import PlainEngine
from test_archive_coding import MODEL, Case, corpus_source, new_learner, new_ledger
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from data.files import file_sha256
from model.registry import BLOCKS
from train.checkpoint import (
    POINTER,
    checkpoint_tensors,
    explain_misfit,
    is_sound,
    load_checkpoint,
    pick_lanes,
    save_checkpoint,
)
from train.ledger import Ledger
from train.loop import Learner, one_epoch
from train.saved_engine import load_saved

CASE = Case(300, replace(MODEL, ngram_orders=[]))


class SavingEngine(PlainEngine):
    def save_checkpoint(self, folder: str, tag: str, save_latest: bool) -> None:
        states = {"module": self.module.state_dict(), "optimizer": self.optimizer.state_dict()}
        torch.save(states, Path(folder, tag, "mp_rank_00_model_states.pt"))


def load_plain_engine(engine: PlainEngine, folder: str, tag: str) -> None:
    states = load_saved(str(Path(folder, tag, "mp_rank_00_model_states.pt")))
    engine.module.load_state_dict(states["module"])
    engine.optimizer.load_state_dict(states["optimizer"])


@pytest.fixture(autouse=True)
def plain_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.loop.build_engine", SavingEngine)
    monkeypatch.setattr("train.checkpoint.load_engine", load_plain_engine)
    monkeypatch.setattr("train.checkpoint.dist.barrier", lambda: None)


def trained(case: Case, steps: int) -> tuple[Learner, Ledger]:
    learner, ledger = new_learner(case), new_ledger(case)
    for done in one_epoch(learner, case.lanes, corpus_source(case), ledger):
        if done == steps:
            break
    return learner, ledger


def saved(case: Case, folder: Path) -> Path:
    """The folder of a checkpoint after three steps."""
    learner, ledger = trained(case, 3)
    save_checkpoint(folder, learner, ledger, corpus_source(case).state(), 3, 1.5, keep=2)
    return folder


def put(folder: Path, name: str, content: Any) -> None:
    """Exchange a file of the checkpoint, bytes or what torch.save makes of it, and make the pointer fit."""
    pointer = json.loads((folder / POINTER).read_text())
    path = folder / pointer["tag"] / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    pointer["files"][name] = file_sha256(path)
    (folder / POINTER).write_text(json.dumps(pointer))


def load(folder: Path, case: Case = CASE) -> tuple[Learner, Ledger]:
    learner, ledger = new_learner(case), new_ledger(case)
    assert load_checkpoint(folder, learner, ledger, any_world=True)[:2] == (3, 1.5)
    return learner, ledger


def refusal(folder: Path) -> str:
    with pytest.raises(ValueError, match=str(folder)) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("block", BLOCKS)
def test_what_was_saved_comes_back_and_goes_on_bit_for_bit(block: str, tmp_path: Path) -> None:
    case = replace(CASE, model=replace(MODEL, block=block), train=replace(CASE.train, accumulation=2))
    (learner, ledger), (before, ledger_before) = load(saved(case, tmp_path), case), trained(case, 3)
    for a, b in [
        (learner.states, before.states),
        (learner.model.state_dict(), before.model.state_dict()),
        (learner.recent, before.recent),
        (ledger.lane_nats, ledger_before.lane_nats),
    ]:
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert (ledger.tokens, ledger.bytes) == (ledger_before.tokens, ledger_before.bytes) != (0, 0)
    for one, its_ledger in ((learner, ledger), (before, ledger_before)):
        assert list(one_epoch(one, case.lanes, corpus_source(case), its_ledger, start_step=3))[-1] == case.lanes.steps
    assert ledger.lane_nats.tolist() == ledger_before.lane_nats.tolist()


def test_lanes_are_picked_from_the_files_of_other_ranks() -> None:
    """Twelve lanes of four ranks, by the third of six, and by the second of two."""
    lanes = torch.arange(24).view(12, 2)
    parts = list(lanes.split(3))
    assert pick_lanes("recent", parts[1:2], lanes[:2], 1).tolist() == lanes[4:6].tolist()
    assert pick_lanes("recent", parts[2:], lanes[:6], 0).tolist() == lanes[6:].tolist()
    with pytest.raises(ValueError, match="recent is not what this run holds"):
        pick_lanes("recent", parts[1:2], lanes[:4], 1)


class Evil:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["rank-00000.pt", "mp_rank_00_model_states.pt"])
def test_code_in_a_checkpoint_is_not_run(name: str, tmp_path: Path) -> None:
    folder = saved(CASE, tmp_path / "checkpoints")
    put(folder, name, {"module": Evil(tmp_path / "was-run"), "states": Evil(tmp_path / "was-run")})
    assert "mkdir" in refusal(folder) or "eights only" in refusal(folder)
    assert not (tmp_path / "was-run").exists()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(data=st.data(), name=st.sampled_from(["rank-00000.pt", "mp_rank_00_model_states.pt"]))
def test_altered_files_are_refused_in_a_line(tmp_path_factory: pytest.TempPathFactory, data: Any, name: str) -> None:
    """Bytes cut off or exchanged: PyTorch's reader may find that, or the values in it may be others and still fit."""
    folder = saved(CASE, tmp_path_factory.mktemp("checkpoints"))
    content = bytearray((folder / "step-000000003" / name).read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=9)):
            content[place] ^= data.draw(st.integers(1, 255))
    put(folder, name, bytes(content))
    try:
        load(folder)
    except ValueError as error:
        assert str(folder) in str(error) and "\n" not in str(error)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(data=st.data())
def test_parts_that_do_not_fit_are_refused_by_name(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    """A part that is missing, of another kind or of another shape."""
    folder = saved(CASE, tmp_path_factory.mktemp("checkpoints"))
    content = torch.load(folder / "step-000000003" / "rank-00000.pt", weights_only=True)
    part = data.draw(st.sampled_from([name for name in content if name != "source"]))
    leaves, tree = tree_flatten(content[part])
    index = data.draw(st.integers(0, len(leaves) - 1))
    other = [
        torch.zeros(3, 1, 4, 1, 5),
        None,
        "text",
        [leaves[index]] * 2,
        {"a": 1},
        0.5,
        torch.zeros(2, dtype=torch.cfloat),
    ]
    match data.draw(st.sampled_from(["missing", "whole", "leaf"])):
        case "missing":
            del content[part]
        case "whole":
            content[part] = data.draw(st.sampled_from(other))
        case "leaf":
            leaves[index] = data.draw(st.sampled_from(other))
            content[part] = tree_unflatten(leaves, tree)
    put(folder, "rank-00000.pt", content)
    assert part in refusal(folder)


@pytest.mark.parametrize(
    "content",
    [{}, {"module": 3}, [1], b"", b"PK\x03\x04 is no archive"],
    ids=["empty", "number", "list", "no bytes", "no archive"],
)
def test_model_states_that_are_none_are_refused(content: Any, tmp_path: Path) -> None:
    folder = saved(CASE, tmp_path)
    put(folder, "mp_rank_00_model_states.pt", content)
    told = refusal(folder)
    assert "module" in told or content != {}
    with pytest.raises(ValueError, match=str(folder)):
        checkpoint_tensors(folder)


def test_a_model_that_lacks_parts_is_refused(tmp_path: Path) -> None:
    folder = saved(CASE, tmp_path)
    put(folder, "mp_rank_00_model_states.pt", {"module": {"embedding": torch.zeros(2, 2)}})
    assert "Error(s) in loading state_dict" in refusal(folder)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), OSError),
        (ChildProcessError("rank 0 failed, or was lost, at: universal"), ChildProcessError),
        (OSError(errno.EINVAL, "Invalid argument"), ValueError),
        (FileNotFoundError(errno.ENOENT, "No such file or directory"), ValueError),
        (KeyError("states"), ValueError),
    ],
)
def test_only_what_is_wrong_with_a_checkpoint_is_held_against_it(error: Exception, kind: type[Exception]) -> None:
    with pytest.raises(kind) as caught, explain_misfit(Path("step-7")):
        raise error
    assert (caught.value is error) == (kind is not ValueError)
    assert ("step-7 does not fit" in str(caught.value)) == (kind is ValueError)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_only_what_can_be_gone_on_with_is_sound(optimizer: str, value: float) -> None:
    case = replace(CASE, train=replace(CASE.train, optimizer=optimizer))  # type: ignore[arg-type]
    learner, _ = trained(case, 3)
    assert is_sound(learner)
    kept = [learner.model.embedding.data, next(t for t in tree_leaves(learner.states) if isinstance(t, torch.Tensor))]
    if value != value:
        # An infinite second moment stops its parameter, which stays a number.
        kept += [t for one in learner.engine.optimizer.state.values() for t in one.values() if torch.is_tensor(t)][-1:]
    for tensor in kept:
        place = tensor.flatten()[:1].clone()
        tensor.view(-1)[0] = value
        assert not is_sound(learner)
        tensor.view(-1)[:1] = place
    assert is_sound(learner)


def test_what_died_while_saving_does_not_displace_what_is_whole(tmp_path: Path) -> None:
    """A run that died at step 5 goes on from step 3 and saves at 4, keeping one."""
    saved(CASE, tmp_path)
    (tmp_path / "step-000000005").mkdir()
    learner, ledger = load(tmp_path)
    save_checkpoint(tmp_path, learner, ledger, corpus_source(CASE).state(), 4, 1.5, keep=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [POINTER, "step-000000004"]
    assert checkpoint_tensors(tmp_path)


def test_what_died_while_saving_first_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "step-000000005").mkdir()
    learner, ledger = new_learner(CASE), new_ledger(CASE)
    assert load_checkpoint(tmp_path, learner, ledger, any_world=True)[0] == 0
    save_checkpoint(tmp_path, learner, ledger, corpus_source(CASE).state(), 3, 1.5, keep=1)
    assert checkpoint_tensors(tmp_path)
