"""The description length of a corpus: L(D) = data_bits + code_bits + tokenizer_bits + side_bits.

J. Rae, "Compression for AGI" (2023); L. Blier and Y. Ollivier, "The Description Length of Deep Learning Models" (2018),
arXiv:1802.07044.
"""

import math
from dataclasses import dataclass

CODER_TERMINATION_BITS = 64


@dataclass(frozen=True)
class DescriptionLength:
    """The four terms, in bits. `side_bits` is what the function of that name returns; `warm_start_bits`, a part of it,
    are those of a warm start."""

    data_bits: float
    code_bits: float
    tokenizer_bits: float
    side_bits: float
    warm_start_bits: float = 0.0

    @property
    def total_bits(self) -> float:
        return self.data_bits + self.code_bits + self.tokenizer_bits + self.side_bits

    def bits_per_byte(self, corpus_bytes: int) -> float:
        return self.total_bits / corpus_bytes

    def data_bits_per_byte(self, corpus_bytes: int) -> float:
        return self.data_bits / corpus_bytes

    def compression_ratio(self, corpus_bytes: int) -> float:
        """Times that the corpus is longer than its description."""
        return 8 * corpus_bytes / self.total_bits


def side_bits(
    tokens: int, ranks: int = 1, sweep_cells: int = 1, warm_start_bytes: int = 0, names_bytes: int = 0
) -> float:
    """What a decoder needs beside data, code and tokenizer, in bits.

    The corpus length in tokens (self-delimiting), the termination of one coder a rank, the index of the reported run if
    it is the best of `sweep_cells`, the checkpoint that a warm-started run began from, in full, and the names of
    documents where they come back under their names. Document boundaries are symbols of the token stream, so part of
    data_bits; the number of lanes is configuration, so part of code_bits.
    """
    coder_bits = CODER_TERMINATION_BITS * ranks
    return elias_delta_bits(tokens + 1) + coder_bits + math.log2(sweep_cells) + 8 * (warm_start_bytes + names_bytes)


def elias_delta_bits(number: int) -> int:
    """Length of the Elias delta code, which needs no end mark, of a number >= 1 (P. Elias, 1975)."""
    bits = number.bit_length()
    return bits - 1 + 2 * (bits.bit_length() - 1) + 1
