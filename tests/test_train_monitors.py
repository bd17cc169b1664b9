"""Loggers of DeepSpeed get every point of the curve, and change nothing that is coded."""

import csv
import json
import os
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from dist import run
from torch import nn

from data.errors import Stopped, UsageError
from eval.books import Books
from train.command_line import read_deepspeed_config
from train.config import Config
from train.gradient_norm import GradientNorm
from train.monitors import Monitors, read_monitors

TRAIN = "launch/train.py"
SMALL = ["--data.tokenizer=bytes", "--model.block=lstm", "--model.depth=1", "--model.width=16", "--train.lanes=8",
         "--model.ngram_orders=[]", "--run.baselines=false", "--engine.threads=1", "--run.log_steps=3",
         "--run.checkpoint_secs=0"]  # fmt: skip


def written(folder: Path, sections: dict[str, Any]) -> str:
    path = folder / "ds.json"
    path.write_text(json.dumps(sections))
    return str(path)


def history(path: Path) -> list[dict[str, float]]:
    """The points of a .wandb file, which W&B would upload."""
    from wandb.proto.wandb_internal_pb2 import Record
    from wandb.sdk.internal.datastore import DataStore

    store, found = DataStore(), []
    store.open_for_scan(str(path))
    while (data := store.scan_data()) is not None:
        record = Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            found.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items})
    return found


def test_wandb_and_csv_get_the_curve_and_the_run_its_bits(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"In the beginning was the Word. " * 80)
    path = written(
        tmp_path,
        {"wandb": {"enabled": True, "project": "mine"}, "csv_monitor": {"enabled": True, "output_path": str(tmp_path)}},
    )
    given = [*SMALL, f"--data.source={tmp_path / 'text'}"]
    done = run(
        TRAIN, *given, f"--run.dir={tmp_path / 'run'}", f"--engine.deepspeed_config={path}", HOME=str(tmp_path),
        WANDB_MODE="offline", WANDB_SILENT="true",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert run(TRAIN, *given, f"--run.dir={tmp_path / 'plain'}", HOME=str(tmp_path)).returncode == 0
    curves = []
    for name in ("run", "plain"):
        with (tmp_path / name / "curve.csv").open() as stream:
            curves.append(list(csv.DictReader(stream)))
    assert len(curves[0]) > 2
    for ours, plain in zip(*curves, strict=True):
        assert [ours[name] for name in ("coded_bytes", "data_bits", "total_bits")] == [
            plain[name] for name in ("coded_bytes", "data_bits", "total_bits")
        ]

    (log,) = (tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb")
    points = {int(point["_step"]): point for point in history(log)}
    with (tmp_path / "DeepSpeedJobName" / "description_length_total_bytes.csv").open() as stream:
        charted = {int(row["step"]): float(row["total_bytes"]) for row in csv.DictReader(stream)}
    for row in curves[0]:
        step, total = int(row["coded_bytes"]), float(row["total_bits"]) / 8
        assert charted[step] == pytest.approx(total)
        assert points[step]["description_length/total_bytes"] == pytest.approx(total)
        assert points[step]["progress/coded_tokens"] == int(row["coded_tokens"])
        assert {"optim/gradient_norm", "machine/peak_memory_bytes", "machine/ms_per_step"} <= set(points[step])
    # Of bytes, of which the last one has an end of the document beside it.
    first = points[int(curves[0][0]["coded_bytes"])]
    assert first["rate/nats_per_token_now"] == pytest.approx(first["rate/bits_per_byte_now"] * 0.6931472, rel=1e-3)
    assert points[max(points)]["machine/elapsed_secs"] > 0


def test_comet_gets_the_curve_under_the_name_of_the_run(tmp_path: Path) -> None:
    pytest.importorskip("comet_ml")
    (tmp_path / "text").write_bytes(b"In the beginning was the Word. " * 80)
    path = written(tmp_path, {"comet": {"enabled": True, "online": False}})
    done = run(
        TRAIN, *SMALL, f"--data.source={tmp_path / 'text'}", f"--run.dir={tmp_path / 'run'}",
        f"--engine.deepspeed_config={path}", HOME=str(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (kept,) = (tmp_path / "run").glob("*.zip")
    with zipfile.ZipFile(kept) as archive:
        messages = [json.loads(line) for line in archive.read("messages.json").splitlines()]
    found = [message["payload"]["metric"] for message in messages if message["type"] == "metric_msg"]
    charted = {m["step"]: m["metricValue"] for m in found if m["metricName"] == "description_length/total_bytes"}
    with (tmp_path / "run/curve.csv").open() as stream:
        curve = {int(row["coded_bytes"]): float(row["total_bits"]) / 8 for row in csv.DictReader(stream)}
    assert len(curve) > 2
    assert charted == pytest.approx(curve)
    others = [message["payload"] for message in messages if message["type"] == "log_other"]
    assert ("Name", "run") in [(one["key"], one["value"]) for one in others]
    # What a finished run has cost is there too.
    assert "machine/elapsed_secs" in {one["metricName"] for one in found}


def test_each_run_of_a_process_has_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = []

    def begin(_: object) -> SimpleNamespace:
        begun.append(os.environ["WANDB_NAME"])
        return SimpleNamespace(wandb_monitor=None, comet_monitor=None)

    monkeypatch.setattr("deepspeed.monitor.monitor.MonitorMaster", begin)
    monkeypatch.delenv("WANDB_NAME", raising=False)
    for name in ("one", "two"):
        monitors = Monitors({"csv_monitor": {"enabled": True}}, tmp_path / name)
        monitors.begin({})
        monitors.close(failed=False)
    assert begun == ["one", "two"]
    assert "WANDB_NAME" not in os.environ


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"wandb": 1}, "wandb is not a JSON object"),
        ({"comet": {"enabled": True}}, "comet needs the package comet_ml: pip install comet_ml"),
        ({"csv_monitor": {"enabled": True, "folder": "x"}}, "csv_monitor.folder: Extra inputs are not permitted"),
        ({"wandb": {"enabled": True, "project": 3}}, "wandb.project: Input should be a valid string"),
    ],
)
def test_sections_that_are_wrong_are_named(
    tmp_path: Path, sections: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.monitors.find_spec", lambda name: None if name == "comet_ml" else name)
    with pytest.raises(UsageError, match=r"ds\.json") as caught:
        read_monitors(written(tmp_path, sections))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_loggers_are_no_part_of_what_a_decoder_needs(tmp_path: Path) -> None:
    off, on = {"enabled": False}, {"enabled": True, "job_name": "x"}
    path = written(tmp_path, {"csv_monitor": on, "wandb": off, "wall_clock_breakdown": False})
    assert read_monitors(path) == {"csv_monitor": on}
    assert read_deepspeed_config(path) == {"wall_clock_breakdown": False}
    assert read_monitors("") == {}


def test_a_run_that_is_stopped_leaves_no_logger_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a notebook, the next run would go on in the same run of W&B."""
    ends: list[int] = []
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(finish=lambda exit_code: ends.append(exit_code)))
    monitors = Monitors({}, tmp_path)
    monitors.master = SimpleNamespace(wandb_monitor=True, comet_monitor=None)

    def stop(*_: object) -> None:
        raise Stopped(0, str(tmp_path))

    books: Any = SimpleNamespace(
        run_dir=tmp_path / "none", kept=True, open=lambda *_: None, code=SimpleNamespace(modules={}), fixed_bits={},
        config=Config(), manifest=SimpleNamespace(bytes=1), metrics=SimpleNamespace(close=monitors.close),
    )  # fmt: skip
    with pytest.raises(Stopped):
        Books.follow(books, SimpleNamespace(go=stop))  # type: ignore[arg-type]
    assert ends == [1]


def test_the_gradient_norm_is_that_of_the_logged_step() -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    zero = SimpleNamespace(get_global_grad_norm=lambda: 7.0, optimizer=None)
    engine: Any = SimpleNamespace(optimizer=optimizer)
    norm = GradientNorm(SimpleNamespace(engine=engine), 2, 4, hooks=True)
    assert norm.points() == {}
    for step in range(5, 9):
        model.weight.grad, model.bias.grad = torch.full((2, 3), float(step)), torch.zeros(2)
        optimizer.step()
        if step > 5:
            assert norm.points() == {"optim/gradient_norm": pytest.approx((step - step % 2) * 6**0.5)}
    assert GradientNorm(SimpleNamespace(engine=zero), 2, 0, hooks=True).points() == {"optim/gradient_norm": 7.0}
