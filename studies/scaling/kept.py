"""What runs kept of every token's cost, as sums over the lanes: pairs of equal bytes for what two runs are compared by.

Shapes: `R` lanes, `K` intervals of the epoch, `C` cells, `B` samples.
"""

import functools
import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from data.errors import UsageError
from studies.scaling.runs import ComparedRun
from train.nats import SUMS_FILE, lane_span, read_nats, read_sums

# Runs that differ in one of these do not code the same bytes at the same place of their curves.
ORDER = ("data.vocabulary", "data.tokenizer_sample_bytes", "train.lanes")
INTERVALS = 32


def paired(one: ComparedRun, other: ComparedRun) -> bool:
    """Whether two runs code the same bytes at the same places of their lanes."""
    return one.vocabulary == other.vocabulary and all(one.settings.get(n) == other.settings.get(n) for n in ORDER)


def lane_bits(run: ComparedRun) -> np.ndarray | None:
    """The data bits of each lane [R]; None if the run kept no nats. Raises UsageError if they are another run's."""
    if not (run.directory / SUMS_FILE).exists():
        return None
    bits = np.array(read_sums(run.directory).lane_nats) / math.log(2)
    if not math.isclose(bits.sum(), run.data_bits, rel_tol=1e-12):
        raise UsageError(f"{run.directory / SUMS_FILE} does not sum to the data bits of report.json: remove the run")
    return bits


def all_lane_bits(runs: Sequence[ComparedRun]) -> np.ndarray | None:
    """The same of several runs that are paired, [C, R]; None if one of them kept no nats, or they are not."""
    found = [bits for run in runs if paired(run, runs[0]) and (bits := lane_bits(run)) is not None]
    whole = len(found) == len(runs) and len({len(bits) for bits in found}) == 1
    return np.stack(found) if whole else None


@functools.lru_cache(64)
def interval_bits(directory: Path) -> np.ndarray:
    """The data bits of each interval of the epoch and lane [K, R]. Raises UsageError as read_nats does."""
    kept = read_nats(directory)
    lanes, steps = kept.lanes, kept.lanes.steps
    ends = np.unique(np.linspace(0, steps, min(INTERVALS, steps) + 1).round().astype(int))[1:]
    offsets = [0, *(lanes.segment(step - 1)[1] for step in ends.tolist())]
    bits = np.zeros((len(ends), lanes.lanes))
    for lane in range(lanes.lanes):
        for row, (start, stop) in enumerate(pairwise(offsets)):
            bits[row, lane] = kept.nats[slice(*lane_span(lanes, lane, start, stop))].sum(dtype=np.float64)
    return bits / math.log(2)


def other_texts(bits: np.ndarray, samples: int) -> np.ndarray:
    """Data bits [B, C] as other text of the same kind could have given them, from those of each cell and lane [C, R]:
    lanes are drawn again, the same ones for all cells. Deterministic."""
    lanes = bits.shape[1]
    generator = np.random.default_rng(0)
    counts = generator.multinomial(lanes, np.full(lanes, 1 / lanes), size=samples)
    # Deviations of a sample this small are too small by that factor.
    return bits.sum(1) + (counts - 1) @ bits.T * np.sqrt(lanes / (lanes - 1))
