"""A streamed corpus is the prepared one, token for token, whoever reads it and from where. A changed one is refused."""

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import data.batches
import data.readers
import data.streamed
from data.documents import open_source
from data.errors import RunFailed
from data.lanes import Lanes
from data.prepare import PreparedCorpus, prepare
from data.shards import INDEX

TEXT = "It was the best of times, it was the wörst of times.\r\n"
LONG = TEXT * 170
# Documents of all lengths: many in a batch, and one in three.
TEXTS = [TEXT * (number % 7) + str(number) for number in range(150)] + [LONG, "", TEXT]


@pytest.fixture
def small_batches(monkeypatch):
    """Chunks and batches of 4 KiB, so that small files have many."""
    for module in (data.batches, data.readers):
        monkeypatch.setattr(module, "CHUNK_BYTES", 1 << 12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus in every form that has places."""
    folder = tmp_path_factory.mktemp("corpus") / "in"
    folder.mkdir()
    lines = b"".join(json.dumps({"text": text}).encode() + b"\n" * (1 + len(text) % 2) for text in TEXTS)
    (folder / "a.txt").write_bytes(os.urandom(300) + LONG.encode() + b"\xff\0")
    (folder / "b.jsonl").write_bytes(lines)
    (folder / "c.jsonl.gz").write_bytes(gzip.compress(lines, 1))
    (folder / "d.bin").write_bytes(b"")
    pyarrow.parquet.write_table(pyarrow.table({"text": TEXTS}), folder / "e.parquet", row_group_size=40)
    return folder


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tokenizer.json of the user's: byte-level BPE."""
    import tokenizers

    model = tokenizers.ByteLevelBPETokenizer()
    model.train_from_iterator(TEXTS, vocab_size=300, show_progress=False)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    model.save(str(path))
    return str(path)


def both(source: Path, cache: Path, tokenizer: str, **options) -> tuple[PreparedCorpus, PreparedCorpus]:
    """The corpus as it is prepared, and streamed."""
    options |= {"tokenizer": tokenizer, "vocabulary": 300, "tokenizer_sample_bytes": 99_999, "cache_dir": cache}
    return prepare(str(source), **options), prepare(str(source), stream=True, **options)


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe", "file"])
def test_lanes_read_the_tokens_that_are_prepared(folder, tmp_path, tokenizer, tokenizer_file, small_batches):
    tokenizer = tokenizer_file if tokenizer == "file" else tokenizer
    prepared, streamed = both(folder, tmp_path, tokenizer, shard_batches=3)
    differ = {"shards", "begun_ns", "fingerprint"}
    values = [{k: v for k, v in vars(corpus.manifest).items() if k not in differ} for corpus in (prepared, streamed)]
    assert values[0] == values[1] and len(prepared.tokens) == len(streamed.tokens) == values[0]["tokens"]
    stored = sum(path.stat().st_size for path in streamed.directory.glob("index-*"))
    assert stored == data.streamed.ROW.itemsize * streamed.manifest.batches
    assert {path.name for path in streamed.directory.iterdir()} - {"pieces.bin"} == {
        INDEX,
        *(shard.file for shard in streamed.manifest.shards),
    }
    lanes = Lanes(values[0]["tokens"], 6, "99@0,1500@0.1")
    for rank in range(2):
        share = lanes.share(rank, 2)
        for step in range(lanes.steps):
            wanted = lanes.targets(step, share, prepared.tokens.read)
            assert np.array_equal(lanes.targets(step, share, streamed.tokens.read), wanted)
    # As after a resumption: other readers, from the middle on.
    again = both(folder, tmp_path, tokenizer, shard_batches=3)[1]
    for step in range(lanes.steps // 2, lanes.steps):
        wanted = lanes.targets(step, range(6), prepared.tokens.read)
        assert np.array_equal(lanes.targets(step, range(6), again.tokens.read), wanted)


def test_processes_that_encode_ahead_change_nothing(folder, tmp_path, monkeypatch, small_batches):
    monkeypatch.setattr(data.streamed, "POOL_BYTES", 0)
    prepared, streamed = both(folder, tmp_path, "bpe", workers=2)
    half = len(prepared.tokens) // 2
    for start in range(0, half - 1, 991):
        for first in (start, half + start):
            stop = min(first + 991, half * (1 + first // half))
            assert np.array_equal(streamed.tokens.read(first, stop), prepared.tokens.read(first, stop))
    assert streamed.tokens.pool


@settings(max_examples=25, deadline=None)
@given(texts=st.lists(st.binary(max_size=40), min_size=1, max_size=9), start=st.integers(0, 9), kind=st.booleans())
def test_reading_begins_again_at_any_chunk(tmp_path_factory, texts, start, kind):
    """Of a folder of files, and of records."""
    folder = tmp_path_factory.mktemp("places")
    if kind:
        for number, text in enumerate(texts):
            (folder / f"{number}.txt").write_bytes(text)
    else:
        lines = [json.dumps({"text": text.decode("latin-1")}).encode() for text in texts]
        (folder / "a.jsonl").write_bytes(b"\n\n".join(lines))
        (folder / "b.jsonl.gz").write_bytes(gzip.compress(b"\n".join(lines)))
        pyarrow.parquet.write_table(pyarrow.table({"text": texts}), folder / "c.parquet", row_group_size=2)
    source = open_source(str(folder))
    whole = list(source.placed())
    start %= len(whole)
    assert list(source.placed(whole[start][2])) == whole[start:]


def test_a_source_that_changes_while_a_run_reads_is_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    lines = [json.dumps({"text": str(number) * 60}).encode() for number in range(9_000)]
    path.write_bytes(b"\n".join(lines))
    streamed = both(path, tmp_path / "cache", "bytes")[1]
    assert len(streamed.tokens.rows) > 2
    assert len(streamed.tokens.read(0, 100)) == 100
    # Every byte as before, and a document that ends elsewhere.
    one, two = (json.loads(line)["text"] for line in lines[8_000:8_002])
    lines[8_000:8_002] = [json.dumps({"text": text}).encode() for text in (one + two[0], two[1:])]
    path.write_bytes(b"\n".join(lines))
    last = len(streamed.tokens)
    message = r"a\.jsonl was changed after it was prepared \(batch 1: other bytes\): put it back and resume the run"
    with pytest.raises(RunFailed, match=message):
        streamed.tokens.read(last - 300_000, last - 299_000)
    path.write_bytes(b"\n".join(lines[:10]))
    with pytest.raises(RunFailed, match="other bytes"):
        streamed.tokens.read(last - 9, last)
    path.write_bytes(b"\n".join(lines[:-1]) + b"\nx" + lines[-1][1:])
    with pytest.raises(RunFailed, match=r"batch 2: .*a\.jsonl: record 9000 is not JSON"):
        streamed.tokens.read(last - 9, last)


def test_an_index_is_found_again_and_an_altered_one_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_bytes(os.urandom(3 << 20))
    first = prepare(str(path), tokenizer="bytes", stream=True, cache_dir=tmp_path / "cache", shard_batches=2)
    monkeypatch.setattr("data.prepare._make", None)
    again = prepare(str(path), tokenizer="bytes", stream=True, cache_dir=tmp_path / "cache", shard_batches=2)
    assert again.manifest == first.manifest
    index = first.directory / "index-00001.bin"
    index.write_bytes(index.read_bytes()[:-1] + b"\0")
    with pytest.raises(ValueError, match=f"{index} does not match its SHA-256; delete"):
        prepare(str(path), tokenizer="bytes", stream=True, cache_dir=tmp_path / "cache", shard_batches=2)


@pytest.mark.parametrize(
    ("source", "remedy"),
    [("http://localhost:1/a.txt", "fetch its files"), ("tokens:{}/a.npy", "leave out data.stream")],
)
def test_what_has_no_places_is_refused_before_anything_is_written(tmp_path, source, remedy):
    np.save(tmp_path / "a.npy", np.arange(9))
    with pytest.raises(ValueError, match=f"cannot be streamed by data.stream: {remedy}"):
        prepare(source.format(tmp_path), stream=True, cache_dir=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
