"""The table of a sweep: from run directories alone, and as it is shown while the sweep runs."""

import json
import os
import time
from pathlib import Path

import pytest
from dist import run
from finished_run import finished_run

from data.errors import UsageError
from studies.scaling.board import Board
from studies.scaling.cells import Cell
from studies.scaling.record import Place
from studies.scaling.status import State, duration_text, estimate_secs, read_states, status_text, summary
from studies.scaling.sweep import record_cells

CURVE = "step,coded_bytes,coded_tokens,data_bits,total_bits,elapsed_secs,tokens_per_sec,learning_rate\n"


def cell(folder: Path, name: str, width: int, parameters: int = 1000) -> Cell:
    line = name.rsplit("-", 1)[0]
    return Cell(name, folder / name, (), Place(line=line, row=line, width=width, factor=1.0, parameters=parameters))


@pytest.fixture
def sweep(tmp_path: Path) -> list[Cell]:
    """A cell in each state, of which one has written nothing for an hour."""
    names = {"gru-16": 16, "gru-32": 32, "gru-64": 64, "ssd-16": 16, "ssd-32": 32, "ssd-64": 64}
    cells = [cell(tmp_path, name, width) for name, width in names.items()]
    record_cells(tmp_path, cells)
    (tmp_path / "logs").mkdir()
    finished_run(tmp_path / "gru-16", data_bytes=600.0)
    for name in ("gru-32", "ssd-16"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "corpus.json").write_text('{"name": "text", "bytes": 1000}')
        (tmp_path / name / "curve.csv").write_text(f"{CURVE}10,200,50,0,0,2.0,9,1\n20,400,100,0,0,4.0,9,1\n30,5")
    long_ago = time.time() - 3600
    os.utime(tmp_path / "ssd-16/curve.csv", (long_ago, long_ago))
    (tmp_path / "logs/gru-64.log").write_text("one epoch  10%|\ronepass: out of memory: take fewer --train.lanes\n")
    (tmp_path / "logs/ssd-32.log").write_text("onepass: stopped; go on with --run.dir x --run.resume\n")
    return cells


def test_directories_alone_say_how_far_cells_are(sweep: list[Cell], tmp_path: Path) -> None:
    states = {state.name: state for state in read_states(tmp_path)}
    words = {name: state.word for name, state in states.items()}
    assert words == {
        "gru-16": "done", "gru-32": "running", "gru-64": "failed", "ssd-16": "stopped", "ssd-32": "stopped",
        "ssd-64": "waiting",
    }  # fmt: skip
    assert states["gru-16"].total_bytes == 700
    assert states["gru-64"].reason == "out of memory: take fewer --train.lanes"
    going = states["gru-32"]
    assert (going.coded_bytes, going.bytes_per_sec, going.left_secs) == (400, 100.0, 6.0)
    text = status_text(tmp_path)
    assert "1 of 6 cells done, 1 running, 1 waiting, 2 stopped, 1 failed" in text
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.startswith(("gru ", "ssd "))}
    assert rows["gru"] == ["700", "40%", "failed"]
    assert rows["ssd"] == ["stopped", "40%", "stopped", "waiting"]
    assert "gru-64 failed: out of memory: take fewer --train.lanes; see logs/gru-64.log" in text
    assert "ssd-16 stopped: has written nothing for 1 h 0 min" in text


def test_a_table_on_request_needs_the_folder_alone(sweep: list[Cell], tmp_path: Path) -> None:
    done = run("launch/sweep.py", "--dir", str(tmp_path), "--status")
    assert done.returncode == 0, done.stderr
    assert "1 of 6 cells done" in done.stdout and "gru             700" in done.stdout
    refused = run("launch/sweep.py", f"--dir={tmp_path}", "--status", "--widths=16")
    assert refused.returncode == 2
    assert "--widths=16 has no effect" in refused.stderr
    (tmp_path / "sweep.json").unlink()
    with pytest.raises(UsageError, match="no sweep has begun"):
        read_states(tmp_path)


def test_time_left_is_between_equal_times_and_times_by_parameters() -> None:
    def place(width: int, parameters: int, row: str = "gru") -> Place:
        return Place(line=row, row=row, width=width, factor=1.0, parameters=parameters)

    states = [State("a", place(16, 100), "done", 10.0, 0.0), State("b", place(32, 400), "waiting")]
    assert estimate_secs(states[1:], (), 1) is None
    assert estimate_secs(states, (), 1) == (10.0, 40.0)
    # A cell under way knows better, and another row is asked last.
    states[1] = State("b", place(32, 400), "running", 20.0, 5.0)
    states.append(State("c", place(64, 400, "ssd"), "waiting"))
    assert estimate_secs(states, (), 1) == (30.0, 30.0)
    assert estimate_secs(states, [place(32, 400)], 2) == (27.5, 27.5)
    text = summary(states, [place(32, 400)], 1)
    assert text == "1 of 3 cells done, 1 running, 1 waiting, then 1 with the best rates; about 60 s left"
    assert [duration_text(secs) for secs in (0.2, 44.0, 400.0, 5000.0, 9000.0)] == [
        "1 s", "40 s", "7 min", "83 min", "2 h 30 min"
    ]  # fmt: skip


def test_a_terminal_gets_a_table_and_a_log_a_line_a_cell(
    sweep: list[Cell], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    board = Board(sweep, (), 1)
    waiting, running = ["ssd-16", "ssd-32", "ssd-64"], ["gru-32"]
    for _ in range(3):
        board.show(waiting, running)
    board.end(sweep[0], waiting, running)
    board.end(sweep[2], waiting, running)
    first, done, failed = capsys.readouterr().err.splitlines()
    assert first.endswith(f"--dir {tmp_path} --status")
    assert "gru-16 done, 700 bytes in" in done
    # What will be tried again has not failed.
    assert "1 of 6 cells done, 1 running, 3 waiting, 1 failed" in failed
    assert "gru-64.log (out of memory: take fewer --train.lanes)" in failed

    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("LINES", "8")
    board = Board(sweep, (), 1)
    board.show(waiting, running)
    (tmp_path / "gru-32/report.json").write_text(json.dumps(json.loads((tmp_path / "gru-16/report.json").read_text())))
    board.show(waiting, [])
    once, again = capsys.readouterr().err.split("\033[7F\033[J")
    assert "1 of 6 cells done" in once and "2 of 6 cells done" in again
    assert len(again.splitlines()) == 7 and max(map(len, again.splitlines())) < 60
    assert "too low for all rows" in again
