"""What a text has in common with a corpus, against a search that takes every window in turn."""

import itertools

import numpy as np
import pytest

from studies.held_out import overlap
from studies.held_out.overlap import Overlap, Passage, Strings, Windows


def searched(text: bytes, documents: list[bytes], window_bytes: int) -> Overlap:
    """By looking every window up in every document."""
    covered: set[int] = set()
    first = {}
    for start in range(len(text) - window_bytes + 1):
        window, before = text[start : start + window_bytes], 0
        for document in documents:
            if (place := document.find(window)) >= 0:
                first[start] = before + place
                covered |= set(range(start, start + window_bytes))
                break
            before += len(document)
    starts = sorted(place for place in covered if place - 1 not in covered)
    ends = sorted(place + 1 for place in covered if place + 1 not in covered)
    passages = [Passage(start, end - start, first[start]) for start, end in zip(starts, ends, strict=True)]
    return Overlap(len(text), tuple(passages))


def sorted_out(text: bytes, documents: list[bytes], window_bytes: int, often: int) -> Overlap:
    """The same, with the boilerplate apart, by counting every string of 16 bytes in every document."""
    found, passages, boilerplate = searched(text, documents, window_bytes), [], []
    for passage in found.passages:
        part = text[passage.text_offset : passage.text_offset + passage.size_bytes]
        left = set(range(len(part)))
        for start in range(len(part) - 15):
            times = sum(document.startswith(part[start : start + 16], place) for document in documents
                        for place in range(len(document)))  # fmt: skip
            if times >= often:
                left -= set(range(start, start + 16))
        short = len(part) <= 8 * window_bytes
        (boilerplate if short and len(left) < window_bytes / 2 else passages).append(passage)
    return Overlap(len(text), tuple(passages), tuple(boilerplate))


def look_at(windows: Windows, documents: list[bytes], cuts: np.random.Generator) -> None:
    for document in documents:
        places = [0, *sorted(cuts.integers(0, len(document) + 1, 4).tolist()), len(document)]
        for start, stop in itertools.pairwise(places):
            windows.look(document[start:stop], stop == len(document) and start != stop)
            assert len(windows.carried) < windows.window_bytes
        windows.look(b"", True)


def streamed(
    text: bytes, documents: list[bytes], window_bytes: int, cuts: np.random.Generator, often: int = 0
) -> Overlap:
    windows = Windows(text, window_bytes)
    look_at(windows, documents, cuts)
    found = windows.overlap()
    if not often or not found.passages:
        return found
    strings = Strings(windows.text, found)
    look_at(strings, documents, cuts)
    return strings.sort_out(window_bytes, often)


@pytest.mark.parametrize("chunk_bytes", [1 << 20, 50])
@pytest.mark.parametrize("seed", range(12))
def test_every_common_window_is_found_and_no_other(
    seed: int, chunk_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overlap, "CHUNK_BYTES", chunk_bytes)
    monkeypatch.setattr(overlap, "COMPARED_BYTES", 40)
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
    assert streamed(text, documents, 64, random) == Overlap(1000, (Passage(200, 200, 5000),))
    assert streamed(text, documents, 100, random) == Overlap(1000, (Passage(200, 200, 5000),))
    assert streamed(text, documents, 101, random) == Overlap(1000, (Passage(250, 150, 5200),))
    assert streamed(text, documents, 64, random).share == 0.2
    # The same bytes, but a document ends among them.
    apart = [other + text[200:250], text[250:300]]
    assert streamed(text, apart, 51, random) == Overlap(1000)
    assert streamed(text, apart, 50, random) == Overlap(1000, (Passage(200, 100, 5000),))


def test_a_text_seen_whole_is_covered_whole_even_if_it_repeats_itself() -> None:
    text = b"\0" * 500 + b"once upon a time " * 100
    assert streamed(text, [text], 64, np.random.default_rng(0)) == Overlap(2200, (Passage(0, 2200, 0),))


def test_boilerplate_does_not_count_and_copies_do() -> None:
    random = np.random.default_rng(0)
    line = random.bytes(90)
    pages = [random.bytes(300) for _ in range(40)]
    corpus = [b"".join(line + page for page in pages)]
    unseen = line.join(random.bytes(400) for _ in range(5))
    assert streamed(unseen, corpus, 64, random).share > 0.1
    assert streamed(unseen, corpus, 64, random, 10).share == 0
    assert len(streamed(unseen, corpus, 64, random, 10).boilerplate) == 4
    # The corpus has the line 40 times.
    assert streamed(unseen, corpus, 64, random, 41).share > 0.1
    copied = streamed(unseen + line + pages[7] + line, corpus, 64, random, 10)
    (passage,) = copied.passages
    assert passage == Passage(len(unseen), 480, 0)
    # Half of a window is left beside the line, or a byte less.
    for extra, share in ((31, 0), (32, 122 / 522)):
        found = streamed(line + pages[9][:extra] + random.bytes(400), corpus, 64, np.random.default_rng(1), 10)
        assert found.share == pytest.approx(share, abs=0.005)
    # A long text that the corpus repeats is no boilerplate.
    again = [b"".join(pages[:3]) * 20]
    assert streamed(pages[1] + pages[2], again, 64, random, 10).share == 1


@pytest.mark.parametrize("seed", range(4))
def test_boilerplate_is_what_every_string_says(seed: int) -> None:
    random = np.random.default_rng(seed)
    words = [random.integers(0, 256, int(size), np.uint8).tobytes() for size in random.integers(1, 40, 12)]
    make = lambda size: b"".join(words[n] for n in random.integers(0, len(words), size))  # noqa: E731
    text, documents = make(40), [make(30), make(25)]
    counted = [sorted_out(text, documents, 24, often) for often in (2, 3, 6)]
    assert any(overlap.boilerplate and overlap.passages for overlap in counted)
    for often, expected in zip((2, 3, 6), counted, strict=True):
        assert streamed(text, documents, 24, random, often) == expected


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
