"""Compressed streams: what went in comes out, and anything less is an error."""

import bz2
import contextlib
import gzip
import io
import lzma
import os
import subprocess
import tracemalloc

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from data.compression import decompress

COMPRESS = {"gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress, "zstd": zstandard.compress}
kinds = pytest.mark.parametrize("kind", COMPRESS)


def read(packed: bytes, kind: str) -> bytes:
    return decompress(io.BytesIO(packed), kind).read()


@kinds
@settings(deadline=None, max_examples=30)
@given(st.lists(st.binary(max_size=9000), min_size=1, max_size=4))
def test_members_come_out_one_after_the_other(kind, parts):
    assert read(b"".join(map(COMPRESS[kind], parts)), kind) == b"".join(parts)


@kinds
def test_every_cut_is_an_error(kind):
    whole = COMPRESS[kind](os.urandom(300) + b"text " * 50)
    for packed in (whole, whole + whole):
        for length in range(len(packed)):
            if length != len(whole):
                with pytest.raises(OSError, match=r"it ends in the middle|it is empty|damaged"):
                    read(packed[:length], kind)


@kinds
def test_what_follows_a_member_is_another_or_an_error(kind):
    """bz2 and lzma of Python's library drop it without a word, be it a member whose first byte was damaged."""
    whole = COMPRESS[kind](b"text")
    damaged = bytes([whole[0] ^ 1]) + whole[1:]
    for more in (b"garbage", damaged, b"\1"):
        with pytest.raises(OSError):
            read(whole + more, kind)
    padded = b"\0" * 5000
    if kind in ("gzip", "xz"):
        assert read(whole + padded + whole + padded, kind) == b"texttext"
    else:
        with pytest.raises(OSError):
            read(whole + padded, kind)


@kinds
def test_a_flipped_bit_never_gives_other_bytes(kind):
    content = os.urandom(2000)
    options = {"zstd": lambda data: zstandard.ZstdCompressor(write_checksum=True).compress(data)}
    whole = options.get(kind, COMPRESS[kind])(content)
    for place in range(len(whole)):
        damaged = whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :]
        with contextlib.suppress(OSError):
            assert read(damaged, kind) == content


@kinds
def test_large_streams_are_not_held_in_memory(kind):
    packed = COMPRESS[kind](bytes(64 << 20))
    tracemalloc.start()
    stream, length = decompress(io.BytesIO(packed), kind), 0
    while piece := stream.read(1 << 20):
        length += len(piece)
    assert length == 64 << 20
    assert tracemalloc.get_traced_memory()[1] < 48 << 20
    tracemalloc.stop()


def long_window(content: bytes) -> bytes:
    """As `zstd --long=31` compresses what is piped into it: a window of 2 GiB, whatever the content."""
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=31, enable_ldm=True)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    packed = packer.compress(content) + packer.flush()
    assert zstandard.get_frame_parameters(packed).window_size == 1 << 31
    return packed


def test_the_longest_window_of_zstd_is_read():
    content = os.urandom(1000) * 9
    assert read(long_window(content), "zstd") == content


def test_frames_that_hold_nothing_are_skipped():
    skippable = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"abcde"
    whole = zstandard.compress(b"text")
    assert read(skippable + whole + skippable + whole, "zstd") == b"texttext"
    with pytest.raises(OSError, match="middle"):
        read(whole + skippable[:-1], "zstd")


@pytest.mark.parametrize(("kind", "tool"), [("gzip", "gzip"), ("bzip2", "bzip2"), ("xz", "xz"), ("zstd", "zstd")])
def test_what_the_usual_programs_write_is_read(kind, tool):
    content = b"".join(b"%d bottles\n" % number for number in range(50_000))
    try:
        packed = subprocess.run([tool, "-c"], input=content, capture_output=True, check=True).stdout
    except FileNotFoundError:
        pytest.skip(f"{tool} is not installed")
    assert read(packed, kind) == content
