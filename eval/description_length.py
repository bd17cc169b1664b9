"""The side information of a description length; eval/schema.py has all four terms."""

import math

CODER_TERMINATION_BITS = 64


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
