"""A run over two hosts, on a network that works, loses packets or falls silent, and with a host that dies.

The bits are to be those of two ranks on one host, all of them: a sum over two ranks has two terms, whose order does not
matter. Needs root and a few Debian packages (docs/clusters.md).
"""

import subprocess
from pathlib import Path

import lossy_wire
import pytest
from dist import run, wait_until
from lost_ranks import assert_says_what_to_set, assert_says_who_was_lost, complaints, under_way
from small_run import SMALL, TRAIN, curve, report
from two_hosts import ADDRESSES, TwoHosts, missing, wait

from data.prepare import prepare
from data.shards import read_manifest

pytestmark = pytest.mark.hosts

# docs/clusters.md promises: a rank ends within MARGIN_SECS of the death of a peer, and where the network says nothing,
# within that after engine.timeout_secs. All else may take as long as a busy machine does.
TIMEOUT_SECS, MARGIN_SECS, PATIENCE_SECS = 90, 60, 1500
CORPUS_BYTES = 40_009


@pytest.fixture(scope="module", autouse=True)
def able() -> None:
    """Skips, where there cannot be two hosts, when tests are run and not when they are collected."""
    if reason := missing():
        pytest.skip(reason)


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Arguments of a small run, but for its directory."""
    folder = tmp_path_factory.mktemp("given")
    text = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("test_model*.py")))
    (folder / "source.txt").write_bytes((b"\xff\x00\xe2\x96\x81" + 9 * text)[:CORPUS_BYTES])
    places = [f"--data.source={folder / 'source.txt'}", f"--data.cache_dir={folder / 'cache'}"]
    return [*places, *SMALL, "--run.baselines=false"]


@pytest.fixture(scope="module")
def one_host(given: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of two ranks on one host."""
    run_dir = tmp_path_factory.mktemp("runs") / "one-host"
    done = run(TRAIN, *given, f"--run.dir={run_dir}", ranks=2, timeout_secs=PATIENCE_SECS)
    assert done.returncode == 0, done.stderr
    return run_dir


def skip_without_wire() -> None:
    if reason := lossy_wire.missing():
        pytest.skip(reason)


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=PATIENCE_SECS)
    return process.returncode, out, err


def same(run_dir: Path, one_host: Path) -> bool:
    """Whether a run came to the number of the run on one host, on the same way."""
    found, expected = report(run_dir), report(one_host)
    assert found["cost"]["world_size"] == expected["cost"]["world_size"] == 2
    assert found["coded"] == {"tokens": CORPUS_BYTES + 1, "bytes": CORPUS_BYTES}
    assert found["description_length"] == expected["description_length"]
    return curve(run_dir) == curve(one_host)


def wait_for_checkpoints(run_dir: Path, process: subprocess.Popen[str]) -> None:
    """Wait until a run has saved two and is not at its end."""
    wait_until(lambda: under_way(run_dir), process, PATIENCE_SECS)
    assert not (run_dir / "report.json").exists()


def test_two_hosts_give_the_bits_of_two_ranks(given: list[str], one_host: Path, tmp_path: Path) -> None:
    with TwoHosts(tmp_path) as hosts:
        status, _, err = finish(hosts.launch("one", TRAIN, *given, f"--run.dir={tmp_path / 'run'}"))
    assert status == 0, err
    assert same(tmp_path / "run", one_host)


def test_packets_that_are_lost_or_late_change_no_bit(given: list[str], one_host: Path, tmp_path: Path) -> None:
    skip_without_wire()
    with TwoHosts(tmp_path, lossy=True) as hosts:
        assert hosts.wire
        hosts.wire.loss, hosts.wire.delay_secs = 0.02, 0.02
        status, _, err = finish(hosts.launch("one", TRAIN, *given, f"--run.dir={tmp_path / 'run'}"))
    assert status == 0, err
    assert hosts.wire.lost > 0
    assert same(tmp_path / "run", one_host)


@pytest.mark.parametrize("dead", ["two", "one"])
def test_a_host_that_dies_ends_the_run_which_goes_on_exactly(
    given: list[str], one_host: Path, tmp_path: Path, dead: str
) -> None:
    run_dir, ranks = tmp_path / "run", [*ADDRESSES]
    left = ranks[1 - ranks.index(dead)]
    with TwoHosts(tmp_path) as hosts:
        process = hosts.launch(left, TRAIN, *given, f"--run.dir={run_dir}", "--run.checkpoint_secs=0.01")
        wait_for_checkpoints(run_dir, process)
        hosts.kill(dead)
        wait(lambda: not hosts.ranks(left), f"the end of the rank on {left}", MARGIN_SECS)
        status, out, err = finish(process)
        assert status != 0
        assert f"{left}: " in out
        assert "exits with return code = 1" in out, err
        assert_says_who_was_lost(err, ranks.index(left), (left, dead), run_dir)
        hosts.boot(dead)
        status, _, err = finish(hosts.launch("one", TRAIN, f"--run.dir={run_dir}", "--run.resume"))
    assert status == 0, err
    assert same(run_dir, one_host)


def test_decompression_outlives_a_host_too(given: list[str], tmp_path: Path) -> None:
    source, archive, file = given[0].removeprefix("--data.source="), tmp_path / "archive", tmp_path / "file"
    quick = [*given[1:], "--train.lanes=32", "--train.segment_tokens=8"]
    done = run("launch/compress.py", source, str(archive), *quick, ranks=2, timeout_secs=PATIENCE_SECS)
    assert done.returncode == 0, done.stderr
    assert archive.stat().st_size < CORPUS_BYTES, "stored as it is"
    order, partial = [str(archive), str(file), "--checkpoint_secs=0.01"], tmp_path / "file.partial"
    pointer = partial / "checkpoints" / "latest.json"
    with TwoHosts(tmp_path) as hosts:
        process = hosts.launch("one", "launch/decompress.py", *order)
        wait_until(pointer.exists, process, PATIENCE_SECS)
        hosts.kill("two")
        wait(lambda: not hosts.ranks("one"), "the end of the rank on one", MARGIN_SECS)
        status, _, err = finish(process)
        assert status != 0
        assert not file.exists()
        (told,) = complaints(err)
        assert "rank 0 on one lost rank 1 on two (" in told
        assert f"The last good checkpoint is {pointer.parent}/step-" in told
        assert told.endswith("Start all ranks again with the same command and --resume")
        hosts.boot("two")
        status, _, err = finish(hosts.launch("one", "launch/decompress.py", *order, "--resume"))
    assert status == 0, err
    assert file.read_bytes() == Path(source).read_bytes()


@pytest.mark.parametrize("how", ["link down", "all packets lost"])
def test_a_silent_network_ends_every_rank_in_time(given: list[str], tmp_path: Path, how: str) -> None:
    run_dir, logs = tmp_path / "run", tmp_path / "logs"
    if how == "all packets lost":
        skip_without_wire()
    with TwoHosts(tmp_path, lossy=how == "all packets lost") as hosts:
        # What the rank on the other host says does not get through.
        options = ("--enable_each_rank_log", str(logs))
        limits = [f"--engine.timeout_secs={TIMEOUT_SECS}", "--run.checkpoint_secs=0.01"]
        process = hosts.launch("one", TRAIN, *given, f"--run.dir={run_dir}", *limits, options=options)
        wait_for_checkpoints(run_dir, process)
        if hosts.wire:
            hosts.wire.loss = 1.0
        else:
            hosts.network("two", "link", "set", "eth0", "down")
        ended = lambda: not hosts.ranks("one") + hosts.ranks("two")  # noqa: E731
        wait(ended, "the end of the ranks", TIMEOUT_SECS + MARGIN_SECS)
        status, _, _ = finish(process)
    assert status != 0
    for rank, (here, there) in enumerate([("one", "two"), ("two", "one")]):
        (log,) = logs.glob(f"*_rank{rank}.log")
        reason = f"Timed out waiting {TIMEOUT_SECS}000ms"
        assert_says_who_was_lost(log.read_text(), rank, (here, there), run_dir, reason)


def test_a_cache_of_its_own_on_each_host_is_as_good(given: list[str], one_host: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    with TwoHosts(tmp_path) as hosts:
        hosts.inside("two", "mount", "-t", "tmpfs", "tmpfs", str(own))
        more = [f"--run.dir={tmp_path / 'run'}", f"--data.cache_dir={own}"]
        status, _, err = finish(hosts.launch("one", TRAIN, *given, *more))
        assert status == 0, err
        for name in ADDRESSES:
            hosts.inside(name, "sh", "-c", f"ls {own}/*/manifest.json")
    assert same(tmp_path / "run", one_host)


def test_both_hosts_make_the_shards_of_a_large_corpus(given: list[str], tmp_path: Path) -> None:
    """Two shards, of which each host makes one."""
    large, cache = tmp_path / "large", tmp_path / "cache"
    large.write_bytes(b"ninety-nine bottles of beer " * 2_600_000)
    more = [
        f"--data.source={large}",
        f"--data.cache_dir={cache}",
        "--run.checkpoint_secs=0",
        "--run.stop_after_steps=1",
    ]
    with TwoHosts(tmp_path) as hosts:
        _, _, err = finish(hosts.launch("one", TRAIN, *given, *more, f"--run.dir={tmp_path / 'run'}"))
    assert "onepass: host 1 of 2 makes its shards of large" in err
    [manifest] = cache.glob("*/manifest.json")
    alone = prepare(str(large), cache_dir=tmp_path / "alone")
    assert read_manifest(manifest.parent) == alone.manifest and len(alone.manifest.shards) == 2


def test_a_run_directory_of_its_own_on_each_host_is_refused(given: list[str], tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    with TwoHosts(tmp_path) as hosts:
        hosts.inside("two", "mount", "-t", "tmpfs", "tmpfs", str(own))
        status, _, err = finish(hosts.launch("one", TRAIN, *given, f"--run.dir={own / 'run'}"))
    assert status == 2
    assert f"onepass: run.dir {own / 'run'} on two is not the folder that one has" in complaints(err)[0]


def test_ranks_that_do_not_meet_say_what_to_set(given: list[str], tmp_path: Path) -> None:
    """Without the name of the interface, gloo takes the address of a host name that nobody can look up."""
    with TwoHosts(tmp_path) as hosts:
        (tmp_path / ".deepspeed_env").write_text(f"HOME={tmp_path}\n")
        more = [f"--run.dir={tmp_path / 'run'}", "--engine.timeout_secs=20"]
        status, _, err = finish(hosts.launch("one", TRAIN, *given, *more))
    assert status == 1
    assert not (tmp_path / "run").exists()
    assert_says_what_to_set(complaints(err), "10.77.0.1:29500")
