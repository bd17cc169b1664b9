"""sweep.json: the cells that were ever asked for in the folder of a sweep, and where each stands in its grid."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from data.files import read_json

SWEEP_FILE = "sweep.json"
SWEEP_LIMIT_BYTES = 16 << 20


class Place(BaseModel):
    """Where a cell stands in the grid. `line` is all that it shares with the cells of other widths, seeds and rates;
    `row` leaves out the width alone."""

    model_config = ConfigDict(strict=True)

    line: str
    row: str
    width: int
    factor: float
    parameters: int


class Tuned(BaseModel):
    """The factor on all learning rates that a line of cells got, and those that were tried at one width, by the names
    of their cells. A factor whose loss stopped being a number is among `diverged`."""

    model_config = ConfigDict(strict=True)

    width: int
    factor: float
    tried: dict[str, float]
    diverged: list[str]

    @property
    def edge(self) -> str:
        """What is to be said of a factor that is the least or the greatest of those that were tried."""
        factors = sorted(self.tried.values())
        end = "smallest" if self.factor == factors[0] else "largest" if self.factor == factors[-1] else ""
        return f", the {end} tried: a better one may lie beyond" if end else ""


class Sweep(BaseModel):
    """What launch/sweep.py says of its cells in sweep.json. Sweeps from before 2026-11-29 have no places."""

    model_config = ConfigDict(strict=True)

    format: Annotated[int, Field(ge=1, le=1)] = 1
    cells: Annotated[int, Field(ge=1)]
    side_bits: float = 0.0
    names: list[str]
    places: dict[str, Place] = {}
    tuned: dict[str, Tuned] = {}


def read_sweep(path: Path) -> Sweep:
    """A sweep.json. Raises UsageError, one line, if it is damaged."""
    sweep: Sweep = read_json(path, TypeAdapter(Sweep), SWEEP_LIMIT_BYTES)
    return sweep
