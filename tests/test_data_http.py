"""Corpora on web servers: whatever the server does, the exact bytes or a refusal that says where and why."""

import os
import tracemalloc
from dataclasses import replace

import pytest
from http_server import SOUND, Manner, check_refused, read_documents, serve

import data.http
from data.documents import open_source
from data.readers import CHUNK_BYTES

CONTENT = os.urandom(300_000)
ALTERED = CONTENT[:99_999] + bytes([CONTENT[99_999] ^ 1]) + CONTENT[100_000:]
BROKEN = {
    "500 and 503": [Manner(status=500), Manner(status=503, headers={"Retry-After": "3600"})],
    "429 and 408": [Manner(status=429), Manner(status=408)],
    "no byte": [Manner(body_bytes=0)],
    "dropped midway": [Manner(body_bytes=100_000), Manner(body_bytes=1), Manner(body_bytes=150_000)],
    "reset midway": [Manner(body_bytes=100_000, ending="reset"), Manner(status=502)],
    "chunks without an end": [Manner(chunked=True, body_bytes=100_000), Manner(chunked=True, body_bytes=299_999)],
    "broken before the place of the last break": [Manner(body_bytes=100_000), Manner(body_bytes=50_000)],
}


@pytest.fixture(autouse=True)
def no_delays(monkeypatch):
    monkeypatch.setattr(data.http, "DELAYS_SECS", (0.0, 0.0, 0.0))


@pytest.fixture
def server():
    with serve() as server:
        server.files = {"file.bin": CONTENT}
        yield server


@pytest.mark.parametrize("manner", SOUND)
@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1])
def test_raw_bytes_of_any_size_from_any_sound_server(server, manner, size):
    server.manner = SOUND[manner]
    server.files["file.bin"] = os.urandom(size)
    assert read_documents(server.url("file.bin")) == [server.files["file.bin"]]


@pytest.mark.parametrize("manner", SOUND)
@pytest.mark.parametrize("faults", BROKEN)
def test_what_breaks_is_tried_again_and_nothing_is_lost_or_repeated(server, manner, faults):
    server.manner = sound = SOUND[manner]
    server.faults = [replace(fault, etag=sound.etag, modified=sound.modified) for fault in BROKEN[faults]]
    assert read_documents(server.url("file.bin")) == [CONTENT]
    assert not server.faults


def test_every_byte_that_comes_is_followed_by_as_many_tries(server):
    server.faults = [Manner(body_bytes=30_000 * number) for number in range(1, 10)]
    assert read_documents(server.url("file.bin")) == [CONTENT]
    assert server.requests == 10


@pytest.mark.parametrize("body_bytes", [0, 100_000, 300_000])
def test_silence_ends(server, monkeypatch, body_bytes):
    """Behind a whole body too: to some servers, closing the connection is too much to ask."""
    monkeypatch.setattr(data.http, "SILENCE_SECS", 0.3)
    server.faults = [Manner(body_bytes=body_bytes, ending="silence")]
    assert read_documents(server.url("file.bin")) == [CONTENT]


def test_redirects_are_followed_and_not_for_ever(server):
    server.faults = [
        Manner(location="/file.bin"),
        Manner(body_bytes=100_000),
        Manner(location="/file.bin"),
    ]
    assert read_documents(server.url("moved")) == [CONTENT]
    assert server.requests == 4
    server.manner = Manner(location="/file.bin")
    check_refused(server.url("file.bin"), "file.bin, byte 0", "more than 5 redirects", "give the final URL")


@pytest.mark.parametrize(
    ("manner", "words"),
    [
        (Manner(status=404), ["byte 0", "404 Not Found", "check the URL"]),
        (Manner(status=403), ["byte 0", "403 Forbidden", "without a login"]),
        (Manner(status=204), ["byte 0", "204 No Content"]),
        (Manner(status=206), ["byte 0", "206 Partial Content"]),
        (Manner(status=304), ["byte 0", "304 Not Modified"]),
        (Manner(status=416), ["byte 0", "416 Requested Range Not Satisfiable"]),
        (
            Manner(body_bytes=30_000),
            ["byte 30,000", "4 tries failed, the last with: the body ended 270,000 bytes early"],
        ),
        (Manner(status=503), ["byte 0", "4 tries failed, the last with: the server answers 503", "run again later"]),
        (Manner(body_bytes=0), ["byte 0", "4 tries failed, the last with: the body ended 300,000 bytes early"]),
        (Manner(length=None), ["byte 0", "Content-Length is missing", "download it"]),
        (Manner(length=None, protocol="HTTP/1.0"), ["byte 0", "Content-Length is missing", "download it"]),
        (Manner(length="12x"), ["byte 0", "Content-Length is 12x"]),
        (Manner(length="-1"), ["byte 0", "Content-Length is -1"]),
        (Manner(length=299_999), ["byte 299,999", "more bytes than its Content-Length", "download it"]),
        (Manner(length=1, etag=None), ["byte 1", "more bytes than its Content-Length"]),
        (Manner(length=0), ["byte 0", "more bytes than its Content-Length"]),
        (Manner(length=400_000), ["byte 300,000", "tries failed", "100,000 bytes early"]),
        (Manner(chunked=True, body_bytes=300_000), ["byte 300,000", "tries failed"]),
        (Manner(headers={"Content-Encoding": "gzip"}), ["byte 0", "Content-Encoding gzip", "not asked for"]),
        (Manner(headers={"Transfer-Encoding": "gzip, chunked"}), ["byte 0", "Transfer-Encoding gzip, chunked"]),
        (Manner(location="http://[/"), ["byte 0", "not a web address, or redirects to one that is not"]),
        (Manner(location="ftp://127.0.0.1/"), ["byte 0", "not a web address, or redirects to one that is not"]),
    ],
)
def test_what_cannot_be_whole_is_refused(server, manner, words):
    server.manner = manner
    check_refused(server.url("file.bin"), server.url("file.bin"), *words)


@pytest.mark.parametrize(
    ("manner", "words"),
    [
        (Manner(content=CONTENT[1:]), ["changed", "300,000", "299,999"]),
        (Manner(content=CONTENT[::-1], etag='"other"'), ["changed", "ETag", 'ETag "other"', "run again once it stays"]),
        (Manner(status=404), ["404 Not Found"]),
        (Manner(etag='"other"'), ["changed", "ETag", 'ETag "other"', "run again once it stays"]),
        (Manner(etag=None), ["changed", "without ETag"]),
        (Manner(body_bytes=0), ["4 tries failed", "300,000 bytes early", "run again later"]),
    ],
)
def test_what_comes_after_a_break_and_is_not_the_same_file_is_refused(server, manner, words):
    server.faults = [Manner(body_bytes=100_000)]
    server.manner = manner
    check_refused(server.url("file.bin"), f"{server.url('file.bin')}, byte 100,000", *words)


def test_chunks_that_end_before_the_length_that_was_stated_are_refused(server):
    server.faults = [Manner(etag='"x"', body_bytes=100_000)]
    server.manner = Manner(etag='"x"', chunked=True, content=CONTENT[:200_000])
    check_refused(server.url("file.bin"), "byte 200,000", "changed", "300,000 bytes", "200,000 bytes")


@pytest.mark.parametrize("changed", [bytes(300_000), ALTERED])
def test_other_bytes_under_the_same_etag_are_refused(server, changed):
    server.manner = Manner(etag='"x"', content=changed)
    server.faults = [Manner(etag='"x"', body_bytes=100_000)]
    check_refused(server.url("file.bin"), "byte 100,000", "changed", "up to here", "run again once it stays")


def test_a_server_that_is_not_there_is_named_after_some_tries():
    with serve() as gone:
        url = gone.url("file.bin")
    check_refused(url, f"data.source {url}, byte 0: 4 tries failed", "Connection refused", "download it")


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("changed", [bytes(300_000), ALTERED])
def test_without_a_validator_what_is_sent_anew_must_be_the_same(server, chunked, changed):
    assert changed != CONTENT
    server.manner = Manner(etag=None, chunked=chunked, content=changed)
    server.faults = [Manner(etag=None, chunked=chunked, body_bytes=100_000)]
    check_refused(server.url("file.bin"), "byte 100,000", "changed", "up to here", "run again once it stays")


@pytest.mark.parametrize("manner", ["ETag", "neither", "chunks", "chunks, neither"])
def test_one_source_never_reads_two_versions(server, manner):
    server.manner = SOUND[manner]
    source = open_source(server.url("file.bin"))
    source.fingerprint()
    assert b"".join(chunk for chunk, _ in source.chunks()) == CONTENT
    server.files["file.bin"] = CONTENT[::-1]
    check_refused(source, "the file was changed on the server since it was first read", "run again once it stays")
    with pytest.raises(ValueError, match="the file was changed on the server"):
        source.fingerprint()


def test_one_shard_is_in_memory_in_part(server):
    server.files["file.bin"] = bytes(32 << 20)
    server.files["long.jsonl"] = b'{"text": "' + b"x" * 10_000_000 + b'"}'
    tracemalloc.start()
    try:
        assert sum(len(chunk) for chunk, _ in open_source(server.url("file.bin")).chunks()) == 32 << 20
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    assert read_documents(server.url("long.jsonl")) == [b"x" * 10_000_000]
