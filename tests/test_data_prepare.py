"""Preparation: every byte once, in order, whatever the source, the processes, the interruptions and the neighbours."""

import gzip
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import data.batches
from data.prepare import prepare
from data.shards import MANIFEST
from data.shared_making import JOURNAL

ROOT = Path(__file__).parents[1]
TEXT = b"It was the best of times, it was the worst of times.\r\n" * 200
# Prepares argv[1] into argv[2] with two processes, in shards so small that there are dozens.
CHILD = """
import sys
open(sys.argv[2] + "/imports", "a").write("x")
import data.batches
import data.prepare
if __name__ == "__main__":
    data.batches.POOL_BYTES = 0
    options = dict(tokenizer="bpe", vocabulary=300, tokenizer_sample_bytes=99_999, workers=2, shard_batches=1)
    print(data.prepare.prepare(sys.argv[1], cache_dir=sys.argv[2], **options).manifest.sha256)
"""


def check(prepared, documents: list[bytes]) -> None:
    """The manifest and the tokens say what the documents are."""
    manifest, tokenizer = prepared.manifest, prepared.tokenizer
    whole = b"".join(documents)
    assert (manifest.bytes, manifest.documents) == (len(whole), len(documents))
    assert manifest.sha256 == hashlib.sha256(whole).hexdigest()
    tokens = prepared.tokens.read(0, manifest.tokens).tolist()
    assert len(prepared.tokens) == manifest.tokens
    found, start = [], 0
    for stop, token in enumerate(tokens):
        if token == tokenizer.end_of_document:
            found.append(tokenizer.decode(tokens[start:stop]))
            start = stop + 1
    assert start == len(tokens) and found == documents
    assert b"".join(chunk for chunk, _ in prepared.source.chunks()) == whole


def start_child(source: Path, cache: Path) -> subprocess.Popen:
    script = cache / "child.py"
    cache.mkdir(exist_ok=True)
    script.write_text(CHILD)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, script, source, cache], stdout=subprocess.PIPE, env=environment, text=True)


def status(path: Path) -> tuple[int, int]:
    """What changes when a file is written again."""
    return path.stat().st_ino, path.stat().st_mtime_ns


@pytest.fixture
def large(tmp_path) -> Path:
    path = tmp_path / "large"
    path.write_bytes(b"".join(b"%d bottles of beer on the wall, " % number for number in range(300_000)))
    return path


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(
    st.lists(st.binary(max_size=50), min_size=1, max_size=8).filter(any),
    st.integers(1, 3),
    st.sampled_from(["bytes", "bpe"]),
)
def test_any_documents_come_back(tmp_path_factory, contents, shard_batches, tokenizer):
    folder = tmp_path_factory.mktemp("corpus")
    pyarrow.parquet.write_table(pyarrow.table({"text": [*contents, TEXT]}), folder / "a.parquet")
    options = {"tokenizer": tokenizer, "vocabulary": 270, "shard_batches": shard_batches}
    check(prepare(str(folder / "a.parquet"), cache_dir=folder / "cache", **options), [*contents, TEXT])


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe"])
def test_all_kinds_of_sources_are_exact(tmp_path, tokenizer):
    lines = b"".join(json.dumps({"body": text}).encode() + b"\n" for text in ["2020-01-01", "\ud800", "\r\n"])
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.txt").write_bytes(TEXT + b"\xff\0")
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(lines))
    (folder / "empty.bin").write_bytes(b"")
    pyarrow.parquet.write_table(pyarrow.table({"body": [b"\xe2\x96", b""]}), folder / "z.parquet")
    records = [b"2020-01-01", b"\xed\xa0\x80", b"\r\n"]
    options = {"field": "body", "tokenizer": tokenizer, "vocabulary": 270, "cache_dir": tmp_path / "cache"}
    check(prepare(str(folder), **options), [TEXT + b"\xff\0", *records, b"", b"\xe2\x96", b""])
    check(prepare(str(folder / "*.txt"), **options), [TEXT + b"\xff\0"])
    options["tokenizer"] = "bytes"
    check(prepare(str(folder / "z.parquet"), **options), [b"\xe2\x96", b""])


def test_processes_change_nothing(large, tmp_path, monkeypatch):
    options = {"tokenizer": "bpe", "vocabulary": 300, "tokenizer_sample_bytes": 99_999, "shard_batches": 1}
    alone = prepare(str(large), cache_dir=tmp_path / "one", workers=1, **options)
    check(alone, [large.read_bytes()])
    monkeypatch.setattr(data.batches, "POOL_BYTES", 0)
    pooled = prepare(str(large), cache_dir=tmp_path / "two", workers=2, **options)
    assert pooled.manifest == alone.manifest and len(alone.manifest.shards) > 4


def test_a_killed_preparation_goes_on_where_it_was(large, tmp_path):
    child = start_child(large, tmp_path / "cache")
    notes: list[Path] = []
    while len(notes) < 3:
        notes = sorted((tmp_path / "cache").glob("*/tokens-*.json"))
        assert child.poll() is None, "the child finished before it could be killed"
        time.sleep(0.001)
    workers = psutil.Process(child.pid).children(recursive=True)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not psutil.wait_procs(workers, timeout=10)[1], "workers outlived their parent"
    directory = notes[0].parent
    assert (directory / JOURNAL).exists() and not (directory / MANIFEST).exists()
    kept = {path.with_suffix(".bin"): status(path.with_suffix(".bin")) for path in notes}

    assert (tmp_path / "cache" / "imports").read_text() == "x", "workers imported the main module"

    again = start_child(large, tmp_path / "cache")
    assert again.wait() == 0
    assert {path: status(path) for path in kept} == kept, "finished shards were written again"
    options = {"tokenizer": "bpe", "vocabulary": 300, "tokenizer_sample_bytes": 99_999, "shard_batches": 1}
    prepared = prepare(str(large), cache_dir=tmp_path / "cache", **options)
    assert prepared.directory == directory
    check(prepared, [large.read_bytes()])
    assert prepared.manifest == prepare(str(large), cache_dir=tmp_path / "clean", **options).manifest
    assert sorted(path.name for path in directory.iterdir()) == sorted(
        [MANIFEST, *(s.file for s in prepared.manifest.shards)]
    )


def test_two_at_once_make_one_corpus(large, tmp_path):
    children = [start_child(large, tmp_path / "cache") for _ in range(2)]
    digests = {child.communicate()[0].strip() for child in children}
    assert [child.returncode for child in children] == [0, 0]
    assert digests == {hashlib.sha256(large.read_bytes()).hexdigest()}
    assert len(list((tmp_path / "cache").glob(f"*/{MANIFEST}"))) == 1
