"""Classes of the units of a corpus: what kind of character a byte is, whether its word has occurred before, how long
ago the text before it was last seen, where in its document it is, and in which.

Each classifier is called with the blocks of a corpus in order, and gives the class [U] of each unit of a block.

Shapes: `U` units of a block, `W` words of it.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from studies.diff.paired import DOCUMENT_END, WORD, Block

KINDS = ("lower case", "upper case", "digit", "white space", "punctuation", "markup", "beyond ASCII", "control",
         "document end")  # fmt: skip
# What wikis, XML, TeX, programs and Markdown mark things with; other signs of ASCII are punctuation.
MARKUP = "<>[]{}|=&#*_~^`@\\/"
# Bytes before a byte that are looked for further back.
CONTEXT_BYTES = 8
# Contexts that are remembered, at most. Beyond that the older half is forgotten, and counts as never seen.
MOST_CONTEXTS = 1 << 24
# Factor of a word's hash, odd.
STEP = np.uint64(0xD1342543DE82EF95)


def kind_table() -> np.ndarray:
    """The kind of each unit, as an index of KINDS."""

    def kind(unit: int) -> str:
        sign = chr(unit)
        if unit == DOCUMENT_END:
            return "document end"
        if unit > 127:
            return "beyond ASCII"
        if sign.isalpha():
            return "upper case" if sign.isupper() else "lower case"
        if sign.isdigit():
            return "digit"
        if sign.isspace():
            return "white space"
        if sign in MARKUP:
            return "markup"
        return "punctuation" if sign.isprintable() else "control"

    return np.array([KINDS.index(kind(unit)) for unit in range(DOCUMENT_END + 1)])


class Kinds:
    """What kind of character a byte is."""

    name, labels = "kind", KINDS

    def __init__(self) -> None:
        self.table = kind_table()

    def classify(self, block: Block) -> np.ndarray:
        return self.table[block.units]


def find_words(units: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The words of units [U]: runs of letters. Returns their starts, their stops, and a hash of each [W]."""
    inside = np.concatenate([[False], WORD[units], [False]])
    edges = np.flatnonzero(inside[1:] != inside[:-1])
    starts, stops = edges[::2], edges[1::2]
    if not len(starts):
        return starts, stops, np.empty(0, np.uint64)
    powers = np.full(int((stops - starts).max()), STEP)
    powers[0] = 1
    np.multiply.accumulate(powers, out=powers)
    place = np.arange(len(units)) - np.repeat(
        np.append(0, starts), np.diff(np.append(np.append(0, starts), len(units)))
    )
    letters = np.where(inside[1:-1], (units + np.uint64(1)) * powers[place.clip(max=len(powers) - 1)], np.uint64(0))
    return starts, stops, np.add.reduceat(letters, starts)


class Words:
    """Whether a byte's word was coded before, in the order of the first run."""

    name, labels = "word", ("first occurrence of its word", "later occurrence", "between words")

    def __init__(self, blocks: Iterable[np.ndarray]):
        """`blocks` are those of studies.diff.paired.read_blocks."""
        self.hashes, self.first = np.empty(0, np.uint64), np.empty(0)
        start = 0
        for block in blocks:
            starts, _, hashes = find_words(block["unit"])
            order = self.order(block["progress"][starts], starts + start)
            both, when = np.concatenate([self.hashes, hashes]), np.concatenate([self.first, order])
            # Of each word the earliest.
            sorting = np.lexsort([when, both])
            self.hashes, chosen = np.unique(both[sorting], return_index=True)
            self.first = when[sorting][chosen]
            start += len(block)

    @staticmethod
    def order(progress: np.ndarray, place: np.ndarray) -> np.ndarray:
        """Numbers by which words are coded one after the other: those at one time by their place."""
        return progress.astype(np.float64) + place * 2.0**-52

    def classify(self, block: Block) -> np.ndarray:
        starts, stops, hashes = find_words(block.units)
        order = self.order(block.progress[starts], starts + block.start)
        repeated = order > self.first[np.searchsorted(self.hashes, hashes)]
        found = np.full(len(block.units), 2)
        found[WORD[block.units]] = np.repeat(repeated, stops - starts)
        return found


def power_labels(powers: int) -> tuple[str, ...]:
    """Of numbers from 1 on, by the whole part of their logarithm to base 4."""
    return tuple(f"{4**power:,} to {4 ** (power + 1) - 1:,}" for power in range(powers))


def powers_of(numbers: np.ndarray) -> np.ndarray:
    """The whole part of the logarithm to base 4 of numbers of 1 or more."""
    return (np.frexp(numbers)[1] - 1) // 2


class Distances:
    """How many bytes ago, in the text, the 8 bytes before a byte were last seen."""

    name = "bytes since the 8 bytes before it were last seen"
    labels = (*power_labels(20), "never")

    def __init__(self) -> None:
        # In ascending order, and where each was last seen.
        self.contexts, self.places = np.empty(0, np.uint64), np.empty(0, np.int64)
        self.before = np.zeros(CONTEXT_BYTES, np.uint64)

    def classify(self, block: Block) -> np.ndarray:
        units = np.concatenate([self.before, block.units.astype(np.uint64) & np.uint64(255)])
        self.before = units[-CONTEXT_BYTES:]
        contexts = np.zeros(len(block.units), np.uint64)
        for back in range(CONTEXT_BYTES):
            contexts |= units[CONTEXT_BYTES - 1 - back : len(units) - 1 - back] << np.uint64(8 * back)
        sorting = np.argsort(contexts, kind="stable")
        contexts, places = contexts[sorting], sorting + block.start
        new = np.append(True, contexts[1:] != contexts[:-1])
        last = np.append(-1, places[:-1])
        last[new] = self.look_up(contexts[new], places[np.append(new[1:], True)])
        found, seen = np.full(len(contexts), len(self.labels) - 1), last >= 0
        found[sorting[seen]] = powers_of(places[seen] - last[seen])
        return found

    def look_up(self, contexts: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Where each of the contexts, in ascending order, was last seen; -1 for never. From now on, at `places`."""
        rows = np.searchsorted(self.contexts, contexts)
        known = np.append(self.contexts, np.uint64(0))[rows] == contexts
        known &= rows < len(self.contexts)
        last = np.full(len(contexts), -1)
        last[known] = self.places[rows[known]]
        self.places[rows[known]] = places[known]
        self.contexts = np.insert(self.contexts, rows[~known], contexts[~known])
        self.places = np.insert(self.places, rows[~known], places[~known])
        if len(self.contexts) > MOST_CONTEXTS:
            newest = self.places >= np.partition(self.places, -MOST_CONTEXTS // 2)[-MOST_CONTEXTS // 2]
            self.contexts, self.places = self.contexts[newest], self.places[newest]
        return last


class Positions:
    """Which byte of its document it is, from 1 on."""

    name = "place in its document"
    labels = power_labels(20)

    def __init__(self) -> None:
        self.begun = 0

    def classify(self, block: Block) -> np.ndarray:
        places = np.arange(len(block.units)) + block.start
        ends = np.flatnonzero(block.units == DOCUMENT_END)
        begun = np.concatenate([[self.begun], ends + block.start + 1])
        documents = np.searchsorted(ends, np.arange(len(places)), side="left")
        self.begun = int(begun[-1])
        return powers_of(places - begun[documents] + 1)


DOCUMENT = "document"


class Documents:
    """Which document a byte is in, or which group of documents."""

    def __init__(self, labels: Sequence[str], groups: np.ndarray | None = None, name: str = DOCUMENT):
        """`groups` [documents] is the label's number of each document; None: each has a label of its own."""
        self.labels, self.groups, self.name = labels, groups, name
        self.ended = 0

    def classify(self, block: Block) -> np.ndarray:
        ends = block.units == DOCUMENT_END
        found = self.ended + ends.cumsum() - ends
        self.ended += int(ends.sum())
        return found if self.groups is None else self.groups[found]
