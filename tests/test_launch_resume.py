"""What a run began with, and what it may go on with; what a launcher and a DeepSpeed file may say."""

import json
import lzma
import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from dist import ROOT, run

from data.errors import RunFailed
from data.tokenizer import Tokenizer
from eval.begun import refuse_other_settings
from eval.code_size import canonical_text, decoder_values
from train.command_line import CONFIG_FILE, MAY_CHANGE
from train.config import Config, DataConfig, EngineConfig, ModelConfig, TrainConfig, flatten
from train.launched import read_rank
from train.meta import refuse_giant
from train.options import OPTIONS
from train.run import explain_deepspeed, explain_memory
from train.run_dir import CODE_FILE

TRAIN = "launch/train.py"
SMALL = [
    "--model.width=32", "--model.head_width=16", "--model.window=16", "--model.ngram_orders=[]", "--train.lanes=8",
    "--engine.threads=1", "--data.tokenizer=bytes", "--run.log_steps=1", "--run.baselines=false",
]  # fmt: skip
BYTES = Tokenizer("bytes", b"", [b""] * 257)
PIECES = Tokenizer("bpe", b"x", [b""] * 300)
FILE = Tokenizer("file", b"x", [b""] * 300)
EXTRA = {"wall_clock_breakdown": True, "zero_optimization": {"reduce_bucket_size": 1000}}


def begin(run_dir: Path, config: Config, tokenizer: Tokenizer = PIECES, extra: dict[str, Any] = EXTRA) -> None:
    """Leave what a run leaves that begins so."""
    text = canonical_text(decoder_values(config, tokenizer, extra), {})
    (run_dir / CODE_FILE).write_bytes(lzma.compress(text.encode(), lzma.FORMAT_ALONE))


def other(name: str, value: Any) -> Any:
    """Another value of the same kind."""
    if isinstance(value, list):
        return [*value, [7] if name == "model.ngram_lags" else 7]
    if isinstance(value, bool):
        return not value
    if name == "train.segment_tokens":
        return f"{value}@0,{value}@0.5"
    if "enum" in OPTIONS[name]:
        return next(choice for choice in OPTIONS[name]["enum"] if choice != value)
    return value + ("x" if isinstance(value, str) else 1)


decoder_fields = [name for name in OPTIONS if name.split(".")[0] in ("model", "train", "engine")]


@pytest.mark.parametrize("name", [*decoder_fields, "data.tokenizer"])
def test_whatever_a_decoder_is_told_must_be_what_the_run_began_with(name: str, tmp_path: Path) -> None:
    begin(tmp_path, Config())
    config = Config()
    section, field = name.split(".")
    was = getattr(getattr(config, section), field)
    setattr(getattr(config, section), field, other(name, was))
    # The tokenizer that is used says what kind it is.
    now = decoder_values(config, FILE if name == "data.tokenizer" else PIECES, EXTRA)
    if name in MAY_CHANGE or name == "engine.deepspeed_config":
        # Its content counts, wherever it is read from.
        refuse_other_settings(tmp_path, config, now)
        return
    with pytest.raises(ValueError, match=rf"{name} was .* when the run began and is .* now") as caught:
        refuse_other_settings(tmp_path, config, now)
    # A network that is not given is left out of what a decoder needs.
    assert (json.dumps(was) if was != "" else "was not set") in str(caught.value)
    assert f"{tmp_path / CONFIG_FILE} or an option: put it back, or start a new run" in str(caught.value)


def test_what_nothing_was_changed_of_goes_on(tmp_path: Path) -> None:
    config = Config(model=ModelConfig(ngram_lags=[[3], [1, 2]]), train=TrainConfig(matrix_lr=1e-5))
    begin(tmp_path, config)
    refuse_other_settings(tmp_path, config, decoder_values(config, None, EXTRA))
    refuse_other_settings(tmp_path, config, decoder_values(config, PIECES, EXTRA))
    # A corpus that gives no piece has the tokenizer of bytes, which is known when it is prepared.
    begin(tmp_path, config, BYTES)
    refuse_other_settings(tmp_path, config, decoder_values(config, None, EXTRA))
    refuse_other_settings(tmp_path, config, decoder_values(config, BYTES, EXTRA))
    with pytest.raises(ValueError, match=r'data\.tokenizer was "bytes" when the run began and is "bpe" now'):
        refuse_other_settings(tmp_path, config, decoder_values(config, PIECES, EXTRA))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({}, "engine.deepspeed_config.wall_clock_breakdown was true when the run began and is not set now"),
        (EXTRA | {"prescale_gradients": True}, "prescale_gradients was not set when the run began and is true now"),
        (EXTRA | {"zero_optimization": {"reduce_bucket_size": 1}}, "zero_optimization.reduce_bucket_size was 1000"),
    ],
)
def test_deepspeed_keys_must_be_those_that_the_run_began_with(
    extra: dict[str, Any], message: str, tmp_path: Path
) -> None:
    config = Config(engine=EngineConfig(deepspeed_config="ds.json"))
    begin(tmp_path, config)
    with pytest.raises(ValueError, match=message) as caught:
        refuse_other_settings(tmp_path, config, decoder_values(config, PIECES, extra))
    assert "now, by ds.json or an option" in str(caught.value)
    assert flatten({"a": {"b": 1, "c": {"d": []}}}) == {"a.b": 1, "a.c.d": []}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a corpus, and a run over it that stopped after five steps."""
    folder = tmp_path_factory.mktemp("stopped")
    (folder / "corpus").write_bytes((ROOT / "LICENSE").read_bytes())
    given = [f"--data.source={folder / 'corpus'}", f"--data.cache_dir={folder / 'cache'}", *SMALL]
    done = run(TRAIN, *given, f"--run.dir={folder / 'run'}", "--run.stop_after_steps=5")
    assert done.returncode == 0, done.stderr
    return folder


def test_an_edited_configuration_is_refused_and_the_run_stays_as_it_was(stopped: Path) -> None:
    path = stopped / "run" / CONFIG_FILE
    before = path.read_text()
    path.write_text(before.replace("matrix_lr: 0.02", "matrix_lr: 0.005"))
    files = {file: file.read_bytes() for file in (stopped / "run").rglob("*") if file.is_file()}
    done = run(TRAIN, f"--run.dir={stopped / 'run'}", "--run.resume")
    assert done.returncode == 2, done.stderr
    assert "train.matrix_lr was 0.02 when the run began and is 0.005 now" in done.stderr
    assert "Traceback" not in done.stderr
    assert files == {file: file.read_bytes() for file in (stopped / "run").rglob("*") if file.is_file()}
    path.write_text(before)


def test_parameters_that_are_no_numbers_are_no_checkpoint(stopped: Path, tmp_path: Path) -> None:
    """The loss of the first step is finite, the parameters after it are not."""
    given = [f"--data.source={stopped / 'corpus'}", f"--data.cache_dir={stopped / 'cache'}", *SMALL]
    given += [
        "--train.optimizer=adamw",
        "--train.matrix_lr=1e39",
        "--train.table_lr=1e39",
        "--run.checkpoint_secs=1e-3",
    ]
    done = run(TRAIN, *given, f"--run.dir={tmp_path / 'run'}")
    assert done.returncode == 1, done.stderr
    assert "parameters stopped being finite numbers at step 1. No checkpoint had been saved yet." in done.stderr
    assert "start a new one with lower --train.matrix_lr" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("run/checkpoints/step-*"))


# Each section in an engine of its own, in one process; then offloading, whose nats must be the same.
DEEPSPEED = """
import json, sys
import torch
from data.lanes import Lanes
from train.config import Config, EngineConfig, ModelConfig, TrainConfig
from train.engine import connect
from train.loop import Learner
from train.run import explain_deepspeed

place = connect(1, 600)

def nats(stage, extra, optimizer="muon"):
    torch.manual_seed(0)
    config = Config(
        model=ModelConfig(width=32, head_width=16, window=16, ngram_orders=[]),
        train=TrainConfig(lanes=4, segment_tokens=8, optimizer=optimizer), engine=EngineConfig(zero_stage=stage),
    )
    learner = Learner(config, 257, 256, place, extra)
    plan = Lanes(128, 4, 8)
    return [learner.learn(torch.randint(257, (4, 8)), plan, step).double().sum().item() for step in range(4)]

said, offloaded = {}, {}
for extra in json.loads(sys.argv[1]):
    try:
        with explain_deepspeed("ds.json", extra):
            nats(0, extra)
    except ValueError as error:
        said[next(iter(extra))] = str(error)
offload = {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}
for optimizer in ("muon", "adamw"):
    for stage in (0, 1, 2, 3):
        offloaded[f"{optimizer} {stage}"] = nats(stage, {}, optimizer) == nats(stage, offload, optimizer)
print("RESULT", json.dumps([said, offloaded]))
"""
REFUSED = {
    "amp": ({"enabled": True}, "Apex AMP integration has been removed"),
    "elasticity": ({"enabled": True}, "Elastic training has been removed"),
    "progressive_layer_drop": ({"enabled": True}, "Progressive Layer Dropping has been removed"),
    "data_types": ({"grad_accum_dtype": "bf16"}, "unsupported mix of model_dtype"),
    "zero_optimization": ({"reduce_bucket_sise": 5}, "reduce_bucket_sise Extra inputs are not permitted"),
}


def test_what_deepspeed_refuses_is_said_in_its_words_and_offloading_gives_the_same_bits() -> None:
    extras = [{name: value} for name, (value, _) in REFUSED.items()]
    program = [sys.executable, "-c", DEEPSPEED, json.dumps(extras)]
    alone = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    done = subprocess.run(program, cwd=ROOT, env=alone, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    said, offloaded = json.loads(re.findall("^RESULT (.*)$", done.stdout, re.MULTILINE)[0])
    assert len(offloaded) == 8 and all(offloaded.values()), offloaded
    for name, (_, reason) in REFUSED.items():
        assert reason in said[name]
        assert said[name].startswith("engine.deepspeed_config ds.json: DeepSpeed refuses it (")
        assert "\n" not in said[name]


def test_a_deepspeed_file_that_is_refused_is_one_line_and_status_2(stopped: Path, tmp_path: Path) -> None:
    (tmp_path / "ds.json").write_text('{"progressive_layer_drop": {"enabled": true}}')
    given = [f"--data.source={stopped / 'corpus'}", f"--data.cache_dir={stopped / 'cache'}", *SMALL]
    done = run(TRAIN, *given, f"--run.dir={tmp_path / 'run'}", f"--engine.deepspeed_config={tmp_path / 'ds.json'}")
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("onepass: ")]
    assert "ds.json: DeepSpeed refuses it (Progressive Layer Dropping has been removed" in line
    assert "Traceback" not in done.stderr


def test_an_error_without_a_users_keys_is_a_bug() -> None:
    with pytest.raises(TypeError), explain_deepspeed("", {}):
        raise TypeError("no fault of theirs")
    with pytest.raises(ValueError, match=r"refuses it \(TypeError\)"), explain_deepspeed("ds.json", {"a": 1}):
        raise TypeError
    with pytest.raises(ConnectionError), explain_deepspeed("ds.json", {"a": 1}):
        raise ConnectionError("a rank was lost")


@pytest.mark.parametrize(
    "error",
    [MemoryError(), torch.OutOfMemoryError("CUDA out of memory.\nmore"), RuntimeError("can't allocate memory: 9")],
)
def test_too_little_memory_is_a_failed_run(error: Exception) -> None:
    with pytest.raises(RunFailed, match=r"out of memory .*--train\.accumulation") as caught, explain_memory():
        raise error
    assert "\n" not in str(caught.value)
    with pytest.raises(RuntimeError), explain_memory():
        raise RuntimeError("another")


def test_what_surely_exceeds_memory_is_refused_before_any_work() -> None:
    for model, train in [
        (ModelConfig(), replace(TrainConfig(), lanes=1 << 20, segment_tokens=1 << 20)),
        (replace(ModelConfig(), depth=64, width=1 << 17), TrainConfig()),
    ]:
        with pytest.raises(ValueError, match=r"take [\d,]+ bytes, and this machine has"):
            refuse_giant(model, train, 2048, 1)
    refuse_giant(ModelConfig(), TrainConfig(), DataConfig.vocabulary, 1)


MEET = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"RANK": ""}, "RANK is '' in the environment, which is not a number"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two' in the environment"),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, "RANK is '-1'"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is 2 in the environment and RANK is missing"),
        ({"RANK": "1"}, "RANK is 1 in the environment and WORLD_SIZE is missing"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "RANK is 0 in the environment and MASTER_ADDR is missing"),
        ({"RANK": "2", "WORLD_SIZE": "2", **MEET}, "RANK is 2 and WORLD_SIZE is 2"),
        ({"WORLD_SIZE": "0", "RANK": "0", **MEET}, "WORLD_SIZE is 0"),
        ({}, 0),
        ({"WORLD_SIZE": "1"}, 0),
        ({"RANK": "0", "WORLD_SIZE": "1"}, 0),
        ({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0", **MEET}, 1),
    ],
    ids=str,
)
def test_half_of_what_a_launcher_says_is_refused(
    said: dict[str, str], message: str | int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", *MEET):
        monkeypatch.delenv(name, raising=False)
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    if isinstance(message, int):
        assert read_rank() == message
        return
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        read_rank()
    assert "unset RANK" in str(caught.value)


def test_no_mlp_trains_codes_and_counts(stopped: Path, tmp_path: Path) -> None:
    given = [f"--data.source={stopped / 'corpus'}", f"--data.cache_dir={stopped / 'cache'}", *SMALL]
    done = run(TRAIN, *given, f"--run.dir={tmp_path / 'run'}", "--model.expansion=0", "--model.block=mamba")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "run/report.json").read_text())
    assert found["coded"]["bytes"] == (ROOT / "LICENSE").stat().st_size
    assert found["cost"]["model_flops"] > 0
    assert found["description_length"]["data_bits"] < 8 * found["coded"]["bytes"] / math.sqrt(2)
