"""Tokenise in parallel: one process reads and hashes the corpus in batches of about a MiB, others encode them."""

import hashlib
import multiprocessing
import os
import signal
import sys
import threading
import types
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain
from multiprocessing.connection import wait

import numpy as np

from data.bpe import Encoder
from data.documents import CHUNK_BYTES, Chunks, Source
from data.errors import UsageError
from data.file_encoder import FileEncoder, open_encoder
from data.token_files import TokenFiles
from data.tokenizer import Tokenizer

# Below this, processes take longer to start than they save: one encodes 8 to 10 MB/s.
POOL_BYTES = 32 << 20

Batch = list[tuple[bytes, bool]]
# The tokens [N] of a batch, and how many bytes the encoder escaped.
Encoded = tuple[np.ndarray, int]


@dataclass(frozen=True)
class Position:
    """A place between two batches: how much is before it, and the SHA-256 of that."""

    batches: int = 0
    bytes: int = 0
    documents: int = 0
    sha256: str = hashlib.sha256().hexdigest()
    escaped: int = 0
    """Of the bytes, those that somebody else's tokenizer would have lost: see data/file_encoder.py."""


def encode_source(
    source: Source, tokenizer: Tokenizer, start: Position, workers: int, file: str = ""
) -> Generator[tuple[Position, np.ndarray]]:
    """Yield the position after each batch that follows `start`, and the batch's tokens [N], in order.

    This process encodes small corpora, and the beginning of those of unknown size; `workers` processes (0: one a core)
    encode larger ones. `file` is what data.tokenizer says. Raises UsageError if the bytes before `start` have changed,
    or if the file's tokenizer loses most of the bytes, or for an id that is no token.
    """
    if source.tokens:
        yield from _number_tokens(source, source.tokens, tokenizer, start)
        return
    work, escaped = _read(source, start), start.escaped
    for position, (tokens, lost) in _encode_work(work, source, tokenizer, workers, file):
        escaped += lost
        if position.bytes >= CHUNK_BYTES:
            refuse_lossy(file, escaped, position.bytes)
        yield replace(position, escaped=escaped), tokens


def _number_tokens(
    source: Source, files: TokenFiles, tokenizer: Tokenizer, start: Position
) -> Iterator[tuple[Position, np.ndarray]]:
    """encode_source, of token files."""
    digest, position = hashlib.sha256(), Position()
    for block in files.blocks():
        digest.update(block.content)
        done, documents = position.bytes + len(block.content), position.documents + block.documents
        position = Position(position.batches + 1, done, documents, digest.hexdigest())
        if position.batches > start.batches:
            yield position, files.number(block, tokenizer)
        elif position.batches == start.batches and position != start:
            break
    if position.batches <= start.batches and position != start:
        raise UsageError(f"data.source {source.name} was changed while it was being prepared; run again")


def refuse_lossy(file: str, escaped: int, total_bytes: int) -> None:
    """Raise UsageError if a tokenizer is of no use for a corpus."""
    if 2 * escaped > total_bytes:
        raise UsageError(
            f"data.tokenizer {file} loses {escaped:,} of the first {total_bytes:,} bytes, because it has no tokens for "
            "them or changes them: take one that was made for such text, or --data.tokenizer bpe"
        )


def _encode_work(
    work: Iterator[tuple[Position, Batch]], source: Source, tokenizer: Tokenizer, workers: int, file: str
) -> Iterator[tuple[Position, Encoded]]:
    expected_bytes = source.expected_bytes
    alone_bytes = POOL_BYTES if expected_bytes is None or expected_bytes < POOL_BYTES else 0
    encoder = open_encoder(tokenizer, file)
    for position, batch in work:
        if workers != 1 and tokenizer.kind != "bytes" and position.bytes > alone_bytes:
            yield from _encode_in_pool(chain([(position, batch)], work), tokenizer, workers, file)
        else:
            yield position, _encode(encoder, batch)


def _encode_in_pool(
    work: Iterable[tuple[Position, Batch]], tokenizer: Tokenizer, workers: int, file: str
) -> Iterator[tuple[Position, Encoded]]:
    processes = workers or len(os.sched_getaffinity(0))
    pool = _start_pool(processes, tokenizer, file)
    pending: deque[tuple[Position, Future[Encoded]]] = deque()
    try:
        for position, batch in work:
            pending.append((position, pool.submit(_encode_in_worker, batch)))
            # Few batches in flight, so that memory does not grow when reading is faster than encoding.
            if len(pending) > 2 * processes:
                position, future = pending.popleft()
                yield position, future.result()
        for position, future in pending:
            yield position, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _read(source: Source, start: Position) -> Iterator[tuple[Position, Batch]]:
    """Read the batches up to `start`, and yield those after it."""
    digest, position, skipped, start = hashlib.sha256(), Position(), Position(), replace(start, escaped=0)
    for batch in _batches(source.chunks()):
        for chunk, _ in batch:
            digest.update(chunk)
        batch_bytes = sum(len(chunk) for chunk, _ in batch)
        documents = position.documents + sum(ends for _, ends in batch)
        position = Position(position.batches + 1, position.bytes + batch_bytes, documents, digest.hexdigest())
        if position.batches <= start.batches:
            skipped = position
        elif skipped != start:
            break
        else:
            yield position, batch
    if skipped != start:
        raise UsageError(f"data.source {source.name} was changed while it was being prepared; run again")


def _batches(chunks: Chunks) -> Iterator[Batch]:
    batch: Batch = []
    batch_bytes = 0
    for chunk, ends in chunks:
        batch.append((chunk, ends))
        batch_bytes += len(chunk)
        if batch_bytes >= CHUNK_BYTES or len(batch) >= 4096:
            yield batch
            batch, batch_bytes = [], 0
    if batch:
        yield batch


def _start_pool(processes: int, tokenizer: Tokenizer, file: str) -> ProcessPoolExecutor:
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


def _encode(encoder: Encoder | FileEncoder, batch: Batch) -> Encoded:
    end, before = np.array([encoder.tokenizer.end_of_document], encoder.dtype), encoder.escaped
    parts = [part for chunk, ends in batch for part in (encoder.encode(chunk), end[: int(ends)])]
    return np.concatenate(parts), encoder.escaped - before


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


def _encode_in_worker(batch: Batch) -> Encoded:
    return _encode(_worker_encoder, batch)
