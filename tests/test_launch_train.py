"""The trainer as its users start it: real processes, real exit statuses, real run directories."""

import csv
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from dist import ROOT, command, run, start, wait_until
from filelock import FileLock

from data.tokenizer import load_tokenizer
from eval.code_size import canonical_text, code_identity, pack, unpack
from model.registry import BLOCKS
from train.checkpoint import POINTER, checkpoint_tensors

TRAIN = "launch/train.py"
SMALL = [
    "--model.width=32", "--model.head_width=16", "--model.depth=2", "--model.window=32", "--model.ngram_orders=[1,2,3]",
    "--model.ngram_rows_log2=12", "--train.segment_tokens=32", "--train.lanes=8", "--engine.threads=1",
    "--data.tokenizer=bytes", "--run.log_steps=5",
]  # fmt: skip


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About 20 KB of this project's prose and code, of a length that no lane or segment divides."""
    text = b"".join(path.read_bytes() for path in sorted(Path(__file__).parents[1].glob("tests/test_model*.py")))
    path = tmp_path_factory.mktemp("corpus") / "source.txt"
    path.write_bytes((b"\xff\x00\xe2\x96\x81" + 3 * text)[:20_011])
    return path


def arguments(corpus: Path, cache: Path, run_dir: Path, *more: str) -> list[str]:
    return [f"--data.source={corpus}", f"--data.cache_dir={cache}", f"--run.dir={run_dir}", *SMALL, *more]


def report(run_dir: Path) -> dict[str, Any]:
    return json.loads((run_dir / "report.json").read_text())


def curve(run_dir: Path) -> list[tuple[str, ...]]:
    """The live curve without its two columns of times."""
    with (run_dir / "curve.csv").open() as file:
        return [(*row[:5], row[7]) for row in csv.reader(file)]


@pytest.fixture(scope="module")
def undisturbed(corpus: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("runs") / "undisturbed"
    done = run(TRAIN, *arguments(corpus, cache, run_dir))
    assert done.returncode == 0, done.stderr
    assert "description length" in done.stdout
    assert "ppmd" in done.stdout
    return run_dir


def test_a_run_codes_everything_and_leaves_all_its_files(undisturbed: Path, corpus: Path) -> None:
    found = report(undisturbed)
    assert found["coded"] == {"tokens": 20_012, "bytes": 20_011}
    assert found["corpus"]["bytes"] == corpus.stat().st_size
    length = found["description_length"]
    terms = [length[f"{name}_bits"] for name in ("data", "code", "tokenizer", "side")]
    assert length["total_bits"] == pytest.approx(sum(terms), rel=1e-12)
    assert 2 * 20_011 < length["data_bits"] < 6 * 20_011
    last = curve(undisturbed)[-1]
    assert (last[1], last[2]) == ("20011", "20012")
    assert float(last[3]) == length["data_bits"]
    for name in ("config.yaml", "report.md", "report.html", "environment.json", "tensorboard", "checkpoints"):
        assert (undisturbed / name).exists(), name
    # What is known by counting stands beside it, and this much has been learned.
    known = found["references"]
    assert known["untrained"] == pytest.approx(20_012 * math.log2(257) / 8)
    assert (known["oracle"], known["uniform"]) == (0, 20_011)
    assert length["data_bits"] / 8 < known["order-0"] < known["uniform"]
    assert {"train/loop.py", "model/blocks/attention.py", "data/tokenizer.py"} <= set(found["code"]["modules"])
    assert not {"train/metrics.py", "data/prepare.py", "eval/report.py"} & set(found["code"]["modules"])


def test_each_term_is_the_length_of_what_stands_for_it(corpus: Path, cache: Path, tmp_path: Path) -> None:
    """A whole run over pieces: tokenizer and decoder come back from the bytes that are charged for them."""
    run_dir = tmp_path / "pieces"
    pieces = ["--data.tokenizer=bpe", "--data.vocabulary=400", "--run.baselines=false"]
    done = run(TRAIN, *arguments(corpus, cache, run_dir, *pieces))
    assert done.returncode == 0, done.stderr
    length, tokens = report(run_dir)["description_length"], report(run_dir)["corpus"]["tokens"]
    encoding = (run_dir / "tokenizer.bin").read_bytes()
    tokenizer = load_tokenizer("bpe", encoding)
    assert tokenizer.vocabulary == 400
    assert length["tokenizer_bits"] == 8 * len(encoding) > 8 * 100
    packed = (run_dir / "code.lzma").read_bytes()
    assert length["code_bits"] == 8 * len(packed)
    assert unpack(packed)[0]["model"]["width"] == 32
    # The Elias delta code of the number of tokens and one, and the end of one coder.
    bits = (tokens + 1).bit_length()
    assert length["side_bits"] == 64 + bits - 1 + 2 * (bits.bit_length() - 1) + 1
    assert length["total_bits"] == sum(length[f"{name}_bits"] for name in ("data", "code", "tokenizer", "side"))


def test_a_report_says_what_was_run(undisturbed: Path, corpus: Path) -> None:
    found = report(undisturbed)
    saved = yaml.safe_load((undisturbed / "config.yaml").read_text())
    assert found["config"] == {section: saved[section] for section in ("data", "model", "train", "engine", "run")}
    assert found["config"]["data"]["source"] == str(corpus)
    assert "launch/train.py" in found["command"]
    assert str(corpus) in found["command"]
    assert (found["device"]["world_size"], found["device"]["precision"]) == (1, found["config"]["engine"]["precision"])
    assert found["device"]["threads"] == found["config"]["engine"]["threads"] > 0
    assert found["commit"] is None or len(found["commit"]["hash"]) >= 40
    first_screen = (undisturbed / "report.html").read_text().split("<h2>")[0]
    for words in ("context mixing", "learning rates", "seed", "differs from defaults", "data.source"):
        assert words in first_screen, words


def test_the_first_segment_of_an_untrained_model_costs_log2_v(undisturbed: Path, corpus: Path, cache: Path) -> None:
    run_dir = undisturbed.with_name("one-step")
    done = run(TRAIN, *arguments(corpus, cache, run_dir, "--run.log_steps=1", "--run.stop_after_steps=1"))
    assert done.returncode == 0, done.stderr
    bits = float(curve(run_dir)[1][3])
    # 8 lanes x 32 tokens of a vocabulary of 257.
    assert bits / 256 == pytest.approx(8.00562454919388, rel=1e-6)


@pytest.mark.parametrize("more", [[], ["--train.optimizer=adamw", "--engine.gradient_clipping=0.05"]])
def test_two_ranks_give_the_bits_of_one_with_twice_the_accumulation(
    undisturbed: Path, corpus: Path, cache: Path, tmp_path: Path, more: list[str]
) -> None:
    """Clipping looks at the size of the gradient, which both optimisers otherwise divide out."""
    alone, together = tmp_path / "1x2", tmp_path / "2x1"
    one = run(TRAIN, *arguments(corpus, cache, alone, "--train.accumulation=2", *more))
    two = run(TRAIN, *arguments(corpus, cache, together, *more), ranks=2, launcher=True)
    assert one.returncode == 0, one.stderr
    assert two.returncode == 0, two.stderr
    a, b = report(alone), report(together)
    assert b["cost"]["world_size"] == 2
    assert a["coded"] == b["coded"] == report(undisturbed)["coded"]
    bits = [x["description_length"]["data_bits"] for x in (a, b, report(undisturbed))]
    assert bits[0] == pytest.approx(bits[1], rel=1e-4)
    assert (bits[0] == pytest.approx(bits[2], rel=1e-4)) == (not more)


def test_killed_and_resumed_run_ends_with_the_same_bits(
    undisturbed: Path, corpus: Path, cache: Path, device: torch.device
) -> None:
    run_dir = undisturbed.with_name(f"killed-{device}")
    process = start(TRAIN, *arguments(corpus, cache, run_dir, "--run.checkpoint_secs=0.01"))
    wait_until(lambda: len(list(run_dir.glob("checkpoints/step-*"))) >= 2, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (run_dir / "report.json").exists()
    resumed = run(TRAIN, f"--run.dir={run_dir}", "--run.resume")
    assert resumed.returncode == 0, resumed.stderr
    assert curve(run_dir) == curve(undisturbed)
    assert report(run_dir)["description_length"] == report(undisturbed)["description_length"]


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_zero_stages_agree_and_resume(
    undisturbed: Path, corpus: Path, cache: Path, stage: int, device: torch.device, ranks: int
) -> None:
    more = [f"--engine.zero_stage={stage}", "--run.baselines=false"]
    run_dir, plain = undisturbed.with_name(f"zero-{stage}-{device}"), undisturbed
    stopped = run(TRAIN, *arguments(corpus, cache, run_dir, *more, "--run.stop_after_steps=30"), ranks=ranks)
    assert stopped.returncode == 0, stopped.stderr
    assert "--run.resume" in stopped.stderr
    if (stage, ranks) == (1, 2):
        alone = run(TRAIN, f"--run.dir={run_dir}", "--run.resume", "--run.stop_after_steps=0")
        assert alone.returncode == 2, alone.stderr
        assert "resume with as many ranks as saved it" in alone.stderr
    done = run(TRAIN, f"--run.dir={run_dir}", "--run.resume", "--run.stop_after_steps=0", ranks=ranks)
    assert done.returncode == 0, done.stderr
    found = [report(path)["code"]["modules"] for path in (plain, run_dir)]
    assert ["train/zero_muon.py" in modules for modules in found] == [False, True]
    bits = [report(path)["description_length"]["data_bits"] for path in (plain, run_dir)]
    assert "contiguous chunk" not in done.stderr
    # Messages between ranks are no arithmetic that nobody knows.
    assert report(run_dir)["cost"]["mfu"] > 0
    # On CUDA in bf16.
    assert bits[0] == pytest.approx(bits[1], rel=1e-4 if device.type == "cpu" else 0.01)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_the_number_of_ranks_may_change_on_the_way(undisturbed: Path, corpus: Path, cache: Path, stage: int) -> None:
    run_dir, plain = undisturbed.with_name(f"regrouped-{stage}"), undisturbed
    more = ["--run.baselines=false", "--run.stop_after_steps=30"]
    if stage:
        plain = undisturbed.with_name("zero-0")
        if not plain.exists():
            assert run(TRAIN, *arguments(corpus, cache, plain, "--train.optimizer=adamw")).returncode == 0
        more += [f"--engine.zero_stage={stage}", "--train.optimizer=adamw"]
    first = run(TRAIN, *arguments(corpus, cache, run_dir, *more), ranks=2)
    assert first.returncode == 0, first.stderr
    again = [f"--run.dir={run_dir}", "--run.resume"]
    second = run(TRAIN, *again, "--run.stop_after_steps=50")
    assert second.returncode == 0, second.stderr
    third = run(TRAIN, *again, "--run.stop_after_steps=0", ranks=2)
    assert third.returncode == 0, third.stderr
    assert report(run_dir)["coded"] == {"tokens": 20_012, "bytes": 20_011}
    assert len(curve(run_dir)) == len(curve(plain))
    for ours, theirs in zip(curve(run_dir)[1:], curve(plain)[1:], strict=True):
        assert ours[:3] == theirs[:3]
        assert float(ours[3]) == pytest.approx(float(theirs[3]), rel=1e-5)
    assert not list(run_dir.glob("checkpoints/*universal*"))


# Of 2,502 tokens a lane; step 30 is in the first third of either plan, and in the second stage of the schedule.
@pytest.mark.parametrize("segment_tokens", ["32", "8@0,16@0.05,64@0.5"])
def test_replay_survives_a_stop_and_another_number_of_ranks(
    segment_tokens: str, corpus: Path, cache: Path, tmp_path: Path
) -> None:
    plain, broken = tmp_path / "plain", tmp_path / "broken"
    more = ["--train.replay=1", "--run.baselines=false", f"--train.segment_tokens={segment_tokens}"]
    assert run(TRAIN, *arguments(corpus, cache, plain, *more)).returncode == 0
    assert run(TRAIN, *arguments(corpus, cache, broken, *more, "--run.stop_after_steps=30"), ranks=2).returncode == 0
    done = run(TRAIN, f"--run.dir={broken}", "--run.resume", "--run.stop_after_steps=0")
    assert done.returncode == 0, done.stderr
    bits = [[float(row[3]) for row in curve(run_dir)[1:]] for run_dir in (plain, broken)]
    assert bits[0] == pytest.approx(bits[1], rel=1e-5)
    assert "train/replay.py" in report(plain)["code"]["modules"]


def test_every_block_learns_the_same_in_shards(corpus: Path, cache: Path, tmp_path: Path) -> None:
    pattern = " ".join(sorted(BLOCKS))
    small = [f"--model.block={pattern}", f"--model.depth={len(BLOCKS)}"]
    small += ["--run.baselines=false", "--run.stop_after_steps=12", "--run.log_steps=12"]
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


@pytest.fixture(scope="module")
def on_cpu(request: pytest.FixtureRequest, corpus: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of a run on the CPU, in fp32."""
    if not torch.cuda.is_available():
        return request.getfixturevalue("undisturbed")
    run_dir = tmp_path_factory.mktemp("runs") / "cpu"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        done = run(TRAIN, *arguments(corpus, cache, run_dir, "--run.baselines=false"))
    assert done.returncode == 0, done.stderr
    return run_dir


@pytest.mark.parametrize("precision, tolerance", [("fp32", 2e-3), ("bf16", 0.02)])
def test_a_run_learns_as_in_fp32_on_a_cpu(
    on_cpu: Path, corpus: Path, cache: Path, tmp_path: Path, device: torch.device, precision: str, tolerance: float
) -> None:
    more = [f"--engine.precision={precision}", "--run.baselines=false"]
    done = run(TRAIN, *arguments(corpus, cache, tmp_path / "run", *more))
    assert done.returncode == 0, done.stderr
    bits = [report(path)["description_length"]["data_bits"] for path in (on_cpu, tmp_path / "run")]
    assert (bits[0] == bits[1]) == (device.type == "cpu" and precision == "fp32")
    assert bits[0] == pytest.approx(bits[1], rel=tolerance)
    cost = report(tmp_path / "run")["cost"]
    assert cost["peak_dtype"] == {"fp32": "float32", "bf16": "bfloat16"}[precision]
    assert 0 < cost["mfu_6n"] < cost["mfu"] < 1


def test_two_ranks_that_share_a_device_learn_as_one_on_a_cpu(
    on_cpu: Path, corpus: Path, cache: Path, tmp_path: Path, device: torch.device, ranks: int
) -> None:
    more = ["--engine.precision=fp32", "--run.baselines=false"]
    done = run(TRAIN, *arguments(corpus, cache, tmp_path / "run", *more), ranks=ranks)
    assert done.returncode == 0, done.stderr
    bits = [report(path)["description_length"]["data_bits"] for path in (on_cpu, tmp_path / "run")]
    assert bits[0] == pytest.approx(bits[1], rel=1e-4 if device.type == "cpu" else 2e-3)
    shared = ranks > torch.cuda.device_count() or device.type == "cpu"
    assert report(tmp_path / "run")["config"]["engine"]["backend"] == ("gloo" if shared else "nccl")


def test_recorded_steps_learn_what_steps_learn(corpus: Path, cache: Path, tmp_path: Path, device: torch.device) -> None:
    """On a CPU, where nothing can be recorded, one is refused, and the default takes the other."""
    model, found = ["--model.block=gru", "--run.baselines=false"], []
    for graphs in ("auto", "off"):
        done = run(TRAIN, *arguments(corpus, cache, tmp_path / graphs, *model, f"--engine.graphs={graphs}"))
        assert done.returncode == 0, done.stderr
        found.append(report(tmp_path / graphs))
    expected = "off" if device.type == "cpu" else "on"
    assert [one["config"]["engine"]["graphs"] for one in found] == [expected, "off"]
    bits = [one["description_length"]["data_bits"] for one in found]
    assert bits[0] == pytest.approx(bits[1], rel=0 if device.type == "cpu" else 5e-3)
    done = run(TRAIN, *arguments(corpus, cache, tmp_path / "on", *model, "--engine.graphs=on"))
    assert done.returncode == (2 if device.type == "cpu" else 0), done.stderr
    assert ("engine.graphs is on, but there is no CUDA device: take auto or off" in done.stderr) == (expected == "off")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_checkpoints_and_says_how_to_go_on(
    undisturbed: Path, corpus: Path, cache: Path, number: signal.Signals
) -> None:
    run_dir = undisturbed.with_name(number.name)
    process = start(TRAIN, *arguments(corpus, cache, run_dir))
    path = run_dir / "curve.csv"
    wait_until(lambda: path.exists() and len(path.read_text().splitlines()) >= 3, process)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    assert f"--run.dir {run_dir} --run.resume" in err
    resumed = run(TRAIN, f"--run.dir={run_dir}", "--run.resume")
    assert resumed.returncode == 0, resumed.stderr
    assert report(run_dir)["description_length"] == report(undisturbed)["description_length"]


@pytest.mark.parametrize(
    ("checkpoint_secs", "said"),
    [(0.01, "the parameters stopped being finite numbers at step"), (0, "the loss stopped being a number in the")],
)
def test_numbers_that_are_none_stop_the_run(
    undisturbed: Path, corpus: Path, cache: Path, checkpoint_secs: float, said: str
) -> None:
    """Before they are saved, or, where nothing is, as soon as they are a loss. What was saved before holds numbers."""
    run_dir = undisturbed.with_name(f"nan-{checkpoint_secs}")
    wild = ["--train.matrix_lr=1e30", "--train.table_lr=1e30", "--model.logit_cap=0", "--run.log_steps=1"]
    done = run(TRAIN, *arguments(corpus, cache, run_dir, *wild, f"--run.checkpoint_secs={checkpoint_secs}"))
    assert done.returncode == 1, done.stderr
    assert said in done.stderr
    assert "A resumed run keeps its rates and would end here again: start a new one" in done.stderr
    checkpoints = run_dir / "checkpoints"
    if (checkpoints / POINTER).exists():
        assert f"The last good checkpoint is {checkpoints}/step-" in done.stderr
        assert all(tensor.isfinite().all() for tensor in checkpoint_tensors(checkpoints).values())
    else:
        assert "No checkpoint had been saved yet." in done.stderr
    assert not (run_dir / "report.json").exists()


def test_a_disk_that_fills_up_leaves_the_last_good_checkpoint(corpus: Path, cache: Path, tmp_path: Path) -> None:
    """A limit on file size stands for the full disk: the checkpoint, with larger n-gram tables, does not fit."""
    fits = ["--run.checkpoint_secs=0.01", "--run.stop_after_steps=10"]
    assert run(TRAIN, *arguments(corpus, cache, tmp_path / "run", *fits)).returncode == 0
    limited = [
        "bash",
        "-c",
        'ulimit -f 200; exec "$@"',
        "-",
        *command(TRAIN, f"--run.dir={tmp_path / 'run'}", "--run.resume"),
    ]
    done = subprocess.run(limited, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stderr
    assert "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
    folder = tmp_path / "run" / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["latest.json", "step-000000005", "step-000000010"]
    assert run(TRAIN, f"--run.dir={tmp_path / 'run'}", "--run.resume").returncode == 0


BAD = [
    (["--data.source=/nowhere/at/all"], "/nowhere/at/all"),
    (["--data.tokenizer=bpe", "--data.vocabulary=200"], "data.vocabulary is 200"),
    (["--train.lanes=0"], "train.lanes is 0"),
    (["--train.lanes=6", "--train.accumulation=4"], "train.lanes 6"),
    (["--model.head_width=12"], "model.head_width 12"),
    (["--model.block=mamba9"], "mamba9"),
    (["--model.widht=12"], "widht"),
]


@pytest.mark.parametrize(("extra", "named"), BAD, ids=lambda value: str(value))
def test_bad_input_is_one_line_status_2_and_no_run_directory(
    corpus: Path, cache: Path, tmp_path: Path, extra: list[str], named: str
) -> None:
    run_dir = tmp_path / "run"
    done = run(TRAIN, *arguments(corpus, cache, run_dir, *extra))
    assert done.returncode == 2, done.stderr
    complaints = [line for line in done.stderr.splitlines() if line.startswith("onepass: ")]
    assert len(complaints) == 1
    assert named in complaints[0]
    assert "Traceback" not in done.stderr
    assert not run_dir.exists()


def test_bad_input_gives_status_2_through_the_launcher_too(corpus: Path, cache: Path, tmp_path: Path) -> None:
    done = run(TRAIN, *arguments(corpus, cache, tmp_path / "run", "--data.source=/nowhere"), ranks=2, launcher=True)
    assert done.returncode == 2, done.stderr
    assert sum(line.startswith("onepass: ") for line in done.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_another_runs_directory_is_refused(undisturbed: Path, corpus: Path, cache: Path) -> None:
    before = (undisturbed / "report.json").read_bytes()
    done = run(TRAIN, *arguments(corpus, cache, undisturbed))
    assert done.returncode == 2
    assert "not empty" in done.stderr
    assert (undisturbed / "report.json").read_bytes() == before


def test_a_directory_that_is_in_use_is_refused(undisturbed: Path) -> None:
    with FileLock(undisturbed / ".lock"):
        done = run(TRAIN, f"--run.dir={undisturbed}", "--run.resume")
    assert done.returncode == 2, done.stderr
    assert f"{undisturbed} is in use by another process" in done.stderr


def test_resuming_with_another_configuration_is_refused(undisturbed: Path) -> None:
    done = run(TRAIN, f"--run.dir={undisturbed}", "--run.resume", "--model.width=48")
    assert done.returncode == 2
    assert "model.width was 32" in done.stderr
    assert "48" in done.stderr


def test_resuming_with_other_code_is_refused(undisturbed: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(undisturbed, run_dir)
    config, sources = unpack((run_dir / "code.lzma").read_bytes())
    sources["train/optim.py"] += "\nMORE = 1\n"
    (run_dir / "code.lzma").write_bytes(pack(canonical_text(config, sources)))
    done = run(TRAIN, f"--run.dir={run_dir}", "--run.resume")
    assert done.returncode == 2, done.stderr
    identities = [code_identity((path / "code.lzma").read_bytes())[:16] for path in (run_dir, undisturbed)]
    assert f"begun by code {identities[0]} and here is {identities[1]}, which differs in train/optim.py" in done.stderr


def test_a_run_that_died_before_it_began_can_be_started_again(corpus: Path, cache: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / ".lock").touch()
    (run_dir / "code.lzma").write_bytes(b"half of it")
    done = run(TRAIN, *arguments(corpus, cache, run_dir, "--run.stop_after_steps=1", "--run.log_steps=1"))
    assert done.returncode == 0, done.stderr


def test_three_ranks_code_a_corpus_that_most_of_them_see_nothing_of(cache: Path, tmp_path: Path) -> None:
    """Two documents of one byte each, four tokens, on three ranks of five lanes."""
    (tmp_path / "documents").mkdir()
    for name in ("a", "b"):
        (tmp_path / "documents" / name).write_bytes(name.encode())
    run_dir = tmp_path / "run"
    given = arguments(tmp_path / "documents", cache, run_dir, "--train.lanes=15", "--run.baselines=false")
    done = run(TRAIN, *given, ranks=3)
    assert done.returncode == 0, done.stderr
    assert report(run_dir)["coded"] == {"tokens": 4, "bytes": 2}
    # One step, from an untrained model.
    assert report(run_dir)["description_length"]["data_bits"] == pytest.approx(4 * 8.00562454919388, rel=1e-6)


def test_three_ranks_go_on_exactly_to_a_last_segment_of_one_token(corpus: Path, cache: Path, tmp_path: Path) -> None:
    """Lanes of 65 tokens, but for the last of 62, in segments of 32: one token in the third step, for most."""
    source = tmp_path / "source.txt"
    source.write_bytes(corpus.read_bytes()[: 5 * 65 + 62 - 1])
    given = [
        *arguments(source, cache, tmp_path / "whole", "--train.lanes=6", "--run.log_steps=1", "--run.baselines=false")
    ]
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


def test_two_runs_of_two_ranks_start_side_by_side(corpus: Path, cache: Path, tmp_path: Path) -> None:
    """As users start them: the launcher gives both the same port."""
    launcher = [sys.executable, "-m", "deepspeed.launcher.runner", "--num_accelerators=2", TRAIN]
    few = ["--run.stop_after_steps=12", "--run.baselines=false"]
    processes = [
        subprocess.Popen(
            [*launcher, *arguments(corpus, cache, tmp_path / name, *few)], cwd=ROOT, stderr=subprocess.PIPE, text=True
        )
        for name in ("one", "two")
    ]
    for process in processes:
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
    assert curve(tmp_path / "one") == curve(tmp_path / "two")


def test_deepspeed_keys_that_are_ours_are_refused(corpus: Path, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "ds.json").write_text('{"optimizer": {"type": "Adam"}}')
    more = f"--engine.deepspeed_config={tmp_path / 'ds.json'}"
    done = run(TRAIN, *arguments(corpus, cache, tmp_path / "run", more))
    assert done.returncode == 2
    assert "'optimizer'" in done.stderr
