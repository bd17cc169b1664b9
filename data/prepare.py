"""From documents to token shards: once for each corpus and tokenizer, in parallel, cached, atomic, resumable."""

import hashlib
import json
import lzma
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
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
from data.files import write_file
from data.output import CHUNK_TOKENS, token_chunks
from data.shard_making import SHARD_BATCHES, Plan, collect_shards, make_shards, remove_notes
from data.shards import (
    FORMAT,
    PIECES,
    Manifest,
    MappedFiles,
    TokenShards,
    TokenStream,
    describe_tokenizer,
    pieces_content,
    read_manifest,
    restore_tokenizer,
    write_manifest,
)
from data.shared_making import JOURNAL, await_shards, read_journal
from data.streamed import StreamedTokens
from data.token_files import Block, TokenFiles
from data.tokenizer import Tokenizer
from data.tokenizer_files import KINDS, Segmenter, TokenizerFile, read_tokenizer_file


@dataclass(frozen=True)
class PreparedCorpus:
    """A corpus as tokens, and the source for those who want its bytes."""

    directory: Path
    manifest: Manifest
    tokenizer: Tokenizer
    tokens: TokenStream | StreamedTokens
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
    stream: bool = False,
    readers: int = 1,
    shard_batches: int = SHARD_BATCHES,
    hosts: int = 1,
) -> PreparedCorpus:
    """Tokenise a corpus, or open what an earlier call left in cache_dir. Parameters: see DataConfig in train/config.py.
    So many `readers` on this machine will read a streamed corpus at once. Of so many `hosts`, this is host 0, and the
    others call help_host_0 (data/shared_making.py) at the same time.

    The token stream is each document's tokens followed by an end of document. Calls for the same corpus wait for each
    other. What an earlier call left is opened only if it is shown to be of the same bytes: see Source.is_as_read.
    Raises UsageError on bad input, leaving nothing, and on a cache that is not what it should be. Raises OSError
    when writing fails; like a killed call, that leaves whole shards, from which the next call goes on.
    """
    job = locate(
        source, field, split, tokenizer, vocabulary, tokenizer_sample_bytes, token_ids, cache_dir, workers, stream,
        readers, shard_batches,
    )  # fmt: skip
    documents, fingerprint, file, directory, plan = job.source, job.fingerprint, job.file, job.directory, job.plan
    for note in documents.notes if progress else ():
        tqdm.write(f"onepass: {note}", file=sys.stderr)
    # Before anything is written.
    segmenter = None if file is None or (directory / plan.manifest).exists() else file.open()
    directory.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{directory}.lock"):
        if (directory / plan.manifest).exists():
            corpus = _open(directory, documents, fingerprint, plan)
            if documents.is_as_read(corpus.manifest.begun_ns) or _holds_same(corpus, progress):
                return corpus
            shutil.rmtree(directory)
        try:
            journal = read_journal(directory, fingerprint)
            if journal is None:
                # It was never more than a help to this call.
                shutil.rmtree(directory, ignore_errors=True)
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
            _make(directory, documents, journal, plan, progress, hosts)
        except ValueError:
            shutil.rmtree(directory, ignore_errors=True)
            raise
        return _open(directory, documents, fingerprint, plan)


@dataclass(frozen=True)
class Job:
    """A corpus that is to be prepared, or is: its source, the tokenizer's file, the folder in the cache, and how."""

    source: Source
    fingerprint: str
    file: TokenizerFile | None
    directory: Path
    plan: Plan

    @property
    def is_done(self) -> bool:
        return (self.directory / self.plan.manifest).exists()


def locate(
    source: str, field: str, split: str, tokenizer: str, vocabulary: int, tokenizer_sample_bytes: int, token_ids: int,
    cache_dir: str | Path, workers: int = 0, stream: bool = False, readers: int = 1,
    shard_batches: int = SHARD_BATCHES,
) -> Job:  # fmt: skip
    """What `prepare` would do, by the same parameters. Writes nothing. Raises UsageError on bad input."""
    documents = open_source(source, field, split)
    if stream and documents.only_forwards:
        raise UsageError(f"data.source {documents.name} cannot be streamed by data.stream: {documents.only_forwards}")
    fingerprint = documents.fingerprint()
    file = None if documents.tokens or tokenizer in KINDS else read_tokenizer_file(tokenizer)
    kind = "tokens" if documents.tokens else "file" if file else tokenizer
    made_of = ["sha256", file.sha256] if file else [] if tokenizer == "bytes" else [vocabulary, tokenizer_sample_bytes]
    made_of = [token_ids] if documents.tokens else made_of
    made_of = [*made_of, shard_batches, stream]
    key = hashlib.sha256(json.dumps([FORMAT, fingerprint, kind, made_of]).encode()).hexdigest()
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", documents.name)[:48]
    directory = Path(cache_dir).expanduser() / f"{name}-{kind}-{key[:16]}"
    return Job(documents, fingerprint, file, directory, Plan(workers, shard_batches, tokenizer, stream, readers))


def _take_file(file: TokenizerFile, segmenter: Segmenter, directory: Path, progress: bool) -> dict[str, Any]:
    """Describe somebody else's tokenizer for a decoder, in the folder of a corpus. Returns the manifest's entry."""
    model = tokenizer_of(usable_pieces(file, segmenter), directory.parent)
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


def _open(directory: Path, documents: Source, fingerprint: str, plan: Plan) -> PreparedCorpus:
    manifest = read_manifest(directory, plan.manifest)
    if manifest.fingerprint != fingerprint:
        raise UsageError(f"{directory / plan.manifest} describes another corpus; delete {directory} and run again")
    tokenizer = restore_tokenizer(manifest.tokenizer, directory)
    tokens: TokenStream | StreamedTokens
    if plan.streamed:
        workers = plan.workers or max(1, len(os.sched_getaffinity(0)) // plan.readers)
        tokens = StreamedTokens(directory, manifest, documents, tokenizer, plan.tokenizer, workers)
    elif documents.tokens and documents.tokens.mappable:
        tokens = MappedFiles(documents.tokens, tokenizer.end_of_document)
    else:
        tokens = TokenShards(directory, manifest)
    return PreparedCorpus(directory, manifest, tokenizer, tokens, documents)


def _holds_same(corpus: PreparedCorpus, progress: bool) -> bool:
    """Whether the source still yields the documents that the tokens spell: for a source that cannot prove it."""
    tokenizer, files = corpus.tokenizer, corpus.source.tokens
    if isinstance(corpus.tokens, StreamedTokens):
        return corpus.tokens.is_of_source()
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


def _make(directory: Path, source: Source, journal: Manifest, plan: Plan, progress: bool, hosts: int) -> None:
    """Make the shards that are not there, then write the manifest. Token files that can be mapped are only
    checked."""
    directory.mkdir(exist_ok=True)
    # Where others help, they may have begun.
    for leftover in directory.glob(".*.tmp") if hosts == 1 else ():
        leftover.unlink()
    # Even if the journal is of an earlier call, this one reads all of the source.
    journal = replace(journal, begun_ns=time.time_ns())
    write_manifest(directory / JOURNAL, journal)
    bar = tqdm(
        total=source.expected_bytes, unit="B", unit_scale=True, desc=f"preparing {source.name}", disable=not progress
    )
    ends: list[Position] = []
    if source.tokens and source.tokens.mappable:
        tokenizer = restore_tokenizer(journal.tokenizer, directory)
        with bar:
            for work, encoded in encode_source(source, tokenizer, lambda _: True, plan.workers):
                bar.update(work.position.bytes - bar.n)
                assert encoded
                tokens = journal.tokens + len(encoded.tokens)
                journal = replace(journal, tokens=tokens, **asdict(work.position))
    else:
        with bar:
            for position, ends_shard in make_shards(directory, source, journal, plan, lambda shard: shard % hosts == 0):
                bar.update(position.bytes - bar.n)
                ends += [position] * ends_shard
        while lacking := await_shards(directory, plan, len(ends), hosts):
            for _ in make_shards(directory, source, journal, plan, lacking.__contains__):
                pass
        journal = collect_shards(directory, journal, plan, ends)
    if not journal.bytes:
        raise UsageError(f"data.source {source.name} is empty: there is not one byte to train on")
    refuse_lossy(plan.tokenizer, journal.escaped, journal.bytes)
    if progress and journal.escaped:
        part = f"{journal.escaped:,} of {journal.bytes:,} bytes ({100 * journal.escaped / journal.bytes:.2g} %)"
        tqdm.write(f"onepass: {plan.tokenizer} would lose {part}: each of them is a token", file=sys.stderr)
    if source.fingerprint() != journal.fingerprint:
        raise UsageError(f"data.source {source.name} was changed while it was being prepared; run again")
    write_manifest(directory / plan.manifest, journal)
    remove_notes(directory, plan, len(ends))
    (directory / JOURNAL).unlink(missing_ok=True)
