"""Token shards: what is read is what was written, and anything else on disk is refused by name."""

import hashlib
import json
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.shards import (
    FORMAT,
    MANIFEST,
    Manifest,
    Shard,
    TokenShards,
    describe_tokenizer,
    read_manifest,
    write_manifest,
)
from data.tokenizer import Tokenizer, load_tokenizer


def write(directory: Path, shards: list[list[int]], vocabulary: int = 257) -> Manifest:
    """A prepared corpus of these tokens; the corpus' bytes are made up."""
    entry = describe_tokenizer(load_tokenizer("bytes", b"")) | {"vocabulary": vocabulary}
    found = []
    for number, tokens in enumerate(shards):
        content = np.array(tokens, "<u2" if vocabulary <= 1 << 16 else "<u4").tobytes()
        (directory / f"{number}.bin").write_bytes(content)
        found.append(Shard(f"{number}.bin", len(tokens), hashlib.sha256(content).hexdigest()))
    manifest = Manifest(FORMAT, "made-up", 9, sum(map(len, shards)), 1, "0" * 64, "f", 1, entry, found)
    write_manifest(directory / MANIFEST, manifest)
    return manifest


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.lists(st.integers(0, 256), min_size=1, max_size=9), min_size=1, max_size=4), st.data())
def test_any_range_is_read_as_written(tmp_path, shards, data):
    tokens = TokenShards(tmp_path, write(tmp_path, shards))
    flat = list(chain.from_iterable(shards))
    assert len(tokens) == len(flat) and read_manifest(tmp_path).tokens == len(flat)
    start = data.draw(st.integers(0, len(flat)))
    stop = data.draw(st.integers(start, len(flat)))
    part = tokens.read(start, stop)
    assert part.dtype == np.int64 and part.tolist() == flat[start:stop]
    for outside in [(-1, 1), (0, len(flat) + 1), (2, 1)]:
        with pytest.raises(IndexError):
            tokens.read(*outside)


def test_large_vocabularies_take_four_bytes(tmp_path):
    manifest = write(tmp_path, [[70_000, 1], [131_071]], vocabulary=1 << 17)
    assert TokenShards(tmp_path, manifest).read(0, 3).tolist() == [70_000, 1, 131_071]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), r"1\.bin is missing or has the wrong size"),
        (lambda path: path.write_bytes(b"\1\0"), r"1\.bin is missing or has the wrong size"),
        (lambda path: path.write_bytes(path.read_bytes() + b"\0"), r"1\.bin is missing or has the wrong size"),
        (lambda path: path.write_bytes(b"\7" + path.read_bytes()[1:]), r"1\.bin does not match its SHA-256"),
    ],
)
def test_damaged_shards_are_named_with_a_remedy(tmp_path, damage, message):
    manifest = write(tmp_path, [[1, 2], [3, 4, 5]])
    damage(tmp_path / "1.bin")
    with pytest.raises(ValueError, match=f"{message}; delete {tmp_path} and run again"):
        TokenShards(tmp_path, manifest)


@pytest.mark.parametrize(
    "change",
    [
        {"format": 1},
        {"bytes": -1},
        {"bytes": 0},
        {"documents": 0},
        {"tokens": True},
        {"documents": "1"},
        {"name": 1},
        {"surprise": 1},
        {"shards": 3},
        {"shards": [{"file": "0.bin"}]},
        {"tokenizer": {}},
        {"tokenizer": {"kind": "bytes", "vocabulary": 258, "encoding": "", "sha256": hashlib.sha256().hexdigest()}},
        {"tokenizer": {"kind": "bytes", "vocabulary": 257, "encoding": "AAAA", "sha256": hashlib.sha256().hexdigest()}},
        {"tokenizer": {"kind": "bytes", "vocabulary": 257, "encoding": "?", "sha256": ""}},
    ],
)
def test_foreign_manifests_are_named_with_a_remedy(tmp_path, change):
    write(tmp_path, [[1]])
    path = tmp_path / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=rf"manifest\.json is not the manifest .*; delete {tmp_path} and run again"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"{", b'{"shards": []}'])
def test_what_is_no_manifest_at_all_is_refused_too(tmp_path, content):
    (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(ValueError, match="is not the manifest of a prepared corpus"):
        read_manifest(tmp_path)


def test_a_shard_cannot_point_outside_its_directory(tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    manifest = write(tmp_path, [[1]])
    (inside / MANIFEST).write_text((tmp_path / MANIFEST).read_text().replace('"0.bin"', '"../0.bin"'))
    assert manifest.shards[0].file == "0.bin"
    with pytest.raises(ValueError, match=r"inside/0\.bin is missing"):
        TokenShards(inside, read_manifest(inside))


def test_writing_json_is_whole_or_not_at_all(tmp_path, monkeypatch):
    before = write(tmp_path, [[1]])
    monkeypatch.setattr("os.fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        write_manifest(tmp_path / MANIFEST, before)
    monkeypatch.undo()
    assert read_manifest(tmp_path) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.bin", MANIFEST]


def test_a_tokenizer_decodes_its_document_ends_to_nothing():
    tokenizer = Tokenizer("bpe", b"", [b"a", b"bc", b""])
    assert tokenizer.decode([1, 2, 0, 2]) == b"bca"
    with pytest.raises(IndexError):
        tokenizer.decode([3])
