"""The trainer as its users start it: real processes, real exit statuses, real run directories."""

import math
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
import yaml
from dist import ROOT, run, start, wait_until
from filelock import FileLock
from small_run import TRAIN, arguments, curve, report

from data.tokenizer import load_tokenizer
from eval.code_size import canonical_text, code_identity, pack, unpack
from train.checkpoint import POINTER, checkpoint_tensors
from train.nats import NATS_FILE


def test_a_run_codes_everything_and_leaves_all_its_files(undisturbed: Path, corpus: Path) -> None:
    found = report(undisturbed)
    assert found["coded"] == {"tokens": 5_004, "bytes": 5_003}
    assert found["corpus"]["bytes"] == corpus.stat().st_size
    length = found["description_length"]
    terms = [length[f"{name}_bits"] for name in ("data", "code", "tokenizer", "side")]
    assert length["total_bits"] == pytest.approx(sum(terms), rel=1e-12)
    # 2,600 bytes of English, which come twice: the first time at 3 bits a byte or more, the second at hardly any.
    assert 3 * 2_600 < length["data_bits"] < 2.5 * 5_003
    last = curve(undisturbed)[-1]
    assert (last[1], last[2]) == ("5003", "5004")
    assert float(last[3]) == length["data_bits"]
    for name in ("config.yaml", "report.md", "report.html", "environment.json", "checkpoints"):
        assert (undisturbed / name).exists(), name
    # What is known by counting stands beside it, and this much has been learned.
    known = found["references"]
    assert known["untrained"] == pytest.approx(5_004 * math.log2(257) / 8)
    assert (known["oracle"], known["uniform"]) == (0, 5_003)
    assert length["data_bits"] / 8 < known["order-0"] < known["uniform"]
    assert {"train/loop.py", "model/blocks/attention.py", "data/tokenizer.py"} <= set(found["code"]["modules"])
    assert not {"train/metrics.py", "data/prepare.py", "eval/report.py"} & set(found["code"]["modules"])


def test_each_term_is_the_length_of_what_stands_for_it(corpus: Path, cache: Path, tmp_path: Path) -> None:
    """A whole run over pieces: tokenizer and decoder come back from the bytes that are charged for them."""
    run_dir = tmp_path / "pieces"
    pieces = ["--data.tokenizer=bpe", "--data.vocabulary=400"]
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
    run_dir = undisturbed.with_name("counted-once")
    first = ["--model.ngram_chunk=0", "--run.log_steps=1", "--run.stop_after_steps=1"]
    assert run(TRAIN, *arguments(corpus, cache, run_dir, *first)).returncode == 0
    bits = float(curve(run_dir)[1][3])
    # 8 lanes x 32 tokens of a vocabulary of 257.
    assert bits / 256 == pytest.approx(8.00562454919388, rel=1e-6)
    # By default, counts take in the segment as it is coded: from the second chunk on, they know something.
    assert 2 < float(curve(undisturbed)[1][3]) / 256 < 8


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
    assert (run_dir / NATS_FILE).read_bytes() == (undisturbed / NATS_FILE).read_bytes()


@pytest.fixture(scope="module")
def on_cpu(request: pytest.FixtureRequest, corpus: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of a run on the CPU, in fp32."""
    if not torch.cuda.is_available():
        return request.getfixturevalue("undisturbed")
    run_dir = tmp_path_factory.mktemp("runs") / "cpu"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        done = run(TRAIN, *arguments(corpus, cache, run_dir))
    assert done.returncode == 0, done.stderr
    return run_dir


@pytest.mark.parametrize("precision, tolerance", [("fp32", 2e-3), ("bf16", 0.02)])
def test_a_run_learns_as_in_fp32_on_a_cpu(
    on_cpu: Path, corpus: Path, cache: Path, tmp_path: Path, device: torch.device, precision: str, tolerance: float
) -> None:
    more = [f"--engine.precision={precision}"]
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
    more = ["--engine.precision=fp32"]
    done = run(TRAIN, *arguments(corpus, cache, tmp_path / "run", *more), ranks=ranks)
    assert done.returncode == 0, done.stderr
    bits = [report(path)["description_length"]["data_bits"] for path in (on_cpu, tmp_path / "run")]
    assert bits[0] == pytest.approx(bits[1], rel=1e-4 if device.type == "cpu" else 2e-3)
    shared = ranks > torch.cuda.device_count() or device.type == "cpu"
    assert report(tmp_path / "run")["config"]["engine"]["backend"] == ("gloo" if shared else "nccl")


def test_recorded_steps_learn_what_steps_learn(corpus: Path, cache: Path, tmp_path: Path, device: torch.device) -> None:
    """On a CPU, where nothing can be recorded, one is refused, and the default takes the other."""
    model, found = ["--model.block=gru"], []
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
    # Checkpoints slow it down, so that the signal finds it at work.
    process = start(TRAIN, *arguments(corpus, cache, run_dir, "--run.checkpoint_secs=0.01"))
    path = run_dir / "curve.csv"
    wait_until(lambda: path.exists() and len(path.read_text().splitlines()) >= 3, process)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    assert f"--run.dir {run_dir} --run.resume" in err
    if number == signal.SIGTERM:
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
    wild = ["--train.matrix_lr=1e38", "--train.table_lr=1e38", "--model.logit_cap=0", "--run.log_steps=1"]
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
    program = "import resource, runpy\nresource.setrlimit(resource.RLIMIT_FSIZE, (200 << 10,) * 2)\n"
    (tmp_path / "limited.py").write_text(f"{program}runpy.run_path({str(ROOT / TRAIN)!r}, run_name='__main__')\n")
    done = run(str(tmp_path / "limited.py"), f"--run.dir={tmp_path / 'run'}", "--run.resume")
    assert done.returncode == 1, done.stderr
    assert "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
    folder = tmp_path / "run" / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["latest.json", "step-000000009", "step-000000010"]
    assert run(TRAIN, f"--run.dir={tmp_path / 'run'}", "--run.resume", "--run.stop_after_steps=1").returncode == 0


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


def test_deepspeed_keys_that_are_ours_are_refused(corpus: Path, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "ds.json").write_text('{"optimizer": {"type": "Adam"}}')
    more = f"--engine.deepspeed_config={tmp_path / 'ds.json'}"
    done = run(TRAIN, *arguments(corpus, cache, tmp_path / "run", more))
    assert done.returncode == 2
    assert "'optimizer'" in done.stderr
