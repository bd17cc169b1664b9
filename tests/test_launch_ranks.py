"""Several ranks as their users start them: the bits of one rank, through ZeRO's stages, stops and other numbers."""

import csv
from pathlib import Path

import pytest
import torch
from dist import ROOT, run, start_python
from small_run import TRAIN, arguments, curve, report

from model.registry import BLOCKS
from train.nats import read_nats

# DeepSpeed's stage 2 does all that its stage 1 does.
STAGE_1 = pytest.param(1, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def plain(corpus: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run by one rank, with the optimiser that ZeRO can shard."""
    run_dir = tmp_path_factory.mktemp("runs") / "plain"
    assert run(TRAIN, *arguments(corpus, cache, run_dir, "--train.optimizer=adamw")).returncode == 0
    return run_dir


BY_LAUNCHER = pytest.param([], True, marks=pytest.mark.starts)
CLIPPED = ["--train.optimizer=adamw", "--engine.gradient_clipping=0.05"]


@pytest.mark.parametrize(("more", "launcher"), [BY_LAUNCHER, (CLIPPED, False)])
def test_two_ranks_give_the_bits_of_one_with_twice_the_accumulation(
    undisturbed: Path, corpus: Path, cache: Path, tmp_path: Path, more: list[str], launcher: bool
) -> None:
    """Clipping looks at the size of the gradient, which both optimisers otherwise divide out."""
    alone, together = tmp_path / "1x2", tmp_path / "2x1"
    one = run(TRAIN, *arguments(corpus, cache, alone, "--train.accumulation=2", *more))
    two = run(TRAIN, *arguments(corpus, cache, together, *more), ranks=2, launcher=launcher)
    assert one.returncode == 0, one.stderr
    assert two.returncode == 0, two.stderr
    a, b = report(alone), report(together)
    assert b["cost"]["world_size"] == 2
    assert a["coded"] == b["coded"] == report(undisturbed)["coded"]
    bits = [x["description_length"]["data_bits"] for x in (a, b, report(undisturbed))]
    assert bits[0] == pytest.approx(bits[1], rel=1e-4)
    assert (bits[0] == pytest.approx(bits[2], rel=1e-4)) == (not more)


@pytest.mark.parametrize("stage", [STAGE_1, 2, 3])
def test_zero_stages_agree_and_resume(
    undisturbed: Path, corpus: Path, cache: Path, stage: int, device: torch.device, ranks: int
) -> None:
    more, run_dir = [f"--engine.zero_stage={stage}"], undisturbed.with_name(f"zero-{stage}-{device}")
    stopped = run(TRAIN, *arguments(corpus, cache, run_dir, *more, "--run.stop_after_steps=8"), ranks=ranks)
    assert stopped.returncode == 0, stopped.stderr
    assert "--run.resume" in stopped.stderr
    if (stage, ranks) == (2, 2):
        alone = run(TRAIN, f"--run.dir={run_dir}", "--run.resume", "--run.stop_after_steps=0")
        assert alone.returncode == 2, alone.stderr
        assert "resume with as many ranks as saved it" in alone.stderr
    done = run(TRAIN, f"--run.dir={run_dir}", "--run.resume", "--run.stop_after_steps=0", ranks=ranks)
    assert done.returncode == 0, done.stderr
    found = [report(path)["code"]["modules"] for path in (undisturbed, run_dir)]
    assert ["train/zero_muon.py" in modules for modules in found] == [False, True]
    bits = [report(path)["description_length"]["data_bits"] for path in (undisturbed, run_dir)]
    assert "contiguous chunk" not in done.stderr
    # Messages between ranks are no arithmetic that nobody knows.
    assert report(run_dir)["cost"]["mfu"] > 0
    # On CUDA in bf16.
    assert bits[0] == pytest.approx(bits[1], rel=1e-4 if device.type == "cpu" else 0.01)


@pytest.mark.parametrize("stage", [0, STAGE_1, 2, 3])
def test_the_number_of_ranks_may_change_on_the_way(
    undisturbed: Path, plain: Path, corpus: Path, cache: Path, stage: int
) -> None:
    run_dir, whole = plain.with_name(f"regrouped-{stage}"), plain if stage else undisturbed
    more = ["--run.stop_after_steps=8"]
    if stage:
        more += [f"--engine.zero_stage={stage}", "--train.optimizer=adamw"]
    first = run(TRAIN, *arguments(corpus, cache, run_dir, *more), ranks=2)
    assert first.returncode == 0, first.stderr
    again = [f"--run.dir={run_dir}", "--run.resume"]
    second = run(TRAIN, *again, "--run.stop_after_steps=14")
    assert second.returncode == 0, second.stderr
    third = run(TRAIN, *again, "--run.stop_after_steps=0", ranks=2)
    assert third.returncode == 0, third.stderr
    assert report(run_dir)["coded"] == {"tokens": 5_004, "bytes": 5_003}
    assert len(curve(run_dir)) == len(curve(whole))
    for ours, theirs in zip(curve(run_dir)[1:], curve(whole)[1:], strict=True):
        assert ours[:3] == theirs[:3]
        assert float(ours[3]) == pytest.approx(float(theirs[3]), rel=1e-5)
    ours, theirs = (read_nats(path).nats for path in (run_dir, whole))
    assert ours == pytest.approx(theirs, rel=1e-2, abs=1e-2)
    assert not list(run_dir.glob("checkpoints/*universal*"))


# Step 8 is in the first half of either plan, and in the second stage of the schedule.
@pytest.mark.parametrize("segment_tokens", ["32", "8@0,16@0.05,64@0.5"])
def test_replay_survives_a_stop_and_another_number_of_ranks(
    segment_tokens: str, corpus: Path, cache: Path, tmp_path: Path
) -> None:
    plain, broken = tmp_path / "plain", tmp_path / "broken"
    more = ["--train.replay=1", f"--train.segment_tokens={segment_tokens}"]
    assert run(TRAIN, *arguments(corpus, cache, plain, *more)).returncode == 0
    assert run(TRAIN, *arguments(corpus, cache, broken, *more, "--run.stop_after_steps=8"), ranks=2).returncode == 0
    done = run(TRAIN, f"--run.dir={broken}", "--run.resume", "--run.stop_after_steps=0")
    assert done.returncode == 0, done.stderr
    bits = [[float(row[3]) for row in curve(run_dir)[1:]] for run_dir in (plain, broken)]
    assert bits[0] == pytest.approx(bits[1], rel=1e-5)
    assert "train/replay.py" in report(plain)["code"]["modules"]


def test_every_block_learns_the_same_in_shards(corpus: Path, cache: Path, tmp_path: Path) -> None:
    pattern = " ".join(sorted(BLOCKS))
    small = [f"--model.block={pattern}", f"--model.depth={len(BLOCKS)}"]
    small += ["--run.stop_after_steps=12"]
    whole, shards = tmp_path / "whole", tmp_path / "shards"
    assert run(TRAIN, *arguments(corpus, cache, whole, *small)).returncode == 0
    done = run(TRAIN, *arguments(corpus, cache, shards, *small, "--engine.zero_stage=3"), ranks=2)
    assert done.returncode == 0, done.stderr
    bits = []
    for run_dir in (whole, shards):
        with (run_dir / "curve.csv").open() as file:
            *_, last = csv.DictReader(file)
        bits.append(float(last["data_bits"]) / int(last["coded_bytes"]))
    # An untrained model takes log2 257 = 8.01 bits a byte: something was learned, and it is compared.
    assert bits[0] < 7
    assert bits[0] == pytest.approx(bits[1], rel=1e-4)


@pytest.mark.starts
def test_bad_input_gives_status_2_through_the_launcher_too(corpus: Path, cache: Path, tmp_path: Path) -> None:
    done = run(TRAIN, *arguments(corpus, cache, tmp_path / "run", "--data.source=/nowhere"), ranks=2, launcher=True)
    assert done.returncode == 2, done.stderr
    assert sum(line.startswith("onepass: ") for line in done.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_three_ranks_code_a_corpus_that_most_of_them_see_nothing_of(cache: Path, tmp_path: Path) -> None:
    """Two documents of one byte each, four tokens, on three ranks of five lanes."""
    (tmp_path / "documents").mkdir()
    for name in ("a", "b"):
        (tmp_path / "documents" / name).write_bytes(name.encode())
    run_dir = tmp_path / "run"
    given = arguments(tmp_path / "documents", cache, run_dir, "--train.lanes=15")
    done = run(TRAIN, *given, ranks=3)
    assert done.returncode == 0, done.stderr
    assert report(run_dir)["coded"] == {"tokens": 4, "bytes": 2}
    # One step, from an untrained model.
    assert report(run_dir)["description_length"]["data_bits"] == pytest.approx(4 * 8.00562454919388, rel=1e-6)


def test_three_ranks_go_on_exactly_to_a_last_segment_of_one_token(corpus: Path, cache: Path, tmp_path: Path) -> None:
    """Five lanes of 65 tokens and one of 62, in segments of 32: in the third step, five lanes have one token each."""
    source = tmp_path / "source.txt"
    source.write_bytes(corpus.read_bytes()[: 5 * 65 + 62 - 1])
    given = [*arguments(source, cache, tmp_path / "whole", "--train.lanes=6", "--run.log_steps=1")]
    done = run(TRAIN, *given, ranks=3)
    assert done.returncode == 0, done.stderr
    run_dir = tmp_path / "broken"
    stopped = run(TRAIN, *given, f"--run.dir={run_dir}", "--run.stop_after_steps=2", ranks=3)
    assert stopped.returncode == 0, stopped.stderr
    done = run(TRAIN, f"--run.dir={run_dir}", "--run.resume", "--run.stop_after_steps=0", ranks=3)
    assert done.returncode == 0, done.stderr
    assert report(run_dir)["coded"] == {"tokens": 387, "bytes": 386}
    assert len(curve(run_dir)) == 1 + 3
    assert curve(run_dir) == curve(tmp_path / "whole")


@pytest.mark.starts
def test_two_runs_of_two_ranks_start_side_by_side(corpus: Path, cache: Path, tmp_path: Path) -> None:
    """The launcher gives both the same port."""
    launcher = ["-m", "deepspeed.launcher.runner", "--num_accelerators=2", TRAIN]
    processes = [
        start_python([*launcher, *arguments(corpus, cache, tmp_path / name, "--run.stop_after_steps=12")], ROOT)
        for name in ("one", "two")
    ]
    for process in processes:
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
    assert curve(tmp_path / "one") == curve(tmp_path / "two")
