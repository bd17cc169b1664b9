"""The runs of a folder compared on a held-out file, as users start it."""

import csv
import json
import re
import shutil
from pathlib import Path

import pytest
from dist import run
from finished_run import finished_run
from small_run import SMALL
from trained_run import project_text, trained_run

from eval.schema import load_report

EVALUATE = "launch/evaluate.py"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `runs`: two of different width with a checkpoint, and one without; and with files."""
    study = tmp_path_factory.mktemp("generalisation")
    text = project_text()
    (study / "corpus.txt").write_bytes(text[:20_000])
    (study / "new.txt").write_bytes(text[-4_000:])
    for width in (16, 32):
        trained_run(study, study / "corpus.txt", *SMALL, "--model.ngram_orders=[]", f"--model.width={width}")
        (study / "run").rename(study / f"{width}")
    (study / "runs").mkdir()
    for width in (16, 32):
        (study / f"{width}").rename(study / "runs" / f"width-{width}")
    shutil.copytree(study / "runs" / "width-16", study / "runs" / "bare")
    shutil.rmtree(study / "runs" / "bare" / "checkpoints")
    return study


def test_every_run_is_scored_as_held_out_does_and_once(study: Path) -> None:
    command = [EVALUATE, "generalisation", str(study / "runs"), str(study / "new.txt")]
    done = run(*command, f"--csv={study / 'a.csv'}", f"--json={study / 'a.json'}", f"--png={study / 'picture'}")
    assert done.returncode == 0, done.stderr
    assert "bare is left out: it has no checkpoint" in done.stdout
    for theme in ("light", "dark"):
        assert (study / f"picture-{theme}.png").read_bytes()[:4] == b"\x89PNG"
    with (study / "a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    written = json.loads((study / "a.json").read_text())
    assert {row["run"] for row in rows} == {one["run"] for one in written["runs"]} == {"width-16", "width-32"}
    for row in rows:
        folder = study / "runs" / row["run"]
        assert float(row["total"]) == pytest.approx(
            load_report(folder / "report.json").description_length.bits_per_byte, abs=1e-6
        )
    narrow = study / "runs" / "width-16"
    alone = run(EVALUATE, "held-out", str(narrow), str(study / "new.txt"))
    (rate,) = re.findall(r"new\.txt +4,000 +(\S+)", alone.stdout)
    (row,) = (row for row in rows if row["run"] == "width-16")
    assert float(rate) == pytest.approx(float(row["held_out"]), abs=1e-4)
    assert [one["pairs"] for one in written["agreement"]] == [1] * 4 + [0] * 4

    # What is kept is taken, as long as the checkpoint is the same.
    scores = narrow / "held_out.json"
    kept = json.loads(scores.read_text())
    (digest,) = kept["bits"]
    scores.write_text(json.dumps(kept | {"bits": {digest: 4000.0 * 7}}))
    assert "7.0000" in run(*command).stdout
    scores.write_text(json.dumps({"checkpoint": "another", "bits": {digest: 4000.0 * 7}}))
    again = run(*command)
    assert "7.0000" not in again.stdout
    assert json.loads(scores.read_text()) == kept


def test_what_cannot_be_compared_is_refused_before_any_work(study: Path, tmp_path: Path) -> None:
    finished_run(tmp_path / "one" / "a")
    finished_run(tmp_path / "two" / "a")
    finished_run(tmp_path / "two" / "b", name="others", sha256="b" * 64)
    (tmp_path / "none").mkdir()
    (tmp_path / "seen").write_bytes(project_text()[1000:5000])
    for folder, file, message in [
        (tmp_path / "none", study / "new.txt", "holds no finished run"),
        (tmp_path / "one", study / "new.txt", ": 1, with a checkpoint: 0; it takes two"),
        (tmp_path / "two", study / "new.txt", "a codes text (1,000 bytes, SHA-256 aaaaaaaa…) and b codes others"),
        (study / "runs", tmp_path / "seen", "100.00% of"),
    ]:
        done = run(EVALUATE, "generalisation", str(folder), str(file))
        assert done.returncode == 2, done.stderr
        assert message in done.stderr
        assert "tau" not in done.stdout
