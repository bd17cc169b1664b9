"""Two-part codes of a finished run, as their users ask for them."""

import csv
from pathlib import Path

import pytest
from dist import run
from small_run import SMALL
from trained_run import project_text, trained_run

from archive.format import open_archive
from eval.schema import load_report

EVALUATE = "launch/evaluate.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two-part")
    (folder / "corpus.txt").write_bytes(project_text()[:12_000])
    trained_run(folder, folder / "corpus.txt", *SMALL, "--model.ngram_rows_log2=16")
    return folder


def test_rows_add_up_and_data_costs_what_coding_it_does(folder: Path) -> None:
    png, table = folder / "picture", folder / "rows.csv"
    done = run(
        EVALUATE, "two-part", str(folder / "run"), "--points", "fp32,8,2", f"--png={png}", f"--csv={table}"
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for theme in ("light", "dark"):
        assert (folder / f"picture-{theme}.png").read_bytes()[:4] == b"\x89PNG"
    with table.open() as file:
        rows = {(row["tables"], row["point"]): row for row in csv.DictReader(file)}
    assert len(rows) == 9
    length = load_report(folder / "run/report.json").description_length
    for row in rows.values():
        parts = ("weight_bytes", "table_bytes", "data_bytes", "fixed_bytes")
        assert sum(int(row[part]) for part in parts) == pytest.approx(int(row["total_bytes"]), abs=2)
        assert int(row["prequential_bytes"]) == round(length.total_bits / 8)
        assert (int(row["table_bytes"]) > 0) == (row["tables"] == "charged")
    # The same frozen model, tables and all, by the way of an archive.
    archive = folder / "fixed.one"
    coded = run(EVALUATE, "encode", str(folder / "corpus.txt"), str(archive), f"--checkpoint={folder / 'run'}")
    assert coded.returncode == 0, coded.stderr
    exact = open_archive(archive).data_bits / 8
    assert int(rows["charged", "fp32"]["data_bytes"]) == pytest.approx(exact, abs=1)
    # Tables that were filled by the corpus know most of it; those that are filled on the way more than empty ones.
    data = {key: int(row["data_bytes"]) for key, row in rows.items()}
    assert data["charged", "fp32"] < data["learned", "fp32"] < data["emptied", "fp32"]
    # So short a run has learned little in its weights, but how to weigh the tables shows.
    assert 1.1 * data["charged", "fp32"] < data["charged", "2"]
    assert data["learned", "fp32"] < data["learned", "2"]
    assert abs(data["learned", "8"] - data["learned", "fp32"]) < 0.01 * data["learned", "fp32"]
    weights = [int(rows["emptied", point]["weight_bytes"]) for point in ("fp32", "8", "2")]
    assert weights == sorted(weights, reverse=True)


def test_another_corpus_is_refused_by_name(folder: Path) -> None:
    (folder / "other.txt").write_bytes((folder / "corpus.txt").read_bytes().replace(b"def", b"DEF", 1))
    refused = run(EVALUATE, "two-part", str(folder / "run"), f"--corpus={folder / 'other.txt'}")
    assert refused.returncode == 2
    assert "other.txt has sha256" in refused.stderr
    (folder / "corpus.txt").rename(folder / "moved.txt")
    found = run(EVALUATE, "two-part", str(folder / "run"), f"--corpus={folder / 'moved.txt'}", "--points", "9")
    assert found.returncode == 2
    assert "--points 9: give 2 to 8" in found.stderr
