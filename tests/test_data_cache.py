"""The cache of prepared corpora: found again, refused when it is not what it should be, never half written."""

import errno
import hashlib
import json
import os
import time
from pathlib import Path

import pytest

import data.documents
import data.prepare
import data.shard_making
from data.documents import Source
from data.prepare import prepare
from data.shards import MANIFEST
from data.shared_making import JOURNAL

MIB = 1 << 20


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus"
    path.write_bytes(os.urandom(3 * MIB))
    return path


def options(tmp_path, **changes):
    return {"cache_dir": tmp_path / "cache", "tokenizer": "bytes", "shard_batches": 1, **changes}


def everything(tmp_path) -> list[str]:
    found = (path.relative_to(tmp_path).as_posix() for path in (tmp_path / "cache").rglob("*") if path.is_file())
    return sorted(path for path in found if not path.endswith(".lock"))


def test_a_prepared_corpus_is_found_again_and_others_get_their_own(corpus, tmp_path, monkeypatch):
    first = prepare(str(corpus), **options(tmp_path))
    assert len(first.manifest.shards) == 3
    other = prepare(str(corpus), **options(tmp_path, shard_batches=2))
    corpus.write_bytes(corpus.read_bytes() + b".")
    changed = prepare(str(corpus), **options(tmp_path))
    assert len({first.directory, other.directory, changed.directory}) == 3
    monkeypatch.setattr(data.prepare, "encode_source", None)
    assert prepare(str(corpus), **options(tmp_path)).manifest == changed.manifest


def prepared_bytes(prepared) -> bytes:
    return prepared.tokens.read(0, prepared.manifest.bytes).astype("u1").tobytes()


def put(content: bytes, path: Path) -> None:
    """As `cp -p` does from an archive or a container that sets all times to one."""
    path.write_bytes(content)
    os.utime(path, (315532800, 315532800))


def check_follows(source: str, path: Path, tmp_path, monkeypatch, **changes) -> None:
    """Put other bytes of the same length and times in the place of what was prepared, again and again."""
    for content in [os.urandom(20_011) for _ in range(5)] + [b"x" * 20_011]:
        put(content, path)
        prepared = prepare(source, **options(tmp_path, **changes))
        assert prepared_bytes(prepared) == content
        assert prepared.manifest.sha256 == hashlib.sha256(content).hexdigest()
        assert b"".join(prepared.read()) == content


@pytest.mark.parametrize("form", ["file", "folder"])
def test_a_file_of_the_same_size_and_time_is_another(tmp_path, monkeypatch, form):
    folder = tmp_path / "in"
    folder.mkdir()
    check_follows(str(folder / "data") if form == "file" else str(folder), folder / "data", tmp_path, monkeypatch)


def test_a_file_of_a_dataset_of_the_same_size_and_time_is_another(tmp_path):
    (tmp_path / "in").mkdir()
    for text in (b"one\ntwo\n", b"two\nsix\n", b"two\nsix\n", b"one\ntwo\n"):
        put(text, tmp_path / "in/train.txt")
        prepared = prepare(f"hf:{tmp_path}/in", **options(tmp_path))
        assert prepared.tokens.read(0, 3).tolist() == [*text[:3]]
        assert prepared.manifest.sha256 == hashlib.sha256(text.replace(b"\n", b"")).hexdigest()


@pytest.mark.parametrize("frozen", ["all times", "all but times of change"])
def test_a_change_that_no_time_shows_is_found_by_reading(tmp_path, monkeypatch, frozen):
    """Two writes may fall into one tick of a file system's clock."""
    path = tmp_path / "data"
    path.write_bytes(bytes(20_011))
    identity = data.documents._identity(path)
    if frozen == "all times":
        monkeypatch.setattr(data.documents, "_identity", lambda path: identity)
    check_follows(str(path), path, tmp_path, monkeypatch)
    assert len([*(tmp_path / "cache").glob(f"*/{MANIFEST}")]) == (1 if frozen == "all times" else 6)


def test_documents_that_end_elsewhere_are_found_by_reading(tmp_path, monkeypatch):
    folder = tmp_path / "in"
    folder.mkdir()
    monkeypatch.setattr(data.documents, "_identity", str)
    for one, two in [(b"ab", b"c"), (b"a", b"bc"), (b"", b"abc")]:
        (folder / "1").write_bytes(one)
        (folder / "2").write_bytes(two)
        tokens = prepare(str(folder), **options(tmp_path)).tokens
        assert tokens.read(0, 5).tolist() == [*one, 256, *two, 256]


def test_what_is_proved_is_not_read_again_and_what_is_not_is_not_prepared_again(corpus, tmp_path, monkeypatch):
    first = prepare(str(corpus), **options(tmp_path))
    monkeypatch.setattr(data.prepare, "encode_source", None)
    monkeypatch.setattr(data.prepare, "CHUNK_TOKENS", 999_999)
    assert prepare(str(corpus), **options(tmp_path)).manifest == first.manifest
    path = first.directory / MANIFEST
    # As if it had been prepared some seconds after it was written.
    path.write_text(json.dumps(json.loads(path.read_text()) | {"begun_ns": time.time_ns() + 10_000_000_000}))
    monkeypatch.setattr(data.prepare, "_holds_same", None)
    assert prepare(str(corpus), **options(tmp_path)).manifest == first.manifest


def test_bytes_that_change_after_preparation_are_no_measure_of_it(corpus, tmp_path):
    prepared = prepare(str(corpus), **options(tmp_path))
    corpus.write_bytes(bytes(3 * MIB))
    with pytest.raises(ValueError, match="corpus was changed since it was prepared; run again"):
        list(prepared.read())


def test_the_default_vocabulary_does_not_matter_to_bytes(corpus, tmp_path):
    first = prepare(str(corpus), **options(tmp_path, vocabulary=2048))
    assert prepare(str(corpus), **options(tmp_path, vocabulary=4096)).directory == first.directory


def test_an_altered_cache_is_refused_by_name(corpus, tmp_path):
    first = prepare(str(corpus), **options(tmp_path))
    path = first.directory / first.manifest.shards[1].file
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ValueError, match=f"{path} does not match its SHA-256; delete {first.directory} and run again"):
        prepare(str(corpus), **options(tmp_path))
    path.write_bytes(whole)
    assert prepare(str(corpus), **options(tmp_path)).manifest == first.manifest
    manifest = json.loads((first.directory / MANIFEST).read_text())
    (first.directory / MANIFEST).write_text(json.dumps(manifest | {"fingerprint": "another"}))
    with pytest.raises(ValueError, match="describes another corpus; delete"):
        prepare(str(corpus), **options(tmp_path))


def stop_after(monkeypatch, shards: int) -> None:
    """Let preparation fail once it has written this many shards."""
    write, notes = data.shard_making.write_file, []

    def stopping(path, content):
        write(path, content)
        notes.append(path)
        if len(notes) == shards:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(data.shard_making, "write_file", stopping)


@pytest.mark.parametrize("damage", ["journal", "shard", "foreign"])
def test_leftovers_that_do_not_match_are_started_anew(corpus, tmp_path, monkeypatch, damage):
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        stop_after(patch, 2)
        prepare(str(corpus), **options(tmp_path))
    [journal] = (tmp_path / "cache").glob(f"*/{JOURNAL}")
    if damage == "journal":
        journal.write_bytes(journal.read_bytes()[:-9])
    elif damage == "shard":
        (journal.parent / "tokens-00000.bin").write_bytes(b"\1\0")
    else:
        journal.write_text(json.dumps(json.loads(journal.read_text()) | {"fingerprint": "another"}))
    prepared = prepare(str(corpus), **options(tmp_path))
    assert prepared.tokens.read(0, 3 * MIB).astype("u1").tobytes() == corpus.read_bytes()
    assert len(everything(tmp_path)) == 4


def test_a_full_disk_leaves_whole_shards_only(corpus, tmp_path, monkeypatch):
    sync, calls = os.fsync, []

    def full(handle):
        calls.append(handle)
        if len(calls) == 7:  # journal, shard and its note, each with its folder, then the second shard
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(handle)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr("os.fsync", full)
        prepare(str(corpus), **options(tmp_path))
    assert [name.rpartition("/")[2] for name in everything(tmp_path)] == [
        JOURNAL,
        "tokens-00000.bin",
        "tokens-00000.json",
    ]
    assert prepare(str(corpus), **options(tmp_path)).manifest.bytes == 3 * MIB


def test_a_source_that_changes_underway_is_refused_and_leaves_nothing(corpus, tmp_path, monkeypatch):
    placed = Source.placed

    def touching(self, *start):
        yield from placed(self, *start)
        os.utime(corpus, (1, 1))

    monkeypatch.setattr(Source, "placed", touching)
    with pytest.raises(ValueError, match="corpus was changed while it was being prepared; run again"):
        prepare(str(corpus), **options(tmp_path))
    assert everything(tmp_path) == []


@pytest.mark.parametrize("size", [1 * MIB, 3 * MIB])
def test_a_source_that_changes_unseen_between_two_calls_is_refused(corpus, tmp_path, monkeypatch, size):
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        stop_after(patch, 2)
        prepare(str(corpus), **options(tmp_path))
    fingerprint = data.prepare.open_source(str(corpus)).fingerprint()
    corpus.write_bytes(bytes(size))
    monkeypatch.setattr(Source, "fingerprint", lambda self: fingerprint)
    with pytest.raises(ValueError, match="corpus was changed while it was being prepared; run again"):
        prepare(str(corpus), **options(tmp_path))
    assert everything(tmp_path) == []


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe"])
def test_bad_input_leaves_nothing(tmp_path, tokenizer):
    (tmp_path / "bad.jsonl").write_text('{"text": "fine"}\n' * 1000 + '{"body": "not"}\n')
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "file").touch()
    for source, message in [
        ("bad.jsonl", "record 1001 has no field 'text'"),
        ("empty", "is empty"),
        ("none", "no such"),
    ]:
        with pytest.raises(ValueError, match=message):
            prepare(str(tmp_path / source), **options(tmp_path, tokenizer=tokenizer, vocabulary=258))
    assert everything(tmp_path) == []
