"""Tokenizers: bijective on any bytes, rebuilt from their encoding alone, deterministic, small."""

import contextlib
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.bpe import Encoder, encode_pieces, train_pieces, train_tokenizer
from data.documents import open_source
from data.tokenizer import in_order, load_tokenizer

SPECIAL = [
    "<unk>",
    "<s>",
    "</s>",
    "<pad>",
    "<0x41>",
    "\u2581",
    "\u2581\u2581the",
    "\ufffd",
    "\u2585",
    "\t",
    "\0",
    "\r\n",
    "\ud800",
    "\U000e0001",
]
SAMPLE = b"".join(
    [
        b"the cat sat on the mat; the dog sat on the log. <s>1234</s>\r\n" * 60,
        bytes(range(256)) * 4,
        "\u2581caf\u00e9 \u65e5\u672c\u8a9e ".encode() * 30,
    ]
)
BYTES = Encoder(load_tokenizer("bytes", b""))
BPE = Encoder(train_tokenizer("bpe", [SAMPLE], 400, len(SAMPLE)))

fragments = st.sampled_from([text.encode("utf-8", "surrogatepass") for text in SPECIAL] + [SAMPLE[:200], b" ", b"  "])
any_bytes = (
    st.binary(max_size=300) | st.lists(fragments | st.binary(max_size=4)).map(b"".join) | st.text().map(str.encode)
)


@pytest.fixture(scope="module")
def kjv() -> bytes:
    return b"".join(chunk for chunk, _ in open_source("kjv").chunks())


@settings(max_examples=1000, deadline=None)
@given(any_bytes)
def test_every_byte_string_comes_back(data):
    for encoder in BYTES, BPE:
        tokens = encoder.encode(data)
        assert tokens.dtype == np.uint16
        assert encoder.tokenizer.decode(tokens.tolist()) == data
        assert encoder.tokenizer.end_of_document not in tokens


def test_every_byte_pair_comes_back():
    pairs = np.stack(np.meshgrid(np.arange(256), np.arange(256)), -1).astype(np.uint8).tobytes()
    for data in pairs, pairs * 20, b"\xff" * 3_000_000:
        assert BPE.tokenizer.decode(BPE.encode(data).tolist()) == data


@settings(deadline=None)
@given(st.lists(st.sampled_from([b"the", b"cat", b" sat", b"on ", b"\r\n", b"\xe2", b"z"]), max_size=20).map(b"".join))
def test_tokens_are_the_fewest_that_spell_the_bytes(data):
    pieces = set(BPE.tokenizer.pieces)
    fewest = [0]
    for stop in range(1, len(data) + 1):
        starts = range(max(0, stop - 16), stop)
        fewest.append(min(fewest[start] + 1 for start in starts if data[start:stop] in pieces))
    assert len(BPE.encode(data)) == fewest[-1]


def test_the_bytes_tokenizer_is_free():
    tokenizer = BYTES.tokenizer
    assert (tokenizer.vocabulary, tokenizer.encoding, tokenizer.end_of_document) == (257, b"", 256)
    assert BYTES.encode(b"\0a\xff").tolist() == [0, 97, 255]


def test_a_vocabulary_is_exactly_as_large_as_asked_and_holds_nothing_twice():
    for vocabulary in 258, 300, 400:
        tokenizer = train_tokenizer("bpe", [SAMPLE], vocabulary, 10**9)
        assert tokenizer.vocabulary == len(set(tokenizer.pieces)) == vocabulary
        assert tokenizer.pieces[:256] == [bytes([byte]) for byte in range(256)]
        assert tokenizer.pieces[tokenizer.end_of_document] == b""
        # The encoder cuts its input before spaces, which changes nothing as long as this holds.
        assert not any(b" " in piece[1:] for piece in tokenizer.pieces)


def test_tokens_are_in_order_of_their_pieces() -> None:
    """Bytes, then pieces without a space in front, then those with one, the short ones first."""
    mixed = [b" the", b"b", b"ed", b" a", b" ", b"ing", b"er", b" of", b"a"]
    assert in_order(mixed) == [b" ", b"a", b"b", b"ed", b"er", b"ing", b" a", b" of", b" the"]
    pieces = train_tokenizer("bpe", [SAMPLE], 600, len(SAMPLE)).pieces
    assert pieces[:256] == [bytes([byte]) for byte in range(256)] and pieces[:-1] == in_order(pieces[:-1])


def test_training_reads_the_sample_only_and_gives_the_same_pieces_again():
    chunks = [SAMPLE[start : start + 1000] for start in range(0, len(SAMPLE), 1000)]
    first = train_pieces(chunks, 280, 3000)
    assert first == train_pieces([*chunks[:3], b"never read " * 999], 280, 3000) != train_pieces(chunks, 280, 4500)
    assert train_pieces(iter([*chunks[:3], None]), 280, 3000) == first


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 200), st.integers(2, 256), st.randoms(use_true_random=False))
def test_any_set_of_joins_comes_back_from_its_encoding(count, alphabet, rng):
    known = [bytes([byte]) for byte in rng.sample(range(256), alphabet)]
    pieces = set()
    for _ in range(count):
        joined = rng.choice(known) + rng.choice(known)
        if len(joined) <= 16 and joined not in pieces:
            pieces.add(joined)
            known.append(joined)
    encoding = encode_pieces(pieces)
    assert set(load_tokenizer("bpe", encoding).pieces[256:]) == pieces | {b""}
    assert encode_pieces(sorted(pieces, reverse=True)) == encoding


def test_a_set_that_cannot_be_encoded_is_refused():
    with pytest.raises(ValueError, match="not the join of two others"):
        encode_pieces([b"abc"])


def test_foreign_encodings_end_in_bounded_pieces():
    rng = random.Random(1)
    for size in [1, 10, 100, 1000]:
        for encoding in rng.randbytes(size), b"\xff" * size, b"\x01" + bytes(size):
            with contextlib.suppress(IndexError):
                pieces = load_tokenizer("bpe", encoding).pieces
                assert len(pieces) < 300 + 20 * size and max(map(len, pieces)) < 32


@pytest.mark.parametrize(("vocabulary", "largest"), [(1024, 800), (2048, 1900), (4096, 4300)])
def test_the_encoding_is_small(kjv, vocabulary, largest):
    tokenizer = train_tokenizer("bpe", [kjv], vocabulary, len(kjv))
    assert len(tokenizer.encoding) < largest
    assert load_tokenizer("bpe", tokenizer.encoding) == tokenizer


@pytest.mark.parametrize(
    ("sample", "vocabulary", "message"),
    [
        (SAMPLE, 257, "data.vocabulary 257 is out of range: use 258"),
        (SAMPLE, 1 << 20, "out of range"),
    ],
)
def test_unsuitable_vocabularies_are_refused_with_a_remedy(sample, vocabulary, message):
    with pytest.raises(ValueError, match=message):
        train_tokenizer("bpe", [sample], vocabulary, 10**9)


@pytest.mark.parametrize(("sample", "found"), [(b"ab" * 1000, 265), (b"a", 257), (b"", 257), (bytes(10**6), 264)])
def test_a_corpus_that_gives_fewer_pieces_gets_a_smaller_vocabulary(sample, found):
    tokenizer = train_tokenizer("bpe", [sample], 2048, 10**9)
    assert tokenizer.vocabulary == found
    assert tokenizer.decode(Encoder(tokenizer).encode(sample).tolist()) == sample


def test_unknown_tokenizer_is_refused():
    with pytest.raises(ValueError, match="'words' is unknown; use 'bytes' or 'bpe'"):
        train_tokenizer("words", [SAMPLE], 300, 100)


def test_should_sentencepiece_ever_be_wrong_bytes_take_over(monkeypatch):
    encoder = Encoder(BPE.tokenizer)
    monkeypatch.setattr(encoder, "_model", type("Wrong", (), {"encode": lambda self, blocks: [[1, 2, 3]]})())
    assert encoder.encode(b"the cat").tolist() == list(b"the cat")
