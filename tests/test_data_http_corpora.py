"""Corpora of records on web servers: .jsonl and .parquet shards, their fingerprints, and preparing them."""

import gzip
import hashlib
import json
import os
import re
from dataclasses import replace

import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from http_server import MONDAY, SOUND, Manner, check_refused, read_documents, serve

import data.http
from data.documents import open_source
from data.prepare import prepare

CONTENT = os.urandom(300_000)
TUESDAY = "Tue, 06 Jan 2026 10:00:00 GMT"


@pytest.fixture(autouse=True)
def no_delays(monkeypatch):
    monkeypatch.setattr(data.http, "DELAYS_SECS", (0.0, 0.0, 0.0))


@pytest.fixture
def server():
    with serve() as server:
        server.files = {"file.bin": CONTENT}
        yield server


def jsonl(texts: list[str]) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("manner", ["ETag", "chunks, neither", "HTTP/1.0"])
def test_jsonl_is_exact_compressed_or_not(server, suffix, manner):
    texts = ["a" * 99, os.urandom(100_000).hex(), "x\r\ny", ""]
    compress = {".gz": gzip.compress, ".zst": zstandard.compress}[suffix]
    packed = compress(jsonl(texts))
    server.files = {"a.jsonl": jsonl(texts), f"a.jsonl{suffix}": packed + packed}
    expected = [text.encode() for text in texts]
    server.manner = SOUND[manner]
    for name, found in [("a.jsonl?sig=1.bin", expected), (f"a.jsonl{suffix}", expected * 2)]:
        server.faults = [replace(server.manner, body_bytes=50_000), replace(server.manner, status=500)]
        assert read_documents(server.url(name)) == found
    assert read_documents(f"raw:{server.url(f'a.jsonl{suffix}')}") == [packed + packed]


def test_a_gz_file_may_be_called_an_encoding_of_its_content(server):
    server.files = {"a.jsonl.gz": gzip.compress(jsonl(["text"]))}
    server.manner = Manner(headers={"Content-Encoding": "x-gzip"})
    assert read_documents(server.url("a.jsonl.gz")) == [b"text"]


@pytest.mark.parametrize(("suffix", "compress"), [(".gz", gzip.compress), (".zst", zstandard.compress)])
def test_compressed_shards_are_held_to_their_length_too(server, suffix, compress):
    """A cut between two members leaves a sound file that is shorter, so trailers do not prove that all came."""
    whole = compress(jsonl(["one"])) + compress(jsonl(["two"]))
    server.files = {f"a.jsonl{suffix}": whole}
    server.manner = Manner(length=None, protocol="HTTP/1.0")
    check_refused(server.url(f"a.jsonl{suffix}"), "byte 0", "Content-Length is missing")
    server.manner = Manner(body_bytes=len(whole) // 2)
    check_refused(server.url(f"a.jsonl{suffix}"), f"byte {len(whole) // 2}", "tries failed")
    server.manner = Manner()
    server.files = {f"a.jsonl{suffix}": whole[:-3]}
    check_refused(server.url(f"a.jsonl{suffix}"), f"a.jsonl{suffix}: cannot be read to its end")
    server.files = {f"a.jsonl{suffix}": b""}
    check_refused(server.url(f"a.jsonl{suffix}"), "is empty")


def test_bad_records_are_named_by_url(server):
    server.files = {"a.jsonl": b'{"text": "fine"}\n{"text": 7}\n'}
    check_refused(server.url("a.jsonl"), f"{server.url('a.jsonl')}: record 2: field 'text' is of type int")


@pytest.fixture(scope="module")
def table():
    """A .parquet file of several row groups, and its texts between columns that nobody asks for."""
    texts = [os.urandom(2000).hex() for _ in range(500)]
    columns = {"a": [text[::-1] for text in texts], "text": texts, "z": texts[::-1]}
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.table(columns), sink, row_group_size=100)
    return sink.getvalue().to_pybytes(), [text.encode() for text in texts]


@pytest.mark.parametrize("manner", SOUND)
def test_parquet_is_exact_from_any_sound_server(server, table, manner):
    content, expected = table
    server.files = {"a.parquet": content}
    server.manner = SOUND[manner]
    broken = [replace(server.manner, body_bytes=size) for size in (100_000, 200_000, 300_000, 400_000)]
    server.faults = [*broken, replace(broken[0], ending="reset"), replace(server.manner, status=503)]
    assert read_documents(server.url("a.parquet")) == expected
    assert not server.faults
    server.manner = replace(SOUND[manner], body_bytes=0)
    check_refused(server.url("a.parquet"), "a.parquet, byte 0", "4 tries failed", "run again later")


def test_damaged_and_changing_parquet_is_refused(server, table):
    server.files = {"a.parquet": table[0][:-20]}
    check_refused(server.url("a.parquet"), "a.parquet: cannot be read as parquet")
    server.files = {"a.parquet": b""}
    check_refused(server.url("a.parquet"), "a.parquet: cannot be read as parquet")
    server.files = {"a.parquet": table[0]}
    source = open_source(server.url("a.parquet"))
    next(source.chunks())
    server.files = {"a.parquet": table[0][:-1] + b"!"}
    check_refused(source, "a.parquet, byte", "the file was changed on the server")


def test_shards_are_counted_as_webdataset_writes_them(server):
    server.files = {f"{part}/s-{number:03d}.jsonl": jsonl([f"{part}{number}"]) for part in "12" for number in range(12)}
    source = open_source(server.url("{1..2}/s-{008..011}.jsonl"))
    assert source.name == "s-{008..011}.jsonl" and source.expected_bytes is None
    assert [chunk for chunk, _ in source.chunks()] == [b"18", b"19", b"110", b"111", b"28", b"29", b"210", b"211"]
    check_refused(server.url("1/s-{008..012}.jsonl"), server.url("1/s-012.jsonl"), "404")
    assert read_documents(f"raw:{server.url('1/s-{008..009}.jsonl')}") == [jsonl(["18"]), jsonl(["19"])]


@pytest.mark.parametrize(
    ("source", "expected"),
    [("{8..11}", "8 9 10 11"), ("{08..11}", "08 09 10 11"), ("{8..011}", "008 009 010 011"), ("{3..3}", "3")],
)
def test_numbers_are_padded_as_shells_do(source, expected):
    assert [file.name for file in data.http.open_urls(f"https://host/{source}")] == expected.split()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("http://host/{3..1}", "names no shard: count upwards"),
        ("http://host/{0..9}{0..99999}", "names more than 100,000 shards"),
        (f"http://host/{{0..{'9' * 30}}}", "names more than 100,000 shards"),
        ("http://host/{a,b}.jsonl", "braces that are not a range"),
        ("http://host/a b", "has spaces"),
        ("http://[", "is not a URL"),
        ("http://host:port/", "is not a URL"),
        ("https:///file", "names no host"),
        ("https://me:secret@host/file", "no password is ever sent"),
    ],
)
def test_bad_urls_are_refused(source, message):
    with pytest.raises(ValueError, match=f"^data.source '{re.escape(source)}' .*{message}"):
        open_source(source)


def test_the_fingerprint_follows_url_size_and_validator_and_the_content_where_there_is_none(server):
    server.files |= {"other.bin": CONTENT}
    fingerprint = lambda name="file.bin": open_source(server.url(name)).fingerprint()  # noqa: E731
    seen = [fingerprint(), fingerprint("other.bin"), open_source(f"raw:{server.url('a')[:-1]}file.bin").fingerprint()]
    assert fingerprint() == seen[0]
    for etag, modified in [('"a"', MONDAY), ('"b"', MONDAY), ('W/"b"', MONDAY), ('W/"b"', TUESDAY), (None, None)]:
        server.manner = Manner(etag=etag, modified=modified)
        seen.append(fingerprint())
        assert fingerprint() == seen[-1]
    server.files["file.bin"] = bytes(300_000)
    seen.append(fingerprint())
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize("kind", ["jsonl.zst", "parquet"])
def test_a_corpus_prepared_over_http_is_the_one_prepared_from_files(server, table, tmp_path, kind):
    texts = [text.decode() for text in table[1]]
    shards = {"jsonl.zst": [zstandard.compress(jsonl(texts[:200])), zstandard.compress(jsonl(texts[200:]))]}
    contents = shards.get(kind, [table[0]])
    server.files = {f"s-{number}.{kind}": content for number, content in enumerate(contents)}
    for name, content in server.files.items():
        (tmp_path / name).write_bytes(content)
    options = {"tokenizer": "bytes", "shard_batches": 1, "cache_dir": tmp_path / "cache"}
    local = prepare(str(tmp_path / f"s-*.{kind}"), **options)
    server.faults = [Manner(body_bytes=size) for size in (9, 50_000, 50_000)] + [Manner(status=500), Manner()]
    remote = prepare(server.url(f"s-{{0..{len(contents) - 1}}}.{kind}"), **options)
    assert remote.directory != local.directory
    assert remote.manifest.shards == local.manifest.shards
    for name in ("sha256", "bytes", "documents", "tokens"):
        assert getattr(remote.manifest, name) == getattr(local.manifest, name)


@pytest.mark.parametrize("manner", [Manner(etag=None, modified=MONDAY), Manner(etag=None), Manner()])
def test_a_shard_that_only_its_bytes_tell_apart_is_prepared_anew(server, tmp_path, manner):
    """Last-Modified, like a file's time of modification, is set at will."""
    server.manner = manner
    options = {"tokenizer": "bytes", "cache_dir": tmp_path / "cache"}
    for content in (CONTENT, CONTENT[::-1], CONTENT[::-1], CONTENT):
        server.files["file.bin"] = content
        prepared = prepare(server.url("file.bin"), **options)
        assert prepared.manifest.sha256 == hashlib.sha256(content).hexdigest()


def test_a_shard_that_changes_around_preparation_is_refused(server, tmp_path):
    options = {"tokenizer": "bytes", "cache_dir": tmp_path / "cache"}
    url = server.url("file.bin")
    changed = Manner(content=CONTENT[::-1])
    # The identity is asked for before the reading, and again after it.
    for server.faults in ([Manner(), changed], [Manner(), Manner(), changed]):
        with pytest.raises(ValueError, match=f"{url}, byte 0: the file was changed on the server"):
            prepare(url, **options)
        assert not server.faults and not [*tmp_path.glob("cache/*/*")]
    first = prepare(url, **options)
    server.files["file.bin"] = CONTENT[::-1]
    check_refused(first.source, url, "the file was changed on the server")
    second = prepare(url, **options)
    assert second.directory != first.directory and second.manifest.sha256 != first.manifest.sha256
