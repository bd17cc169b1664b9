"""The bytes that are measured, and the memory of what they gave."""

import random

import pytest
from chunks import chunks_of

from eval.measured import first_blocks

BYTES = random.Random(0).randbytes(1_500_000)


@pytest.mark.parametrize("size", [7, 777, 5_000_000])
def test_blocks_are_the_bytes_in_order_up_to_the_limit(size: int) -> None:
    blocks = list(first_blocks(chunks_of(BYTES, size), len(BYTES), 1_200_000))
    assert b"".join(blocks) == BYTES[:1_200_000]
    assert [len(block) for block in blocks] == [1 << 20, 1_200_000 - (1 << 20)]


@pytest.mark.parametrize("limit", [len(BYTES), 2 * len(BYTES)])
def test_without_a_limit_all_bytes_are_there(limit: int) -> None:
    assert b"".join(first_blocks(iter([BYTES]), len(BYTES), limit)) == BYTES


def test_beyond_the_limit_nothing_is_read() -> None:
    chunks = chunks_of(BYTES, 100_000)
    assert b"".join(first_blocks(chunks, len(BYTES), 250_000)) == BYTES[:250_000]
    assert next(chunks) == BYTES[300_000:400_000]


@pytest.mark.parametrize(("total", "found"), [(len(BYTES) - 1, "more"), (len(BYTES) + 1, "only 1,500,000")])
def test_a_source_of_another_length_is_refused_before_it_gives_too_much(total: int, found: str) -> None:
    given: list[bytes] = []
    with pytest.raises(ValueError, match=f"corpus has {total:,} bytes and the source yields {found}: it changed"):
        given.extend(first_blocks(chunks_of(BYTES, 100_000), total, 2 * total))
    assert sum(map(len, given)) <= total
