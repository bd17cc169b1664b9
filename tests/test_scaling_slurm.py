"""launch/slurm.sbatch, run by bash on this machine with stand-ins for Slurm's commands: it stops, requeues, goes on."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from dist import ROOT, run, wait_until
from fork_program import interpreter
from small_run import SMALL, TRAIN, curve, report

# Two tasks on one node. A signal goes to the tasks, as Slurm sends it, and the worst status is srun's.
SRUN = f"""#!{sys.executable}
import os, subprocess, sys
place = lambda n: {{"SLURM_PROCID": str(n), "SLURM_LOCALID": str(n)}}
tasks = [subprocess.Popen(sys.argv[1:], env=os.environ | place(n)) for n in (0, 1)]
with open(os.environ["TASKS"], "w") as file:
    print(*[task.pid for task in tasks], file=file)
sys.exit(max(task.wait() for task in tasks))
"""
SCONTROL = """#!/bin/bash
if [[ "$*" == "show hostnames localhost" ]]; then echo localhost; else echo "$*" >> "$TASKS.requeued"; fi
"""
SQUEUE = """#!/bin/bash
[[ "$*" == *--jobs=20123* ]] && echo "$STATE"
"""


def job(folder: Path, arguments: list[str], state: str = "RUNNING") -> subprocess.Popen[str]:
    """The batch script, as Slurm would run it on its first node."""
    for name, text in {"srun": SRUN, "scontrol": SCONTROL, "squeue": SQUEUE}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    (folder / "tasks").unlink(missing_ok=True)
    env = {
        "PATH": f"{folder}:{interpreter().parent}:{os.environ['PATH']}", "TASKS": str(folder / "tasks"),
        "SLURM_SUBMIT_DIR": str(ROOT), "SLURM_JOB_NODELIST": "localhost", "SLURM_JOB_ID": "20123", "STATE": state,
        "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2",
    }  # fmt: skip
    return subprocess.Popen(
        ["bash", str(ROOT / "launch/slurm.sbatch"), *arguments], env=os.environ | env, text=True, cwd=folder,
        start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.fixture
def given(corpus: Path, cache: Path) -> list[str]:
    """Checkpoints slow a run down, so that signals find it at work."""
    return [f"--data.source={corpus}", f"--data.cache_dir={cache}", *SMALL, "--run.checkpoint_secs=0.01"]


@pytest.mark.starts
def test_a_job_that_is_stopped_goes_back_to_the_queue_and_on(given: list[str], tmp_path: Path) -> None:
    whole, run_dir = tmp_path / "whole", tmp_path / "run"
    done = run(TRAIN, *given, f"--run.dir={whole}", ranks=2)
    assert done.returncode == 0, done.stderr
    stopped = job(tmp_path, [str(run_dir), *given])
    path = run_dir / "curve.csv"
    wait_until(lambda: path.exists() and len(path.read_text().splitlines()) >= 3, stopped)
    for task in (tmp_path / "tasks").read_text().split():
        os.kill(int(task), signal.SIGTERM)
    _, err = stopped.communicate(timeout=300)
    assert stopped.returncode == 143, err
    assert (tmp_path / "tasks.requeued").read_text() == "requeue 20123\n"
    again = job(tmp_path, [str(run_dir), *given])
    _, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
    assert (tmp_path / "tasks.requeued").read_text() == "requeue 20123\n"
    assert curve(run_dir) == curve(whole)
    assert report(run_dir)["description_length"] == report(whole)["description_length"]


def test_a_job_that_fails_or_was_cancelled_stays_out_of_the_queue(given: list[str], tmp_path: Path) -> None:
    failed = job(tmp_path, [str(tmp_path / "run"), *given, "--model.widht=12"])
    _, err = failed.communicate(timeout=300)
    assert failed.returncode == 2, err
    cancelled = job(tmp_path, [str(tmp_path / "run"), *given], state="CANCELLED")
    path = tmp_path / "run/curve.csv"
    wait_until(lambda: path.exists() and len(path.read_text().splitlines()) >= 3, cancelled)
    for task in (tmp_path / "tasks").read_text().split():
        os.kill(int(task), signal.SIGTERM)
    _, err = cancelled.communicate(timeout=300)
    assert cancelled.returncode == 143, err
    assert not (tmp_path / "tasks.requeued").exists()
