"""Several hosts make the shards of one corpus in one folder: the bytes of one host, whoever dies on the way."""

import multiprocessing
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

import data.shared_making
from data.documents import open_source
from data.errors import UsageError
from data.prepare import Job, PreparedCorpus, locate, prepare
from data.shards import MANIFEST
from data.shared_making import JOURNAL, help_host_0, is_shared, lock_of
from train.config import DataConfig
from train.corpus import options_of

FORK = multiprocessing.get_context("fork")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve batches, so twelve shards of one."""
    path = tmp_path_factory.mktemp("source") / "text"
    path.write_bytes(b"".join(b"%d bottles of beer on the wall, " % number for number in range(350_000)))
    return path


def options(source: Path, cache: Path, **more: Any) -> dict[str, Any]:
    config = DataConfig(source=str(source), tokenizer="bytes", cache_dir=str(cache), workers=1)
    return options_of(config) | {"shard_batches": 1} | more


@pytest.fixture(scope="module")
def alone(source: Path, tmp_path_factory: pytest.TempPathFactory) -> PreparedCorpus:
    return prepare(**options(source, tmp_path_factory.mktemp("alone")))


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data.shared_making, "ABSENT_SECS", 0.3)
    monkeypatch.setattr(data.shared_making, "SAID_SECS", 0.05)
    monkeypatch.setattr(data.shared_making, "LOOK_SECS", 0.01)


def help_with(job: Job, host: int, hosts: int, in_charge: Any = lambda: True) -> None:
    help_host_0(job.directory, job.source, job.fingerprint, job.plan, host, hosts, in_charge)


def assert_same(found: PreparedCorpus, alone: PreparedCorpus) -> None:
    assert found.manifest == alone.manifest and len(alone.manifest.shards) == 12
    for shard in alone.manifest.shards:
        assert (found.directory / shard.file).read_bytes() == (alone.directory / shard.file).read_bytes()
    names = {path.name for path in found.directory.iterdir()}
    assert names == {MANIFEST, *(shard.file for shard in alone.manifest.shards)}


def test_three_hosts_make_the_bytes_of_one(source, alone, tmp_path, monkeypatch):
    given = options(source, tmp_path)
    made: list[tuple[int, str]] = []
    real = data.shard_making.new_file

    def noting(path: Path) -> Any:
        made.append((int(threading.current_thread().name), path.name))
        return real(path)

    monkeypatch.setattr(data.shard_making, "new_file", noting)
    # Others never have to make what a host at work is slow with.
    monkeypatch.setattr(data.shared_making, "ABSENT_SECS", 60)
    job = locate(**given)
    helpers = [threading.Thread(target=help_with, args=(job, host, 3), name=str(host)) for host in (1, 2)]
    for helper in helpers:
        helper.start()
    monkeypatch.setattr(threading.current_thread(), "name", "0")
    found = prepare(**given, hosts=3)
    for helper in helpers:
        helper.join()
    assert_same(found, alone)
    assert sorted(made) == sorted((number % 3, f"tokens-{number:05d}.bin") for number in range(12))


def die_after(notes: int, directory: Path) -> Any:
    """For a fork: whether host 0 works, and at so many notes the end."""

    def in_charge() -> bool:
        if len([*directory.glob("tokens-*.json")]) >= notes:
            os.kill(os.getpid(), signal.SIGKILL)
        return True

    return in_charge


def test_host_0_makes_the_shards_of_a_host_that_was_killed_and_keeps_what_it_made(source, alone, tmp_path, capsys):
    given = options(source, tmp_path)
    job = locate(**given)
    # As if host 0 had only begun, and host 1 had made its shards up to its death.
    prepared = FORK.Process(target=begin, args=(given,))
    prepared.start()
    prepared.join()
    helper = FORK.Process(target=help_with, args=(job, 1, 2, die_after(2, job.directory)))
    helper.start()
    helper.join()
    assert helper.exitcode == -signal.SIGKILL
    kept = {path: path.stat().st_mtime_ns for path in job.directory.glob("tokens-*[13].bin")}
    assert len(kept) == 2
    found = prepare(**given, hosts=2)
    assert "host 1 is not at work: this one makes 4 shards" in capsys.readouterr().err
    assert_same(found, alone)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def begin(given: dict[str, Any]) -> None:
    """Write the journal, and die."""
    data.prepare.make_shards = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    prepare(**given)


def test_a_host_0_that_was_killed_goes_on_with_what_all_have_made(source, alone, tmp_path):
    given = options(source, tmp_path)
    job = locate(**given)
    first = FORK.Process(target=begin, args=(given,))
    first.start()
    first.join()
    assert first.exitcode == -signal.SIGKILL and (job.directory / JOURNAL).exists()
    # What host 1 can do without host 0 it does. One that sees that host 0 is lost ends with the batch at hand.
    help_with(job, 1, 2)
    assert len([*job.directory.glob("tokens-*.json")]) == 6
    help_with(job, 0, 2, lambda: False)
    assert len([*job.directory.glob("tokens-*.json")]) == 7
    assert_same(prepare(**given), alone)


def test_who_is_waited_for_is_said(source, tmp_path, capsys, monkeypatch):
    given = options(source, tmp_path)
    job = locate(**given)
    monkeypatch.setattr(data.shared_making, "ABSENT_SECS", 60)
    job.directory.mkdir()
    slow = lock_of(job.directory, 1)
    slow.acquire()
    waiting = threading.Thread(target=prepare, kwargs=given | {"hosts": 2})
    waiting.start()
    said = ""
    while "waiting for 6 of 12 shards, of host 1" not in said:
        said += capsys.readouterr().err
        assert waiting.is_alive()
    slow.release()
    help_with(job, 1, 2)
    waiting.join()
    assert job.is_done


def test_a_host_with_other_bytes_is_refused(source, tmp_path):
    given = options(source, tmp_path)
    job = locate(**given)
    first = FORK.Process(target=begin, args=(given,))
    first.start()
    first.join()
    help_with(job, 1, 2)
    other = tmp_path / "other"
    other.write_bytes(source.read_bytes()[:-2_000_000] + b"x" * 2_000_000)
    other_job = locate(**options(other, tmp_path))
    with pytest.raises(UsageError, match=r"was changed while it was being prepared"):
        help_host_0(job.directory, other_job.source, job.fingerprint, job.plan, 0, 2, lambda: True)


def test_only_large_corpora_that_each_host_can_read_are_shared(source, tmp_path):
    job = locate(**options(source, tmp_path))
    assert is_shared(job.source, job.plan)
    assert not is_shared(job.source, locate(**options(source, tmp_path, shard_batches=64)).plan)
    far = open_source("https://example.org/{000..099}.jsonl")
    assert not is_shared(far, job.plan)
