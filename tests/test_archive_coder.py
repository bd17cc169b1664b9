"""The entropy coder: every symbol comes back, costs what its probability says, and damage does not go unseen.

Shapes: `R` rows, `V` vocabulary.
"""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archive.coder import PRECISION_BITS, Decoder, cumulative, encode

WHOLE = 1 << PRECISION_BITS
CHECK = 0xDEADBEEF
VOCABULARIES = [2, 256, 257, 2048, 65_536]


def softmax(logits: np.ndarray) -> np.ndarray:
    """As a model gives it: in fp32, where the sum of a row is only about 1."""
    powers = np.exp(logits - logits.max(1, keepdims=True), dtype=np.float32)
    return powers / powers.sum(1, keepdims=True)


def distributions(vocabulary: int, rows: int) -> dict[str, np.ndarray]:
    """Probabilities [R, V] of every kind, fp32."""
    rng = np.random.default_rng(vocabulary)
    peaked = softmax(rng.normal(0, 6, (rows, vocabulary)).astype(np.float32))
    certain = np.full((rows, vocabulary), 1e-7 / (vocabulary - 1), np.float32)
    certain[np.arange(rows), rng.integers(vocabulary, size=rows)] = 1 - 1e-7
    impossible = np.where(rng.random((rows, vocabulary)) < 0.5, np.float32(0), peaked)
    impossible[:, rng.integers(vocabulary)] = 0.5
    lone = np.zeros((rows, vocabulary), np.float32)
    lone[np.arange(rows), rng.integers(vocabulary, size=rows)] = 1
    return {
        "flat": softmax(np.zeros((rows, vocabulary), np.float32)),
        "peaked": peaked,
        "near-deterministic": certain,
        "with impossible symbols": impossible,
        "deterministic": lone,
    }


def shares(bounds: np.ndarray, symbols: np.ndarray) -> list[tuple[int, int]]:
    """(start, width) of each row's symbol, the last one first."""
    row = np.arange(len(symbols))
    starts = bounds[row, symbols]
    return list(zip(starts.tolist(), (bounds[row, symbols + 1] - starts).tolist(), strict=True))[::-1]


def drawn(probabilities: np.ndarray) -> np.ndarray:
    """A symbol of each row [R], as often as its probability says."""
    rng = np.random.default_rng(0)
    sums = probabilities.cumsum(1, np.float64)
    return np.array([row.searchsorted(rng.random() * row[-1], "right") for row in sums])


def bits(probabilities: np.ndarray, symbols: np.ndarray) -> np.ndarray:
    """-log2 p [R] of each row's symbol, under the row divided by its sum."""
    exact = probabilities.astype(np.float64)
    with np.errstate(divide="ignore"):
        return -np.log2(exact[np.arange(len(symbols)), symbols] / exact.sum(1))


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_drawn_symbols_come_back_and_cost_what_they_should(vocabulary):
    for kind, probabilities in distributions(vocabulary, 100).items():
        symbols, bounds = drawn(probabilities), cumulative(probabilities)
        payload = encode(shares(bounds, symbols), CHECK)
        decoder = Decoder(payload)
        # In steps of unequal lengths, as lanes have them.
        parts = [decoder.decode(bounds[start:stop]) for start, stop in itertools.pairwise([0, 1, 8, 8, 50, 100])]
        assert np.array_equal(np.concatenate(parts), symbols), kind
        assert decoder.state == CHECK, kind
        assert 8 * len(payload) <= bits(probabilities, symbols).sum() * 1.0001 + 8 * 64, kind


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_any_symbol_can_be_coded_at_any_place(vocabulary):
    rng = np.random.default_rng(1)
    for kind, probabilities in distributions(vocabulary, 60).items():
        symbols, bounds = rng.integers(vocabulary, size=60), cumulative(probabilities)
        symbols[:2] = 0, vocabulary - 1
        payload = encode(shares(bounds, symbols), CHECK)
        decoder = Decoder(payload)
        assert np.array_equal(decoder.decode(bounds), symbols), kind
        assert decoder.state == CHECK, kind
        # What is impossible, or as good as that, costs 48 bits.
        dear = np.minimum(bits(probabilities, symbols), PRECISION_BITS)
        assert 8 * len(payload) <= dear.sum() * 1.0001 + 8 * 64, kind


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_shares_are_never_empty_fill_the_whole_and_keep_proportions(vocabulary):
    for kind, probabilities in distributions(vocabulary, 20).items():
        bounds = cumulative(probabilities)
        assert (bounds.shape, bounds.dtype) == ((20, vocabulary + 1), np.int64)
        assert (bounds[:, 0] == 0).all() and (bounds[:, -1] == WHOLE).all()
        widths = np.diff(bounds)
        assert widths.min() >= 1, kind
        exact = probabilities.astype(np.float64)
        expected = exact * ((WHOLE - vocabulary) / exact.sum(1, keepdims=True))
        # One for every symbol, and what falls to either side of an integer.
        assert (abs(widths - 1 - expected) <= 1.1 + 1e-10 * expected).all(), kind


def test_rows_do_not_depend_on_each_other():
    probabilities = np.concatenate(list(distributions(257, 5).values()))
    together = cumulative(probabilities)
    for row, bounds in zip(probabilities, together, strict=True):
        assert np.array_equal(cumulative(row[None])[0], bounds)
    assert np.array_equal(cumulative(probabilities[::-1]), together[::-1])
    assert cumulative(probabilities[:0]).shape == (0, 258)


def test_the_decoder_ends_with_the_check_value():
    probabilities = distributions(256, 30)["peaked"]
    symbols, bounds = drawn(probabilities), cumulative(probabilities)
    for check in (0, 1, 255, 256, 1 << 24, CHECK, (1 << 32) - 1, WHOLE - 1):
        decoder = Decoder(encode(shares(bounds, symbols), check))
        assert np.array_equal(decoder.decode(bounds), symbols)
        assert decoder.state == check


def test_a_block_without_symbols_is_its_check_value():
    assert encode([], 0) == b""
    for check in (0, 1, 256, CHECK, WHOLE - 1):
        payload = encode([], check)
        assert len(payload) <= 6
        assert Decoder(payload).state == check
        # So is one in which a rank has no lanes left.
        assert Decoder(payload).decode(cumulative(np.empty((0, 257), np.float32))).shape == (0,)


def test_every_flipped_bit_is_noticed():
    probabilities = distributions(257, 200)["peaked"]
    symbols, bounds = drawn(probabilities), cumulative(probabilities)
    payload = encode(shares(bounds, symbols), CHECK)
    assert len(payload) > 16
    for byte, bit in itertools.product(range(len(payload)), range(8)):
        damaged = payload[:byte] + bytes([payload[byte] ^ 1 << bit]) + payload[byte + 1 :]
        decoder = Decoder(damaged)
        same = np.array_equal(decoder.decode(bounds), symbols)
        assert not same or decoder.state != CHECK


def test_a_payload_that_is_too_short_or_of_zeros_decodes_to_something_else():
    probabilities = distributions(257, 200)["peaked"]
    symbols, bounds = drawn(probabilities), cumulative(probabilities)
    payload = encode(shares(bounds, symbols), CHECK)
    for damaged in (payload[:-1], payload[:-4], payload[4:], b"", bytes(len(payload))):
        decoder = Decoder(damaged)
        same = np.array_equal(decoder.decode(bounds), symbols)
        assert not same or decoder.state != CHECK


def test_a_long_run_of_certain_symbols_costs_a_few_bytes():
    probabilities = np.full((1, 257), 1e-7 / 256, np.float32)
    probabilities[0, 100] = 1 - 1e-7
    symbols = np.full(100_000, 100)
    bounds = np.broadcast_to(cumulative(probabilities), (100_000, 258))
    payload = encode(shares(bounds, symbols), CHECK)
    assert len(payload) <= 16
    decoder = Decoder(payload)
    assert np.array_equal(decoder.decode(bounds), symbols)
    assert decoder.state == CHECK
    surprise = np.append(symbols, 7)
    one_more = encode(shares(np.broadcast_to(bounds[0], (100_001, 258)), surprise), CHECK)
    assert len(one_more) <= 16 + 48 // 8


weights = st.integers(2, 12).flatmap(
    lambda size: st.lists(
        st.lists(st.sampled_from([0, 1e-45, 1e-30]) | st.floats(0, 1, width=32), min_size=size, max_size=size)
        .filter(any)
        .flatmap(lambda row: st.tuples(st.just(row), st.integers(0, size - 1))),
        max_size=30,
    )
)


@settings(max_examples=300, deadline=None)
@given(weights, st.integers(0, WHOLE - 1))
def test_any_rows_and_symbols_come_back(rows, check):
    vocabulary = len(rows[0][0]) if rows else 2
    bounds = cumulative(np.array([row for row, _ in rows], np.float32).reshape(-1, vocabulary))
    symbols = np.array([symbol for _, symbol in rows], np.int64)
    assert (np.diff(bounds) >= 1).all() and (bounds[:, -1] == WHOLE).all()
    payload = encode(shares(bounds, symbols), check)
    decoder = Decoder(payload)
    assert np.array_equal(decoder.decode(bounds), symbols)
    assert decoder.state == check
    assert 8 * len(payload) <= PRECISION_BITS * len(rows) + 8 * 16
