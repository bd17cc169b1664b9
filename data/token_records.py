"""Ids in records: a column of lists of whole numbers, of Parquet files or of a Hugging Face dataset.

A record is a document. Its bytes are its ids, as a bare .bin would hold them: the file itself, with its compression and
metadata, does not follow from the ids.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import UsageError
from data.token_files import END_OF_FILE, Block, Kind, TokenFiles, refuse_negative
from data.token_pieces import BARE, TYPES

BATCH_ROWS = 1024


def parquet_files(paths: list[Path], field: str) -> TokenFiles:
    """The ids in the column `field` of Parquet files. Raises UsageError where one has no such column."""
    import pyarrow
    import pyarrow.parquet

    codes = set()
    for path in paths:
        if path.suffix != ".parquet":
            raise UsageError(f"{path} is no .parquet file, and {paths[0]} is one: name files of one format")
        try:
            with pyarrow.parquet.ParquetFile(path) as file:
                codes.add(type_code(path, {column.name: column.type for column in file.schema_arrow}, field))
        except (OSError, pyarrow.ArrowException) as error:
            raise UsageError(
                f"{path}: cannot be read as parquet ({error}); fetch it again".replace("\n", " ")
            ) from None
        if len(codes) > 1:
            raise UsageError(f"{path} has ids of another size in {field!r} than {paths[0]}: name files of one type")
    kind = Kind(BARE, codes.pop())

    def blocks() -> Iterator[Block]:
        for path in paths:
            number = 1
            try:
                with pyarrow.parquet.ParquetFile(path, pre_buffer=False) as file:
                    for batch in file.iter_batches(BATCH_ROWS, columns=[field]):
                        yield column_block(path, number, batch.column(field), kind)
                        number += len(batch)
            except (OSError, pyarrow.ArrowException) as error:
                reason = f"cannot be read as parquet after record {number - 1:,} ({error}); fetch it again"
                raise UsageError(f"{path}: {reason}".replace("\n", " ")) from None

    return TokenFiles(paths, kind, 0, 0, blocks, records=True)


def streamed_records(name: str, types: dict[str, Any], field: str, tables: Callable[[], Iterable[Any]]) -> TokenFiles:
    """The ids in the column `field` of a data set that is read as tables of Arrow. Raises UsageError where there is no
    such column of the `types`."""
    kind = Kind(BARE, type_code(name, types, field))

    def blocks() -> Iterator[Block]:
        number = 1
        for table in tables():
            yield column_block(name, number, table.column(field).combine_chunks(), kind)
            number += len(table)

    return TokenFiles([], kind, 0, 0, blocks, records=True)


def type_code(name: str | Path, types: dict[str, Any], field: str) -> int:
    """The type, in TYPES, of the ids in a column. Raises UsageError if it holds no lists of whole numbers."""
    from pyarrow import types as kinds

    def is_list(kind: Any) -> bool:
        lists = kinds.is_list(kind) or kinds.is_large_list(kind) or kinds.is_fixed_size_list(kind)
        return lists and kinds.is_integer(kind.value_type)

    if field not in types or not is_list(types[field]):
        lists = [column for column, kind in types.items() if is_list(kind)]
        found = ", ".join(f"{column} ({kind})" for column, kind in types.items())
        remedy = f"choose with --data.field {lists[0]}" if lists else "it holds no ids; leave out tokens: for its text"
        raise UsageError(f"{name} has no field {field!r} of lists of whole numbers; fields are {found}: {remedy}")
    return TYPES.index("u2" if types[field].value_type.bit_width <= 16 else "u4")


def column_block(name: str | Path, number: int, column: Any, kind: Kind) -> Block:
    """A block of rows, of which `number` is the first one's. Raises UsageError for what is missing or below 0."""
    import pyarrow.compute

    lengths, values = pyarrow.compute.list_value_length(column), pyarrow.compute.list_flatten(column)
    if lengths.null_count or values.null_count:
        gap = lengths.is_null().to_pylist().index(True) if lengths.null_count else 0
        within = "" if lengths.null_count else f" to {number + len(lengths) - 1:,}"
        raise UsageError(f"{name}: record {number + gap:,}{within} has null where an id should be: drop or fill it")
    ids, ends = values.to_numpy(zero_copy_only=False).astype(np.int64), lengths.to_numpy().astype(np.int64).cumsum()
    refuse_negative(ids, lambda index: f"{name}: record {number + int(ends.searchsorted(index, 'right')):,}")
    content = ids.astype(kind.dtype).tobytes()
    return Block(name, 0, content, np.insert(ids, ends, END_OF_FILE), len(ends), first_record=number)
