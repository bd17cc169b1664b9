"""Tokenizers that hold the corpus: they are refused, or charged more than they save."""

from math import log2

import numpy as np
import pyppmd
import pytest
from trained_run import project_text

from benchmarks.not_gameable import charge, grammar
from data.bpe import Encoder, encode_pieces
from data.tokenizer import load_tokenizer


def halves(piece: bytes) -> set[bytes]:
    """The pieces that a piece is the join of, down to pairs of bytes, and itself."""
    if len(piece) < 2:
        return set()
    middle = len(piece) // 2
    return {piece} | halves(piece[:middle]) | halves(piece[middle:])


def corpora() -> list[bytes]:
    text, random = project_text(), np.random.default_rng(0)
    thrown = [random.integers(0, 256, length, np.uint8).tobytes() for length in range(2, 31)]
    return thrown + [text[start : start + 30] for start in range(100, 2000, 100)]


def test_a_corpus_as_one_piece_takes_more_bits_than_the_corpus() -> None:
    for corpus in corpora():
        tokenizer = load_tokenizer("bpe", encode_pieces(halves(corpus)))
        assert list(map(tokenizer.pieces.__getitem__, Encoder(tokenizer).encode(corpus))) == [corpus]
        # The piece and the document's end, by a model that knows nothing.
        data_bits = 2 * log2(tokenizer.vocabulary)
        assert 8 * len(tokenizer.encoding) + data_bits > 8 * len(corpus)


def test_pieces_of_16_bytes_and_more_are_not_joined() -> None:
    for length in (32, 64, 1000):
        with pytest.raises(ValueError, match="not the join of two others"):
            encode_pieces(halves(project_text()[:length]))


@pytest.mark.parametrize("across", [True, False], ids=["one piece", "a piece a line"])
def test_without_that_limit_pieces_of_any_length_are_no_better_than_ppmd(across: bool) -> None:
    text = project_text()[:20_000]
    joins, left = grammar(text, across)
    assert left == (1 if across else text.count(b"\n") + (not text.endswith(b"\n")))
    ppmd = pyppmd.Ppmd8Encoder(6, 16 << 20)
    ppmd_bytes = len(ppmd.encode(text)) + len(ppmd.flush())
    assert charge(joins) + (left + 1) * log2(257 + len(joins)) / 8 > ppmd_bytes


def test_the_charge_is_that_of_the_tokenizer_where_both_can_be_had() -> None:
    text = b"the cat sat on the mat; "
    joins, left = grammar(text, True)
    assert left == 1
    names = [bytes([byte]) for byte in range(256)]
    for one, other in joins:
        names.append(names[one] + names[other])
    # An unlimited grammar draws once more for each piece of 16 bytes or more, on both sides.
    assert abs(charge(joins) - len(encode_pieces(names[256:]))) < 3
