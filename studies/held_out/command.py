"""Score files that a finished run has not seen, with its frozen model, beside what its own corpus took in training.

    python launch/evaluate.py held-out runs/mine FILE...
    python launch/evaluate.py held-out runs/mine FILE --window 128 --threshold 0.05

Each file is one document, read from its first byte to its last without learning: bits per byte, its end included.

A file that the run was trained on would tell nothing, so the run's corpus is searched first: which bytes of FILE lie in
a stretch of --window bytes or more that occurs in the corpus, byte by byte? Above the share --threshold the file is
refused, with the first such place. --contaminated scores it all the same, and says so. The corpus is found among the
prepared ones (data.cache_dir of the run) by its SHA-256, or read again from data.source, or from --corpus; it must be
the run's to the byte. What a warm-started run's parameters had seen before is searched too. Exit status 2: bad
arguments, or a file was refused; nothing was scored.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from tqdm import tqdm

from archive.warm_start import seen_before
from data.documents import Chunks, open_source
from data.errors import UsageError
from data.output import token_chunks
from data.shards import MANIFEST, TokenShards, read_manifest, restore_tokenizer
from data.streams import publish
from eval.curve import load_curve
from eval.schema import Corpus, finished_report
from studies.common import argument, option
from studies.scoring import connect_alone, held_out_bits
from train.command_line import CONFIG_FILE, load_config
from train.config import DataConfig
from train.frozen import load_frozen

CHUNK_TOKENS = 1 << 18
# Of a place that is quoted.
QUOTED_BYTES = 48
MULTIPLIER, SCRAMBLER = 0x9E3779B97F4A7C15, 0xD1342543DE82EF95
# At most so many bytes are hashed at once, or compared.
CHUNK_BYTES = 1 << 20
COMPARED_BYTES = 1 << 24
# The table of bits has at least so many times as many as there are windows.
SPARSENESS = 16


@dataclass(kw_only=True)
class Search:
    """What the search for contamination takes."""

    window: int = option(
        "shortest stretch in common with the corpus that counts as seen, 8 or more (default: 64)", 64, metavar="BYTES"
    )
    threshold: float = option(
        "refuse a file of which more than this share was seen, 0 to 1 (default: 0.01)", 0.01, metavar="SHARE"
    )
    contaminated: bool = option("score it all the same, and say so", False)
    corpus: str | None = option(
        "where the corpus is, as data.source says it (default: where the run had it)", None, metavar="SOURCE"
    )

    def search_all(self, runs: list[Path], files: list[Path]) -> list["Overlap"]:
        """Of each file the largest overlap, as `search` finds it, with what any of the runs was trained on, or its
        first parameters were. A corpus that several have seen is searched once; `corpus` is the first run's."""
        searched: dict[str, list[Overlap]] = {}
        for run in runs:
            own = (finished_report(run).corpus, load_config(run / CONFIG_FILE).data)
            for trained, data in [own, *((seen["corpus"], seen["data"]) for seen in seen_before(run))]:
                if trained.sha256 not in searched:
                    found = self.search(trained, data, None if searched else self.corpus, files)
                    searched[trained.sha256] = found
        by_file = zip(*searched.values(), strict=True)
        return [max(overlaps, key=lambda overlap: overlap.share) for overlaps in by_file]

    def search(self, trained: Corpus, data: DataConfig, given: str | None, files: list[Path]) -> list["Overlap"]:
        """What each of the files has in common with the corpus that a run was `trained` on.

        Raises UsageError if that is more than the threshold, unless contaminated files are welcome; if a file is too
        short to tell; and if the corpus cannot be read.
        """
        if self.window < 8 or not 0 <= self.threshold <= 1:
            raise UsageError(
                f"--window {self.window} and --threshold {self.threshold}: take 8 bytes or more, and a share of 0 to 1"
            )
        searches = []
        for file in files:
            if not file.is_file() or file.stat().st_size < self.window:
                raise UsageError(
                    f"{file} is no file of {self.window:,} bytes or more: too short to tell if it was seen"
                )
            searches.append(Windows(file.read_bytes(), self.window))
        name, chunks = open_corpus(trained, data, given)
        digest = hashlib.sha256()
        with tqdm(total=trained.bytes, unit="B", unit_scale=True, desc="searching the corpus", leave=False) as bar:
            for chunk, ends in chunks:
                digest.update(chunk)
                for windows in searches:
                    windows.look(chunk, ends)
                bar.update(len(chunk))
        if digest.hexdigest() != trained.sha256:
            raise UsageError(
                f"{name} has SHA-256 {digest.hexdigest()[:16]} and the run's corpus {trained.sha256[:16]}: it is "
                "not what the run was trained on; name that with --corpus SOURCE"
            )
        overlaps = [windows.overlap() for windows in searches]
        for file, windows, overlap in zip(files, searches, overlaps, strict=True):
            if overlap.share > self.threshold and not self.contaminated:
                start = overlap.text_offset
                quoted = windows.text[start : start + min(self.window, QUOTED_BYTES)].tobytes()
                raise UsageError(
                    f"{overlap.share:.2%} of {file} is in the run's corpus, in stretches of {self.window} bytes or "
                    f"more, the first at byte {start:,} (byte {overlap.corpus_offset:,} of the corpus): {quoted!r}...; "
                    f"more than {self.threshold:.2%} is refused: take other text, or --contaminated to score it as "
                    "what it is"
                )
        return overlaps


@dataclass(kw_only=True)
class HeldOut(Search):
    """Score files that a run has not seen, and make sure of that."""

    run: Path = argument("run.dir of a finished run", metavar="RUN")
    files: list[Path] = argument("is read as one document of bytes", nargs="+", metavar="FILE")

    def execute(self) -> None:
        """Raises UsageError for what is wrong with the arguments, and for a file that the run has seen."""
        report, curve, frozen = finished_report(self.run), load_curve(self.run / "curve.csv"), load_frozen(self.run)
        overlaps = self.search_all([self.run], self.files)
        with connect_alone(frozen[0].engine.threads) as place:
            scores = [held_out_bits(file, frozen, place) for file in self.files]
        widest = max(24, *(len(str(file)) for file in self.files))

        def show(name: str, size_bytes: int, rate: float, more: str = "") -> None:
            publish(f"{name:<{widest}}{size_bytes:>15,}{rate:>11.4f}{more}")

        publish(f"\n{'':<{widest}}{'bytes':>15}{'bits/byte':>11}{'seen':>9}")
        for file, bits, overlap in zip(self.files, scores, overlaps, strict=True):
            verdict = "  CONTAMINATED: not held out" if overlap.share > self.threshold else ""
            show(str(file), overlap.text_bytes, bits / overlap.text_bytes, f"{overlap.share:>9.2%}{verdict}")
        if len(self.files) > 1:
            all_bytes, seen_bytes = (sum(getattr(o, name) for o in overlaps) for name in ("text_bytes", "seen_bytes"))
            show("all", all_bytes, sum(scores) / all_bytes, f"{seen_bytes / all_bytes:>9.2%}")
        corpus_bytes, length = report.corpus.bytes, report.description_length
        show("in training, its corpus", corpus_bytes, length.data_bits_per_byte)
        show("  the last tenth of that", corpus_bytes // 10, curve.last_rate())
        publish(f"{'  and with code and all':<{widest}}{'':>15}{length.bits_per_byte:>11.4f}")


def open_corpus(trained: Corpus, data: DataConfig, given: str | None) -> tuple[str, Chunks]:
    """Name and bytes of the corpus: from `given`, or as tokens under data.cache_dir, or from data.source.

    Raises UsageError where there is nothing to read. Whether it is the corpus has to be seen from its bytes.
    """
    if data.source.startswith("tokens:"):
        raise UsageError(
            f"the run's corpus {trained.name} is ids of token files, and no file of text can be compared with it or "
            "scored: take a run over the text"
        )
    if given is not None:
        return given, open_source(given, data.field, data.split).chunks()
    for path in sorted(Path(data.cache_dir).expanduser().glob(f"*/{MANIFEST}")):
        if trained.sha256.encode() in path.read_bytes():
            return str(path.parent), read_prepared(path.parent)
    try:
        return data.source, open_source(data.source, data.field, data.split).chunks()
    except UsageError as error:
        raise UsageError(
            f"the run's corpus {trained.name} (SHA-256 {trained.sha256[:16]}) is neither in {data.cache_dir} nor "
            f"where it was ({error}): nobody can tell what the run has seen; name it with --corpus SOURCE"
        ) from None


def read_prepared(directory: Path) -> Iterator[tuple[bytes, bool]]:
    """(bytes, whether a document ends with them) of a prepared corpus, in order."""
    manifest = read_manifest(directory)
    tokenizer, tokens = restore_tokenizer(manifest.tokenizer, directory), TokenShards(directory, manifest)
    for start in range(0, len(tokens), CHUNK_TOKENS):
        yield from token_chunks(tokens.read(start, min(start + CHUNK_TOKENS, len(tokens))), tokenizer)


@dataclass(frozen=True)
class Overlap:
    """What a text has in common with a corpus. The offsets, in bytes, are those of the first common stretch, or -1."""

    text_bytes: int
    seen_bytes: int
    text_offset: int
    corpus_offset: int

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
        # Where in the corpus each window was first met [U]; -1: nowhere.
        self.met = np.full(len(self.known), -1, np.int64)
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
            new = (self.known[found] == hashes[places]) & (self.met[found] < 0)
            found, index = np.unique(found[new], return_index=True)
            self.compare(found, places[new][index], piece, start)
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
        seen = np.flatnonzero(self.met[self.number] >= 0)
        # From a window to the next seen one, as many bytes are covered as lie between, or as the window has.
        gaps = np.diff(seen, append=len(self.text))
        covered = int(gaps.clip(max=self.window_bytes).sum())
        if not len(seen):
            return Overlap(len(self.text), 0, -1, -1)
        return Overlap(len(self.text), covered, int(seen[0]), int(self.met[self.number[seen[0]]]))


def cut_pieces(data: np.ndarray, window_bytes: int) -> list[np.ndarray]:
    """Data [N] in pieces of at most CHUNK_BYTES + W bytes that have each window once."""
    return [
        data[start : start + CHUNK_BYTES + window_bytes - 1]
        for start in range(0, len(data) - window_bytes + 1, CHUNK_BYTES)
    ]
