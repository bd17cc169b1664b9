"""Pieces of a tokenizer that somebody else trained, as a decoder rebuilds them. data/describe.py writes them.

Some pieces are no joins of two others: these are listed, sorted, by the length of what each shares with the piece
before it, the length of the rest, and the rest (LZMA). The others are joins, as in data/tokenizer.py. This form draws
the byte of a partner that touches the piece, then a partner with that byte, so that each draw looks at few partners.
"""

import io
import lzma
from collections.abc import Callable

import numpy as np

# 262,144 tokens, with all bytes and an end of document.
MAX_PIECES = (1 << 18) + 256
# Pieces of this many bytes get no partners, so that no input makes pieces without end.
LONGEST = 64
# The coder keeps numbers of 2 ** 2048 to 2 ** 4096: dividing by a total of weights rounds nothing that matters.
WORD_BYTES = 256


def read_joins(encoding: bytes) -> list[bytes]:
    """The pieces that data.describe.describe_pieces wrote, after the single bytes.

    Ends on any input. Raises IndexError or lzma.LZMAError on some that it did not write.
    """
    listed = lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=64 << 20)
    text = listed.decompress(encoding, 1 << 26)
    count = min(int.from_bytes(text[:3], "big"), MAX_PIECES)
    pieces = [bytes([byte]) for byte in range(256)]
    last, start = b"", 3 + 2 * count
    for index in range(3, 3 + count):
        stop = start + text[index + count]
        last = last[: text[index]] + text[start:stop]
        pieces.append(last)
        start = stop
    words = io.BytesIO(listed.unused_data)
    state = int.from_bytes(words.read(2 * WORD_BYTES), "big")

    def draw(weights: np.ndarray) -> int:
        nonlocal state
        sums = weights.cumsum()
        state, rest = divmod(state, max(1, int(sums[-1])))
        index = int(sums.searchsorted(rest, "right"))
        weight = int(weights[index])
        state = state * weight + rest - int(sums[index]) + weight
        if state < 1 << 8 * WORD_BYTES:
            word = words.read(WORD_BYTES)
            state = state << 8 * len(word) | int.from_bytes(word, "big")
        return index

    grow_joins(pieces, draw)
    return pieces


def grow_joins(pieces: list[bytes], draw: Callable[[np.ndarray], int]) -> None:
    """Add the joins to `pieces`: for each piece in turn, draw those that join it on its right (side 0), then those on
    its left (side 1), by the byte that touches it, then by number. `draw` is that of data.tokenizer.grow_pieces."""
    # By side and by the byte that touches: pieces, how often each was a partner, and the sums of that.
    members: list[list[list[int]]] = [[[] for _ in range(256)] for _ in range(2)]
    partners = [[np.ones(1, int) for _ in range(256)] for _ in range(2)]
    sums = np.zeros((2, 256), int)
    meetings = np.ones((256, 256), int)
    rows = np.ones((2, 2, 32, 8, 2), int)
    for number, piece in enumerate(pieces):
        if len(pieces) > MAX_PIECES:
            raise IndexError(f"more than {MAX_PIECES} pieces")
        for side in 0, 1:
            byte = piece[-side]
            members[side][byte].append(number)
            sums[side, byte] += 1
            if len(members[side][byte]) > len(partners[side][byte]):
                partners[side][byte] = np.concatenate([partners[side][byte], np.ones_like(partners[side][byte])])
        for side in 0, 1:
            met = (meetings.T if side else meetings)[piece[side - 1]]
            byte = place = begun = 0
            while len(piece) < LONGEST:
                row = rows[side, begun, number.bit_length(), piece[0] >> 5]
                begun = draw(row)
                row[begun] += 1
                if not begun:
                    break
                # Partners ascend within a row.
                weights = met * sums[side]
                weights[:byte] = 0
                weights[byte] -= met[byte] * partners[side][byte][:place].sum()
                chosen = draw(weights)
                place, byte = place if chosen == byte else 0, chosen
                place += draw(partners[side][byte][place : len(members[side][byte])])
                partners[side][byte][place] += 5
                sums[side, byte] += 5
                met[byte] += 1
                other = pieces[members[side][byte][place]]
                pieces.append(other + piece if side else piece + other)
                place += 1
