"""The other direction of data/coder.py: only who compresses needs it."""

from collections.abc import Iterable

from data.coder import LOW, PRECISION_BITS, WORD_BITS


def encode(shares: Iterable[tuple[int, int]], check: int) -> bytes:
    """The payload of a block of symbols, given as (start, width) of their shares of 2^48, the last symbol first.

    The decoder ends with `check`, below 2^48: it fills room that a block loses in any case.
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
