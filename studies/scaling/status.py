"""How far the cells of a sweep are, from their directories alone: whoever runs them, and wherever.

A cell is done once its report is there. One that was begun is running while its curve or its log grows, has failed if
its log ends with an error, and is stopped otherwise.
"""

import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, TypeAdapter

from data.errors import UsageError
from data.files import read_json
from eval.layout import duration, lay_out
from studies.scaling.record import SWEEP_FILE, Place, read_sweep

Word = Literal["waiting", "running", "done", "failed", "stopped"]
# A log gets a line, or a curve a point, more often than that.
SILENT_SECS = 300.0
TAIL_BYTES = 4096
REPORT_LIMIT_BYTES = 16 << 20
# Of a line of an error, in a table.
LONGEST_REASON = 160


@dataclass(frozen=True)
class State:
    """How far one cell is. `secs` is what it took, or has taken until now; `left_secs` is None if nothing tells."""

    name: str
    place: Place
    word: Word
    secs: float = 0.0
    left_secs: float | None = None
    total_bytes: float = 0.0
    coded_bytes: int = 0
    corpus_bytes: int = 0
    bytes_per_sec: float = 0.0
    reason: str = ""

    @property
    def cell(self) -> str:
        """What stands for it in a table of the grid."""
        if self.word == "done":
            return f"{self.total_bytes:,.0f}"
        if self.word in ("running", "stopped") and self.corpus_bytes:
            return f"{'' if self.word == 'running' else 'stopped '}{self.coded_bytes / self.corpus_bytes:.0%}"
        return self.word


class Length(BaseModel):
    total_bits: float


class Corpus(BaseModel):
    bytes: int


class Cost(BaseModel):
    elapsed_secs: float


class Finished(BaseModel):
    """What a table of a sweep says of a report.json."""

    description_length: Length
    cost: Cost


def read_state(folder: Path, name: str, place: Place, running: bool | None = None) -> State:
    """The state of the cell `name` of the sweep in `folder`. `running` says whether it is, where that is known.

    Raises UsageError if a file is damaged.
    """
    run_dir, log = folder / name, folder / "logs" / f"{name}.log"
    report = run_dir / "report.json"
    if report.exists():
        found: Finished = read_json(report, TypeAdapter(Finished), REPORT_LIMIT_BYTES)
        # From the start of its training to the end of its report; a run that was resumed has no such span.
        span_secs = changed(report) - (changed(run_dir / ".lock") or changed(report))
        secs = max(found.cost.elapsed_secs, span_secs)
        return State(name, place, "done", secs, 0.0, found.description_length.total_bits / 8)
    coded_bytes, secs, bytes_per_sec = read_curve(run_dir / "curve.csv")
    corpus_bytes = 0
    if (path := run_dir / "corpus.json").exists():
        corpus_bytes = read_json(path, TypeAdapter(Corpus), REPORT_LIMIT_BYTES).bytes
    heard = max(changed(path) for path in (run_dir / "curve.csv", run_dir / ".lock", log))
    ended, reason = read_end(log)
    # Something was written after the error.
    ended = ended and changed(log) >= changed(run_dir / "curve.csv")
    if running is None:
        running = bool(heard) and not ended and time.time() - heard < SILENT_SECS
    word: Word = "running" if running else "failed" if ended and reason else "stopped" if heard else "waiting"
    left_secs = (corpus_bytes - coded_bytes) / bytes_per_sec if corpus_bytes and bytes_per_sec else None
    if word == "stopped" and not reason:
        reason = f"has written nothing for {duration(time.time() - heard)}"
    return State(name, place, word, secs, left_secs, 0.0, coded_bytes, corpus_bytes, bytes_per_sec, reason)


def changed(path: Path) -> float:
    """When a file was written last; 0 if it is not there."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def read_tail(path: Path) -> str:
    """The end of a file; nothing if it is not there."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def read_curve(path: Path) -> tuple[int, float, float]:
    """Corpus bytes that a live curve has reached, after how many seconds, and the bytes a second at its end."""
    points = []
    for line in read_tail(path).splitlines():
        try:
            fields = line.split(",")
            points.append((int(fields[1]), float(fields[5])))
        except (ValueError, IndexError):
            # The header, and lines that are cut.
            continue
    if not points:
        return 0, 0.0, 0.0
    coded_bytes, secs = points[-1]
    # The first point alone is compared with the start.
    before = points[0] if len(points) > 1 and secs > points[0][1] else (0, 0.0)
    return coded_bytes, secs, (coded_bytes - before[0]) / max(secs - before[1], 1e-9)


def read_end(log: Path) -> tuple[bool, str]:
    """Whether a log ends with an error, or with a stop, which has no reason."""
    lines = [line.strip() for line in read_tail(log).replace("\r", "\n").split("\n") if line.strip()]
    for line in reversed(lines):
        if line.startswith("onepass: stopped"):
            return True, ""
        if line.startswith("onepass: "):
            return True, line.removeprefix("onepass: ")
        # A bar: it has gone on since.
        if "%|" in line:
            break
        if line.startswith("Traceback "):
            return True, lines[-1]
    return False, ""


def read_states(folder: Path) -> list[State]:
    """The states of all cells that were ever asked for in the folder of a sweep."""
    path = folder / SWEEP_FILE
    if not path.exists():
        raise UsageError(f"{path} is missing: no sweep has begun in {folder}")
    sweep = read_sweep(path)
    if not sweep.places:
        raise UsageError(f"{path} is of an earlier version: start the sweep again, and what is finished is skipped")
    return [read_state(folder, name, place) for name, place in sweep.places.items()]


def estimate_secs(states: Sequence[State], later: Sequence[Place], jobs: int) -> tuple[float, float] | None:
    """Between how many seconds, about, all that is not done takes, with so many `jobs` at once. None until a cell has
    said how fast it is.

    A cell that waits takes as long as the one most like it, at least, or longer by the ratio of their parameters: small
    ones take the same time for more.
    """
    known = [(state.place, state.secs + state.left_secs) for state in states if state.left_secs is not None]
    if not known:
        return None
    running = [state.left_secs for state in states if state.word == "running" and state.left_secs is not None]
    begin = [state.place for state in states if state.word in ("running", "waiting") and state.left_secs is None]
    lows, highs = list(running), list(running)
    for place in [*begin, *later]:
        secs, more = time_like(place, known)
        lows.append(min(secs, secs * more))
        highs.append(max(secs, secs * more))
    low, high = (max(sum(left) / jobs, *left, 0.0) for left in (lows, highs))
    return low, high


def time_like(place: Place, known: Sequence[tuple[Place, float]]) -> tuple[float, float]:
    """The time of the `known` cell that is most like the one at `place`, and how many times its parameters that has."""

    def unlike(one: tuple[Place, float]) -> tuple[bool, bool, float]:
        return one[0].row != place.row, one[0].line != place.line, abs(math.log(one[0].parameters / place.parameters))

    nearest, secs = min(known, key=unlike)
    return secs, place.parameters / nearest.parameters


def summary(states: Sequence[State], later: Sequence[Place] = (), jobs: int = 0) -> str:
    """ "3 of 8 cells done, 2 running, 3 waiting; about 4 to 9 min left"."""
    counts = {word: sum(state.word == word for state in states) for word in ("running", "waiting", "stopped", "failed")}
    parts = [f"{sum(state.word == 'done' for state in states)} of {len(states)} cells done"]
    parts += [f"{count} {word}" for word, count in counts.items() if count]
    text = ", ".join(parts)
    if later:
        text += f", then {len(later)} with the best rates"
    if not jobs or not (counts["running"] + counts["waiting"] + len(later)):
        return text
    estimate = estimate_secs(states, later, jobs)
    if estimate is None:
        return text
    low, high = map(duration_text, estimate)
    return f"{text}; about {low if low == high else f'{low} to {high}'} left"


def duration_text(secs: float) -> str:
    """An estimate of seconds: "40 s", "7 min", "1 h 20 min"."""
    if secs < 90:
        return f"{max(1, round(secs, -1 if secs > 20 else 0)):.0f} s"
    minutes = round(secs / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {10 * (minutes % 60 // 10)} min"


def table(states: Sequence[State]) -> list[str]:
    """The grid, a row for what cells share beside the width, a column a width; then those that run, and those that
    failed or stopped. Lengths are totals in bytes."""
    widths = sorted({state.place.width for state in states})
    rows: dict[str, dict[int, str]] = {}
    for state in states:
        rows.setdefault(state.place.row, {})[state.place.width] = state.cell
    # Trials of rates beside what they are for.
    lines_of_rows = {state.place.row: state.place.line for state in states}
    order = list(dict.fromkeys(state.place.line for state in states))
    rows = dict(sorted(rows.items(), key=lambda item: order.index(lines_of_rows[item[0]])))
    lines = [("", *(f"width {width}" for width in widths))]
    lines += [(row, *(cells.get(width, "") for width in widths)) for row, cells in rows.items()]
    first = max(len(line[0]) for line in lines) + 2
    text = lay_out(lines, f"<{first}", *([">14"] * len(widths)))
    running = [state for state in states if state.word == "running"]
    if running:
        told = [
            (
                state.name,
                f"{state.coded_bytes:,} of {state.corpus_bytes:,} bytes" if state.corpus_bytes else "starting",
                f"{state.bytes_per_sec:,.0f} bytes/s" if state.coded_bytes else "",
                f"{duration_text(state.left_secs)} left" if state.left_secs is not None else "",
            )
            for state in running
        ]
        sizes = [max(len(row[column]) for row in told) for column in range(4)]
        text += ["", *lay_out(told, f"<{sizes[0]}", *(f">{size + 2}" for size in sizes[1:]))]
    odd = [state for state in states if state.reason]
    text += [""] * bool(odd)
    text += [f"{state.name} {state.word}: {state.reason[:LONGEST_REASON]}; see logs/{state.name}.log" for state in odd]
    return text


def status_text(folder: Path) -> str:
    """What --status prints."""
    states = read_states(folder)
    running = sum(state.word == "running" for state in states)
    spent_secs = sum(state.secs for state in states)
    head = f"{folder}: {summary(states, (), running)}. All cells together have taken {duration(spent_secs)}"
    return "\n".join([head, "", *table(states)])
