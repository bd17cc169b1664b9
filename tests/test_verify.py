"""launch/report.py verify: what comes out again, which forgeries are found, and by how many spans."""

import itertools
import json
import math
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from dist import ROOT, run
from finished_run import finished_run, run_report
from small_run import SMALL, cache, corpus

from benchmarks.forgeries import FORGERIES
from data.errors import UsageError
from studies.verify.spans import Span, draw, missed
from train.command_line import parse_config
from train.run_dir import record_steps

__all__ = ["cache", "corpus"]
SPANS = [Span(number, number, number + 1, None, None) for number in range(1, 8)]

# Trains with a record, then verifies the run and its forgeries, all in the ranks of one program.
CAMPAIGN = r"""
import contextlib, io, json, os, shutil, sys
from pathlib import Path

import numpy as np
from torch import distributed as dist

from benchmarks.forgeries import FORGERIES, open_copy, refit, token_of
from data.errors import RunFailed
from launch.train import train
from studies.verify.command import execute
from studies.verify.options import Verify
from train.command_line import parse_config



def move(copy):
    '''Let the run be of another machine.'''
    path = copy.run_dir / "report.json"
    report = json.loads(path.read_text())
    report["reference_machine"]["processor"] = "another"
    path.write_text(json.dumps(report))


def carry(copy):
    '''The same, and a token costs 0.1 nats less.'''
    path = copy.run_dir / "nats.npy"
    nats = np.load(path, mmap_mode="r+")
    nats[token_of(copy)] -= 0.1
    nats.flush()
    refit(copy)
    move(copy)


FORGERIES |= {"elsewhere": move, "elsewhere, the nats of a token": carry}
folder = Path(folder)
rank_0 = os.environ.get("RANK", "0") == "0"
train(parse_config("", [f"--run.dir={folder / 'honest'}", "--run.record_spans=5", *given]))
said = {}
for number, forgery in enumerate(["nothing", *forgeries]):
    copy = folder / f"copy-{number}"
    if rank_0:
        shutil.copytree(folder / "honest", copy)
        if forgery in FORGERIES:
            FORGERIES[forgery](open_copy(copy))
    if dist.is_initialized():
        dist.barrier()
    out, failed = io.StringIO(), ""
    with contextlib.redirect_stdout(out):
        try:
            execute(Verify(run=copy, spans=99, seed=1, json=Path(f"{copy}.json")), stay=True)
        except RunFailed as error:
            failed = str(error)
    found = json.loads(Path(f"{copy}.json").read_text()) if rank_0 and Path(f"{copy}.json").exists() else {}
    said[forgery] = [failed, out.getvalue(), found]
if rank_0:
    (folder / "said.json").write_text(json.dumps(said))
"""


def campaign(
    folder: Path, corpus: Path, cache: Path, ranks: int, forgeries: list[str], *options: str
) -> dict[str, Any]:
    """By forgery: the failure, standard output and the file of a verification with all spans."""
    given = [f"--data.source={corpus}", f"--data.cache_dir={cache}", *SMALL, *options]
    named = f"folder, forgeries, given = {str(folder)!r}, {forgeries}, {given}"
    (folder / "campaign.py").write_text(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{named}\n{CAMPAIGN}")
    done = run(str(folder / "campaign.py"), ranks=ranks)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads((folder / "said.json").read_text())
    return found


@pytest.fixture(scope="module")
def alone(corpus: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    names = [*FORGERIES, "elsewhere", "elsewhere, the nats of a token"]
    return campaign(tmp_path_factory.mktemp("alone"), corpus, cache, 1, names)


def showing(found: dict[str, Any]) -> list[int]:
    """The spans in which something differs."""
    return [one["number"] for one in found["checked"] if one["first"] or one["state"]]


def test_a_run_comes_out_again_to_the_last_bit(alone: dict[str, Any]) -> None:
    failed, out, found = alone["nothing"]
    assert not failed
    assert [(one["start_step"], one["stop_step"]) for one in found["checked"]] == list(pairwise(range(0, 21, 4)))
    assert sum(one["tokens"] for one in found["checked"]) == found["tokens"] == found["tokens_again"] == 5004
    assert {(one["differing"], one["largest"], one["state"]) for one in found["checked"]} == {(0, 0.0, "")}
    assert "20 rows), nats.npy (5,004 tokens), 5 kept states" in out
    assert "--seed 1 draws 5 of 5 spans" in out


@pytest.mark.parametrize(
    ("forgery", "message"),
    [
        ("a row of the curve, by a byte", r"curve\.csv: row 11 \(step 11\) has data_bits [\d,]+\.\d+, and the nats"),
        (
            "a learning rate in the curve",
            r"curve\.csv: row 11 \(step 11\) has learning_rate 0\.0150\d+, and the schedule",
        ),
        ("the report's total, by a byte", r"report\.json: data_bits is [\d,.]+, and the sum of nats\.npy comes to"),
        ("the nats of a token, by their last bit", r"nats\.npy does not "),
    ],
)
def test_files_that_contradict_each_other_are_found_without_training(
    forgery: str, message: str, alone: dict[str, Any]
) -> None:
    failed, _, found = alone[forgery]
    assert not found
    assert re.search(message, failed) and "\n" not in failed


@pytest.mark.parametrize(
    ("forgery", "spans", "message"),
    [
        ("a parameter of a kept state, by its last bit", [3, 4], r"span 3 .* does not match its SHA-256"),
        (
            "the nats of a token, and all sums",
            [3],
            r"span 3 \(steps 8 to 12\): token 2,824, at byte 2,824 of the corpus",
        ),
        (
            "a parameter of a kept state, and its checksum",
            [3, 4],
            r"span 3 .*000000012, is not what comes out again: mp",
        ),
        ("elsewhere, the nats of a token", [3], r"span 3 \(steps 8 to 12\): token 2,824"),
    ],
)
def test_what_a_careful_forger_changes_is_found_by_its_spans(
    forgery: str, spans: list[int], message: str, alone: dict[str, Any]
) -> None:
    failed, _, found = alone[forgery]
    assert showing(found) == spans
    assert re.search(message, failed) and "\n" not in failed


def test_elsewhere_the_tolerance_is_said(alone: dict[str, Any]) -> None:
    failed, out, found = alone["elsewhere"]
    assert not failed
    assert len(found["elsewhere"]) == 1
    assert "This is not the run's machine (processor " in out
    assert "It may differ by 0.05 nats a token" in out
    # The tolerance is below what was forged by, and above what the other forger changed.
    assert 0 < found["allowed"]["token_nats"] < alone["elsewhere, the nats of a token"][2]["checked"][2]["largest"]


def test_two_ranks_verify_a_run_of_two_ranks(corpus: Path, cache: Path, tmp_path: Path) -> None:
    """Under ZeRO, whose states have objects of DeepSpeed's in them."""
    forgery = "the nats of a token, and all sums"
    found = campaign(tmp_path, corpus, cache, 2, [forgery], "--engine.zero_stage=1")
    assert not found["nothing"][0]
    assert [one["differing"] for one in found["nothing"][2]["checked"]] == [0] * 5
    assert "span 3" in found[forgery][0]
    assert showing(found[forgery][2]) == [3]


@pytest.mark.parametrize(("drawn", "forged"), [(1, 1), (3, 2), (5, 3), (7, 1), (2, 7)])
def test_what_a_draw_misses_is_counted(drawn: int, forged: int) -> None:
    draws = list(itertools.combinations(range(7), drawn))
    without = sum(not {*one} & {*range(forged)} for one in draws)
    assert missed(7, drawn, forged) == pytest.approx(without / len(draws), abs=1e-15)
    assert missed(7, drawn, forged) <= (1 - forged / 7) ** drawn + 1e-15


def test_every_span_may_be_drawn_and_a_seed_draws_the_same() -> None:
    draws = [draw(SPANS, 2, seed) for seed in range(300)]
    assert draws == [draw(SPANS, 2, seed) for seed in range(300)]
    assert all(one[0].number < one[1].number for one in draws)
    counts = [sum(span in one for one in draws) for span in SPANS]
    # 300 * 2 / 7, by five standard deviations.
    assert all(abs(count - 600 / 7) < 5 * math.sqrt(300 * 2 / 7 * 5 / 7) for count in counts)
    assert draw(SPANS, 99, 0) == SPANS


def test_states_are_kept_where_the_curve_has_points() -> None:
    assert record_steps(100, 0, 10) == set()
    assert record_steps(100, 1, 10) == {100}
    assert record_steps(100, 4, 10) == {20, 50, 80, 100}
    # There are no more points than the curve has.
    assert record_steps(95, 1000, 10) == {*range(10, 95, 10), 95}


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--spans=0", "--spans 0: take 1 or more"),
        ("--seed=-1", "--seed -1: take 0 or more"),
        ("--tolerance=nan", "--tolerance nan: give nats above 0"),
        ("--json=/nowhere/x", "--json /nowhere/x: /nowhere is no folder"),
        ("--sapns=1", "unknown option --sapns. Did you mean --spans"),
        ("--spans=1", "holds no finished run"),
    ],
)
def test_what_cannot_be_verified_is_one_line(option: str, message: str, tmp_path: Path) -> None:
    done = run_report("verify", tmp_path, option)
    assert done.returncode == 2
    assert message in done.stderr and done.stderr.count("\n") == 1


def test_a_run_that_kept_no_nats_says_how_to_keep_them(tmp_path: Path) -> None:
    finished_run(tmp_path / "run")
    done = run_report("verify", tmp_path / "run")
    assert done.returncode == 2
    assert "holds no nats.json" in done.stderr and "--run.keep_nats on" in done.stderr


def test_a_record_needs_nats() -> None:
    with pytest.raises(UsageError, match=r"run\.record_spans .* run\.keep_nats is off"):
        parse_config("", ["--run.record_spans=3", "--run.keep_nats=off"])
