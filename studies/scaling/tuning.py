"""The best learning rates of each line of a sweep at one width, carried to its other widths.

All cells that try rates count among those that the best is chosen of, so that choosing is charged: log2 K bits.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from studies.scaling.axes import multiply
from studies.scaling.cells import Cell, Grid
from studies.scaling.record import Tuned
from studies.scaling.status import read_state


@dataclass(frozen=True)
class Tuning:
    """A sweep in two stages: `trials` are cells that try each factor at `width`, for each line with the first seed.
    What comes after them depends on how they end."""

    grid: Grid
    depths: Sequence[int]
    factors: Sequence[float]
    width: int
    trials: list[Cell]

    def choose(self) -> tuple[dict[str, Tuned], list[str]]:
        """The factor of each line with the shortest total, and why other lines have none. Sentences."""
        chosen, problems = {}, []
        for line in dict.fromkeys(cell.place.line for cell in self.trials):
            trials = [cell for cell in self.trials if cell.place.line == line]
            totals = {cell.place.factor: total_bytes(cell) for cell in trials if cell.finished}
            diverged = [cell.name for cell in trials if cell.diverged]
            open_cells = [cell.name for cell in trials if not cell.finished and not cell.diverged]
            if open_cells:
                problems.append(f"{line} has no best rate yet: {', '.join(open_cells)} did not finish")
            elif not totals:
                problems.append(f"{line} has no best rate: all that were tried diverged; give lower --learning_rates")
            else:
                best = min(totals, key=lambda factor: totals[factor])
                tried = {cell.name: cell.place.factor for cell in trials}
                chosen[line] = Tuned(width=self.width, factor=best, tried=tried, diverged=diverged)
        return chosen, problems

    def rest(self, chosen: dict[str, Tuned]) -> list[Cell | None]:
        """The cells of the grid itself, each with the factor of its line; None where that has none."""
        factors = {one.factor for one in chosen.values()}
        grids = {factor: multiply(self.grid, self.depths, [factor]) for factor in factors}
        found: list[Cell | None] = []
        for cell in self.plain():
            line = chosen.get(cell.place.line)
            found.append(grids[line.factor][len(found)] if line else None)
        return found

    def later(self) -> list[Cell]:
        """Those of the plain cells that are no trials, whatever their factor."""
        trials = {(cell.place.line, cell.place.width, cell.seed) for cell in self.trials}
        return [cell for cell in self.plain() if (cell.place.line, cell.place.width, cell.seed) not in trials]

    def plain(self) -> list[Cell]:
        """The cells of the grid as if no rate had been tried, in the same order."""
        return multiply(self.grid, self.depths, [])


def plan_tuning(grid: Grid, depths: Sequence[int], factors: Sequence[float], width: int) -> Tuning:
    """Raises UsageError as multiply does."""
    narrow = replace(grid, widths=[width], seeds=grid.seeds[:1])
    return Tuning(grid, depths, factors, width, multiply(narrow, depths, factors))


def total_bytes(cell: Cell) -> float:
    return read_state(cell.run_dir.parent, cell.name, cell.place).total_bytes
