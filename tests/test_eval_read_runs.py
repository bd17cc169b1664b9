"""Reports of many runs as one table."""

import json
import sys
from pathlib import Path

import pytest

from data.errors import UsageError
from eval.report import read_runs
from train.config import Config, flatten

REPORT = json.loads((Path(__file__).parents[1] / "benchmarks/results/kjv-default.json").read_text())


def write(folder: Path, seed: int, data_bits: float) -> None:
    report = json.loads(json.dumps(REPORT))
    length = report["description_length"]
    length["total_bits"] += data_bits - length["data_bits"]
    length["data_bits"] = data_bits
    corpus_bytes = report["corpus"]["bytes"]
    length["bits_per_byte"], length["data_bits_per_byte"] = (
        length["total_bits"] / corpus_bytes,
        data_bits / corpus_bytes,
    )
    length["compression_ratio"] = 8 * corpus_bytes / length["total_bits"]
    report["config"]["train"]["seed"] = seed
    # A field of a later release.
    del report["config"]["train"]["replay"]
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(json.dumps(report))


def test_every_finished_run_is_a_row_and_every_field_a_column(tmp_path: Path) -> None:
    write(tmp_path / "a/long", 1, 6e6)
    write(tmp_path / "short", 2, 5e6)
    (tmp_path / "unfinished").mkdir()
    table = read_runs(tmp_path)
    assert list(table.index) == ["short", "a/long"]
    assert flatten(Config().to_dict()).keys() <= set(table.columns)
    assert list(table["train.seed"]) == [2, 1]
    assert list(table["train.replay"]) == [0, 0]
    assert list(table["description_length.data_bits"]) == [5e6, 6e6]
    assert table.loc["short", "model.ngram_orders"] == REPORT["config"]["model"]["ngram_orders"]
    assert table.loc["short", "model.parameters"] == REPORT["model"]["parameters"]
    assert table.loc["short", "baselines.xz-9e"] == REPORT["baselines"]["xz-9e"]


def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="holds no finished run"):
        read_runs(tmp_path)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UsageError, match=r"needs pandas, which is not installed: pip install 'onepass\[pandas\]'"):
        read_runs(tmp_path)
