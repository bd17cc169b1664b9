"""Tokenise in parallel: one process reads and hashes the corpus in batches of about a MiB, others encode them."""

import hashlib
import multiprocessing
import os
import signal
import sys
import threading
import types
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from itertools import chain
from multiprocessing.connection import wait

import numpy as np

from data.bpe import Encoder
from data.documents import Source
from data.errors import UsageError
from data.file_encoder import FileEncoder, open_encoder
from data.readers import CHUNK_BYTES, START, Place
from data.token_files import TokenFiles
from data.tokenizer import Tokenizer

# Below this, processes take longer to start than they save: one encodes 8 to 10 MB/s.
POOL_BYTES = 32 << 20

Batch = list[tuple[bytes, bool]]


@dataclass(frozen=True)
class Position:
    """A place between two batches: how much is before it, and the SHA-256 of that."""

    batches: int = 0
    bytes: int = 0
    documents: int = 0
    sha256: str = hashlib.sha256().hexdigest()


@dataclass(frozen=True)
class Work:
    """A batch, where it begins, and the position after it. The batch is empty if its tokens are not wanted."""

    position: Position
    place: Place
    batch: Batch


@dataclass(frozen=True)
class Encoded:
    """The tokens [N] of a batch, and how many of its bytes somebody else's tokenizer would have lost, so that each is a
    token (data/file_encoder.py)."""

    tokens: np.ndarray
    escaped: int = 0


Wanted = Callable[[int], bool]


def encode_source(
    source: Source, tokenizer: Tokenizer, wanted: Wanted, workers: int, file: str = ""
) -> Generator[tuple[Work, Encoded | None]]:
    """Yield the source's batches in order, and their tokens. Those of which `wanted(number)` is false are only read, so
    that they are in the SHA-256, and have no tokens.

    This process encodes small corpora, and the beginning of those of unknown size; `workers` processes (0: one a core)
    encode larger ones. `file` is what data.tokenizer says. Raises UsageError if the file's tokenizer loses most of the
    bytes, or for an id that is no token.
    """
    if source.tokens:
        yield from _number_tokens(source.tokens, tokenizer, wanted)
        return
    done_bytes = escaped = 0
    for work, encoded in _encode_work(_read(source, wanted), source, tokenizer, workers, file):
        if encoded:
            done_bytes += sum(len(chunk) for chunk, _ in work.batch)
            escaped += encoded.escaped
            if done_bytes >= CHUNK_BYTES:
                refuse_lossy(file, escaped, done_bytes)
        yield work, encoded


def _number_tokens(files: TokenFiles, tokenizer: Tokenizer, wanted: Wanted) -> Iterator[tuple[Work, Encoded | None]]:
    """encode_source, of token files."""
    digest, position = hashlib.sha256(), Position()
    for block in files.blocks():
        digest.update(block.content)
        done, documents = position.bytes + len(block.content), position.documents + block.documents
        encoded = Encoded(files.number(block, tokenizer)) if wanted(position.batches) else None
        position = Position(position.batches + 1, done, documents, digest.hexdigest())
        yield Work(position, START, []), encoded


def refuse_lossy(file: str, escaped: int, total_bytes: int) -> None:
    """Raise UsageError if a tokenizer is of no use for a corpus."""
    if 2 * escaped > total_bytes:
        raise UsageError(
            f"data.tokenizer {file} loses {escaped:,} of the first {total_bytes:,} bytes, because it has no tokens for "
            "them or changes them: take one that was made for such text, or --data.tokenizer bpe"
        )


def _encode_work(
    work: Iterator[Work], source: Source, tokenizer: Tokenizer, workers: int, file: str
) -> Iterator[tuple[Work, Encoded | None]]:
    expected_bytes = source.expected_bytes
    alone_bytes = POOL_BYTES if expected_bytes is None or expected_bytes < POOL_BYTES else 0
    encoder = open_encoder(tokenizer, file)
    for item in work:
        if workers != 1 and tokenizer.kind != "bytes" and item.position.bytes > alone_bytes:
            yield from _encode_in_pool(chain([item], work), tokenizer, workers, file)
        else:
            yield item, encode_batch(encoder, item.batch) if item.batch else None


def _encode_in_pool(
    work: Iterable[Work], tokenizer: Tokenizer, workers: int, file: str
) -> Iterator[tuple[Work, Encoded | None]]:
    processes = workers or len(os.sched_getaffinity(0))
    pool = start_pool(processes, tokenizer, file)
    pending: deque[tuple[Work, Future[Encoded] | None]] = deque()
    flying = 0
    try:
        for item in work:
            pending.append((item, pool.submit(encode_in_worker, item.batch) if item.batch else None))
            flying += bool(item.batch)
            # Few batches in flight, so that memory does not grow when reading is faster than encoding. What is not
            # wanted takes no room, so reading goes on to the next batch that is.
            while pending and (flying > 2 * processes or not pending[0][1]):
                item, future = pending.popleft()
                flying -= bool(future)
                yield item, future.result() if future else None
        for item, future in pending:
            yield item, future.result() if future else None
    finally:
        pool.shutdown(cancel_futures=True)


def _read(source: Source, wanted: Wanted) -> Iterator[Work]:
    digest, position = hashlib.sha256(), Position()
    for place, batch in read_batches(source):
        for chunk, _ in batch:
            digest.update(chunk)
        batch_bytes = sum(len(chunk) for chunk, _ in batch)
        documents = position.documents + sum(ends for _, ends in batch)
        kept = batch if wanted(position.batches) else []
        position = Position(position.batches + 1, position.bytes + batch_bytes, documents, digest.hexdigest())
        yield Work(position, place, kept)


def read_batches(source: Source, start: Place = START) -> Iterator[tuple[Place, Batch]]:
    """Yield the source's batches from `start` on, each with its place. A batch has a MiB and some more, or 4096 chunks,
    except the last."""
    batch: Batch = []
    batch_bytes, first = 0, start
    for chunk, ends, place in source.placed(start):
        first = first if batch else place
        batch.append((chunk, ends))
        batch_bytes += len(chunk)
        if batch_bytes >= CHUNK_BYTES or len(batch) >= 4096:
            yield first, batch
            batch, batch_bytes = [], 0
    if batch:
        yield first, batch


def start_pool(processes: int, tokenizer: Tokenizer, file: str) -> ProcessPoolExecutor:
    """Processes for encode_in_worker. `file` is what data.tokenizer says."""
    # Spawned, not forked: the caller may have threads, and locks that they hold.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, context, initializer=_start_worker, initargs=(tokenizer, file))
    # A spawned process imports the main module again: torch and DeepSpeed, seconds and 300 MB each, for nothing. So
    # all of them start now, while an empty module stands in for it.
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        for _ in range(processes):
            pool.submit(os.getpid)
    finally:
        sys.modules["__main__"] = main
    return pool


def encode_batch(encoder: Encoder | FileEncoder, batch: Batch) -> Encoded:
    """The tokens of a batch, with the ends of its documents."""
    end, before = np.array([encoder.tokenizer.end_of_document], encoder.dtype), encoder.escaped
    parts = [part for chunk, ends in batch for part in (encoder.encode(chunk), end[: int(ends)])]
    return Encoded(np.concatenate(parts), encoder.escaped - before)


_worker_encoder: Encoder | FileEncoder


def _start_worker(tokenizer: Tokenizer, file: str) -> None:
    global _worker_encoder
    _worker_encoder = open_encoder(tokenizer, file)
    # Ctrl-C reaches every process of the terminal; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """Otherwise a worker would outlive a parent that was killed, and wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent:
        wait([parent.sentinel])
        os._exit(1)


def encode_in_worker(batch: Batch) -> Encoded:
    """encode_batch, in a process of start_pool."""
    return encode_batch(_worker_encoder, batch)
