"""Tokens to bytes: what a decoder needs of a tokenizer. data/bpe.py holds the other direction.

Tokens 0 to 255 are the bytes. Then come the learned pieces, each the join of two smaller ones, and the last token ends
a document. One large integer says which joins there are, coded with asymmetric numeral systems (Duda, arXiv:1311.2540)
under adaptive counts: 8 to 9 bits a piece (research/ has a note on alternatives).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Tokenizer:
    """A vocabulary as a decoder sees it."""

    kind: str
    encoding: bytes
    """What rebuilds `pieces`; its length is the charge for the tokenizer, in bytes."""
    pieces: list[bytes]
    """Bytes of each token; empty for the end of a document. Of token files, see data/token_pieces.py."""

    @property
    def vocabulary(self) -> int:
        """Number of tokens."""
        return len(self.pieces)

    @property
    def end_of_document(self) -> int:
        """The token that ends a document."""
        return len(self.pieces) - 1

    def decode(self, tokens: Iterable[int]) -> bytes:
        """The bytes that the tokens stand for; document ends stand for nothing. Raises IndexError on unknown tokens."""
        return b"".join(map(self.pieces.__getitem__, tokens))


def load_tokenizer(kind: str, encoding: bytes) -> Tokenizer:
    """Rebuild the tokenizer that data.bpe.encode_pieces wrote. An empty encoding gives the bytes alone.

    Ends on any input. Raises IndexError on some encodings that encode_pieces did not write.
    """
    if kind == "file":
        from data.joins import read_joins

        return Tokenizer(kind, encoding, [*in_order(read_joins(encoding)), b""])
    if kind == "tokens":
        from data.token_pieces import read_pieces

        return Tokenizer(kind, encoding, read_pieces(encoding))
    state = int.from_bytes(encoding, "big")

    def draw(weights: np.ndarray) -> int:
        nonlocal state
        sums = weights.cumsum()
        state, rest = divmod(state, int(sums[-1]))
        index = int(sums.searchsorted(rest, "right"))
        weight = int(weights[index])
        state = state * weight + rest - int(sums[index]) + weight
        return index

    return Tokenizer(kind, encoding, [*in_order(grow_pieces(draw)), b""])


def in_order(pieces: Iterable[bytes]) -> list[bytes]:
    """Single bytes, other pieces without a space in front, and those with one, the short ones first: so the first bits
    of a token's number, which context mixing counts first, say what kind of piece it is, and how common."""
    return sorted(pieces, key=lambda piece: (piece[:1] == b" " < piece, len(piece), piece))


def grow_pieces(draw: Callable[[np.ndarray], int]) -> list[bytes]:
    """Grow the vocabulary: for each piece in turn, draw the earlier tokens that join it on its right (side 0), then
    those on its left (side 1).

    `draw` picks an index with probability in proportion to the integer weights. A row of partners ends where 0 is drawn
    of a pair of weights. Otherwise the next partner is drawn, from those above the row's last one.
    """
    pieces = [bytes([byte]) for byte in range(256)]
    # First and last byte of each piece; how often it was the partner on a side; how often two bytes met at a join.
    ends = np.zeros((2, 1 << 18), int)
    ends[:, :256] = range(256)
    partners = np.ones((2, 1 << 18), int)
    meetings = np.ones((256, 256), int)
    rows = np.ones((2, 2, 32, 8, 2), int)
    for number, piece in enumerate(pieces):
        for side in 0, 1:
            start, stop = 0, number + 1 - side
            # Pieces of 16 bytes and more get no partners, so that no input makes pieces without end.
            while len(piece) < 16:
                row = rows[side, min(start, 1), number.bit_length(), piece[0] >> 5]
                more = draw(row)
                row[more] += 1
                if not more:
                    break
                met = (meetings.T if side else meetings)[piece[side - 1]]
                start += draw(partners[side, start:stop] * met[ends[side, start:stop]])
                partners[side, start] += 5
                met[ends[side, start]] += 1
                pieces.append(pieces[start] + piece if side else piece + pieces[start])
                ends[:, len(pieces) - 1] = pieces[-1][0], pieces[-1][-1]
                start += 1
    return pieces
