"""benchmarks/gpu.py on the CPU, at its small shapes: every kind of row is measured, and none fails."""

import csv
from pathlib import Path

from dist import run

KINDS = {
    "plain-32-eager", "plain-32-compiled", "attention-768-muon", "ssd-768", "plain-64-eager", "plain-64-compiled",
    "attention-2048-adamw", "default", "coding-default", "replay-default", "counted-once-default", "chosen-pieces",
    "block-ssd", "profile-attention",
}  # fmt: skip


def test_every_kind_of_row_is_measured(tmp_path: Path) -> None:
    rows = ",".join(sorted(KINDS))
    done = run("benchmarks/gpu.py", "--small", "--steps", "1", "--only", rows, "--save", str(tmp_path / "gpu.csv"))
    assert done.returncode == 0, done.stderr
    with (tmp_path / "gpu.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    parts = [row for row in found if row["row"] == "profile-part"]
    assert {row["row"] for row in found} - {"profile-part"} == KINDS
    assert len(parts) == 10 and all("%" in row["note"] for row in parts)
    for row in found:
        assert float(row["ms"]) > 0, row
        assert row["torch"] and row["device"] and row["commit"]
    ratios = {row["row"] for row in found if row["speed_ratio"]}
    assert ratios == {"attention-768-muon", "ssd-768", "attention-2048-adamw"}
    assert "ssd-768" in done.stdout and "ms " in done.stdout


def test_rows_that_come_too_late_are_named(tmp_path: Path) -> None:
    done = run("benchmarks/gpu.py", "--small", "--minutes", "0", "--only", "ssd", "--save", str(tmp_path / "gpu.csv"))
    assert done.returncode == 0, done.stderr
    assert "ssd-768" in done.stdout and "left out: --minutes are over" in done.stdout
