"""Sweeps as their users start them."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from dist import ROOT, run, start, wait_until
from small_run import SMALL

SWEEP = "launch/sweep.py"
pytestmark = pytest.mark.starts


def arguments(folder: Path) -> list[str]:
    corpus = folder / "corpus.txt"
    corpus.write_bytes((ROOT / "LICENSE").read_bytes()[:4096])
    shared = [option for option in SMALL if "width=32" not in option]
    return [
        f"--dir={folder / 'sweep'}", "--blocks=attention,attention attention", "--widths=16,32", *shared,
        f"--data.source={corpus}", f"--data.cache_dir={folder / 'cache'}", "--run.checkpoint_secs=0.01",
    ]  # fmt: skip


def test_a_sweep_survives_being_killed_skips_what_is_done_and_compares(tmp_path: Path) -> None:
    sweep, given = tmp_path / "sweep", arguments(tmp_path)
    process = start(SWEEP, *given)
    wait_until(lambda: (sweep / "attention-16/report.json").exists(), process)
    wait_until(lambda: len(list(sweep.glob("*/checkpoints/latest.json"))) >= 2, process)
    process.terminate()
    _, err = process.communicate(timeout=150)
    assert process.returncode == 143, err
    assert "start the same command again" in err
    done = (sweep / "attention-16/report.json").stat().st_mtime_ns
    again = run(SWEEP, *given)
    assert again.returncode == 0, again.stderr
    assert (sweep / "attention-16/report.json").stat().st_mtime_ns == done
    names = {"attention-16", "attention-32", "attention+attention-16", "attention+attention-32"}
    recorded = json.loads((sweep / "sweep.json").read_text())
    assert (set(recorded["names"]), recorded["cells"], recorded["side_bits"]) == (names, 4, 2.0)
    reports = {name: json.loads((sweep / name / "report.json").read_text()) for name in names}
    assert all(report["coded"]["bytes"] == 4096 for report in reports.values())
    bits = {name: report["description_length"]["data_bits"] for name, report in reports.items()}
    # The same architecture by another name, and one of the two was stopped and went on.
    assert bits["attention-32"] == bits["attention+attention-32"]
    assert (sweep / "comparison.html").exists()
    for name in names:
        assert name in again.stdout


def test_a_failing_cell_is_named_and_the_others_run(tmp_path: Path) -> None:
    given = [*arguments(tmp_path), "--data.field=text"]
    broken = tmp_path / "sweep/attention-16"
    broken.mkdir(parents=True)
    (broken / "strange").touch()
    done = run(SWEEP, *given, "--blocks=attention")
    assert done.returncode == 1
    assert "attention-16 failed" in done.stderr
    assert "not empty" in (tmp_path / "sweep/logs/attention-16.log").read_text()
    assert (tmp_path / "sweep/attention-32/report.json").exists()


def test_slurm_gets_an_array_whose_tasks_are_cells(tmp_path: Path) -> None:
    given = arguments(tmp_path)
    done = run(SWEEP, *given, "--emit=slurm")
    assert done.returncode == 0, done.stderr
    assert "#SBATCH --array=0-3" in done.stdout
    assert not (tmp_path / "sweep").exists()
    script = tmp_path / "sweep.sbatch"
    script.write_text(done.stdout)
    env = {**os.environ, "SLURM_ARRAY_TASK_ID": "0"}
    subprocess.run(["bash", str(script)], env=env, check=True, capture_output=True, timeout=300)
    assert [path.parent.name for path in (tmp_path / "sweep").glob("*/report.json")] == ["attention-16"]


def test_bad_sweeps_are_refused_before_any_work(tmp_path: Path) -> None:
    given = [f"--dir={tmp_path / 'sweep'}", "--widths=32"]
    bad = {"--blocks=nosuch": "nosuch", "--blocks=attention,nosuch": "nosuch"}
    bad |= {"--model.widht=3": "widht", "--cell=1": "--cell is 1"}
    for option, named in bad.items():
        more = [option] if "blocks" in option else ["--blocks=attention", option]
        done = run(SWEEP, *given, *more)
        assert done.returncode == 2, done.stderr
        assert named in done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "sweep").exists()
