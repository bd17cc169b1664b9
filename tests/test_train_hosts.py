"""Who is said to be lost, what a backend's message is cut down to, and what ranks say that no launcher looks after.

tests/test_hosts.py has the same of two hosts.
"""

import signal
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from dist import ROOT, start_rank, wait_until
from lost_ranks import assert_says_what_to_set, assert_says_who_was_lost, complaints, under_way
from small_run import SMALL, TRAIN
from torch import distributed as dist

from train.config import Config, DataConfig
from train.engine import Place
from train.ranks import Seat, about_peers, after_rank_0, free_port, name_lost, refuse_unshared, shorten
from train.run import Session, job_to_share

CLOSED = RuntimeError(
    "[/__w/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [10.0.0.2]:41131. This is "
    "typically caused by a remote worker crashing."
)
LATE = RuntimeError("[../gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 20000ms for recv to complete")
SEATS = [Seat(f"node-{number}", f"10.0.0.{number}") for number in (1, 1, 2, 2, 2, 3)]


@pytest.mark.parametrize(
    ("error", "rank", "expected"),
    [
        (CLOSED, 0, "ranks 2 to 4 on node-2"),
        (CLOSED, 3, "rank 2 on node-2 or rank 4 on node-2"),
        (LATE, 0, "rank 1 on node-1 or ranks 2 to 4 on node-2 or rank 5 on node-3"),
        (LATE, 5, "ranks 0 to 1 on node-1 or ranks 2 to 4 on node-2"),
    ],
)
def test_the_address_that_failed_tells_who_is_lost(error: RuntimeError, rank: int, expected: str) -> None:
    assert name_lost(error, rank, SEATS) == expected


def test_messages_lose_their_source_file_and_advice() -> None:
    assert shorten(CLOSED) == "Connection closed by peer [10.0.0.2]:41131"
    assert shorten(LATE) == "Timed out waiting 20000ms for recv to complete"


def test_other_errors_are_nobody_elses_fault() -> None:
    assert about_peers(LATE)
    assert about_peers(dist.DistNetworkError("The client socket has timed out"))
    assert not about_peers(RuntimeError("CUDA out of memory"))


def test_a_rank_that_loses_the_other_says_which_and_how_to_go_on(tmp_path: Path) -> None:
    (tmp_path / "source.txt").write_bytes((ROOT / "LICENSE").read_bytes()[:8_009] * 3)
    run_dir, host, port = tmp_path / "run", socket.gethostname(), free_port()
    places = [f"--data.source={tmp_path / 'source.txt'}", f"--data.cache_dir={tmp_path / 'cache'}"]
    given = [*places, f"--run.dir={run_dir}", *SMALL, "--run.baselines=false", "--run.checkpoint_secs=0.01"]
    stays, dies = (start_rank(rank, port, TRAIN, *given) for rank in (0, 1))
    try:
        wait_until(lambda: under_way(run_dir), dies)
        dies.send_signal(signal.SIGKILL)
        _, err = stays.communicate(timeout=300)
    finally:
        for process in (stays, dies):
            process.kill()
            process.communicate()
    assert stays.returncode == 1, err
    assert not (run_dir / "report.json").exists()
    assert_says_who_was_lost(err, 0, (host, host), run_dir)


def test_a_rank_that_meets_nobody_says_what_to_set(tmp_path: Path) -> None:
    port = free_port()
    process = start_rank(1, port, TRAIN, f"--run.dir={tmp_path / 'run'}", *SMALL, "--engine.timeout_secs=2")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1, err
    assert not (tmp_path / "run").exists()
    assert_says_what_to_set(complaints(err), f"127.0.0.1:{port}")


class BesideAnother(Place):
    """A rank whose peer, on the host `two`, answers `theirs`."""

    theirs = 0

    def sum(self, values: list[float]) -> list[float]:
        return values

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.cat([rows, torch.full_like(rows, self.theirs)])


def test_a_folder_that_only_one_host_sees_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.ranks.from_rank_0", lambda place, name, value: value)
    seats, place = [Seat("one", "10.0.0.1"), Seat("two", "10.0.0.2")], BesideAnother(0, 2, torch.device("cpu"))
    told = rf"run\.dir {tmp_path}/run on two is not the folder that one has: name one on a file system"
    with pytest.raises(ValueError, match=told):
        refuse_unshared(place, seats, tmp_path / "run")
    monkeypatch.setattr(BesideAnother, "theirs", 1)
    refuse_unshared(place, seats, tmp_path / "run")
    assert not list((tmp_path / "run").iterdir())


def test_hosts_share_the_preparation_of_a_large_corpus_in_one_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    apart: dict[str, str] = {"folder": "", "name": ""}
    monkeypatch.setattr("train.run.after_rank_0", lambda place, name, work: work())
    monkeypatch.setattr("train.run.from_rank_0", lambda place, name, value: value)
    monkeypatch.setattr("train.run.hosts_without", lambda place, seats, good: apart["name"])
    monkeypatch.setattr("train.run.hosts_apart", lambda place, seats, folder, name: apart["folder"])
    monkeypatch.setattr("train.run.is_shared", lambda source, plan: True)
    place = Place(0, 2, torch.device("cpu"))
    config = Config(data=DataConfig(source=str(ROOT / "LICENSE"), tokenizer="bytes"))
    two = [Seat("one", "10.0.0.1"), Seat("two", "10.0.0.2")]
    session = Session(config, place, two, {})
    job = job_to_share(session)
    assert job and job.source.name == "LICENSE"
    assert job_to_share(replace(session, seats=[two[0], two[0]])) is None
    for reason in apart:
        monkeypatch.setitem(apart, reason, "two")
        assert job_to_share(session) is None
        monkeypatch.setitem(apart, reason, "")
    monkeypatch.setattr("train.run.is_shared", lambda source, plan: False)
    assert job_to_share(session) is None


def test_other_ranks_help_rank_0_until_it_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    store, said = dist.HashStore(), []
    monkeypatch.setattr("train.ranks.rank_store", lambda: store)
    monkeypatch.setattr("train.ranks.new_key", lambda name: name)

    def helped(in_charge: Callable[[], bool]) -> None:
        said.append(in_charge())
        store.set("work", "done")
        said.append(in_charge())

    assert after_rank_0(Place(1, 2, torch.device("cpu")), "work", lambda: said, helped) == [True, False]
