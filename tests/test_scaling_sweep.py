"""Sweeps as their users start them."""

import json
import os
import shlex
import subprocess
from pathlib import Path

import pytest
from dist import ROOT, run, start, wait_until
from small_run import SMALL, curve

SWEEP = "launch/sweep.py"


def arguments(folder: Path) -> list[str]:
    corpus = folder / "corpus.txt"
    corpus.write_bytes((ROOT / "LICENSE").read_bytes()[:4096])
    shared = [option for option in SMALL if "width=32" not in option]
    return [
        f"--dir={folder / 'sweep'}", "--blocks=attention,attention attention", "--widths=16,32", *shared,
        f"--data.source={corpus}", f"--data.cache_dir={folder / 'cache'}", "--run.checkpoint_secs=0.01",
    ]  # fmt: skip


@pytest.mark.starts
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


def test_a_cell_has_the_bits_of_a_run_of_its_own(tmp_path: Path) -> None:
    """Cells are forks of one process; the last of several sees most of what others leave behind."""
    done = run(SWEEP, *arguments(tmp_path), "--jobs=1")
    assert done.returncode == 0, done.stderr
    name = "attention+attention-32"
    cell = json.loads((tmp_path / "sweep" / name / "report.json").read_text())
    _, *command = shlex.split(cell["command"])
    alone = run("launch/train.py", *command, f"--run.dir={tmp_path / 'alone'}")
    assert alone.returncode == 0, alone.stderr
    report = json.loads((tmp_path / "alone/report.json").read_text())
    assert report["description_length"] == cell["description_length"]
    assert report["code"] == cell["code"]
    assert (tmp_path / "alone/code.lzma").read_bytes() == (tmp_path / "sweep" / name / "code.lzma").read_bytes()
    assert curve(tmp_path / "alone") == curve(tmp_path / "sweep" / name)


MORTAL = """
import os
import signal

import torch

from model.blocks.attention import Attention


class Mortal(Attention):
    def __init__(self, config):
        super().__init__(config)
        self.width = config.width

    def forward(self, x, state):
        if self.width == 16 and torch.is_grad_enabled() and x.device.type == "cpu" and len(x) == 8:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(x, state)
"""


@pytest.mark.starts
def test_a_cell_that_is_killed_takes_no_other_with_it(tmp_path: Path) -> None:
    (tmp_path / "mortal.py").write_text(MORTAL)
    done = run(SWEEP, *arguments(tmp_path), f"--blocks={tmp_path}/mortal.py:Mortal", "--widths=16,32,48", "--jobs=1")
    assert done.returncode == 1, done.stderr
    assert "Mortal-16 failed; see" in done.stderr
    assert [path.parent.name for path in sorted((tmp_path / "sweep").glob("*/report.json"))] == [
        "Mortal-32",
        "Mortal-48",
    ]


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
    bad |= {"--depths=2,x": "whole numbers", "--learning_rates=1,1.0": "different factors", "--depths=0": "depth is 0"}
    bad |= {"--gpus_per_cell=0": "must be 1 or more", "--gpus_per_cell=3": "this machine has 0 GPUs"}
    for option, named in bad.items():
        more = [option] if "blocks" in option else ["--blocks=attention", option]
        done = run(SWEEP, *given, *more)
        assert done.returncode == 2, done.stderr
        assert named in done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "sweep").exists()
