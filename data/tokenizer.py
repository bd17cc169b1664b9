"""What a decoder needs of a tokenizer: the bytes of every token. data/bpe.py holds the other direction.

Tokens 0 to 255 are the bytes; then come the learned pieces, each the join of two earlier tokens; the last token ends a
document. Which joins there are is written as one large integer by asymmetric numeral systems (Duda, arXiv:1311.2540)
under adaptive counts: 8 to 9 bits a piece (research/ has a note on alternatives).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Tokenizer:
    """A vocabulary, as a decoder sees it."""

    kind: str
    encoding: bytes
    """What rebuilds `pieces`; its length is the charge for the tokenizer, in bytes."""
    pieces: list[bytes]
    """Bytes of each token; of the end of a document, none."""

    @property
    def vocabulary(self) -> int:
        """Number of tokens."""
        return len(self.pieces)

    @property
    def end_of_document(self) -> int:
        """The token that ends a document."""
        return len(self.pieces) - 1

    def decode(self, tokens: Iterable[int]) -> bytes:
        """The bytes that the tokens stand for; document ends stand for none. Raises IndexError on foreign tokens."""
        return b"".join(map(self.pieces.__getitem__, tokens))


def load_tokenizer(kind: str, encoding: bytes) -> Tokenizer:
    """Rebuild the tokenizer that data.bpe.encode_pieces wrote; from nothing, the bytes alone.

    Raises IndexError on some encodings that it did not write, and in any case ends.
    """
    state = int.from_bytes(encoding, "big")

    def draw(weights: np.ndarray) -> int:
        nonlocal state
        sums = weights.cumsum()
        state, rest = divmod(state, int(sums[-1]))
        index = int(sums.searchsorted(rest, "right"))
        weight = int(weights[index])
        state = state * weight + rest - int(sums[index]) + weight
        return index

    return Tokenizer(kind, encoding, [*grow_pieces(draw), b""])


def grow_pieces(draw: Callable[[np.ndarray], int]) -> list[bytes]:
    """Every piece in turn names the tokens up to itself that join it on its right (side 0), then on its left (side 1).

    `draw` picks an index with probability in proportion to the integer weights. 0 of a pair ends a row of joins; else
    a partner follows, above the row's last one.
    """
    pieces = [bytes([byte]) for byte in range(256)]
    # First and last byte of each piece; how often it was the partner on a side; which bytes met at a join.
    ends = np.zeros((2, 1 << 17), int)
    ends[:, :256] = range(256)
    partners = np.ones((2, 1 << 17), int)
    meetings = np.ones((256, 256), int)
    rows = np.ones((2, 2, 32, 8, 2), int)
    for number, piece in enumerate(pieces):
        for side in 0, 1:
            start, stop = 0, number + 1 - side
            # Pieces of 16 bytes and more join nothing, so that no input can make them endless.
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
