"""The smallest description of a set of pieces that somebody else's tokenizer has; data/joins.py reads it."""

import contextlib
import hashlib
import lzma
import struct
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import numpy as np

import data.joins
from data.files import write_file
from data.joins import LONGEST, WORD_BYTES, grow_joins
from data.shards import MAX_ENCODING_BYTES, MAX_PIECES_BYTES, cut_pieces, pieces_content
from data.tokenizer import Tokenizer, load_tokenizer

LONGEST_LISTED = 255
# The file of a description that was made before, in a folder of its own, by which data/listing.py knows it.
KEPT = "onepass-description.bin"


def describe_pieces(pieces: Collection[bytes]) -> bytes:
    """The shortest encoding of a set of pieces of 2 to 255 bytes. Those that are no joins of two others are listed; or
    all of them, if that is shorter."""
    wanted = set(pieces)
    known = wanted | {bytes([byte]) for byte in range(256)}
    alone = {piece for piece in wanted if not any(_splits(piece, known))}
    joined = _encode(alone, wanted)
    return joined if len(joined) <= len(listed_bytes(wanted)) else _encode(wanted, wanted)


def tokenizer_of(pieces: Collection[bytes], cache_dir: Path | None = None) -> Tokenizer:
    """The tokenizer of a set of pieces, as a decoder will see it. To describe a large set takes up to a minute: what an
    earlier call with a cache_dir made is found there."""
    wanted = {piece for piece in pieces if len(piece) > 1}
    path = cache_dir / f"tokenizer-{_identity(wanted)[:16]}" / KEPT if cache_dir else None
    if path and (kept := _read_kept(path)) and set(kept.pieces[256:-1]) == wanted:
        return kept
    tokenizer = load_tokenizer("file", describe_pieces(wanted))
    assert set(tokenizer.pieces[256:-1]) == wanted, "the description of the pieces does not decode"
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        sizes = struct.pack("<2I", len(tokenizer.encoding), tokenizer.vocabulary)
        content = sizes + tokenizer.encoding + pieces_content(tokenizer)
        write_file(path, hashlib.sha256(content).digest() + content)
    return tokenizer


def _identity(pieces: set[bytes]) -> str:
    """SHA-256 of the pieces, and of the code that describes them: another code may find another description."""
    digest = hashlib.sha256()
    for file in __file__, data.joins.__file__:
        digest.update(Path(file).read_bytes())
    for piece in sorted(pieces):
        digest.update(b"%d " % len(piece) + piece)
    return digest.hexdigest()


def _read_kept(path: Path) -> Tokenizer | None:
    """What tokenizer_of wrote; None if it is not there, or not whole."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        digest, content = file.read(32), file.read(8 + MAX_ENCODING_BYTES + MAX_PIECES_BYTES)
        if hashlib.sha256(content).digest() == digest:
            encoding_bytes, vocabulary = struct.unpack_from("<2I", content)
            pieces = 8 + encoding_bytes
            return Tokenizer("file", content[8:pieces], cut_pieces(content[pieces:], vocabulary))
    return None


def listed_bytes(pieces: Iterable[bytes]) -> bytes:
    """Pieces as LZMA of a sorted list, each by what it shares with the one before."""
    shared, lengths, rests, last = bytearray(), bytearray(), bytearray(), b""
    for piece in sorted(pieces):
        same = next((place for place, (a, b) in enumerate(zip(last, piece, strict=False)) if a != b), len(last))
        shared.append(same)
        lengths.append(len(piece) - same)
        rests += piece[same:]
        last = piece
    text = len(shared).to_bytes(3, "big") + shared + lengths + rests
    filters = [{"id": lzma.FILTER_LZMA1, "preset": 9 | lzma.PRESET_EXTREME, "lc": 0, "pb": 0, "dict_size": 1 << 24}]
    return lzma.compress(text, format=lzma.FORMAT_ALONE, filters=filters)


def _splits(piece: bytes, known: set[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """The pairs of known pieces that join to a piece, where both may have partners."""
    for cut in range(max(1, len(piece) - LONGEST + 1), min(len(piece), LONGEST)):
        if piece[:cut] in known and piece[cut:] in known:
            yield piece[:cut], piece[cut:]


def _encode(listed: set[bytes], wanted: set[bytes]) -> bytes:
    first = [*(bytes([byte]) for byte in range(256)), *sorted(listed)]
    choices = _choices([*first], wanted)
    coded: list[tuple[int, int, int]] = []

    def draw(weights: np.ndarray) -> int:
        index = next(choices)
        coded.append((int(weights[index]), int(weights[:index].sum()), int(weights.sum())))
        return index

    grow_joins(first, draw)
    state, words, size = 0, [], 8 * WORD_BYTES
    for weight, below, total in reversed(coded):
        after = state // weight * total + below + state % weight
        if after >= 1 << 2 * size:
            words.append((state & (1 << size) - 1).to_bytes(WORD_BYTES, "big"))
            state >>= size
            after = state // weight * total + below + state % weight
        state = after
    head = state.to_bytes(2 * WORD_BYTES if words else (state.bit_length() + 7) // 8, "big")
    return listed_bytes(listed) + head + b"".join(reversed(words))


def _choices(pieces: list[bytes], wanted: set[bytes]) -> Iterator[int]:
    """What grow_joins has to draw, in turn, in order to add the wanted pieces."""
    numbers = {piece: number for number, piece in enumerate(pieces)}
    known = wanted | numbers.keys()
    partners: dict[tuple[int, bytes], list[bytes]] = defaultdict(list)
    for piece in wanted - numbers.keys():
        for left, right in _splits(piece, known):
            partners[0, left].append(right)
            partners[1, right].append(left)
    sizes = np.zeros((2, 256), int)
    places: list[list[int]] = [[], []]
    for number, piece in enumerate(pieces):
        for side in 0, 1:
            places[side].append(int(sizes[side, piece[-side]]))
            sizes[side, piece[-side]] += 1
        if len(piece) >= LONGEST:
            continue
        for side in 0, 1:
            byte = place = 0
            others = [(other[-side], numbers[other]) for other in partners[side, piece] if other in numbers]
            for touching, other in sorted(others):
                joined = pieces[other] + piece if side else piece + pieces[other]
                if other <= number and joined not in numbers:
                    yield from (1, touching)
                    place = place if touching == byte else 0
                    yield places[side][other] - place
                    byte, place = touching, places[side][other] + 1
                    numbers[joined] = len(pieces)
                    pieces.append(joined)
            yield 0
