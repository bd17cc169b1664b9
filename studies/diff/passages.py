"""Passages of a corpus: those where one run saves most, a few at equal distances, and those that hold a given text.

Shapes: `U` units.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from studies.diff.paired import DOCUMENT_END, Block

WINDOW_UNITS = 320
# Shown before a text that was looked for.
BEFORE_UNITS = 80
END_SIGN = "\u23ce"


@dataclass(frozen=True)
class Passage:
    """A stretch of the corpus from unit `start` on: units [U] and their bits in the two runs [2, U]. The first run had
    coded the part `progress` of the epoch when it came there."""

    start: int
    progress: float
    units: np.ndarray
    bits: np.ndarray

    @property
    def saved_bits(self) -> float:
        """By the second run."""
        return float((self.bits[0] - self.bits[1]).sum())

    def values(self) -> dict[str, Any]:
        """As the page has it: its text in spans, each with its bits in the two runs."""
        return {
            "at": self.start, "progress": round(self.progress, 4), "saved": round(self.saved_bits, 1),
            "spans": [[text, round(a, 2), round(b, 2)] for text, a, b in spans(self.units, self.bits)],
        }  # fmt: skip


def spans(units: np.ndarray, bits: np.ndarray) -> list[tuple[str, float, float]]:
    """The text of units [U], cut where the cost of a byte changes in one of the runs, and between characters alone."""
    # A byte 10xxxxxx goes on with a character of UTF-8.
    goes_on = (units & 0xC0 == 0x80) & (units != DOCUMENT_END)
    changes = np.append(True, (np.diff(bits, axis=1) != 0).any(0) | (np.diff(units == DOCUMENT_END) != 0))
    # A change inside a character moves to its end.
    cuts, waiting = [], False
    for place, (change, inside) in enumerate(zip(changes.tolist(), goes_on.tolist(), strict=True)):
        waiting |= change
        if place == 0 or (waiting and not inside):
            cuts.append(place)
            waiting = False
    found = []
    for start, stop in zip(cuts, [*cuts[1:], len(units)], strict=True):
        part = units[start:stop]
        ended = part[0] == DOCUMENT_END
        text = END_SIGN * len(part) if ended else bytes(part.tolist()).decode(errors="replace")
        found.append((text, float(bits[0, start:stop].sum()), float(bits[1, start:stop].sum())))
    return found


class Passages:
    """Call `add` with the blocks in order. `most` passages are kept of each sort."""

    def __init__(self, most: int, units: int, text: bytes):
        self.most, self.text = most, text
        self.gains: list[Passage] = []
        self.losses: list[Passage] = []
        self.sample: list[Passage] = []
        self.found: list[Passage] = []
        self.wanted = [(2 * number + 1) * units // (2 * most) for number in range(most)]

    def add(self, block: Block, saved_bits: np.ndarray) -> None:
        starts = np.arange(0, len(block.units), WINDOW_UNITS)
        sums = np.add.reduceat(saved_bits, starts)
        order = np.argsort(sums, kind="stable")
        self.gains += [self.cut(block, int(starts[n])) for n in order[::-1][: self.most] if sums[n] > 0]
        self.losses += [self.cut(block, int(starts[n])) for n in order[: self.most] if sums[n] < 0]
        self.gains = sorted(self.gains, key=lambda passage: -passage.saved_bits)[: self.most]
        self.losses = sorted(self.losses, key=lambda passage: passage.saved_bits)[: self.most]
        here = [place - block.start for place in self.wanted if 0 <= place - block.start < len(block.units)]
        self.sample += [self.cut(block, place // WINDOW_UNITS * WINDOW_UNITS) for place in here]
        if self.text:
            self.find(block)

    def find(self, block: Block) -> None:
        """Those that hold the text; passages do not overlap."""
        # The end of a document is no byte of a text: two bytes a unit tell it apart.
        content, text = block.units.astype("<u2").tobytes(), np.frombuffer(self.text, np.uint8).astype("<u2").tobytes()
        place = 0
        while len(self.found) < self.most and (place := content.find(text, place)) >= 0:
            if place % 2:
                place += 1
                continue
            start = max(0, place // 2 - BEFORE_UNITS)
            self.found.append(self.cut(block, start))
            place = 2 * (start + WINDOW_UNITS)

    def cut(self, block: Block, start: int) -> Passage:
        taken = slice(start, start + WINDOW_UNITS)
        progress, bits = float(block.progress[start]), block.bits[:, taken].copy()
        return Passage(block.start + start, progress, block.units[taken].copy(), bits)

    def values(self) -> dict[str, list[dict[str, Any]]]:
        """As the page has them, by sort."""
        sorts = {"gains": self.gains, "losses": self.losses, "sample": self.sample, "found": self.found}
        return {name: [passage.values() for passage in passages] for name, passages in sorts.items()}
