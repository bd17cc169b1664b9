"""The entropy coder: asymmetric numeral systems (Duda 2013, arXiv:1311.2540, rANS).

A block of symbols is one large number. Decoding a symbol takes its share off the number; what is left at the end of a
block is the check value that the encoder began with. Probabilities are kept to 2^-48, so that even a symbol that is all
but certain, or one of 262,144 that are all but impossible, costs what it should (measured in tests).

Shapes: `R` rows, `V` vocabulary.
"""

from collections.abc import Iterable

import numpy as np

PRECISION_BITS = 48
WORD_BITS = 32
# The number stays between this and 2^32 times as much, words of 32 bits being put off or taken in.
LOW = 1 << PRECISION_BITS + 48


def cumulative(probabilities: np.ndarray) -> np.ndarray:
    """Bounds [R, V + 1] of each symbol's share of 2^48, int64, from probabilities [R, V]. No share is empty."""
    rows, vocabulary = probabilities.shape
    sums = probabilities.cumsum(1, np.float64)
    bounds = np.zeros((rows, vocabulary + 1), np.int64)
    bounds[:, 1:] = sums * (((1 << PRECISION_BITS) - vocabulary) / sums[:, -1:])
    bounds += np.arange(vocabulary + 1)
    bounds[:, -1] = 1 << PRECISION_BITS
    return bounds


class Decoder:
    """The symbols of one block, from the payload that `encode` wrote."""

    def __init__(self, payload: bytes):
        self.state, self.position = 0, 0
        self.payload = payload.rjust(-(-len(payload) // 4) * 4, b"\0")
        self.refill()

    def refill(self) -> None:
        while self.state < LOW and self.position < len(self.payload):
            word = self.payload[self.position : self.position + 4]
            self.state = self.state << WORD_BITS | int.from_bytes(word, "big")
            self.position += 4

    def decode(self, bounds: np.ndarray) -> np.ndarray:
        """The next symbols [R], one for each row of `bounds` [R, V + 1], in order."""
        symbols = np.empty(len(bounds), np.int64)
        for index, row in enumerate(bounds):
            rest = self.state & (1 << PRECISION_BITS) - 1
            symbol = int(row.searchsorted(rest, "right")) - 1
            start = int(row[symbol])
            self.state = (int(row[symbol + 1]) - start) * (self.state >> PRECISION_BITS) + rest - start
            self.refill()
            symbols[index] = symbol
        return symbols


def encode(shares: Iterable[tuple[int, int]], check: int) -> bytes:
    """The payload of a block of symbols, given as (start, width) of their shares of 2^48, the last symbol first.

    The decoder ends with `check`, below 2^48. It costs nothing: the coder needs a first number of 48 bits.
    """
    state, words = check, bytearray()
    limit = LOW >> PRECISION_BITS << WORD_BITS
    for start, width in shares:
        while state >= limit * width:
            words += (state & (1 << WORD_BITS) - 1).to_bytes(4, "little")
            state >>= WORD_BITS
        whole, rest = divmod(state, width)
        state = (whole << PRECISION_BITS) + start + rest
    words += state.to_bytes(-(-state.bit_length() // 8), "little")
    return bytes(words[::-1])
