"""From documents to token shards: once for each corpus and tokenizer, in parallel, cached, atomic, resumable."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from filelock import FileLock
from tqdm import tqdm

from data.batches import Position, encode_source
from data.bpe import train_tokenizer
from data.documents import Source, open_source
from data.errors import UsageError
from data.files import file_sha256
from data.shards import (
    FORMAT,
    MANIFEST,
    Manifest,
    Shard,
    TokenShards,
    describe_tokenizer,
    read_json,
    read_manifest,
    restore_tokenizer,
    write_json,
)
from data.tokenizer import Tokenizer

JOURNAL = "journal.json"
SHARD_TOKENS = 16 << 20


@dataclass(frozen=True)
class PreparedCorpus:
    """A corpus as tokens, and the source for those who want its bytes."""

    directory: Path
    manifest: Manifest
    tokenizer: Tokenizer
    tokens: TokenShards
    source: Source


@dataclass(frozen=True)
class _Journal:
    """An unfinished preparation: its whole shards, and where in the corpus they end. Rewritten after each shard."""

    fingerprint: str
    tokenizer: dict[str, Any]
    shards: list[Shard] = field(default_factory=list)
    position: Position = field(default_factory=Position)


def prepare(
    source: str,
    field: str = "text",
    split: str = "train",
    tokenizer: str = "bytes",
    vocabulary: int = 257,
    tokenizer_sample_bytes: int = 100_000_000,
    cache_dir: str | Path = "~/.cache/onepass",
    workers: int = 0,
    progress: bool = False,
    shard_tokens: int = SHARD_TOKENS,
) -> PreparedCorpus:
    """Tokenise a corpus, or open what an earlier call left in cache_dir. Parameters: see DataConfig in train/config.py.

    The token stream is each document's tokens followed by an end of document. Calls for the same corpus wait for each
    other. Raises UsageError on bad input, leaving nothing, and on a cache that is not what it should be. Raises OSError
    when writing fails; like a killed call, that leaves whole shards, from which the next call goes on.
    """
    documents = open_source(source, field, split)
    fingerprint = documents.fingerprint()
    if not any(chunk for chunk, _ in documents.chunks()):
        raise UsageError(f"data.source {source!r} is empty: there is not one byte to train on")
    trained = [] if tokenizer == "bytes" else [vocabulary, tokenizer_sample_bytes]
    key = hashlib.sha256(json.dumps([FORMAT, fingerprint, tokenizer, trained, shard_tokens]).encode()).hexdigest()
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", documents.name)[:48]
    directory = Path(cache_dir).expanduser() / f"{name}-{tokenizer}-{key[:16]}"
    directory.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{directory}.lock"):
        if not (directory / MANIFEST).exists():
            try:
                journal = _read_journal(directory, fingerprint)
                if journal is None:
                    sample = _sample(documents, tokenizer_sample_bytes, progress and tokenizer == "bpe")
                    model = train_tokenizer(tokenizer, sample, vocabulary, tokenizer_sample_bytes)
                    if progress and tokenizer == "bpe" and model.vocabulary < vocabulary:
                        found = f"the corpus gives {model.vocabulary:,} symbols"
                        tqdm.write(f"onepass: {found}, fewer than data.vocabulary {vocabulary:,}", file=sys.stderr)
                    journal = _Journal(fingerprint, describe_tokenizer(model))
                _write_shards(directory, documents, journal, workers, progress, shard_tokens)
            except ValueError:
                shutil.rmtree(directory, ignore_errors=True)
                raise
        manifest = read_manifest(directory)
        if manifest.fingerprint != fingerprint:
            raise UsageError(f"{directory / MANIFEST} describes another corpus; delete {directory} and run again")
        tokens = TokenShards(directory, manifest)
    return PreparedCorpus(directory, manifest, restore_tokenizer(manifest.tokenizer), tokens, documents)


def _read_journal(directory: Path, fingerprint: str) -> _Journal | None:
    """What an interrupted call finished; None, and the directory gone, where that is nothing that can be used.

    An unfinished directory was never more than a help to the next call, so it is not worth a refusal.
    """
    try:
        values = read_json(directory / JOURNAL)
        journal = _Journal(**{**values, "position": Position(**values["position"])})
        restore_tokenizer(journal.tokenizer)
        whole = all(file_sha256(directory / Path(shard.file).name) == shard.sha256 for shard in journal.shards)
        if whole and journal.fingerprint == fingerprint:
            return journal
    except (OSError, ValueError, LookupError, TypeError):
        pass
    shutil.rmtree(directory, ignore_errors=True)
    return None


def _sample(source: Source, sample_bytes: int, progress: bool) -> Iterator[bytes]:
    total = min(sample_bytes, source.expected_bytes or sample_bytes)
    with tqdm(total=total, unit="B", unit_scale=True, desc="learning pieces", disable=not progress) as bar:
        for chunk, _ in source.chunks():
            yield chunk
            bar.update(min(len(chunk), total - bar.n))


def _write_shards(
    directory: Path, source: Source, journal: _Journal, workers: int, progress: bool, shard_tokens: int
) -> None:
    """Tokenise everything after the journal's position into shards, then write the manifest."""
    directory.mkdir(exist_ok=True)
    tokenizer = restore_tokenizer(journal.tokenizer)
    total, title = source.expected_bytes, f"preparing {source.name}"
    with (
        tqdm(total=total, unit="B", unit_scale=True, desc=title, disable=not progress) as bar,
        contextlib.closing(encode_source(source, tokenizer, journal.position, workers, bar.update)) as encoded,
    ):
        while True:
            path = directory / f"tokens-{len(journal.shards):05d}.bin"
            shard, end = _write_shard(path, encoded, shard_tokens)
            if end is None:
                break
            journal = replace(journal, shards=[*journal.shards, shard], position=end)
            write_json(directory / JOURNAL, journal)
    if source.fingerprint() != journal.fingerprint:
        raise UsageError(f"data.source {source.name} was changed while it was being prepared; run again")
    end, tokens = journal.position, sum(shard.tokens for shard in journal.shards)
    manifest = Manifest(
        format=FORMAT,
        name=source.name,
        bytes=end.bytes,
        tokens=tokens,
        documents=end.documents,
        sha256=end.sha256,
        fingerprint=journal.fingerprint,
        tokenizer=journal.tokenizer,
        shards=journal.shards,
    )
    write_json(directory / MANIFEST, manifest)
    (directory / JOURNAL).unlink()


def _write_shard(path: Path, encoded: Iterator, shard_tokens: int) -> tuple[Shard, Position | None]:
    """Write the next shard_tokens tokens, up to the end of a batch. The position is None when there were none left."""
    temporary = path.with_suffix(".tmp")
    digest, tokens, end = hashlib.sha256(), 0, None
    try:
        with temporary.open("wb") as file:
            for position, array in encoded:
                file.write(array.data)
                digest.update(array.data)
                tokens, end = tokens + len(array), position
                if tokens >= shard_tokens:
                    break
            file.flush()
            os.fsync(file.fileno())
        if end:
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return Shard(path.name, tokens, digest.hexdigest()), end
