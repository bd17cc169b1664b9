"""Which learning rates each line of a tuned sweep got, and what was tried: for the tables and pages of a comparison."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from studies.scaling.record import SWEEP_FILE, Tuned, read_sweep
from studies.scaling.runs import ComparedRun


@dataclass(frozen=True)
class LineRates:
    """The rates of one line. `total_bits` are those of the trials, by factor: None where the loss stopped being a
    number. `runs` have the best factor, `rejected` are trials of others, by their names."""

    line: str
    tuned: Tuned
    total_bits: dict[float, float | None]
    runs: frozenset[str]
    rejected: frozenset[str]

    @property
    def cells(self) -> list[str]:
        """The trials' totals in bytes, by rising factor."""
        return [f"{bits / 8:,.0f}" if bits else "diverged" for _, bits in sorted(self.total_bits.items())]

    @property
    def verdict(self) -> str:
        """ "x 2, the largest tried: a better one may lie beyond"."""
        return f"x {self.tuned.factor:g}{self.tuned.edge}"


def read_rates(runs_dir: Path, runs: Sequence[ComparedRun]) -> list[LineRates]:
    """The rates of the lines that these runs are of, if a sweep.json in `runs_dir` says that they were tuned.

    Raises UsageError if it is damaged.
    """
    path = runs_dir / SWEEP_FILE
    sweep = read_sweep(path) if path.exists() else None
    totals = {run.name: run.total_bits for run in runs}
    found = []
    for line, tuned in sweep.tuned.items() if sweep else ():
        places = {name: place for name, place in sweep.places.items() if place.line == line} if sweep else {}
        chosen = frozenset(name for name, place in places.items() if place.factor == tuned.factor)
        if chosen & totals.keys():
            tried = {factor: totals.get(name) for name, factor in tuned.tried.items()}
            found.append(LineRates(line, tuned, tried, chosen, frozenset(tuned.tried) - chosen))
    return found
