"""Files that hold a document a record: JSON lines, compressed or not, and Parquet."""

import json
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath
from typing import Any, BinaryIO

from data.compression import BUFFER_BYTES, KINDS, decompress
from data.errors import UsageError
from data.http import RemoteFile

_PACKED = "|".join(suffix[1:] for suffix in KINDS)
_RECORDS = re.compile(rf"\.(?:(?:jsonl|ndjson)(?:\.(?:{_PACKED}))?|json\.(?:{_PACKED})|parquet)", re.IGNORECASE)
# Names of records that are not read as such, and of compressed files.
_ALIKE = re.compile(
    r"\.(?:json|jsonlines|ldjson|arrow|feather|orc|avro|pq"
    rf"|{_PACKED}|lz4|lzma|lzo|br|sz|snappy|z|zip|7z|rar|tar|tgz|tbz2?|txz)",
    re.IGNORECASE,
)


def holds_records(name: str) -> bool:
    """Whether a file of this name is read record by record."""
    return _suffixes(name, _RECORDS)


def only_looks_so(name: str) -> bool:
    """Whether a file that is read as bare bytes has a name as of records or of compressed text."""
    return not holds_records(name) and _suffixes(name, _ALIKE)


def _suffixes(name: str, pattern: re.Pattern[str]) -> bool:
    suffixes = PurePath(name).suffixes
    return any(pattern.fullmatch("".join(suffixes[-count:])) for count in (1, 2))


def read_records(path: Path | RemoteFile, field: str) -> Iterator[bytes]:
    """The documents of a file whose name holds_records. Raises UsageError, which names the record."""
    return (_parquet_records if path.suffix.lower() == ".parquet" else _jsonl_records)(path, field)


def document(record: Any, field: str, where: str) -> bytes:
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
    return " ".join(str(error).split())


def _jsonl_records(path: Path | RemoteFile, field: str) -> Iterator[bytes]:
    """Parse line by line with json. `datasets` is not exact here: strings that look like ISO dates come back as
    timestamps (with explicit features "2020-01-01" still becomes "2020-01-01 00:00:00"), and lone surrogates fail."""
    kind = KINDS.get(path.suffix.lower())
    with path.open("rb") as file:
        stream = decompress(file, kind) if kind else file
        try:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    yield document(_parse(line, path, number), field, f"{path}: record {number}")
        except OSError as error:
            raise UsageError(f"{path}: cannot be read to its end ({one_line(error)}); fetch it again") from error


def _parse(line: bytes, path: Path | RemoteFile, number: int) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = one_line(error)
        raise UsageError(f"{path}: record {number} is not JSON ({reason}); raw:{path} reads bare bytes") from error


def _parquet_records(path: Path | RemoteFile, field: str) -> Iterator[bytes]:
    """Read with Arrow, as `datasets` does, but a page and a few rows at a time instead of a row group, and as bytes, so
    that strings that are not valid UTF-8 come through."""
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
            ours = [column.type for column in columns if column.name == field]
            if len(ours) > 1:
                raise UsageError(f"{path} has {len(ours)} columns named {field!r}: rename all but one")
            if not ours or not _is_text(ours[0]):
                found = ", ".join(f"{column.name} ({column.type})" for column in columns)
                raise UsageError(f"{path} has no text field {field!r}; fields are {found}: choose with --data.field")
            for batch in file.iter_batches(batch_size=64, columns=[field]):
                for value in _as_bytes(batch.column(field)):
                    number += 1
                    yield document(blank | {field: value.as_py()}, field, f"{path}: record {number}")
    except (OSError, pyarrow.ArrowException) as error:
        reason = f"cannot be read as parquet after record {number} ({one_line(error)})"
        raise UsageError(f"{path}: {reason}; fetch it again") from error


def _open_to_seek(path: Path | RemoteFile) -> BinaryIO:
    """A file that can be read from its end: a remote one is copied into a temporary file first."""
    if isinstance(path, Path):
        return path.open("rb")
    copy = tempfile.TemporaryFile()  # noqa: SIM115 - for the caller to close
    with path.open("rb") as file:
        shutil.copyfileobj(file, copy, BUFFER_BYTES)
    copy.seek(0)
    return copy


def _as_bytes(column: Any) -> Iterable[Any]:
    import pyarrow

    if pyarrow.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return column.cast(pyarrow.large_binary())


def _is_text(kind: Any) -> bool:
    """Whether a column holds text or bytes, of which a dictionary (a pandas categorical) may hold each value once."""
    kind = getattr(kind, "value_type", kind) if str(kind).startswith("dictionary<") else kind
    return str(kind) in ("string", "large_string", "string_view", "binary", "large_binary", "binary_view")
