"""What a text has in common with a corpus, against a search that takes every window in turn."""

import itertools

import numpy as np
import pytest

from studies.held_out import command
from studies.held_out.command import Overlap, Windows


def searched(text: bytes, documents: list[bytes], window_bytes: int) -> Overlap:
    covered, first = set(), (-1, -1)
    for start in range(len(text) - window_bytes + 1):
        window, before = text[start : start + window_bytes], 0
        for document in documents:
            if (place := document.find(window)) >= 0:
                first = first if covered else (start, before + place)
                covered |= set(range(start, start + window_bytes))
                break
            before += len(document)
    return Overlap(len(text), len(covered), *first)


def streamed(text: bytes, documents: list[bytes], window_bytes: int, cuts: np.random.Generator) -> Overlap:
    windows = Windows(text, window_bytes)
    for document in documents:
        places = [0, *sorted(cuts.integers(0, len(document) + 1, 4).tolist()), len(document)]
        for start, stop in itertools.pairwise(places):
            windows.look(document[start:stop], stop == len(document) and start != stop)
            assert len(windows.carried) < window_bytes
        windows.look(b"", True)
    return windows.overlap()


@pytest.mark.parametrize("chunk_bytes", [1 << 20, 50])
@pytest.mark.parametrize("seed", range(12))
def test_every_common_window_is_found_and_no_other(
    seed: int, chunk_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "CHUNK_BYTES", chunk_bytes)
    monkeypatch.setattr(command, "COMPARED_BYTES", 40)
    random = np.random.default_rng(seed)
    letters = random.integers(2, 4)
    make = lambda size: random.integers(0, letters, size, np.uint8).tobytes()  # noqa: E731
    # With windows of 8 of few letters, much is common by chance; with 12, little is.
    text, documents = make(300), [make(int(size)) for size in random.integers(0, 400, 4)]
    for window_bytes in 8, 12, 20:
        expected = searched(text, documents, window_bytes)
        assert streamed(text, documents, window_bytes, random) == expected
    assert searched(text, documents, 8).seen_bytes > 0


def test_offsets_shares_and_documents() -> None:
    random = np.random.default_rng(0)
    text, other = random.bytes(1000), random.bytes(5000)
    documents = [other[:3000], other[3000:] + text[200:300] + other[:100] + text[250:400]]
    assert streamed(text, documents, 64, random) == Overlap(1000, 200, 200, 5000)
    assert streamed(text, documents, 100, random) == Overlap(1000, 200, 200, 5000)
    assert streamed(text, documents, 101, random) == Overlap(1000, 150, 250, 5200)
    assert streamed(text, documents, 64, random).share == 0.2
    # The same bytes, but a document ends among them.
    apart = [other + text[200:250], text[250:300]]
    assert streamed(text, apart, 51, random) == Overlap(1000, 0, -1, -1)
    assert streamed(text, apart, 50, random) == Overlap(1000, 100, 200, 5000)


def test_a_text_seen_whole_is_covered_whole_even_if_it_repeats_itself() -> None:
    text = b"\0" * 500 + b"once upon a time " * 100
    assert streamed(text, [text], 64, np.random.default_rng(0)) == Overlap(2200, 2200, 0, 0)


def test_equal_hashes_alone_are_not_called_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    text, corpus = random.bytes(200), random.bytes(200)
    monkeypatch.setattr(Windows, "hashes", lambda self, data: data[self.window_bytes - 1 :] * np.uint64(0))
    windows = Windows(text, 16)
    windows.look(corpus, True)
    assert windows.overlap().seen_bytes == 0


@pytest.mark.parametrize(("size", "window_bytes"), [(63, 64), (100, 7), (0, 8)])
def test_texts_without_windows_are_refused(size: int, window_bytes: int) -> None:
    with pytest.raises(ValueError, match=f"{size:,} bytes"):
        Windows(bytes(size), window_bytes)
