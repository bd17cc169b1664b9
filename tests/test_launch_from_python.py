"""launch.train.train as a program of somebody else calls it."""

import json
from pathlib import Path

import pytest
from dist import ROOT, run

import launch.train
from data.errors import UsageError
from train.config import Config, ModelConfig

TWICE = """
import json, sys
from pathlib import Path
from data.errors import Stopped, UsageError
from eval.schema import load_report
from launch.train import train
from train.command_line import parse_config

folder = Path(sys.argv[-1])
small = [f"--data.cache_dir={folder / 'cache'}", "--data.tokenizer=bytes", "--model.block=attention",
         "--model.width=16", "--model.head_width=8", "--model.depth=1", "--model.ngram_orders=[]", "--train.lanes=8",
         "--run.baselines=false", "--engine.threads=1", "--engine.timeout_secs=60"]

def config(name, *more):
    return parse_config("", [f"--data.source={folder / 'source'}", f"--run.dir={folder / name}", *small, *more])

try:
    train(config("none", "--data.source=/nowhere"))
    sys.exit("it was not refused")
except (UsageError, ChildProcessError):
    pass
reports = [train(config("a")), train(config("b", "--train.seed=1"))]
try:
    train(config("c", "--run.stop_after_steps=5"))
    sys.exit("it did not stop")
except Stopped:
    reports.append(train(parse_config("", [f"--run.dir={folder / 'c'}", "--run.resume", "--run.stop_after_steps=0"])))
if reports[0]:
    for name, report in zip("abc", reports, strict=True):
        assert report == load_report(folder / name / "report.json"), name
        assert report.content() == (folder / name / "report.json").read_bytes(), name
    (folder / "bits.json").write_text(json.dumps([one.description_length.total_bits for one in reports]))
"""


@pytest.mark.parametrize("ranks", [1, 2])
def test_train_can_be_called_again_and_again_and_returns_the_report(ranks: int, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes((ROOT / "LICENSE").read_bytes()[:3000])
    (tmp_path / "twice.py").write_text(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{TWICE}")
    done = run(str(tmp_path / "twice.py"), str(tmp_path), ranks=ranks)
    assert done.returncode == 0, done.stderr
    first, other_seed, stopped_and_resumed = json.loads((tmp_path / "bits.json").read_text())
    assert first != other_seed
    assert first == stopped_and_resumed


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (ModelConfig(block="atention"), "model.block 'atention' is unknown: .* Did you mean attention?"),
        (ModelConfig(block="no_such.blocks:Mine"), "there is no module no_such: install its package"),
        (ModelConfig(block="no_such.py:Mine"), "no_such.py is no Python file"),
        (ModelConfig(width=-3), "model.width is -3"),
        (ModelConfig(expand=0.001), "model.expand 0.001 of model.width 128 is no channel"),
    ],
    ids=str,
)
def test_what_is_wrong_with_a_configuration_is_said_before_any_work(model: ModelConfig, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        launch.train.train(Config(model=model))


def test_a_caller_from_python_pins_instructions_before_pytorch_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)
    config = Config()
    config.engine.portable = True
    with pytest.raises(UsageError, match=r"engine\.portable .* ATEN_CPU_CAPABILITY=default .* in its environment"):
        launch.train.train(config)
