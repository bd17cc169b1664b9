"""The live curve: rows and charts as recorded, and no trace of what a resumed run has to do again."""

import csv
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.summary.writer.event_file_writer import AtomicCounter

from train.config import flatten
from train.metrics import HEADER, Metrics, truncate_curve, write_flat_lines

HPARAMS = {"model": {"block": "attention", "width": 64, "ngram_orders": [1, 2]}, "train": {"lr": 0.02}}


def begin(run_dir: Path, resume_from_bytes: int | None = None) -> Metrics:
    """Fixed terms: code 100 bytes, tokenizer 20, side 5."""
    metrics = Metrics(run_dir, resume_from_bytes)
    metrics.begin({"code": 800.0, "tokenizer": 160.0, "side": 40.0}, {"xz-9e": 900}, HPARAMS)
    return metrics


def record(metrics: Metrics, step: int, data_bits: float | None = None) -> None:
    scalars = {"optim/learning_rate": 0.01 * step, "machine/tokens_per_sec": 50.0, "optim/gradient_norm": 1.5}
    metrics.record(step, 100 * step, 40 * step, 400.0 * step if data_bits is None else data_bits, 3.5, scalars)


def rows(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "curve.csv").open() as stream:
        return list(csv.DictReader(stream))


def points(run_dir: Path, tag: str) -> dict[int, float]:
    events = EventAccumulator(str(run_dir), size_guidance={"scalars": 0}).Reload()
    return {event.step: event.value for event in events.Scalars(tag)}


def test_a_row_is_on_disk_as_soon_as_it_is_recorded(tmp_path: Path) -> None:
    metrics = begin(tmp_path)
    record(metrics, 3)
    (row,) = rows(tmp_path)
    assert tuple(row) == HEADER
    assert (row["step"], row["coded_bytes"], row["coded_tokens"]) == ("3", "300", "120")
    assert (float(row["data_bits"]), float(row["total_bits"])) == (1200.0, 2200.0)
    assert (float(row["tokens_per_sec"]), float(row["learning_rate"])) == (50.0, 0.03)
    assert 0 <= float(row["elapsed_secs"]) < 5
    metrics.close()


def test_every_chart_has_its_value_at_the_bytes_coded(tmp_path: Path) -> None:
    metrics = begin(tmp_path)
    record(metrics, 3)
    metrics.close()
    expected = {
        "description_length/total_bytes": 275.0,
        "description_length/data_bytes": 150.0,
        "description_length/code_bytes": 100.0,
        "description_length/tokenizer_bytes": 20.0,
        "description_length/bits_per_byte": 2200 / 300,
        "rate/bits_per_byte_now": 3.5,
        "description_length/ratio": 300 / 275,
        "other_codes/xz-9e_bytes": 900.0,
        "optim/learning_rate": 0.03,
        "optim/gradient_norm": 1.5,
        "machine/tokens_per_sec": 50.0,
    }
    for tag, value in expected.items():
        assert points(tmp_path, tag) == {300: pytest.approx(value, rel=1e-6)}, tag


def test_runs_of_one_folder_share_the_lines_of_baselines(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    metrics = Metrics(tmp_path / "first", None)
    metrics.begin({"code": 800.0, "tokenizer": 160.0, "side": 40.0}, {"xz-9e": 900}, HPARAMS, flat=False)
    record(metrics, 3)
    metrics.close()
    events = EventAccumulator(str(tmp_path / "first")).Reload()
    assert not any(tag.startswith("other_codes") for tag in events.Tags()["scalars"])
    for size_bytes in (900, 901):
        write_flat_lines(tmp_path / "other codes", {"xz-9e": size_bytes}, 300)
    assert points(tmp_path / "other codes", "other_codes/xz-9e_bytes") == {0: 900.0, 300: 900.0}


def test_a_resumed_run_leaves_no_fold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after step 30, resumed from the checkpoint of step 20, with other values and another rhythm."""
    # Files of events are read by their names, of the second and a number in the process: 10 would come before 9.
    monkeypatch.setattr("tensorboard.summary.writer.event_file_writer._global_uid", AtomicCounter(0))
    metrics = begin(tmp_path)
    for step in range(1, 31):
        record(metrics, step)
    metrics.close()
    with (tmp_path / "curve.csv").open("a") as stream:
        stream.write("31,31")  # the kill cut this line short
    metrics = begin(tmp_path, resume_from_bytes=2000)
    for step in range(23, 36, 3):
        record(metrics, step, data_bits=-float(step))
    metrics.close()

    steps = [*range(1, 21), 23, 26, 29, 32, 35]
    assert [int(row["step"]) for row in rows(tmp_path)] == steps
    curve = points(tmp_path, "description_length/data_bytes")
    assert list(curve) == [100 * step for step in steps]
    assert [value < 0 for value in curve.values()] == [step > 20 for step in steps]
    flat_line = points(tmp_path, "other_codes/xz-9e_bytes")
    assert list(flat_line) == sorted(flat_line)
    assert set(flat_line.values()) == {900.0}


def test_the_clock_goes_on_where_it_stopped(tmp_path: Path) -> None:
    metrics = begin(tmp_path)
    metrics.start -= 1000
    record(metrics, 1)
    metrics.start -= 5000
    record(metrics, 2)
    metrics.close()
    metrics = begin(tmp_path, resume_from_bytes=100)
    record(metrics, 2)
    metrics.close()
    assert [float(row["elapsed_secs"]) for row in rows(tmp_path)] == pytest.approx([1000, 1000], abs=5)


def test_resuming_at_the_very_start_keeps_the_header_only(tmp_path: Path) -> None:
    begin(tmp_path).close()
    for _ in range(2):
        metrics = begin(tmp_path, resume_from_bytes=0)
        record(metrics, 1)
        metrics.close()
    assert [row["step"] for row in rows(tmp_path)] == ["1"]


def test_a_new_run_does_not_write_over_an_old_one(tmp_path: Path) -> None:
    begin(tmp_path).close()
    with pytest.raises(FileExistsError):
        Metrics(tmp_path, None)


def test_a_file_of_another_program_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "curve.csv"
    path.write_text("time,price\n1,2\n")
    with pytest.raises(ValueError, match="no curve of this program"):
        truncate_curve(path, 0)
    assert path.read_text() == "time,price\n1,2\n"


def test_the_end_adds_cost_and_hparams(tmp_path: Path) -> None:
    metrics = begin(tmp_path)
    record(metrics, 3)
    report: dict[str, Any] = {
        "corpus": {"bytes": 300},
        "cost": {"elapsed_secs": 12.5, "tokens_per_sec": 1.0, "mfu": 0.5},
    }
    metrics.end(report)
    metrics.close()
    assert points(tmp_path, "machine/elapsed_secs") == {300: 12.5}
    assert points(tmp_path, "machine/mfu") == {300: 0.5}
    # The rate is a curve, not a number of the whole run.
    assert points(tmp_path, "machine/tokens_per_sec") == {300: 50.0}
    events = EventAccumulator(str(tmp_path)).Reload()
    started = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"model.width" in started
    assert b"[1, 2]" in started
    assert "_hparams_/session_end_info" in events.summary_metadata
    listed = HParamsPluginData.FromString(events.summary_metadata["_hparams_/experiment"].plugin_data.content)
    # TensorBoard puts those that differ before the others.
    first = [info.name for info in listed.experiment.hparam_infos if info.differs]
    assert first == ["model.block", "model.width"]
    assert len(listed.experiment.hparam_infos) > len(first)
    layout = events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    assert layout.index(b"description_length/total_bytes") < layout.index(b"rate/bits_per_byte_now")
    assert b"other_codes/.*" in layout


def test_flatten() -> None:
    assert flatten(HPARAMS) == {
        "model.block": "attention",
        "model.width": 64,
        "model.ngram_orders": [1, 2],
        "train.lr": 0.02,
    }


def test_a_line_cut_short_is_dropped_though_its_number_is_small(tmp_path: Path) -> None:
    metrics = begin(tmp_path)
    record(metrics, 1)
    metrics.close()
    whole = (tmp_path / "curve.csv").read_bytes()
    (tmp_path / "curve.csv").write_bytes(whole + b"2,2")
    truncate_curve(tmp_path / "curve.csv", 2000)
    assert (tmp_path / "curve.csv").read_bytes() == whole
