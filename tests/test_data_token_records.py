"""Ids in records of Parquet files and Hugging Face datasets: all of them once, in order, or a line with the record."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from token_formats import llm_c

import data.token_records
from data.errors import UsageError
from data.prepare import PreparedCorpus, prepare

ROWS = [[5, 0, 499], [], [3] * 30, [1], []]


def write(path: Path, rows: list[Any], kind: Any = None, **more: Any) -> Path:
    path.parent.mkdir(exist_ok=True)
    ids = pyarrow.array(rows, kind or pyarrow.list_(pyarrow.int64()))
    pyarrow.parquet.write_table(pyarrow.table({"input_ids": ids, **more}), path)
    return path


def open_ids(source: str, cache: Path, **options: Any) -> PreparedCorpus:
    return prepare(f"tokens:{source}", field="input_ids", cache_dir=cache, **options)


def check(prepared: PreparedCorpus, rows: list[list[int]], dtype: str) -> None:
    manifest, tokenizer = prepared.manifest, prepared.tokenizer
    content = b"".join(np.array(row, dtype).tobytes() for row in rows)
    assert (manifest.bytes, manifest.documents) == (len(content), len(rows))
    tokens = prepared.tokens.read(0, manifest.tokens).tolist()
    assert tokens == [token for row in rows for token in [*row, tokenizer.end_of_document]]
    assert sum(len(tokenizer.pieces[token]) for token in tokens) == manifest.bytes
    assert [*prepared.source.chunks()] == [(np.array(row, dtype).tobytes(), True) for row in rows]


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        (pyarrow.list_(pyarrow.int64()), "<u4"),
        (pyarrow.large_list(pyarrow.int32()), "<u4"),
        (pyarrow.list_(pyarrow.uint16()), "<u2"),
    ],
)
def test_rows_of_parquet_files_are_documents(tmp_path, kind, dtype, monkeypatch):
    monkeypatch.setattr(data.token_records, "BATCH_ROWS", 2)
    write(tmp_path / "a.parquet", ROWS, kind)
    write(tmp_path / "b.parquet", ROWS[:3], kind)
    prepared = open_ids(f"{tmp_path}/*.parquet", tmp_path / "cache", shard_batches=1)
    check(prepared, [*ROWS, *ROWS[:3]], dtype)
    assert prepared.tokenizer.vocabulary == 501
    # The files are too young to be taken for the same unread.
    begun = (prepared.directory / "manifest.json").stat().st_mtime_ns
    check(open_ids(f"{tmp_path}/*.parquet", tmp_path / "cache", shard_batches=1), [*ROWS, *ROWS[:3]], dtype)
    assert (prepared.directory / "manifest.json").stat().st_mtime_ns == begun


def test_rows_of_one_length(tmp_path):
    rows = [[1, 2, 3], [4, 5, 6]]
    path = write(tmp_path / "a.parquet", rows, pyarrow.list_(pyarrow.uint16(), 3))
    check(open_ids(str(path), tmp_path / "cache"), rows, "<u2")


def test_a_hugging_face_dataset(tmp_path, monkeypatch):
    monkeypatch.setattr(data.token_records, "BATCH_ROWS", 2)
    write(tmp_path / "set" / "train.parquet", ROWS, pyarrow.list_(pyarrow.int32()), text=[*"abcde"])
    prepared = open_ids(f"hf:{tmp_path / 'set'}", tmp_path / "cache")
    check(prepared, ROWS, "<u4")
    with pytest.raises(UsageError, match=r"record 1 has the id 499, and the vocabulary has 400 ids"):
        open_ids(f"hf:{tmp_path / 'set'}", tmp_path / "cache", token_ids=400)
    with pytest.raises(
        UsageError, match=r"no field 'text' of lists of whole numbers; .*choose with --data.field input_"
    ):
        prepare(f"tokens:hf:{tmp_path / 'set'}", cache_dir=tmp_path / "cache")


def test_what_is_wrong_is_said_with_the_record(tmp_path):
    def message(rows: list[Any], kind: Any = None, **options: Any) -> str:
        with pytest.raises(UsageError) as error:
            open_ids(str(write(tmp_path / "a.parquet", rows, kind)), tmp_path / "cache", **options)
        assert not [path for path in tmp_path.glob("cache/*") if path.is_dir()]
        return str(error.value)

    assert "a.parquet: record 3 has the id -1, and no id is below 0" in message([[1], [], [2, -1], [3]])
    assert "a.parquet: record 4 has the id 9, and the vocabulary has 9 ids" in message([[1], [], [2], [9]], token_ids=9)
    assert "a.parquet: record 2 has null where an id should be" in message([[1], None])
    assert "a.parquet: record 1 to 2 has null where an id should be" in message([[1], [2, None]])
    assert "input_ids (list<element: double>): it holds no ids" in message([[1.0]], pyarrow.list_(pyarrow.float64()))
    write(tmp_path / "b.parquet", ROWS, pyarrow.list_(pyarrow.uint16()))
    with pytest.raises(UsageError, match=r"b.parquet has ids of another size in 'input_ids' than .*a.parquet"):
        write(tmp_path / "a.parquet", ROWS)
        open_ids(f"{tmp_path}/*.parquet", tmp_path / "cache")
    (tmp_path / "b.parquet").write_bytes(b"PAR1")
    with pytest.raises(UsageError, match=r"b.parquet: cannot be read as parquet .*fetch it again"):
        open_ids(f"{tmp_path}/*.parquet", tmp_path / "cache")
    llm_c(tmp_path / "b.bin", [1])
    with pytest.raises(UsageError, match=r"b.bin is no .parquet file, and .*a.parquet is one"):
        open_ids(str(only(tmp_path / "two", tmp_path / "a.parquet", tmp_path / "b.bin")), tmp_path / "cache")


def only(folder: Path, *files: Path) -> Path:
    folder.mkdir()
    for file in files:
        (folder / file.name).write_bytes(file.read_bytes())
    return folder
