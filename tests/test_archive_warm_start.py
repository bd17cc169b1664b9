"""A run that begins with another run's parameters: charged in full, loaded and resumed exactly, refused in a line."""

import math
import os
import random
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from dist import ROOT, run, start, wait_until
from small_run import SMALL, TRAIN, arguments, curve, report
from trained_run import trained_run

from archive.weights import parameters, unpack
from data.lanes import Lanes
from studies.scoring import source_of, tables, tokenize
from train.engine import Place
from train.frozen import FrozenLearner, load_frozen

PLACE = Place(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two texts of the same words, in orders of their own, and a finished run over the first."""
    folder = tmp_path_factory.mktemp("warm")
    words = (ROOT / "LICENSE").read_text().split()
    for seed, (name, length) in enumerate({"before.txt": 12_000, "source.txt": 12_011}.items()):
        drawn = random.Random(seed).choices(words, k=length)
        (folder / name).write_bytes(" ".join(drawn).encode()[:length])
    trained_run(folder, folder / "before.txt", *SMALL)
    return folder


def options(folder: Path, name: str, *more: str) -> list[str]:
    warm = [f"--run.warm_start={folder / 'run'}", "--run.baselines=false"]
    return arguments(folder / "source.txt", folder / "cache", folder / name, *warm, *more)


@pytest.fixture(scope="module")
def warm(folder: Path) -> Path:
    done = run(TRAIN, *options(folder, "warm"))
    assert done.returncode == 0, done.stderr
    assert "warm start" in done.stdout
    return folder / "warm"


def test_the_whole_checkpoint_is_charged_and_the_total_is_worse(warm: Path, folder: Path) -> None:
    cold = folder / "cold"
    given = arguments(folder / "source.txt", folder / "cache", cold, "--run.baselines=false")
    assert run(TRAIN, *given).returncode == 0
    ours, theirs = report(warm)["description_length"], report(cold)["description_length"]
    packed = (warm / "warm_start.bin").read_bytes()
    assert ours["warm_start_bits"] == 8 * len(packed)
    assert ours["side_bits"] == theirs["side_bits"] + 8 * len(packed)
    assert "warm_start_bits" not in theirs
    assert ours["code_bits"] == theirs["code_bits"]
    # It helps, by less than it costs.
    assert ours["data_bits"] < 0.95 * theirs["data_bits"]
    assert ours["total_bits"] > theirs["total_bits"]
    # And those bytes are all that a decoder needs: every parameter, to the bit.
    before = parameters(load_frozen(folder / "run")[1])
    for found, wanted in zip(unpack(packed), before.values(), strict=True):
        assert found.tobytes() == wanted.tobytes()
    assert "warm start" in (warm / "report.md").read_text()


def test_the_first_segment_is_coded_by_the_parameters_of_the_other_run(warm: Path, folder: Path) -> None:
    given = options(folder, "one-step", "--run.log_steps=1", "--run.stop_after_steps=1")
    assert run(TRAIN, *given).returncode == 0
    config, model, tokenizer = load_frozen(folder / "run")
    # Tables do not come along.
    assert model.mixing is not None
    assert model.mixing.counts.any()
    for table in tables(model):
        table.zero_()
    _, corpus, _ = tokenize(folder / "source.txt", tokenizer)
    lanes = Lanes(len(corpus), config.train.lanes, config.train.segment_tokens)
    source = source_of(corpus, lanes)
    learner: Any = FrozenLearner(config, model, tokenizer.end_of_document, config.train.lanes, PLACE)
    targets = torch.from_numpy(source.segment(0, learner))
    tokens = torch.cat([learner.recent, targets], 1)
    # They take in the segment as it is coded.
    looked = model.mixing.take_in(tokens, [])
    with torch.no_grad():
        nats = model(tokens[:, :-1].clamp(min=0), learner.states[0], targets, False, looked)[0].double().sum().item()
    bits = float(curve(folder / "one-step")[1][3])
    assert bits == pytest.approx(nats / math.log(2), rel=1e-6)
    # Parameters that had learned nothing would take 8 bits a token; these expect tables, which are empty.
    assert bits < 0.9 * 8 * config.train.lanes * 32


def test_killed_and_resumed_it_ends_with_the_same_bits_without_the_other_run(warm: Path, folder: Path) -> None:
    run_dir, before, gone = folder / "killed", folder / "run", folder / "gone"
    process = start(TRAIN, *options(folder, "killed", "--run.checkpoint_secs=0.01"))
    wait_until(lambda: len(list(run_dir.glob("checkpoints/step-*"))) >= 2, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (run_dir / "report.json").exists()
    before.rename(gone)
    try:
        resumed = run(TRAIN, f"--run.dir={run_dir}", "--run.resume")
    finally:
        gone.rename(before)
    assert resumed.returncode == 0, resumed.stderr
    assert curve(run_dir) == curve(warm)
    assert report(run_dir)["description_length"] == report(warm)["description_length"]


def test_two_ranks_begin_with_the_same_parameters(warm: Path, folder: Path) -> None:
    done = run(TRAIN, *options(folder, "two"), ranks=2)
    assert done.returncode == 0, done.stderr
    ours, theirs = report(folder / "two")["description_length"], report(warm)["description_length"]
    assert ours["data_bits"] == pytest.approx(theirs["data_bits"], rel=1e-4)
    assert ours["warm_start_bits"] == theirs["warm_start_bits"]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--model.width=16"], ["embedding (257, 32)", "(257, 16)"]),
        (["--model.block=gru"], ["layers.1.block.inputs none", "(32, 96)"]),
        (["--data.tokenizer=bpe", "--data.vocabulary=300"], ["bytes, 257 tokens", "bpe, 300 tokens"]),
        (["--run.warm_start=/nowhere"], ["/nowhere holds no finished run"]),
        (["--train.optimizer=adamw", "--engine.zero_stage=1"], ["engine.zero_stage 1"]),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(folder: Path, more: list[str], told: list[str]) -> None:
    done = run(TRAIN, *options(folder, "refused", *more))
    refused(done.returncode, done.stderr, ["run.warm_start", *told] if "/nowhere" not in told[0] else told)
    assert not (folder / "refused").exists()


def refused(status: int, stderr: str, told: list[str]) -> None:
    assert status == 2, stderr
    (line,) = [line for line in stderr.splitlines() if line.startswith("onepass: ")]
    for part in told:
        assert part in line
    assert "Traceback" not in stderr


def test_a_resumed_run_keeps_to_what_it_began_with(warm: Path, folder: Path) -> None:
    done = run(TRAIN, f"--run.dir={warm}", "--run.resume", "--run.warm_start=")
    refused(done.returncode, done.stderr, ["run.warm_start was", "start a new run"])
    # Other parameters in the place of those that it began with.
    other = folder / "other"
    shutil.copytree(warm, other)
    (other / "warm_start.bin").write_bytes((warm / "warm_start.bin").read_bytes() + b"more")
    done = run(TRAIN, f"--run.dir={other}", "--run.resume")
    refused(done.returncode, done.stderr, ["warm start", "SHA-256"])
    (other / "warm_start.bin").unlink()
    done = run(TRAIN, f"--run.dir={other}", "--run.resume")
    refused(done.returncode, done.stderr, ["warm_start.bin", "is gone"])


def test_an_archive_does_not_begin_warm(folder: Path) -> None:
    archive = folder / "archive"
    done = run("launch/compress.py", str(folder / "source.txt"), str(archive), f"--run.warm_start={folder / 'run'}")
    refused(done.returncode, done.stderr, ["run.warm_start", "leave it out"])
    assert not archive.exists()


def test_what_the_first_parameters_had_seen_is_not_held_out(warm: Path, folder: Path) -> None:
    done = run("launch/evaluate.py", "held-out", str(warm), str(folder / "before.txt"))
    refused(done.returncode, done.stderr, ["100.00% of", "before.txt"])
