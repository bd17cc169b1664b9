"""Codes whose length is known by counting, on the same bytes: what a description length is compared with.

`oracle` knows the corpus and says nothing; `uniform` spends 8 bits on every byte; `untrained` spends log2 V on every
token, as a network does before it has learned. `order-0` and `order-2` are what counting alone learns: every byte is
coded by how often it came before, anywhere or after the same two bytes, with

    p(byte) = (times seen here + A) / (bytes seen here + 256 A)        A = 1/2 of order 0, 1/256 of order 2

(Krichevsky & Trofimov 1981; Perks 1947, which suits contexts that see few of the 256 bytes). The sum of -log2 p does
not depend on the order in which the bytes of a context came, so the counts at the end give it exactly.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from eval.measured import LIMIT_BYTES, CorpusBytes, MeasuredSizes, first_blocks, remember

MEASUREMENT = 1  # raise it when a code changes: cached lengths of another measurement are not used
SYMBOLS = 256
KRICHEVSKY_TROFIMOV, PERKS = 0.5, 1 / SYMBOLS


@dataclass(frozen=True)
class CountedCodes:
    """Bits of the adaptive codes. Beyond the limit, they are those of the first `measured_bytes`, scaled."""

    order_0_bits: float
    order_2_bits: float
    measured_bytes: int
    total_bytes: int


def reference_codes(codes: CountedCodes, tokens: int, vocabulary: int) -> MeasuredSizes:
    """Bytes by code, for a corpus of so many tokens of a vocabulary of so many. `codes` were counted on its bytes."""
    sizes = {
        "oracle": 0.0,
        "order-2": codes.order_2_bits / 8,
        "order-0": codes.order_0_bits / 8,
        "untrained": tokens * math.log2(vocabulary) / 8,
        "uniform": codes.total_bytes * math.log2(SYMBOLS) / 8,
    }
    return MeasuredSizes(sizes, codes.measured_bytes, codes.total_bytes)


def count_codes(
    chunks: Callable[[], Iterator[bytes]], total_bytes: int, limit_bytes: int = LIMIT_BYTES
) -> CountedCodes:
    """Count the bytes that `chunks()` yields; of a corpus beyond `limit_bytes`, its first `limit_bytes`.

    Raises UsageError when the source yields another number of bytes than `total_bytes`.
    """
    counts = np.zeros(SYMBOLS**3, np.uint32)
    # The first byte follows two zeros.
    before, measured_bytes = bytes(2), min(total_bytes, limit_bytes)
    for block in first_blocks(chunks(), total_bytes, limit_bytes):
        window = np.frombuffer(before + block, np.uint8).astype(np.int32)
        np.add.at(counts, (window[:-2] << 16) + (window[1:-1] << 8) + window[2:], 1)
        before = bytes(window[-2:].astype(np.uint8))
    scale = total_bytes / max(measured_bytes, 1)
    by_context = counts.reshape(-1, SYMBOLS)
    order_0_bits = adaptive_bits(by_context.sum(0, dtype=np.int64)[None], KRICHEVSKY_TROFIMOV)
    order_2_bits = adaptive_bits(by_context, PERKS)
    return CountedCodes(scale * order_0_bits, scale * order_2_bits, measured_bytes, total_bytes)


def adaptive_bits(counts: np.ndarray, start: float) -> float:
    """Bits of an adaptive code whose counts are `counts` [contexts, symbols] at the end, each of them from `start`."""
    from scipy.special import gammaln

    symbols, seen = counts.shape[1], counts.sum(1, dtype=np.int64)
    seen, entries = seen[seen > 0], counts[counts > 0]
    # Products of rising factors, as quotients of the gamma function.
    nats = (gammaln(seen + symbols * start) - gammaln(symbols * start)).sum()
    nats -= (gammaln(entries + start) - gammaln(start)).sum()
    return float(nats) / math.log(2)


def cached_codes(corpus: CorpusBytes) -> CountedCodes:
    """`count_codes`, remembered in codes.json for this corpus."""
    return remember(corpus, "codes", {"measurement": MEASUREMENT}, CountedCodes, count_codes)
