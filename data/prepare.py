"""From documents to token shards: once for each corpus and tokenizer, in parallel, cached, atomic, resumable."""

import contextlib
import hashlib
import json
import lzma
import re
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from filelock import FileLock
from tqdm import tqdm

from data.batches import Position, encode_source, refuse_lossy
from data.bpe import train_tokenizer
from data.describe import tokenizer_of
from data.documents import Chunks, Source, open_source
from data.errors import UsageError
from data.file_encoder import usable_pieces
from data.files import file_sha256, new_file, write_file
from data.output import CHUNK_TOKENS, token_chunks
from data.shards import (
    FORMAT,
    MANIFEST,
    PIECES,
    Manifest,
    MappedFiles,
    Shard,
    TokenShards,
    TokenStream,
    describe_tokenizer,
    pieces_content,
    read_manifest,
    restore_tokenizer,
    write_manifest,
)
from data.token_files import Block, TokenFiles
from data.tokenizer import Tokenizer
from data.tokenizer_files import KINDS, Segmenter, TokenizerFile, read_tokenizer_file

JOURNAL = "journal.json"
SHARD_TOKENS = 16 << 20


@dataclass(frozen=True)
class PreparedCorpus:
    """A corpus as tokens, and the source for those who want its bytes."""

    directory: Path
    manifest: Manifest
    tokenizer: Tokenizer
    tokens: TokenStream
    source: Source

    def read(self) -> Iterator[bytes]:
        """The corpus' own bytes, in chunks. At their end, raises UsageError if they are not those of the manifest."""
        digest = hashlib.sha256()
        for chunk, _ in self.source.chunks():
            digest.update(chunk)
            yield chunk
        if digest.hexdigest() != self.manifest.sha256:
            raise UsageError(f"data.source {self.source.name} was changed since it was prepared; run again")


def prepare(
    source: str,
    field: str = "text",
    split: str = "train",
    tokenizer: str = "bytes",
    vocabulary: int = 257,
    tokenizer_sample_bytes: int = 100_000_000,
    token_ids: int = 0,
    cache_dir: str | Path = "~/.cache/onepass",
    workers: int = 0,
    progress: bool = False,
    shard_tokens: int = SHARD_TOKENS,
) -> PreparedCorpus:
    """Tokenise a corpus, or open what an earlier call left in cache_dir. Parameters: see DataConfig in train/config.py.

    The token stream is each document's tokens followed by an end of document. Calls for the same corpus wait for each
    other. What an earlier call left is opened only if it is shown to be of the same bytes: see Source.is_as_read.
    Raises UsageError on bad input, leaving nothing, and on a cache that is not what it should be. Raises OSError
    when writing fails; like a killed call, that leaves whole shards, from which the next call goes on.
    """
    documents = open_source(source, field, split)
    for note in documents.notes if progress else ():
        tqdm.write(f"onepass: {note}", file=sys.stderr)
    fingerprint = documents.fingerprint()
    file = None if documents.tokens or tokenizer in KINDS else read_tokenizer_file(tokenizer)
    kind = "tokens" if documents.tokens else "file" if file else tokenizer
    made_of = ["sha256", file.sha256] if file else [] if tokenizer == "bytes" else [vocabulary, tokenizer_sample_bytes]
    made_of = [token_ids] if documents.tokens else made_of
    key = hashlib.sha256(json.dumps([FORMAT, fingerprint, kind, made_of, shard_tokens]).encode()).hexdigest()
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", documents.name)[:48]
    directory = Path(cache_dir).expanduser() / f"{name}-{kind}-{key[:16]}"
    # Before anything is written.
    segmenter = None if file is None or (directory / MANIFEST).exists() else file.open()
    directory.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{directory}.lock"):
        if (directory / MANIFEST).exists():
            corpus = _open(directory, documents, fingerprint)
            if documents.is_as_read(corpus.manifest.begun_ns) or _holds_same(corpus, progress):
                return corpus
            shutil.rmtree(directory)
        try:
            journal = _read_journal(directory, fingerprint)
            if journal is None and file:
                entry, empty = _take_file(file, segmenter or file.open(), directory, progress), Position().sha256
                journal = Manifest(FORMAT, documents.name, 0, 0, 0, empty, fingerprint, time.time_ns(), entry, [])
            elif journal is None and documents.tokens:
                entry, empty = _take_ids(documents, documents.tokens, token_ids, progress), Position().sha256
                journal = Manifest(FORMAT, documents.name, 0, 0, 0, empty, fingerprint, time.time_ns(), entry, [])
            elif journal is None:
                total_bytes = min(tokenizer_sample_bytes, documents.expected_bytes or tokenizer_sample_bytes)
                shown = _show(documents.chunks(), "learning pieces", total_bytes, progress and tokenizer == "bpe")
                model = train_tokenizer(tokenizer, (chunk for chunk, _ in shown), vocabulary, tokenizer_sample_bytes)
                if progress and tokenizer == "bpe" and model.vocabulary < vocabulary:
                    found = f"the corpus gives {model.vocabulary:,} symbols"
                    tqdm.write(f"onepass: {found}, fewer than data.vocabulary {vocabulary:,}", file=sys.stderr)
                entry, empty = describe_tokenizer(model), Position().sha256
                journal = Manifest(FORMAT, documents.name, 0, 0, 0, empty, fingerprint, time.time_ns(), entry, [])
            _write_shards(directory, documents, journal, workers, progress, shard_tokens, tokenizer)
        except ValueError:
            shutil.rmtree(directory, ignore_errors=True)
            raise
        return _open(directory, documents, fingerprint)


def _take_file(file: TokenizerFile, segmenter: Segmenter, directory: Path, progress: bool) -> dict[str, Any]:
    """Describe somebody else's tokenizer for a decoder, in the folder of a corpus. Returns the manifest's entry."""
    model = tokenizer_of(usable_pieces(file, segmenter))
    directory.mkdir(exist_ok=True)
    content = pieces_content(model)
    write_file(directory / PIECES, content)
    file_xz_bytes = len(lzma.compress(file.content, preset=9 | lzma.PRESET_EXTREME))
    if progress:
        sizes = f"{model.vocabulary:,} tokens, described in {len(model.encoding):,} bytes; xz makes {file_xz_bytes:,}"
        tqdm.write(f"onepass: {file.path}: {segmenter.format}: {sizes} of the file", file=sys.stderr)
    about = {"file": file.path.name, "format": segmenter.format, "file_xz_bytes": file_xz_bytes}
    about |= {"file_sha256": file.sha256, "pieces_sha256": hashlib.sha256(content).hexdigest()}
    return describe_tokenizer(model) | about


def _take_ids(source: Source, files: TokenFiles, token_ids: int, progress: bool) -> dict[str, Any]:
    """Describe the ids in token files: with the largest of them, unless `token_ids` says how many there may be. Returns
    the manifest's entry."""
    with tqdm(
        total=source.expected_bytes, unit="B", unit_scale=True, desc="largest id", disable=not progress or token_ids > 0
    ) as bar:

        def shown() -> Iterator[Block]:
            for block in files.blocks():
                yield block
                bar.update(len(block.content))

        model = files.tokenizer(token_ids, shown())
    if progress:
        ends = model.vocabulary - files.ids(model)
        tqdm.write(f"onepass: {source.name}: {files.format}, {files.ids(model):,} ids and {ends} ends", file=sys.stderr)
    return describe_tokenizer(model)


def _show(chunks: Chunks, title: str, total_bytes: int | None, progress: bool) -> Chunks:
    """Yield the chunks, with a progress bar."""
    with tqdm(total=total_bytes, unit="B", unit_scale=True, desc=title, disable=not progress) as bar:
        for chunk, ends in chunks:
            yield chunk, ends
            bar.update(len(chunk) if total_bytes is None else min(len(chunk), total_bytes - bar.n))


def _open(directory: Path, documents: Source, fingerprint: str) -> PreparedCorpus:
    manifest = read_manifest(directory)
    if manifest.fingerprint != fingerprint:
        raise UsageError(f"{directory / MANIFEST} describes another corpus; delete {directory} and run again")
    tokenizer = restore_tokenizer(manifest.tokenizer, directory)
    tokens: TokenStream
    if documents.tokens and documents.tokens.mappable:
        tokens = MappedFiles(documents.tokens, tokenizer.end_of_document)
    else:
        tokens = TokenShards(directory, manifest)
    return PreparedCorpus(directory, manifest, tokenizer, tokens, documents)


def _holds_same(corpus: PreparedCorpus, progress: bool) -> bool:
    """Whether the source still yields the documents that the tokens spell: for a source that cannot prove it."""
    tokenizer, files = corpus.tokenizer, corpus.source.tokens
    if files and not files.records:
        # Their lengths are in the fingerprint.
        return _digest(corpus.source.chunks())[0] == corpus.manifest.sha256
    if files:
        # A record is its ids and nothing else, which can be cut anywhere.
        tokenizer = replace(tokenizer, kind="bytes")
    stops = [*range(CHUNK_TOKENS, len(corpus.tokens), CHUNK_TOKENS), len(corpus.tokens)]
    parts = (corpus.tokens.read(start, stop) for start, stop in zip([0, *stops], stops, strict=False))
    prepared = (chunk for part in parts for chunk in token_chunks(part, tokenizer))
    title = f"reading {corpus.source.name} again"
    return _digest(_show(corpus.source.chunks(), title, corpus.manifest.bytes, progress)) == _digest(prepared)


def _digest(chunks: Chunks) -> tuple[str, str]:
    """SHA-256 of the documents' bytes, and of their lengths."""
    content, lengths, length = hashlib.sha256(), hashlib.sha256(), 0
    for chunk, ends in chunks:
        content.update(chunk)
        length += len(chunk)
        if ends:
            lengths.update(b"%d " % length)
            length = 0
    return content.hexdigest(), lengths.hexdigest()


def _read_journal(directory: Path, fingerprint: str) -> Manifest | None:
    """What an interrupted call finished. If it is of no use, the directory is removed, without an error: it was never
    more than a help to the next call."""
    with contextlib.suppress(OSError, UsageError):
        journal = read_manifest(directory, JOURNAL)
        whole = all(file_sha256(directory / Path(shard.file).name) == shard.sha256 for shard in journal.shards)
        if whole and journal.fingerprint == fingerprint:
            return journal
    shutil.rmtree(directory, ignore_errors=True)
    return None


def _write_shards(
    directory: Path, source: Source, journal: Manifest, workers: int, progress: bool, shard_tokens: int, tokenizer: str
) -> None:
    """Tokenise everything after the journal's position into shards, then write the manifest. Token files that can be
    mapped are only checked."""
    directory.mkdir(exist_ok=True)
    for leftover in directory.glob(".*.tmp"):
        leftover.unlink()
    # Even if the journal is of an earlier call, this one reads all of the source.
    journal = replace(journal, begun_ns=time.time_ns())
    start = Position(journal.batches, journal.bytes, journal.documents, journal.sha256, journal.escaped)
    bar = tqdm(
        total=source.expected_bytes, unit="B", unit_scale=True, desc=f"preparing {source.name}", disable=not progress
    )
    encoded = encode_source(source, restore_tokenizer(journal.tokenizer, directory), start, workers, tokenizer)
    with bar, contextlib.closing(encoded):
        if source.tokens and source.tokens.mappable:
            for position, array in encoded:
                bar.update(position.bytes - bar.n)
                journal = replace(journal, tokens=journal.tokens + len(array), **asdict(position))
        for first in encoded:
            path = directory / f"tokens-{len(journal.shards):05d}.bin"
            digest, tokens = hashlib.sha256(), 0
            with new_file(path) as file:
                for position, array in chain([first], encoded):
                    file.write(array.data)
                    digest.update(array.data)
                    bar.update(position.bytes - bar.n)
                    tokens += len(array)
                    if tokens >= shard_tokens:
                        break
            shards = [*journal.shards, Shard(path.name, tokens, digest.hexdigest())]
            journal = replace(journal, shards=shards, tokens=journal.tokens + tokens, **asdict(position))
            write_manifest(directory / JOURNAL, journal)
    if not journal.bytes:
        raise UsageError(f"data.source {source.name} is empty: there is not one byte to train on")
    refuse_lossy(tokenizer, journal.escaped, journal.bytes)
    if progress and journal.escaped:
        share = f"{journal.escaped:,} of {journal.bytes:,} bytes ({100 * journal.escaped / journal.bytes:.2g} %)"
        tqdm.write(f"onepass: {tokenizer} would lose {share}: each of them is a token", file=sys.stderr)
    if source.fingerprint() != journal.fingerprint:
        raise UsageError(f"data.source {source.name} was changed while it was being prepared; run again")
    write_manifest(directory / MANIFEST, journal)
    (directory / JOURNAL).unlink(missing_ok=True)
