"""A corpus as a source would give it."""

from collections.abc import Iterator


def chunks_of(data: bytes, size: int) -> Iterator[bytes]:
    """`data` in chunks of `size` bytes; the last may be shorter."""
    return (data[start : start + size] for start in range(0, len(data), size))
