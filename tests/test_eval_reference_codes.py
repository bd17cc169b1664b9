"""Reference codes against naive loops, entropies and a real network that has learned nothing; and their cache."""

import json
import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from eval.measured import CorpusBytes
from eval.reference_codes import KRICHEVSKY_TROFIMOV, PERKS, cached_codes, count_codes, reference_codes
from model.lm import LanguageModel
from train.config import Config, ModelConfig

WORDS = "in the beginning God created heaven and earth without form void darkness upon face".split()  # noqa: SIM905
TEXT = " ".join(random.Random(0).choices(WORDS, k=3_000)).encode()


def naive_bits(data: bytes, order: int, start: float) -> float:
    """One byte after the other, each coded before it is counted."""
    seen: dict[bytes, Counter[int]] = defaultdict(Counter)
    bits, padded = 0.0, bytes(order) + data
    for place, byte in enumerate(data):
        here = seen[padded[place : place + order]]
        bits -= math.log2((here[byte] + start) / (here.total() + 256 * start))
        here[byte] += 1
    return bits


@pytest.mark.parametrize("data", [TEXT, bytes(500), np.random.default_rng(0).bytes(3000), b"x", b""])
@pytest.mark.parametrize("chunk_bytes", [1, 777, 1 << 20])
def test_counts_give_what_coding_byte_after_byte_does(data: bytes, chunk_bytes: int) -> None:
    if chunk_bytes == 1:
        data = data[:500]
    chunks = (data[start : start + chunk_bytes] for start in range(0, len(data), chunk_bytes))
    codes = count_codes(lambda: chunks, len(data))
    assert codes.order_0_bits == pytest.approx(naive_bits(data, 0, KRICHEVSKY_TROFIMOV), rel=1e-9)
    assert codes.order_2_bits == pytest.approx(naive_bits(data, 2, PERKS), rel=1e-9)


def test_contexts_reach_over_the_slices_of_a_large_chunk() -> None:
    data = np.random.default_rng(1).integers(0, 3, (1 << 20) + 1000, dtype=np.uint8).tobytes()
    whole = count_codes(lambda: iter([data]), len(data))
    parts = count_codes(lambda: (data[start : start + 9999] for start in range(0, len(data), 9999)), len(data))
    assert whole == parts


def test_order_0_lies_above_the_entropy_of_the_bytes_and_near_it() -> None:
    counts = np.array(list(Counter(TEXT).values()))
    entropy_bits = -(counts * np.log2(counts / counts.sum())).sum()
    learning_bits = count_codes(lambda: iter([TEXT]), len(TEXT)).order_0_bits - entropy_bits
    # 255 free probabilities at half of log2 N bits each are what no such code can do without, at worst.
    assert 0 < learning_bits < 255 / 2 * math.log2(len(TEXT)) + 1


def test_the_extremes() -> None:
    codes = reference_codes(count_codes(lambda: iter([TEXT]), len(TEXT)), tokens=1001, vocabulary=2048)
    assert codes.sizes["oracle"] == 0
    assert codes.sizes["uniform"] == len(TEXT)
    assert codes.sizes["untrained"] * 8 / 1001 == 11
    assert 0 < codes.sizes["order-2"] < codes.sizes["order-0"] < codes.sizes["uniform"]


@pytest.mark.parametrize("orders", [None, []], ids=["mixing", "no mixing"])
@pytest.mark.parametrize("vocabulary", [257, Config().data.vocabulary, 1000])
def test_an_untrained_network_costs_what_the_reference_code_does(orders: list[int] | None, vocabulary: int) -> None:
    config = ModelConfig(ngram_rows_log2=12) if orders is None else ModelConfig(ngram_orders=orders)
    model = LanguageModel(config, vocabulary)
    targets = torch.from_numpy(np.random.default_rng(0).integers(0, vocabulary, (2, 24)))
    history = torch.cat([torch.zeros(2, model.context, dtype=torch.int64), targets[:, :-1]], 1)
    with torch.no_grad():
        nats, _ = model(history, model.init_state(2), targets)
    codes = reference_codes(count_codes(lambda: iter([b"x"]), 1), tokens=targets.numel(), vocabulary=vocabulary)
    # Every token for itself, and all of them together.
    assert (nats / math.log(2)).numpy() == pytest.approx(np.full((2, 24), math.log2(vocabulary)), rel=2e-6)
    assert nats.double().sum().item() / math.log(2) / 8 == pytest.approx(codes.sizes["untrained"], rel=1e-6)


def test_beyond_the_limit_a_prefix_is_counted_and_scaled() -> None:
    half = len(TEXT) // 2
    whole, prefix = count_codes(lambda: iter([TEXT]), len(TEXT), half), count_codes(lambda: iter([TEXT[:half]]), half)
    assert (whole.measured_bytes, whole.total_bytes) == (half, len(TEXT))
    assert whole.order_2_bits == pytest.approx(prefix.order_2_bits * len(TEXT) / half)
    assert reference_codes(whole, 1, 2).extrapolated
    assert not reference_codes(prefix, 1, 2).extrapolated
    assert reference_codes(whole, 1, 2).sizes["uniform"] == len(TEXT)


@pytest.mark.parametrize("total_bytes", [len(TEXT) - 1, len(TEXT) + 1])
def test_a_source_of_another_length_is_refused(total_bytes: int) -> None:
    with pytest.raises(ValueError, match="it changed since it was prepared"):
        count_codes(lambda: iter([TEXT]), total_bytes)


def test_the_cache_serves_its_own_corpus_and_no_other(tmp_path: Path) -> None:
    reads = []

    def chunks() -> Iterator[bytes]:
        reads.append(1)
        return iter([TEXT])

    first = cached_codes(CorpusBytes(tmp_path, "a" * 64, chunks, len(TEXT)))
    assert cached_codes(CorpusBytes(tmp_path, "a" * 64, chunks, len(TEXT))) == first
    assert len(reads) == 1
    cached_codes(CorpusBytes(tmp_path, "b" * 64, chunks, len(TEXT)))
    path = tmp_path / "codes.json"
    content = json.loads(path.read_text())
    content["key"]["measurement"] = 0
    path.write_text(json.dumps(content))
    cached_codes(CorpusBytes(tmp_path, "b" * 64, chunks, len(TEXT)))
    assert len(reads) == 3
    path.write_text("[]")
    with pytest.raises(ValueError, match=r"codes\.json"):
        cached_codes(CorpusBytes(tmp_path, "b" * 64, chunks, len(TEXT)))
