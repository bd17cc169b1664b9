"""Sweeps that try learning rates at one width: which is taken, what it costs, and what is said of it."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from dist import ROOT, run
from small_run import SMALL

from studies.scaling.cells import Grid
from studies.scaling.lines import lines_of
from studies.scaling.rates import read_rates
from studies.scaling.runs import charge_selection, load_runs
from studies.scaling.sweep import slurm_script
from studies.scaling.tables import compare_runs, rates_rows
from studies.scaling.tuning import Tuning, plan_tuning
from train.command_line import parse_config, save_config

DIVERGED = "onepass: the loss stopped being a number in the 50 steps before step 100, after 9 coded bytes. Start again"


@pytest.fixture
def tuning(tmp_path: Path) -> Tuning:
    grid = Grid(tmp_path, ["--model.head_width=16"], ["attention", "gru"], [16, 32], [0, 1], [], "parameters")
    return plan_tuning(grid, [], [0.5, 1, 2], 16)


def end(tuning: Tuning, name: str, total_bytes: float) -> None:
    """Let the cell have that total; without one it has diverged."""
    cell = next(cell for cell in tuning.trials if cell.name == name)
    run_dir = cell.run_dir
    run_dir.mkdir()
    save_config(parse_config("", list(cell.options)), run_dir / "config.yaml")
    if total_bytes:
        report = {"description_length": {"total_bits": 8 * total_bytes}, "cost": {"elapsed_secs": 1.0}}
        (run_dir / "report.json").write_text(json.dumps(report))
    else:
        cell.log.parent.mkdir(exist_ok=True)
        cell.log.write_text(DIVERGED)


def test_each_block_gets_the_rate_of_its_shortest_total(tuning: Tuning) -> None:
    assert [cell.name for cell in tuning.trials] == [
        "attention-16-rates0.5", "gru-16-rates0.5", "attention-16", "gru-16", "attention-16-rates2", "gru-16-rates2"
    ]  # fmt: skip
    for name, total in {"attention-16-rates0.5": 90.0, "attention-16": 80.0, "attention-16-rates2": 0.0}.items():
        end(tuning, name, total)
    assert [cell.name for cell in tuning.later()][:3] == ["attention-16-seed1", "gru-16-seed1", "attention-32"]
    chosen, problems = tuning.choose()
    # What diverged was tried, and what has not ended leaves its block without a rate.
    assert chosen["attention"].factor == 1
    assert (chosen["attention"].diverged, chosen["attention"].edge) == (["attention-16-rates2"], "")
    assert problems == ["gru has no best rate yet: gru-16-rates0.5, gru-16, gru-16-rates2 did not finish"]
    rest = [cell and cell.name for cell in tuning.rest(chosen)]
    assert rest[:4] == ["attention-16", "attention-16-seed1", None, None]
    for name, total in {"gru-16-rates0.5": 70.0, "gru-16": 71.0, "gru-16-rates2": 72.0}.items():
        end(tuning, name, total)
    chosen, problems = tuning.choose()
    assert not problems and chosen["gru"].edge == ", the smallest tried: a better one may lie beyond"
    assert [cell and cell.name for cell in tuning.rest(chosen)] == [
        "attention-16", "attention-16-seed1", "gru-16-rates0.5", "gru-16-seed1-rates0.5", "attention-32",
        "attention-32-seed1", "gru-32-rates0.5", "gru-32-seed1-rates0.5",
    ]  # fmt: skip


def test_rates_that_all_diverge_are_no_choice(tuning: Tuning) -> None:
    for cell in tuning.trials:
        end(tuning, cell.name, 0.0)
    chosen, problems = tuning.choose()
    assert not chosen and not any(tuning.rest(chosen))
    assert problems[0] == "attention has no best rate: all that were tried diverged; give lower --learning_rates"


def test_slurm_gets_two_arrays_of_which_one_waits_for_the_other(tmp_path: Path) -> None:
    stub = tmp_path / "sbatch"
    stub.write_text(f'#!/bin/bash\n(printf "%s|" "$@"; echo) >> {tmp_path}/submitted\necho "7;host"\n')
    stub.chmod(0o755)
    script = tmp_path / "sweep.sh"
    script.write_text(slurm_script(["--dir=a b", "--emit=slurm", "--tune_width=16"], 8, 2, trials=6))
    env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    subprocess.run(["bash", str(script)], env=env, check=True, capture_output=True)
    trials, rest = (line.split("|") for line in (tmp_path / "submitted").read_text().splitlines())
    assert "--array=0-5" in trials and not any(word.startswith("--dependency") for word in trials)
    assert "--array=6-13" in rest and "--dependency=afterany:7" in rest and "--gres=gpu:2" in rest
    assert trials[-2] == rest[-2]
    assert "sweep.py '--dir=a b' --tune_width=16 --jobs 1 --cell $SLURM_ARRAY_TASK_ID" in rest[-2]


def test_a_tuned_sweep_runs_in_two_stages_and_says_what_it_chose(tmp_path: Path) -> None:
    corpus, sweep = tmp_path / "corpus.txt", tmp_path / "sweep"
    corpus.write_bytes((ROOT / "LICENSE").read_bytes()[:4096])
    given = [
        f"--dir={sweep}", "--blocks=attention", "--widths=16,32", "--learning_rates=0.01,1", "--tune_width=16",
        f"--data.source={corpus}", f"--data.cache_dir={tmp_path / 'cache'}", *SMALL[1:],
    ]  # fmt: skip
    first = run("launch/sweep.py", *given, "--cell=0")
    assert first.returncode == 0, first.stderr
    early = run("launch/sweep.py", *given, "--cell=3")
    assert (early.returncode, "no best rate yet: attention-16 did not" in early.stderr) == (1, True), early.stderr
    done = run("launch/sweep.py", *given)
    assert done.returncode == 0, done.stderr
    assert "attention: learning rates x 1, best of 2 at width 16, the largest tried" in done.stderr
    found = load_runs(sweep)
    assert {run.name for run in found} == {"attention-16", "attention-16-rates0.01", "attention-32"}
    assert "attention-16-rates0.01" not in done.stdout
    selection = charge_selection(sweep, found)
    assert selection and selection.cells == 3
    rates = read_rates(sweep, found)
    totals = {run.name: f"{run.total_bits / 8:,.0f}" for run in found}
    assert rates_rows(rates) == [
        ("learning rates at width 16", "x 0.01", "x 1", "   taken"),
        ("attention", totals["attention-16-rates0.01"], totals["attention-16"],
         "   x 1, the largest tried: a better one may lie beyond"),
    ]  # fmt: skip
    comparison = compare_runs(found, selection, rates)
    assert [line.label for line in comparison.lines] == ["attention"]
    assert len(lines_of(found)) == 2
    assert "x 1, the largest tried" in (sweep / "comparison.html").read_text()
    saved = json.loads((sweep / "scaling.json").read_text())["learning_rates"]
    told = [(one["line"], one["width"], one["factor"], len(one["tried"])) for one in saved]
    assert told == [("attention", 16, 1.0, 2)]
