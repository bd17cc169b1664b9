"""A corpus that is tokenised again while a run reads it, by an index of its batches: for tokens that fit on no disk.

The index has a row for each batch: how many tokens it makes, where it begins in the source, and checksums of its
documents and of its tokens. Whoever reads goes forwards from anywhere: lanes, each at its own place.
"""

import hashlib
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from pathlib import Path

import numpy as np

from data.batches import (
    POOL_BYTES,
    Batch,
    Encoded,
    Work,
    encode_batch,
    encode_in_worker,
    read_batches,
    start_pool,
)
from data.documents import Source
from data.errors import RunFailed, UsageError
from data.file_encoder import open_encoder
from data.readers import Place
from data.shards import Manifest, check_shard
from data.tokenizer import Tokenizer

ROW = np.dtype(
    [
        ("tokens", "<u4"),
        ("file", "<u4"),
        ("offset", "<u8"),
        ("record", "<u8"),
        ("chunk", "<u4"),
        ("tokens_crc32", "<u4"),
        ("sha256", "u1", 16),
    ]
)


def index_row(work: Work, encoded: Encoded) -> np.ndarray:
    """The row [1] of a batch."""
    return np.array([(len(encoded.tokens), *work.place, zlib.crc32(encoded.tokens.data), digest(work.batch))], ROW)


def digest(batch: Batch) -> tuple[int, ...]:
    """The first half of the SHA-256 of a batch: its chunks, and where they and the documents end."""
    ends = b"".join(b"%d " % len(chunk) + b"|" * ends for chunk, ends in batch)
    found = hashlib.sha256(ends)
    for chunk, _ in batch:
        found.update(chunk)
    return tuple(found.digest()[:16])


@dataclass
class Reader:
    """Somebody who reads forwards: the batch that is being read, and what comes after it."""

    number: int
    tokens: np.ndarray
    batches: Iterator[tuple[Place, Batch]] | None
    """The source behind the batches that were read, held open only where finding a place again costs time."""
    following: "Future[Encoded] | None" = None


class StreamedTokens:
    """The corpus as one stream of tokens, none of which is on the disk.

    Each reader takes the memory of a batch and of its tokens, or of two if processes encode ahead.
    """

    def __init__(
        self, directory: Path, manifest: Manifest, source: Source, tokenizer: Tokenizer, file: str, workers: int
    ):
        """`file` is what data.tokenizer says. `workers` processes encode ahead. Raises UsageError for an index that is
        not as the manifest says."""
        parts = [np.fromfile(check_shard(directory, shard), ROW) for shard in manifest.shards]
        self.rows = np.concatenate(parts)
        self.starts = np.concatenate([[0], self.rows["tokens"].cumsum(dtype=np.int64)])
        if self.starts[-1] != manifest.tokens or len(self.rows) != manifest.batches:
            raise UsageError(f"the index in {directory} has other tokens than its manifest; delete it and run again")
        self.source, self.tokenizer, self.file = source, tokenizer, file
        self.pool: ProcessPoolExecutor | None = None
        self.workers = 1 if tokenizer.kind == "bytes" or manifest.bytes < POOL_BYTES else workers
        self.readers: dict[int, Reader] = {}

    def __len__(self) -> int:
        return int(self.starts[-1])

    @cached_property
    def encode(self) -> Callable[[Batch], Encoded]:
        """Encode a batch in this process."""
        encoder = open_encoder(self.tokenizer, self.file)
        return lambda batch: encode_batch(encoder, batch)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Tokens [stop - start], int64. Raises IndexError unless 0 <= start <= stop <= len, RunFailed if the source is
        not what it was when the index was made."""
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"tokens {start} to {stop} of {len(self)}")
        if start == stop:
            return np.empty(0, np.int64)
        # Whoever goes on where somebody stopped is that reader.
        reader = self.readers.pop(start, None) or self.begin(start)
        parts, place = [], start
        while place < stop:
            if place == self.starts[reader.number + 1]:
                self.go_on(reader)
            first = int(self.starts[reader.number])
            parts.append(reader.tokens[place - first : stop - first])
            place += len(parts[-1])
        self.readers[stop] = reader
        return np.concatenate(parts, dtype=np.int64, casting="safe")

    def begin(self, token: int) -> Reader:
        """A reader of the batch with a token."""
        reader = Reader(int(self.starts.searchsorted(token, "right")) - 2, np.empty(0, np.uint16), None)
        self.go_on(reader)
        return reader

    def go_on(self, reader: Reader) -> None:
        """Let a reader have the batch after its own."""
        reader.number += 1
        found = reader.following.result() if reader.following else self.encode(self.fetch(reader, reader.number))
        row = self.rows[reader.number]
        if len(found.tokens) != row["tokens"] or zlib.crc32(found.tokens.data) != row["tokens_crc32"]:
            raise RunFailed(
                f"data.tokenizer {self.file} makes other tokens of {self.source.name} than when it was prepared: put "
                "back the packages of then, or start a new run"
            )
        reader.tokens, reader.following = found.tokens, None
        if self.workers != 1 and reader.number + 1 < len(self.rows):
            self.pool = self.pool or start_pool(self.workers, self.tokenizer, self.file)
            reader.following = self.pool.submit(encode_in_worker, self.fetch(reader, reader.number + 1))

    def fetch(self, reader: Reader, number: int) -> Batch:
        """The documents of a batch."""
        row, reason = self.rows[number], "other bytes"
        place = Place(*(int(row[name]) for name in Place._fields))
        batch: Batch = []
        try:
            batches = reader.batches or read_batches(self.source, place)
            batch = next(batches, (place, batch))[1]
            reader.batches = None if self.source.seekable else batches
        except UsageError as error:
            reason = str(error)
        if digest(batch) != tuple(row["sha256"].tolist()):
            raise RunFailed(
                f"data.source {self.source.name} was changed after it was prepared (batch {number:,}: {reason}): put "
                "it back and resume the run, or start a new one"
            )
        return batch

    def is_of_source(self) -> bool:
        """Whether the source still has the batches that the index describes."""
        digests = (digest(batch) for _, batch in read_batches(self.source))
        rows = map(tuple, self.rows["sha256"].tolist())
        return all(found == row for found, row in zip_longest(digests, rows))
