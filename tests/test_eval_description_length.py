"""The four terms against numbers worked out by hand."""

import pytest

from eval.description_length import elias_delta_bits, side_bits
from eval.schema import DescriptionLength


def test_terms_add_up_and_are_spread_over_the_corpus() -> None:
    length = DescriptionLength(
        corpus_bytes=1000, data_bits=3200.0, code_bits=640.0, tokenizer_bits=120.0, side_bits=40.0
    )
    assert length.total_bits == 4000.0
    assert length.bits_per_byte == 4.0
    assert length.data_bits_per_byte == 3.2
    assert length.compression_ratio == 2.0


@pytest.mark.parametrize(("number", "code"), [(1, "1"), (2, "0100"), (3, "0101"), (4, "01100"), (17, "001010001")])
def test_elias_delta_has_the_length_of_the_published_codes(number: int, code: str) -> None:
    assert elias_delta_bits(number) == len(code)


def test_side_bits_charge_length_coders_sweep_and_warm_start() -> None:
    # 1,000,000 has 20 bits: 19 of them, and 20 in Elias gamma, which takes 2 * 4 + 1.
    assert side_bits(999_999) == 19 + 9 + 64
    assert side_bits(999_999, ranks=4) - side_bits(999_999) == 3 * 64
    assert side_bits(999_999, sweep_cells=8) - side_bits(999_999) == 3
    assert side_bits(999_999, warm_start_bytes=1000) - side_bits(999_999) == 8000


def test_an_empty_corpus_still_says_that_it_is_empty() -> None:
    assert side_bits(0) == 1 + 64
