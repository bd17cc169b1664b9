"""The baselines against the compressors' own one-shot calls, the cache, and sources that do not keep their word."""

import bz2
import json
import lzma
import random
from collections.abc import Iterator
from pathlib import Path

import brotli
import pyppmd
import pytest
import zstandard
from chunks import chunks_of

from data.documents import open_source
from eval import measured
from eval.baselines import NAMES, cached_baselines, measure_baselines
from eval.measured import CorpusBytes, MeasuredSizes

WORDS = "in the beginning God created heaven and earth without form void darkness upon face".split()  # noqa: SIM905
TEXT = " ".join(random.Random(0).choices(WORDS, k=60_000)).encode()
SHORT = TEXT[:20_000]


def test_sizes_are_those_of_one_shot_compression(monkeypatch: pytest.MonkeyPatch) -> None:
    # Small blocks, so that the text makes many of them.
    monkeypatch.setattr(measured, "BLOCK_BYTES", 10_000)
    result = measure_baselines(lambda: chunks_of(TEXT, 777), len(TEXT))
    assert (result.measured_bytes, result.extrapolated) == (len(TEXT), False)
    assert list(result.sizes) == list(NAMES)
    assert result.sizes["bzip2-9"] == len(bz2.compress(TEXT, 9))
    assert result.sizes["xz-9e"] == len(lzma.compress(TEXT, preset=9 | lzma.PRESET_EXTREME))
    assert result.sizes["brotli-11"] == pytest.approx(len(brotli.compress(TEXT, quality=11, lgwin=24)), rel=0.01)
    assert result.sizes["zstd-22"] == pytest.approx(len(zstandard.ZstdCompressor(level=22).compress(TEXT)), rel=0.01)
    assert result.sizes["ppmd"] == pytest.approx(len(pyppmd.compress(TEXT, max_order=6, mem_size=16 << 20)), rel=0.01)


def test_beyond_the_limit_a_prefix_is_measured_and_scaled() -> None:
    half = len(TEXT) // 2
    whole = measure_baselines(lambda: iter([TEXT]), len(TEXT), limit_bytes=half)
    prefix = measure_baselines(lambda: iter([TEXT[:half]]), half)
    assert whole.extrapolated
    assert (whole.measured_bytes, whole.total_bytes) == (half, len(TEXT))
    assert whole.sizes == {name: round(prefix.sizes[name] * len(TEXT) / half) for name in NAMES}


@pytest.mark.parametrize("total_bytes", [len(TEXT) - 1, len(TEXT) + 1])
def test_a_source_of_another_length_is_refused(total_bytes: int) -> None:
    with pytest.raises(ValueError, match="it changed since it was prepared"):
        measure_baselines(lambda: chunks_of(TEXT, 100_000), total_bytes)


def test_an_empty_corpus_costs_headers_only() -> None:
    assert all(0 <= size < 50 for size in measure_baselines(lambda: iter([]), 0).sizes.values())


def test_the_cache_serves_its_own_corpus_and_no_other(tmp_path: Path) -> None:
    reads = []

    def chunks() -> Iterator[bytes]:
        reads.append(1)
        return iter([SHORT])

    first = cached_baselines(CorpusBytes(tmp_path, "a" * 64, chunks, len(SHORT)))
    assert cached_baselines(CorpusBytes(tmp_path, "a" * 64, chunks, len(SHORT))) == first
    assert len(reads) == 1
    cached_baselines(CorpusBytes(tmp_path, "b" * 64, chunks, len(SHORT)))
    cached_baselines(CorpusBytes(tmp_path, "b" * 64, chunks, len(SHORT), limit_bytes=len(SHORT) // 2))
    assert len(reads) == 3
    path = tmp_path / "baselines.json"
    content = json.loads(path.read_text())
    content["key"]["versions"]["brotli"] = "0.0"
    path.write_text(json.dumps(content))
    cached_baselines(CorpusBytes(tmp_path, "b" * 64, chunks, len(SHORT), limit_bytes=len(SHORT) // 2))
    assert len(reads) == 4


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"key": {}, "baselines": {"sizes": {"ppmd": "many"}}}', b" " * 200_000]
)
def test_a_damaged_cache_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "baselines.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"baselines\.json") as caught:
        cached_baselines(CorpusBytes(tmp_path, "a" * 64, lambda: iter([TEXT]), len(TEXT)))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_the_king_james_bible_gives_the_published_sizes() -> None:
    """Verses with their citations, one a line: what gzip -9, bzip2 -9, xz -9e and PPMd-I order 6 make of them."""
    source = open_source("kjv")
    data = b"".join(chunk for chunk, _ in source.chunks())
    result = measure_baselines(lambda: iter([data]), len(data))
    assert result == MeasuredSizes(
        {
            "gzip-9": 1_314_954,  # the program's file is 8 bytes longer: it holds the name kjv.txt
            "bzip2-9": 937_384,
            "xz-9e": 986_260,
            "zstd-22": 1_003_140,
            "brotli-11": 992_147,
            "ppmd": 827_575,
        },
        4_556_413,
        4_556_413,
    )
