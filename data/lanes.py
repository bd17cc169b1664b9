"""The one-epoch plan: which token each lane is shown at each step, as a pure function of step and rank.

A corpus of N tokens is cut into R contiguous lanes of S = ceil(N / R) tokens. Step k shows every lane its next
segment of at most T tokens. Nothing is iterated, so there is no position to save, and a resumed run cannot repeat or
skip.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from data.errors import UsageError


@dataclass(frozen=True)
class Lanes:
    """The plan for `tokens` tokens in `lanes` lanes and segments of `segment_tokens`, all 1 or more."""

    tokens: int
    lanes: int
    segment_tokens: int

    def __post_init__(self) -> None:
        if min(self.tokens, self.lanes, self.segment_tokens) < 1:
            given = f"{self.tokens} tokens, train.lanes {self.lanes} and train.segment_tokens {self.segment_tokens}"
            raise UsageError(f"{given} must be 1 or more")

    @property
    def lane_tokens(self) -> int:
        """S, the length of a full lane. The last lanes may be shorter, or empty."""
        return -(-self.tokens // self.lanes)

    @property
    def steps(self) -> int:
        return -(-self.lane_tokens // self.segment_tokens)

    def segment(self, step: int) -> tuple[int, int]:
        """Offsets (start, stop) within every lane that step `step` covers."""
        start = step * self.segment_tokens
        return start, min(start + self.segment_tokens, self.lane_tokens)

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
