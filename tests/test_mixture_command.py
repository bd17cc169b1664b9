"""Runs that are put together, by the command that users type, and a run of several models that stops on its way."""

import csv
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from dist import run
from small_run import TRAIN, arguments, cache, corpus, curve, report
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from studies.mixture.command import BAYES, STEPS, TOKENS
from studies.mixture.runs import put_together
from studies.scaling.runs import load_runs
from train.nats import read_nats

__all__ = ["cache", "corpus"]
MEMBERS = "gru | lstm @16"
RUNS = {
    "narrow": ["--model.block=gru", "--model.width=16"],
    "wide": ["--model.block=lstm"],
    "together": [f"--model.block={MEMBERS}"],
    "other-lanes": ["--model.block=gru", "--train.lanes=4"],
}


@pytest.fixture(scope="module")
def runs(corpus: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for name, options in RUNS.items():
        done = run(TRAIN, *arguments(corpus, cache, folder / name, *options))
        assert done.returncode == 0, done.stderr
    shutil.copytree(folder / "wide", folder / "forgetful", ignore=shutil.ignore_patterns("nats.*"))
    return folder


def test_runs_over_the_same_tokens_are_put_together(runs: Path) -> None:
    together = put_together(load_runs(runs))
    assert {one.name for one in together.runs} == {"narrow", "wide", "together"}
    assert {name: text.split(",")[0] for name, text in together.left_out.items()} == {
        "forgetful": "it kept no code lengths (run.keep_nats)",
        "other-lanes": "it codes other tokens",
    }
    blocks = [*together.blocks()]
    assert [block.shape[2] for block in blocks] == [32] * 19 + [18]
    sums = np.nansum(np.concatenate(blocks, 2), (1, 2))
    assert sums / math.log(2) == pytest.approx([one.data_bits for one in together.runs], rel=1e-12)
    # The first token of each lane, and where the last lane has ended.
    nats = read_nats(together.runs[0].directory).nats
    assert (blocks[0][0, :, 0] == nats[::626]).all()
    assert np.isnan(blocks[-1][:, -1]).sum() > 0
    assert together.coded_tokens()[-1] == 5004


def test_the_command_says_what_each_code_takes(runs: Path, tmp_path: Path) -> None:
    files = [f"--{kind}={tmp_path / f'found.{kind}'}" for kind in ("csv", "json")]
    done = run("launch/evaluate.py", "mixture", str(runs), *files, f"--png={tmp_path / 'figure'}",
               f"--tensorboard={tmp_path / 'events'}")  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    rows = {row["code"]: row for row in found["codes"]}
    assert [*rows][-3:] == [BAYES, STEPS, TOKENS]
    best = min(row["data_bytes"] for name, row in rows.items() if name in RUNS)
    assert best < rows[BAYES]["data_bytes"] + 1e-6 <= best + math.log2(3) / 8 + 1e-6
    assert rows[STEPS]["data_bytes"] <= best + (math.log2(3) + math.log2(20)) / 8
    # Three programs that share nearly everything: more than the longest, and less than two.
    longest = max(row["program_bytes"] for name, row in rows.items() if name in RUNS)
    assert longest < rows[TOKENS]["program_bytes"] < 1.5 * longest
    for name, row in rows.items():
        assert f"{row['total_bytes']:,.0f}" in done.stdout and name in done.stdout
    with (tmp_path / "found.csv").open() as file:
        weights = [row for row in csv.DictReader(file) if row["code"] == BAYES]
    assert len(weights) == 20
    assert weights[-1]["coded_bytes"] == "5003"
    for row in weights:
        assert sum(float(row[name]) for name in ("narrow", "wide", "together")) == pytest.approx(1, abs=1e-5)
    assert sum(float(row["bits"]) for row in weights) / 8 == pytest.approx(rows[BAYES]["data_bytes"], rel=1e-5)
    assert {path.name for path in tmp_path.iterdir()} >= {"figure-light.png", "figure-dark.png", "figure.pdf"}
    assert "other-lanes is left out: it codes other tokens" in done.stdout
    assert {path.name for path in (tmp_path / "events").iterdir()} == {
        BAYES, STEPS, TOKENS, *(f"weight of {name}" for name in ("narrow", "wide", "together"))
    }  # fmt: skip
    events = EventAccumulator(str(tmp_path / "events" / BAYES))
    events.Reload()
    last = events.Scalars("description_length/data_bytes")[-1]
    assert (last.step, last.value) == (5003, pytest.approx(rows[BAYES]["data_bytes"], rel=1e-5))
    events = EventAccumulator(str(tmp_path / "events" / "weight of wide"))
    events.Reload()
    shown = [scalar.value for scalar in events.Scalars("mixture/weight_in_Bayesian_mixture")]
    assert shown == pytest.approx([float(row["wide"]) for row in weights], abs=1e-5)


def test_one_run_is_no_mixture(runs: Path) -> None:
    done = run("launch/evaluate.py", "mixture", str(runs / "narrow"))
    assert done.returncode == 2
    assert "it takes two runs over the same tokens" in done.stderr


def test_models_side_by_side_stop_and_go_on_exactly(runs: Path, corpus: Path, cache: Path, tmp_path: Path) -> None:
    """What each lane's members count is part of a checkpoint."""
    where = tmp_path / "stopped"
    options = [*RUNS["together"], "--run.stop_after_steps=7", "--run.checkpoint_secs=0.01"]
    stopped = run(TRAIN, *arguments(corpus, cache, where, *options))
    assert stopped.returncode == 0 and "onepass: stopped" in stopped.stderr
    done = run(TRAIN, f"--run.dir={where}", "--run.resume", "--run.stop_after_steps=0")
    assert done.returncode == 0, done.stderr
    assert curve(where) == curve(runs / "together")
    assert report(where)["model"]["block"] == MEMBERS
    members = [name for name in report(where)["code"]["modules"] if name.startswith("model/blocks/")]
    assert members[1:] == ["model/blocks/gru.py", "model/blocks/lstm.py"]
    alone = report(runs / "wide")["code"]["modules"]
    assert "model/mixture.py" in report(where)["code"]["modules"] and "model/mixture.py" not in alone
