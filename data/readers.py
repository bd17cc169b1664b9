"""Files as chunks of documents, each with its place, from which reading can begin again.

A chunk is at most 1 MiB of one document. Nothing here decodes text, changes line ends or drops a byte. What cannot be
read exactly is refused, with the record's number and the remedy.
"""

import itertools
import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any, BinaryIO, NamedTuple

from data.compression import BUFFER_BYTES, KINDS, decompress
from data.errors import UsageError
from data.http import RemoteFile

CHUNK_BYTES = 1 << 20

COMPRESSED = "|".join(suffix[1:] for suffix in KINDS)
_RECORDS = re.compile(rf"\.(?:(?:jsonl|ndjson)(?:\.(?:{COMPRESSED}))?|json\.(?:{COMPRESSED})|parquet)", re.IGNORECASE)
_PLAIN_RECORDS = re.compile(r"\.(?:jsonl|ndjson)", re.IGNORECASE)


class Place(NamedTuple):
    """Where a chunk begins: the number of the file in the source; the byte in the file, as it is without compression,
    where the chunk's record begins (of .parquet, the row); how many lines are before it; how many chunks of the record
    are before it."""

    file: int = 0
    offset: int = 0
    record: int = 0
    chunk: int = 0


START = Place()
# A chunk, whether it ends its document, and its place.
Placed = Iterator[tuple[bytes, bool, Place]]


def holds_records(name: str) -> bool:
    """Whether a file of this name is read record by record."""
    return ends_like(name, _RECORDS)


def is_seekable(name: str, raw: bool) -> bool:
    """Whether a place in a file of this name is found without reading what is before it."""
    return raw or not holds_records(name) or ends_like(name, _PLAIN_RECORDS)


def ends_like(name: str, pattern: re.Pattern[str]) -> bool:
    """Whether the last suffix of a name, or the last two, are as the pattern says."""
    suffixes = PurePath(name).suffixes
    return any(pattern.fullmatch("".join(suffixes[-count:])) for count in (1, 2))


def read_file(file: Path | RemoteFile, field: str, raw: bool, start: Place) -> Placed:
    """One file's documents from `start` on: one per record if the suffix says so, otherwise the whole file."""
    if raw or not holds_records(file.name):
        yield from read_raw(file, start)
        return
    read = _read_parquet if file.suffix.lower() == ".parquet" else _read_jsonl
    skipped = start.chunk
    for document, offset, record in read(file, field, start):
        for number, (chunk, ends) in enumerate(cut_document(document)):
            if number >= skipped:
                yield chunk, ends, Place(start.file, offset, record, number)
        skipped = 0


def read_raw(path: Path | RemoteFile, start: Place) -> Placed:
    """One file's bytes, as one document."""
    offset = start.offset
    with path.open("rb") as file:
        if offset:
            file.seek(offset)
        chunk = file.read(CHUNK_BYTES)
        while following := file.read(CHUNK_BYTES):
            yield chunk, False, Place(start.file, offset)
            offset += len(chunk)
            chunk = following
        yield chunk, True, Place(start.file, offset)


def _read_jsonl(path: Path | RemoteFile, field: str, start: Place) -> Iterator[tuple[bytes, int, int]]:
    """Parse line by line with json. `datasets` is not exact here: strings that look like ISO dates come back as
    timestamps (with explicit features "2020-01-01" still becomes "2020-01-01 00:00:00"), and lone surrogates fail.
    Yield documents, the byte where their line begins, and the number of lines before it."""
    kind = KINDS.get(path.suffix.lower())
    offset = start.offset
    with path.open("rb") as file:
        try:
            lines = decompress(file, kind) if kind else file
            if kind:
                for first in range(0, offset, CHUNK_BYTES):
                    lines.read(min(CHUNK_BYTES, offset - first))
            elif offset:
                file.seek(offset)
            for number, line in enumerate(lines, start.record):
                offset += len(line)
                if not line.strip():
                    continue
                where = f"{path}: record {number + 1}"
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise UsageError(f"{where} is not JSON ({one_line(error)}); raw:{path} reads bare bytes") from error
                yield read_field(record, field, where), offset - len(line), number
        except OSError as error:
            raise UsageError(f"{path}: cannot be read to its end ({one_line(error)}); fetch it again") from error


def _read_parquet(path: Path | RemoteFile, field: str, start: Place) -> Iterator[tuple[bytes, int, int]]:
    """Read with Arrow, as `datasets` does, but a page and a few rows at a time instead of a row group, and as bytes, so
    that strings that are not valid UTF-8 come through. Yield documents and, twice, the number of rows before them."""
    import pyarrow  # slow to import, and most corpora do not need it
    import pyarrow.parquet

    number = 0
    try:
        with (
            _open_to_seek(path) as opened,
            pyarrow.parquet.ParquetFile(opened, pre_buffer=False, buffer_size=BUFFER_BYTES) as file,
        ):
            columns = list(file.schema_arrow)
            blank = dict.fromkeys(column.name for column in columns)
            kinds = [column.type for column in columns if column.name == field]
            if len(kinds) > 1:
                raise UsageError(f"{path} has {len(kinds)} columns named {field!r}: rename all but one")
            # A dictionary (a pandas categorical) may hold each value once.
            texts = [str(kind.value_type if pyarrow.types.is_dictionary(kind) else kind) for kind in kinds]
            if not texts or not re.fullmatch("(large_)?(string|binary)|(string|binary)_view", texts[0]):
                found = ", ".join(f"{column.name} ({column.type})" for column in columns)
                raise UsageError(f"{path} has no text field {field!r}; fields are {found}: choose with --data.field")
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            stops = [*itertools.accumulate(sizes)]
            first = sum(stop <= start.offset for stop in stops)
            number = stops[first - 1] if first else 0
            groups = [*range(first, len(stops))]
            for batch in file.iter_batches(batch_size=64, row_groups=groups, columns=[field]):
                column = batch.column(field).slice(max(0, start.offset - number))
                number += len(batch) - len(column)
                column = column.dictionary_decode() if pyarrow.types.is_dictionary(column.type) else column
                for value in column.cast(pyarrow.large_binary()):
                    number += 1
                    document = read_field(blank | {field: value.as_py()}, field, f"{path}: record {number}")
                    yield document, number - 1, number - 1
    except (OSError, pyarrow.ArrowException) as error:
        reason = f"cannot be read as parquet after record {number} ({one_line(error)})"
        raise UsageError(f"{path}: {reason}; fetch it again") from error


def _open_to_seek(path: Path | RemoteFile) -> BinaryIO:
    """Open a file that is read from its end. One on a server is copied into a temporary file."""
    if isinstance(path, Path):
        return path.open("rb")
    copy = tempfile.TemporaryFile()  # noqa: SIM115 - for the caller to close
    with path.open("rb") as file:
        shutil.copyfileobj(file, copy, BUFFER_BYTES)
    copy.seek(0)
    return copy


def cut_document(document: bytes) -> Iterator[tuple[bytes, bool]]:
    """A document as chunks, each with whether it is the last."""
    starts = range(0, max(1, len(document)), CHUNK_BYTES)
    return ((document[start : start + CHUNK_BYTES], start + CHUNK_BYTES >= len(document)) for start in starts)


def read_field(record: Any, field: str, where: str) -> bytes:
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


def one_line(error: Exception) -> str:
    """What an error says, without its line breaks."""
    return " ".join(str(error).split())
