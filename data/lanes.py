"""The one-epoch plan: which token each lane is shown at each step, as a pure function of step and rank.

A corpus of N tokens is cut into R contiguous lanes of S = ceil(N / R) tokens. Step k shows every lane its next
segment of at most T tokens. T is one number, or follows a schedule: "16@0,32@0.1,64@0.5" takes 16 tokens from the start
of each lane, 32 from a tenth of it on, and 64 from its half on. A stage of the schedule ends with a whole segment.
Nothing is iterated, so there is no position to save, and a resumed run cannot repeat or skip.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from data.errors import UsageError

LONGEST_SEGMENT = 1 << 20
# Beyond this, costs are computed in parts (model/parts.py).
WHOLE_LOGITS = 1 << 26


def read_stages(schedule: int | str) -> list[tuple[int, float]]:
    """The number of each stage, such as T, and the fraction of a lane where it begins."""
    parts = [part.partition("@") for part in str(schedule).split(",")]
    return [(int(number), float(fraction or 0)) for number, _, fraction in parts]


def longest_segment(segment_tokens: int | str) -> int:
    """The largest T of all stages."""
    return max(length for length, _ in read_stages(segment_tokens))


def step_logits(train: Any, vocabulary: int) -> int:
    """Logits of the largest micro-batch of all ranks, by what a TrainConfig says."""
    return train.lanes // train.accumulation * longest_segment(train.segment_tokens) * vocabulary


def read_schedule(value: object, least: int = 1, most: int = LONGEST_SEGMENT) -> int | str:
    """A number from `least` to `most`, or a schedule of them in its one form, from a number or text.

    Raises TypeError for what is neither, ValueError with the remedy for numbers or fractions that cannot be.
    """
    if not isinstance(value, int | str) or isinstance(value, bool):
        raise TypeError(value)
    try:
        stages = read_stages(value)
    except ValueError:
        raise TypeError(value) from None
    if not all(least <= number <= most for number, _ in stages):
        raise ValueError(f"take {least} to {most:,}")
    fractions = [fraction for _, fraction in stages]
    if fractions[0] != 0 or not all(low < high for low, high in pairwise([*fractions, 1.0])):
        raise ValueError("its fractions must begin with 0 and grow, all below 1, as in 16@0,32@0.1,64@0.5")
    if len(stages) == 1:
        return stages[0][0]
    return ",".join(f"{number}@{repr(abs(fraction)).removesuffix('.0')}" for number, fraction in stages)


@dataclass(frozen=True)
class Lanes:
    """The plan for `tokens` tokens in `lanes` lanes and segments of `segment_tokens`: all 1 or more, which is checked
    where they come from (train/config.py, archive/format.py, data/prepare.py)."""

    tokens: int
    lanes: int
    segment_tokens: int | str

    @property
    def lane_tokens(self) -> int:
        """S, the length of a full lane. The last lanes may be shorter, or empty."""
        return -(-self.tokens // self.lanes)

    @cached_property
    def stages(self) -> list[tuple[int, int, int]]:
        """(first step, first offset within every lane, T) of each stage, between two that have no step: one before the
        first, and one that begins where the last one ends."""
        found = [(0, 0, 1)]
        for length, fraction in [*read_stages(self.segment_tokens), (1, 1)]:
            step, start, before = found[-1]
            # The stage before goes on to the end of the segment in which this one would begin.
            steps = int(max(0, -((start - fraction * self.lane_tokens) // before)))
            found.append((step + steps, start + steps * before, length))
        return found

    @property
    def steps(self) -> int:
        return self.stages[-1][0]

    def stage(self, step: int) -> tuple[int, int, int]:
        """The stage that step `step` is in."""
        return [stage for stage in self.stages if stage[0] <= step][-1]

    def segment(self, step: int) -> tuple[int, int]:
        """Offsets (start, stop) within every lane that step `step` covers."""
        first, offset, length = self.stage(step)
        start = offset + (step - first) * length
        return start, min(start + length, self.lane_tokens)

    def progress(self, step: int) -> float:
        """The fraction of the epoch before step `step`, by tokens; for one T that is step / steps."""
        return self.segment(step)[0] / self.stages[-1][1]

    def span(self, step: int, lane: int) -> tuple[int, int]:
        """Corpus tokens (start, stop) that lane `lane` is shown at step `step`; empty past the corpus' end."""
        start, stop = (min(lane * self.lane_tokens + offset, self.tokens) for offset in self.segment(step))
        return start, stop

    def valid_tokens(self, step: int) -> int:
        """Number of tokens that step `step` codes over all lanes."""
        start, stop = self.segment(step)
        full, rest = divmod(self.tokens, self.lane_tokens)
        return full * (stop - start) + max(0, min(stop, rest) - start)

    def share(self, rank: int, world_size: int) -> range:
        """Lanes of rank `rank`. Raises UsageError unless the ranks' shares are equal."""
        if self.lanes % world_size:
            raise UsageError(
                f"train.lanes {self.lanes} cannot be shared by {world_size} ranks: take a multiple of {world_size}"
            )
        rows = self.lanes // world_size
        return range(rank * rows, (rank + 1) * rows)

    def targets(self, step: int, lanes: range, read: Callable[[int, int], np.ndarray]) -> np.ndarray:
        """Tokens [lanes, T] to code at step `step`, int64; -1 past a lane's end. `read(start, stop)` reads them."""
        start, stop = self.segment(step)
        targets = np.full((len(lanes), stop - start), -1, np.int64)
        for row, lane in zip(targets, lanes, strict=True):
            first, last = self.span(step, lane)
            row[: last - first] = read(first, last)
        return targets
