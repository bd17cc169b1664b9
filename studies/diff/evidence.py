"""How many bits the second of two runs saves, since when, and whether it is noise.

The difference of two code lengths of the same data is the logarithm of a Bayes factor: with d bits saved, the data are
2^d times as probable under the second run's code as under the first's. Along the corpus in the order in which the first
run codes it, that shows since when.

The interval is a block bootstrap's (H. Künsch, "The Jackknife and the Bootstrap for General Stationary Observations",
1989). The blocks are the lanes of the first run: contiguous parts of the corpus, which are learned side by side. Each
has the whole course from the untrained model on, and so have resampled corpora. The spread of a resampled sum has a
closed form, so nothing is drawn; as there are few blocks, it is enlarged as in a t distribution. It says what other
text of the same kind would change, and not what another seed would.

Shapes: `K` intervals of the epoch, `R` blocks, `C` classes, `U` units.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import t as student

from studies.diff.paired import Block

LEVEL = 0.95
# Fewer blocks say nothing of their spread. More lanes than the most are taken together, neighbours with neighbours.
LEAST_BLOCKS, MOST_BLOCKS = 8, 64
INTERVALS = 256
# Windows of the corpus, in its own order.
PLACES = 400


def half_width_bits(saved_bits: np.ndarray) -> np.ndarray | None:
    """Half of the 95 % interval of the sums of bits [..., R] over the blocks; None where there are too few."""
    blocks = saved_bits.shape[-1]
    if blocks < LEAST_BLOCKS:
        return None
    return student.ppf((1 + LEVEL) / 2, blocks - 1) * np.sqrt(blocks) * saved_bits.std(-1, ddof=1)


def sum_blocks(lane_bits: np.ndarray) -> np.ndarray:
    """The bits of lanes, of which more than MOST_BLOCKS are taken together, as bits of blocks [R]."""
    lanes, blocks = len(lane_bits), min(len(lane_bits), MOST_BLOCKS)
    return np.bincount(np.arange(lanes) * blocks // lanes, lane_bits, blocks)


class Course:
    """Sums over a corpus: bits saved by interval of the epoch and block [K, R], bytes by interval [K], bits saved by
    place [PLACES]."""

    def __init__(self, lanes: int, units: int):
        self.lanes, self.units, self.blocks = lanes, units, min(lanes, MOST_BLOCKS)
        self.saved_bits, self.coded_units = np.zeros((INTERVALS, self.blocks)), np.zeros(INTERVALS)
        self.by_place = np.zeros(PLACES)

    def block_of(self, block: Block) -> np.ndarray:
        """The bootstrap's block [U] of each unit."""
        return block.lane.astype(np.int64) * self.blocks // self.lanes

    def add(self, block: Block, saved_bits: np.ndarray) -> None:
        interval = (block.progress * INTERVALS).astype(np.int64)
        cells = interval * self.blocks + self.block_of(block)
        self.saved_bits += np.bincount(cells, saved_bits, INTERVALS * self.blocks).reshape(INTERVALS, self.blocks)
        self.coded_units += np.bincount(interval, minlength=INTERVALS)
        places = (np.arange(len(saved_bits)) + block.start) * PLACES // self.units
        self.by_place += np.bincount(places, saved_bits, PLACES)

    def curve(self) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Units coded so far [K], bits saved so far [K], and half of its interval's width [K], or None."""
        so_far = self.saved_bits.cumsum(0)
        return self.coded_units.cumsum(), so_far.sum(1), half_width_bits(so_far)


@dataclass(frozen=True)
class ClassRow:
    """Bytes of a class, their bits in the two runs, and half of the 95 % interval of the bits that the second saves."""

    label: str
    units: int
    bits: tuple[float, float]
    half_width: float | None

    @property
    def saved_bits(self) -> float:
        return self.bits[0] - self.bits[1]

    @property
    def shown(self) -> bool:
        """Whether the runs show which of them is shorter here."""
        return self.half_width is not None and abs(self.saved_bits) > self.half_width


class Tally:
    """Sums by class of a classifier (studies/diff/classes.py)."""

    def __init__(self, classifier: Any, course: Course):
        self.classifier, self.course, count = classifier, course, len(classifier.labels)
        # Lists of documents may be long: there, no blocks are kept.
        self.blocks = course.blocks if count <= 1000 else 1
        self.units, self.bits = np.zeros(count, np.int64), np.zeros((2, count))
        self.saved_bits = np.zeros((count, self.blocks))

    def add(self, block: Block, saved_bits: np.ndarray) -> None:
        found, (count, blocks) = self.classifier.classify(block), self.saved_bits.shape
        self.units += np.bincount(found, minlength=count)
        self.bits += [np.bincount(found, bits, count) for bits in block.bits]
        cells = found * blocks + (self.course.block_of(block) if blocks > 1 else 0)
        self.saved_bits += np.bincount(cells, saved_bits, count * blocks).reshape(count, blocks)

    def rows(self) -> list[ClassRow]:
        """Of the classes that occur."""
        half = half_width_bits(self.saved_bits)
        return [
            ClassRow(
                self.classifier.labels[number],
                int(self.units[number]),
                (float(self.bits[0, number]), float(self.bits[1, number])),
                None if half is None else float(half[number]),
            )
            for number in np.flatnonzero(self.units).tolist()
        ]
