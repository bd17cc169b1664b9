"""What a text has in common with a corpus, to the byte, and what of that is boilerplate."""

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from data.errors import UsageError

MULTIPLIER, SCRAMBLER = 0x9E3779B97F4A7C15, 0xD1342543DE82EF95
# At most so many bytes are hashed at once, or compared.
CHUNK_BYTES = 1 << 20
COMPARED_BYTES = 1 << 24
# The table of bits has at least so many times as many as there are windows.
SPARSENESS = 16
# Boilerplate is made of strings of so many bytes or more, which a corpus has at many places, ..
STRING_BYTES = 16
# .. and is no longer than so many windows.
LONGEST_BOILERPLATE = 8


@dataclass(frozen=True)
class Passage:
    """A stretch of a text that a corpus has, too; `corpus_offset` is a place there, in bytes."""

    text_offset: int
    size_bytes: int
    corpus_offset: int


@dataclass(frozen=True)
class Overlap:
    """What a text has in common with a corpus: passages that count, in order, and boilerplate, which does not."""

    text_bytes: int
    passages: tuple[Passage, ...] = ()
    boilerplate: tuple[Passage, ...] = ()

    @property
    def seen_bytes(self) -> int:
        return sum(passage.size_bytes for passage in self.passages)

    @property
    def boilerplate_bytes(self) -> int:
        return sum(passage.size_bytes for passage in self.boilerplate)

    @property
    def share(self) -> float:
        return self.seen_bytes / self.text_bytes


class Windows:
    """The windows of a text, and which of them a corpus was seen to have. What a test set shares with the corpus is a
    count of bytes, exact.

    A byte of the text counts as seen if some stretch of `window_bytes` or more around it occurs in one of the corpus'
    documents. So every window of the text is looked up: by a polynomial hash modulo 2^64, which all windows of a chunk
    get from one cumulative sum (Karp & Rabin 1987, "Efficient randomized pattern-matching algorithms"), through a table
    that excludes almost all of the corpus. What the hash finds is compared byte by byte. (Windows of the text that
    share a hash count as one. For different ones that is a chance of about 2^-64 a pair.)

    The corpus is read in chunks and may be of any length: memory is about 40 bytes for each byte of the text, and some
    chunks. Shapes: `N` bytes of a chunk, `W` of a window, `U` different windows of the text.
    """

    def __init__(self, text: bytes, window_bytes: int):
        """Raises UsageError unless the text is as long as a window of 8 bytes or more."""
        if window_bytes < 8 or len(text) < window_bytes:
            raise UsageError(f"a text of {len(text):,} bytes has no windows of {window_bytes:,}: take 8 bytes or more")
        self.window_bytes, self.text = window_bytes, np.frombuffer(text, np.uint8)
        most = CHUNK_BYTES + window_bytes
        self.powers = np.cumprod(np.full(most, MULTIPLIER, np.uint64))
        self.inverse_powers = np.cumprod(np.full(most, pow(MULTIPLIER, -1, 1 << 64), np.uint64))
        hashes = np.concatenate([self.hashes(piece) for piece in cut_pieces(self.text, window_bytes)])
        # Of each different window: its hash [U] and its first place in the text [U]; of each place, which window it is.
        self.known, self.first, self.number = np.unique(hashes, return_index=True, return_inverse=True)
        self.shift = np.uint64(64 - max(16, (SPARSENESS * len(self.known) - 1).bit_length()))
        self.table = np.zeros(1 << 64 - int(self.shift), bool)
        self.table[self.slots(self.known)] = True
        # Where in the corpus each window was first met [U], -1 for nowhere, and at how many places [U].
        self.met, self.times = np.full(len(self.known), -1, np.int64), np.zeros(len(self.known), np.int64)
        self.carried, self.corpus_bytes = np.empty(0, np.uint8), 0

    def hashes(self, data: np.ndarray) -> np.ndarray:
        """Of the windows [N - W + 1] of data [N]: sum over i of (byte_i + 1) MULTIPLIER^i, modulo 2^64."""
        terms = (data.astype(np.uint64) + np.uint64(1)) * self.powers[: len(data)]
        sums = np.concatenate([np.zeros(1, np.uint64), terms.cumsum()])
        parts = sums[self.window_bytes :] - sums[: -self.window_bytes]
        return parts * self.inverse_powers[: len(parts)]

    def slots(self, hashes: np.ndarray) -> np.ndarray:
        """Places in the table. Only the upper bits of a product depend on all of the hash."""
        return hashes * np.uint64(SCRAMBLER) >> self.shift

    def look(self, chunk: bytes, ends: bool) -> None:
        """The next bytes of the corpus, and whether a document ends with them: no window reaches into the next one."""
        data = np.concatenate([self.carried, np.frombuffer(chunk, np.uint8)])
        start = self.corpus_bytes - len(self.carried)
        for piece in cut_pieces(data, self.window_bytes):
            hashes = self.hashes(piece)
            places = np.flatnonzero(self.table[self.slots(hashes)])
            found = self.known.searchsorted(hashes[places]).clip(max=len(self.known) - 1)
            equal = self.known[found] == hashes[places]
            found, index, times = np.unique(found[equal], return_index=True, return_counts=True)
            self.times[found] += times
            new = self.met[found] < 0
            self.compare(found[new], places[equal][index[new]], piece, start)
            start += len(hashes)
        self.corpus_bytes += len(chunk)
        self.carried = data[:0] if ends else data[max(0, len(data) - self.window_bytes + 1) :]

    def compare(self, found: np.ndarray, places: np.ndarray, piece: np.ndarray, start: int) -> None:
        """Enter those windows `found` [n] of the text that are, byte by byte, the ones at `places` [n] of a piece that
        stands at byte `start` of the corpus."""
        ours, theirs = (sliding_window_view(data, self.window_bytes) for data in (self.text, piece))
        step = max(1, COMPARED_BYTES // self.window_bytes)
        for some in range(0, len(found), step):
            numbers, there = found[some : some + step], places[some : some + step]
            same = (ours[self.first[numbers]] == theirs[there]).all(1)
            self.met[numbers[same]] = start + there[same]

    def overlap(self) -> Overlap:
        """What was seen so far."""
        met = self.met[self.number]
        runs = find_runs(self.cover(met >= 0))
        return Overlap(len(self.text), tuple(Passage(start, end - start, int(met[start])) for start, end in runs))

    def cover(self, windows: np.ndarray) -> np.ndarray:
        """Which bytes of the text [N] are in one of the windows marked [N - W + 1]."""
        change = np.zeros(len(self.text) + 1, np.int32)
        change[: len(windows)] += windows
        change[self.window_bytes :] -= windows
        return change.cumsum()[:-1] > 0


class Strings(Windows):
    """The short strings of the passages of an overlap, and at how many places of the corpus each is.

    A passage is boilerplate if less than half a window of it is left without the strings that the corpus has often, and
    if it is not longer than LONGEST_BOILERPLATE windows: a text of many copies is then no boilerplate.
    """

    def __init__(self, text: np.ndarray, overlap: Overlap):
        self.found = overlap
        parts = [text[part.text_offset : part.text_offset + part.size_bytes] for part in overlap.passages]
        super().__init__(np.concatenate(parts).tobytes(), STRING_BYTES)

    def sort_out(self, window_bytes: int, often: int) -> Overlap:
        """The overlap with its boilerplate apart, after the corpus was seen."""
        rare = ~self.cover(self.times[self.number] >= often)
        sizes = [passage.size_bytes for passage in self.found.passages]
        kept: tuple[list[Passage], list[Passage]] = [], []
        for passage, end in zip(self.found.passages, itertools.accumulate(sizes), strict=True):
            left = rare[end - passage.size_bytes : end].sum()
            short = passage.size_bytes <= LONGEST_BOILERPLATE * window_bytes
            kept[int(short and 2 * left < window_bytes)].append(passage)
        return Overlap(self.found.text_bytes, *map(tuple, kept))


def find_runs(marked: np.ndarray) -> list[tuple[int, int]]:
    """Start and end of every run of marked places [N]."""
    edges = np.flatnonzero(np.diff(marked, prepend=False, append=False))
    return [(int(start), int(end)) for start, end in edges.reshape(-1, 2)]


def cut_pieces(data: np.ndarray, window_bytes: int) -> list[np.ndarray]:
    """Data [N] in pieces of at most CHUNK_BYTES + W bytes that have each window once."""
    return [
        data[start : start + CHUNK_BYTES + window_bytes - 1]
        for start in range(0, len(data) - window_bytes + 1, CHUNK_BYTES)
    ]
