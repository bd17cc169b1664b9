"""Archives that no writer of ours makes, though every checksum is right: refused by frame or field, at little cost."""

import hashlib
import json
import struct
import tracemalloc
import zlib
from typing import Any

import pytest
from made_up_archive import HEADER, made_up_frames, refused, seal, stored

from archive.format import end_content
from archive.frames import MAGIC

FRAMES = made_up_frames()


def with_header(change: dict[str, Any], corpus: dict[str, Any] | None = None) -> bytes:
    """The made-up archive, well sealed, with other values in its header; ... takes a key away."""
    corpus = {name: value for name, value in (HEADER["corpus"] | (corpus or {})).items() if value is not ...}
    header = {name: value for name, value in (HEADER | {"corpus": corpus} | change).items() if value is not ...}
    return with_json(json.dumps(header, sort_keys=True, separators=(",", ":")).encode())


def with_json(text: bytes) -> bytes:
    return seal([(b"H", zlib.compress(text)), *FRAMES[1:]])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "magic at byte 0: the file ends 0 bytes into it; fetch the archive again"),
        (b"PK\3\4" * 9, "magic at byte 0: this is no archive of Onepass; name one that"),
        (MAGIC[:-1] + b"\3", "magic at byte 0: written by format 3, this reads 1 and 2; take the release"),
        (MAGIC, "header at byte 8: the file ends 0 bytes into it"),
        (seal([FRAMES[0], (b"T", bytes((4 << 20) + 1))]), "tokenizer at byte .*: it claims 4194305 bytes, but may"),
        (seal([FRAMES[0], (b"S", b"\1")]), "tokenizer at byte .*: its kind is b'S', not b'T'"),
        (seal([*FRAMES[:2], (b"P", bytes((4 << 20) + 1))]), "program at byte .*: it claims 4194305 bytes"),
        (seal([*FRAMES[:5], FRAMES[6]]), "block 2 at byte .*: its kind is b'E', not b'B'"),
        (seal([*FRAMES[:6], FRAMES[5], FRAMES[6]]), "end at byte .*: its kind is b'B', not b'E'"),
        (seal([*FRAMES[:6], (b"E", bytes(39))]), "end at byte .*: it has 39 bytes, not 40"),
        (seal([*FRAMES[:6], (b"E", bytes(32) + struct.pack("<d", -1))]), "end at byte .*: it says -1.0 data bits"),
        (seal([*FRAMES[:6], (b"E", bytes(32) + struct.pack("<d", float("nan")))]), "it says nan data bits"),
        (seal([*FRAMES[:6], (b"E", bytes(32) + struct.pack("<d", float("inf")))]), "it says inf data bits"),
        (seal([*FRAMES[:4], (b"B", b""), *FRAMES[5:]]), r"block 1 at byte .*: its 2 payloads claim"),
        (seal([*FRAMES[:4], (b"B", bytes(7)), *FRAMES[5:]]), r"its 2 payloads claim \d+ bytes, but it has 7"),
        (seal([*FRAMES[:4], (b"B", bytes(9)), *FRAMES[5:]]), "its 2 payloads claim 8 bytes, but it has 9"),
        (seal([*FRAMES[:4], (b"B", b"\xff" * 8), *FRAMES[5:]]), "its 2 payloads claim 4294967"),
    ],
)
def test_what_no_writer_of_ours_makes_is_refused(tmp_path, content, message):
    refused(tmp_path / "archive", content, message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "other"}, "its method is 'other', not model, fixed, stored"),
        ({"method": []}, r"its method is \[\], not"),
        ({"method": ...}, "its method is None"),
        ({"method": "fixed"}, "not an object of method, corpus, .*, code, model"),
        ({"method": "stored"}, "not an object of method, corpus"),
        ({"surprise": 1}, "header is .*, not an object of method"),
        ({"threads": ...}, "header is .*, not an object of method"),
        ({"threads": True}, "threads is True, not an integer from 1 to 65536"),
        ({"threads": "1"}, "threads is '1', not an integer"),
        ({"lanes": 0}, "lanes is 0, not an integer from 1 to 1048576"),
        ({"world_size": 3}, "4 lanes cannot be shared by 3 ranks"),
        ({"segment_tokens": -1}, "segment_tokens is -1, not"),
        ({"segment_tokens": 10.0}, "segment_tokens is 10.0, not"),
        ({"segment_tokens": "10"}, "segment_tokens is '10', not an integer from 1 to 1048576, or a schedule"),
        ({"segment_tokens": "10@0, 20@0.5"}, "segment_tokens is '10@0, 20@0.5', not"),
        ({"segment_tokens": "10@0,0@0.5"}, "segment_tokens is '10@0,0@0.5', not"),
        ({"segment_tokens": "10@0,20@0.5,30@nan"}, "segment_tokens is '10@0,20@0.5,30@nan', not"),
        ({"segment_tokens": True}, "segment_tokens is True, not"),
        ({"segment_tokens": "5@0,20@0.5"}, "block 3 at byte .*: its kind is b'E'"),
        ({"block_steps": (1 << 16) + 1}, "block_steps is 65537, not"),
        ({"block_steps": float("nan")}, "block_steps is nan, not"),
        ({"block_steps": 10**4000}, "block_steps is 10+, not"),
        ({"block_steps": 2}, "block 3 at byte .*: its kind is b'E'"),
        ({"tokenizer": None}, "tokenizer is None, not text"),
        ({"pins": ["a"]}, r"pins is \['a'\], not an object of texts"),
        ({"machine": {"a": 1}}, r"machine is {'a': 1}, not an object of texts"),
        ({"code": ""}, "code is '', not text like '.0-9a-f..64.'"),
        ({"code": "A" * 64}, "code is 'AAA"),
        ({"corpus": []}, r"corpus is \[\], not an object of name, bytes"),
    ],
)
def test_hostile_headers_are_refused_by_field(tmp_path, change, message):
    refused(tmp_path / "archive", with_header(change), message)


@pytest.mark.parametrize(
    ("corpus", "message"),
    [
        ({"name": 1}, "corpus.name is 1, not text"),
        ({"bytes": -1}, "corpus.bytes is -1, not an integer from 0 to"),
        ({"documents": 0}, "corpus.documents is 0, not an integer from 1 to"),
        ({"tokens": 0}, "corpus.tokens is 0, not an integer from 1 to"),
        ({"tokens": 1 << 62}, "corpus.tokens is 4611686018427387904, not an integer from 1 to 4611686018427387903"),
        ({"tokens": 10**18}, "header at byte 8: 1000000000000000000 tokens make 8333333333333334 blocks, more than"),
        ({"tokens": ...}, "corpus is .*, not an object of name, bytes, documents, tokens"),
        ({"more": 1}, "corpus is .*, not an object of name, bytes, documents, tokens"),
    ],
)
def test_hostile_counts_are_refused_by_field(tmp_path, corpus, message):
    refused(tmp_path / "archive", with_header({}, corpus), message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "Expecting value"),
        (b"[]", "its method is None"),
        (b"\xff\xfe", "header at byte 8: "),
        (b'{"method":"model","method":"model"}', "not in canonical form"),
        (b'{"method": "model"}', "not in canonical form"),
        (b'{"method":"m\xc3\xa4h"}', "not in canonical form"),
        (b'{"method":' + b"1" * 5000 + b"}", "integer string conversion"),
        (b"[" * 100_000 + b"]" * 100_000, "recursion"),
        (b"[" * 900 + b"]" * 900, "header at byte 8: "),
        (b'{"method":' + b"[" * 200 + b"]" * 200 + b"}", r"its method is \[\["),
        (b" " * (1 << 20), "Expecting value"),
        (b" " * ((1 << 20) + 1), "takes more than 1,048,576 bytes"),
        (b"[" + b"{}," * 349_000 + b"{}]", "its method is None"),
    ],
    ids=range(13),
)
def test_hostile_json_is_refused(tmp_path, text, message):
    refused(tmp_path / "archive", with_json(text), message)


def test_damaged_deflation_is_refused(tmp_path):
    whole = FRAMES[0][1]
    for content in b"", b"\0" * 9, whole[:-1], whole + b"\0", whole[:-4] + bytes(4):
        refused(tmp_path / "archive", seal([(b"H", content), *FRAMES[1:]]), "header at byte 8: ")


def test_what_a_file_claims_does_not_take_memory(tmp_path):
    bomb = zlib.compress(bytes(60 << 20), 9)
    assert len(bomb) < 1 << 16
    hostile = [seal([(b"H", bomb)]), with_header({}, {"tokens": 10**18, "bytes": 10**18})]
    hostile += [with_json(b"[" * 100_000), seal([(b"H", bytes(1 << 20))])]
    hostile += [seal(FRAMES[:cut]) + kind + b"\xff" * 4 for cut, kind in [(0, b"H"), (1, b"T"), (2, b"P"), (3, b"B")]]
    hostile += [seal([stored([[b"x"]])[0]]) + b"S" + b"\xff" * 4]
    tracemalloc.start()
    for content in hostile:
        refused(tmp_path / "archive", content)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 8 << 20


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([(b"S", b"\2x")], "chunk 0 at byte .*: its first byte is b'.x02', not 0 or 1"),
        ([(b"S", b"")], "chunk 0 at byte .*: its first byte is b'', not 0 or 1"),
        ([(b"S", bytes((1 << 20) + 2))], "chunk 0 at byte .*: it claims 1048578 bytes"),
        ([(b"B", b"\1x")], "chunk 0 or end at byte .*: its kind is b'B', not b'S' or b'E'"),
        ([(b"S", b"\1x"), (b"S", b"\1"), (b"E", end_content("0" * 64, 8))], "end at byte .*: there are 1 bytes in 2"),
        ([(b"S", b"\1xy"), (b"E", end_content("0" * 64, 8))], "there are 2 bytes in 1 documents, not 1 in 1"),
        ([(b"S", b"\1x"), (b"S", b"\0"), (b"E", end_content("0" * 64, 8))], "the last document does not end"),
        ([(b"S", b"\1x"), (b"E", end_content("0" * 64, 8))], "it says SHA-256 0+, but that of the chunks is"),
        ([(b"S", b"\1x"), (b"E", end_content(hashlib.sha256(b"x").hexdigest(), 9))], "it says 9.0 data bits, but"),
    ],
)
def test_stored_chunks_must_be_what_header_and_end_say(tmp_path, frames, message):
    refused(tmp_path / "archive", seal([stored([[b"x"]])[0], *frames]), message)
