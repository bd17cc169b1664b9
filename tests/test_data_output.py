"""Decoded documents on their way to disk: whole, in order, cut nowhere, and only if they are what the archive says."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.bpe import Encoder, train_tokenizer
from data.documents import open_source
from data.output import token_chunks, write_documents
from data.tokenizer import load_tokenizer

SAMPLE = b"the cat sat on the mat; the dog sat on the log.\r\n" * 20 + bytes(range(256))
ENCODERS = [Encoder(load_tokenizer("bytes", b"")), Encoder(train_tokenizer("bpe", [SAMPLE], 300, len(SAMPLE)))]
DOCUMENTS = {
    "one": [b"the cat sat on the mat"],
    "one empty": [b""],
    "several": [b"first", b"second\r\n", b"\xff\x00\xe2\x96\x81"],
    "empty first": [b"", b"a", b"b"],
    "empty in the middle": [b"a", b"", b"", b"b"],
    "empty last": [b"a", b"b", b""],
    "all empty": [b"", b"", b""],
    "long": [b"the dog sat on the log " * 9, b"", SAMPLE[-256:], b"x"],
    "as long as a chunk": [b"1234", b"12345", b"1", b"123"],
}
hostile = st.binary(max_size=40) | st.sampled_from([b"", SAMPLE[:60], b"\r\n", b"\xff" * 11, "\u2581\ufffd".encode()])


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr("data.output.CHUNK_TOKENS", 5)


def token_stream(documents: list[bytes], encoder: Encoder) -> np.ndarray:
    """Tokens [N] as a decoder collects them."""
    end = np.array([encoder.tokenizer.end_of_document])
    return np.concatenate([part for text in documents for part in (encoder.encode(text), end)]).astype(np.uint32)


def sha256(documents: list[bytes]) -> str:
    return hashlib.sha256(b"".join(documents)).hexdigest()


def written(output: Path) -> list[bytes]:
    """The documents of a folder, whose files are numbered from 0."""
    names = sorted(path.name for path in output.iterdir())
    assert names == [f"{number:08d}" for number in range(len(names))]
    return [(output / name).read_bytes() for name in names]


@pytest.mark.parametrize("encoder", ENCODERS, ids=lambda encoder: encoder.tokenizer.kind)
@pytest.mark.parametrize("documents", DOCUMENTS.values(), ids=DOCUMENTS)
def test_documents_come_back_from_their_tokens(tmp_path, documents, encoder):
    tokens = token_stream(documents, encoder)
    chunks = list(token_chunks(tokens, encoder.tokenizer))
    assert [ends for _, ends in chunks].count(True) == len(documents) and chunks[-1][1]
    longest = max(map(len, encoder.tokenizer.pieces))
    assert all(len(chunk) <= 5 * longest for chunk, _ in chunks)
    write_documents(token_chunks(tokens, encoder.tokenizer), tmp_path / "folder", False, sha256(documents))
    assert written(tmp_path / "folder") == documents
    write_documents(token_chunks(tokens, encoder.tokenizer), tmp_path / "joined", True, sha256(documents))
    assert (tmp_path / "joined").read_bytes() == b"".join(documents)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "joined"]


@settings(max_examples=60, deadline=None)
@given(st.lists(hostile, min_size=1, max_size=5), st.sampled_from(ENCODERS), st.booleans())
def test_any_bytes_come_back(tmp_path_factory, documents, encoder, joined):
    output = tmp_path_factory.mktemp("any") / "output"
    chunks = token_chunks(token_stream(documents, encoder), encoder.tokenizer)
    write_documents(chunks, output, joined, sha256(documents))
    assert output.read_bytes() == b"".join(documents) if joined else written(output) == documents


@pytest.mark.parametrize("single", [True, False], ids=["file", "folder"])
def test_what_is_stored_comes_back_as_it_was_read(tmp_path, single, monkeypatch):
    monkeypatch.setattr("data.readers.CHUNK_BYTES", 7)
    for name, document in zip("abcd", DOCUMENTS["long"], strict=True):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes(document)
    source = open_source(f"raw:{tmp_path / 'in'}")
    write_documents(source.chunks(), tmp_path / "out", single, sha256(DOCUMENTS["long"]))
    if single:
        assert (tmp_path / "out").read_bytes() == b"".join(DOCUMENTS["long"])
    else:
        assert written(tmp_path / "out") == DOCUMENTS["long"]


@pytest.mark.parametrize("single", [True, False], ids=["file", "folder"])
def test_other_bytes_than_promised_leave_nothing(tmp_path, single):
    tokens = token_stream(DOCUMENTS["several"], ENCODERS[0])
    promised = sha256([b"something else"])
    with pytest.raises(ValueError, match=f"SHA-256 {sha256(DOCUMENTS['several'])}, the archive says {promised}"):
        write_documents(token_chunks(tokens, ENCODERS[0].tokenizer), tmp_path / "output", single, promised)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("single", [True, False], ids=["file", "folder"])
def test_chunks_that_fail_leave_nothing(tmp_path, single):
    def failing():
        yield b"first", True
        yield b"sec", False
        assert len(list(tmp_path.iterdir())) == 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_documents(failing(), tmp_path / "output", single, sha256([b"first", b"sec"]))
    assert not list(tmp_path.iterdir())
