"""The live curve of a run, read back from its curve.csv (which train/metrics.py writes)."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from data.errors import UsageError

LIMIT_BYTES = 256 << 20
COLUMNS = ("coded_bytes", "data_bits", "total_bits")


@dataclass(frozen=True)
class Curve:
    """Corpus bytes coded, and the bits that they took so far, without and with the fixed terms: float64 [points]."""

    coded_bytes: np.ndarray
    data_bits: np.ndarray
    total_bits: np.ndarray

    def thin(self, points: int = 2000) -> Self:
        """At most so many of the points, evenly chosen, the last one included: more than a figure can show."""
        kept = np.unique(np.linspace(0, len(self.coded_bytes) - 1, points).round().astype(int))
        return type(self)(self.coded_bytes[kept], self.data_bits[kept], self.total_bits[kept])

    def rate(self, windows: int = 150) -> tuple[np.ndarray, np.ndarray]:
        """Bits per byte now: (corpus bytes at the middle of each window, its data bits per byte), `windows` at most."""
        coded_bytes, data_bits = np.append(0, self.coded_bytes), np.append(0, self.data_bits)
        edges = np.unique(np.searchsorted(coded_bytes, np.linspace(0, coded_bytes[-1], windows + 1)))
        middle = (coded_bytes[edges[1:]] + coded_bytes[edges[:-1]]) / 2
        return middle, np.diff(data_bits[edges]) / np.diff(coded_bytes[edges])

    def last_rate(self, part: float = 0.1) -> float:
        """Data bits per byte of the last `part` of the corpus: what the model costs when it has learned the rest."""
        end_bytes = self.coded_bytes[-1]
        before_bits = np.interp((1 - part) * end_bytes, np.append(0, self.coded_bytes), np.append(0, self.data_bits))
        return float((self.data_bits[-1] - before_bits) / (part * end_bytes))


def load_curve(path: Path) -> Curve:
    """Read a curve.csv of at least one point. Raises UsageError, one line naming the file and what is wrong in it."""
    if path.stat().st_size > LIMIT_BYTES:
        raise UsageError(f"{path} is larger than {LIMIT_BYTES:,} bytes, the most a curve can be: it is damaged")
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            points = [[float(row[name]) for name in COLUMNS] for row in csv.DictReader(stream)]
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise UsageError(f"{path} is no curve of a run: a row is not whole ({error})") from None
    table = np.array(points).reshape(-1, len(COLUMNS)).T
    if table.size == 0 or not np.isfinite(table).all() or (np.diff(table[0], prepend=0) <= 0).any():
        raise UsageError(
            f"{path} is no curve of a run: it is empty, or coded_bytes does not rise, or a cell is no number"
        )
    return Curve(*table)
