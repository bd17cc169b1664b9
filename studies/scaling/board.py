"""What a sweep shows while it runs: on a terminal a table that is drawn again in its place, in a log a line a cell."""

import shutil
import sys
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from eval.layout import duration
from studies.scaling.cells import Cell
from studies.scaling.record import Place
from studies.scaling.status import State, read_state, summary, table

# In a log, when no cell ends.
QUIET_SECS = 600.0
ABOVE = "\033[{}F\033[J"
# When the program began.
BEGUN = time.monotonic()


class Board:
    """Call `show` as often as you like, `end` for a cell that has ended, and `close`."""

    def __init__(self, cells: Iterable[Cell], later: Sequence[Place], jobs: int):
        """`later` are the places of cells that come after these, with rates that are not known yet."""
        # Some are there twice: trials that became cells of the grid.
        self.cells = list({cell.name: cell for cell in cells}.values())
        self.later, self.jobs = later, jobs
        self.live = sys.stderr.isatty()
        self.shown = time.monotonic() - QUIET_SECS
        self.drawn = 0
        # By name: what changes no more.
        self.ended: dict[str, State] = {}

    def states(self, waiting: Collection[str], running: Collection[str]) -> list[State]:
        """Those of all cells, of which these wait and run."""
        found = []
        for cell in self.cells:
            state = self.ended.get(cell.name) or self.read(cell, cell.name in running)
            if cell.name in waiting:
                # It may have failed before, or may have been stopped.
                state = replace(state, word="waiting", left_secs=None, reason="")
            elif cell.name not in running:
                self.ended[cell.name] = state
            found.append(state)
        return found

    def read(self, cell: Cell, running: bool) -> State:
        return read_state(cell.run_dir.parent, cell.name, cell.place, running)

    def show(self, waiting: Collection[str], running: Collection[str]) -> None:
        """Draw the table again; in a log, a line if there was none for long."""
        if self.live:
            self.draw(self.lines(self.states(waiting, running), bool(running or waiting)))
        elif time.monotonic() - self.shown >= QUIET_SECS:
            self.write(f"{summary(self.states(waiting, running), self.later, self.jobs)}. For a table: {self.command}")

    @property
    def command(self) -> str:
        return f"python launch/sweep.py --dir {self.cells[0].run_dir.parent} --status"

    def lines(self, states: list[State], going: bool) -> list[str]:
        """The table, cut to what the terminal holds."""
        columns, rows = shutil.get_terminal_size()
        head = summary(states, self.later, self.jobs if going else 0).split("; ")
        lines = [head[0], "; ".join([*head[1:], f"{duration(self.elapsed_secs)} so far"]), "", *table(states)]
        if len(lines) > rows - 1:
            # The end says what runs and what failed.
            lines = [*lines[:2], "(the terminal is too low for all rows)", *lines[len(lines) - rows + 4 :]]
        return [line[: columns - 1] for line in lines]

    @property
    def elapsed_secs(self) -> float:
        return round(time.monotonic() - BEGUN)

    def draw(self, lines: list[str]) -> None:
        up = ABOVE.format(self.drawn) if self.drawn else ""
        sys.stderr.write(up + "\n".join(lines) + "\n")
        sys.stderr.flush()
        self.drawn = len(lines)

    def end(self, cell: Cell, waiting: Collection[str], running: Collection[str]) -> None:
        """Say what became of a cell."""
        states = self.states(waiting, running)
        state = next(state for state in states if state.name == cell.name)
        if self.live:
            return
        done = f"done, {state.total_bytes:,.0f} bytes in {duration(state.secs)}"
        # A run that was killed has no last word.
        failed = f"failed; see {cell.log}" + (f" ({state.reason})" if state.reason else "")
        self.write(f"{cell.name} {done if state.word == 'done' else failed}. {summary(states, self.later, self.jobs)}")

    def write(self, line: str) -> None:
        self.shown = time.monotonic()
        print(f"onepass: {line}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave the table as it is at the end."""
        if self.live:
            self.draw(self.lines(self.states((), ()), False))
