"""Bytes to tokens by somebody else's tokenizer. What its own segmentation would lose is spelled in single bytes."""

import re

import numpy as np

from data.bpe import Encoder
from data.describe import LONGEST_LISTED
from data.errors import UsageError
from data.joins import MAX_PIECES
from data.tokenizer import Tokenizer
from data.tokenizer_files import KINDS, Segmenter, TokenizerFile, read_tokenizer_file

# What bytes that are not UTF-8 become in `surrogateescape`.
NO_TEXT = re.compile("([\udc80-\udcff]+)")


def usable_pieces(file: TokenizerFile, segmenter: Segmenter) -> set[bytes]:
    """The pieces that get a token beside the single bytes. Raises UsageError if they are too many."""
    found = {piece for piece in segmenter.pieces if 1 < len(piece) <= LONGEST_LISTED}
    if 256 + len(found) > MAX_PIECES:
        remedy = f"{MAX_PIECES:,} is the most: give a smaller one"
        raise file.error(f"it makes {256 + len(found):,} different pieces, single bytes among them", remedy)
    return found


def open_encoder(tokenizer: Tokenizer, name: str = "") -> "Encoder | FileEncoder":
    """The encoder of a tokenizer. `name` is what data.tokenizer says. Raises UsageError if a file that it names is not
    that of the tokenizer, and for ids of token files, which have none."""
    if tokenizer.kind == "tokens":
        raise UsageError("the run's tokens are ids of token files, and no text turns into those: take a run over text")
    if tokenizer.kind != "file":
        return Encoder(tokenizer)
    if name in KINDS:
        raise UsageError(f"data.tokenizer {name} names no file, but the tokenizer is that of a file")
    file = read_tokenizer_file(name)
    segmenter = file.open()
    if usable_pieces(file, segmenter) != set(tokenizer.pieces[256:-1]):
        raise file.error("its pieces are not those that it had at first", "put the file back")
    return FileEncoder(tokenizer, segmenter)


class FileEncoder:
    """Encoder (data/bpe.py), by a segmenter. `escaped` counts the bytes that became single bytes because the
    segmenter would have lost them."""

    def __init__(self, tokenizer: Tokenizer, segmenter: Segmenter):
        self.tokenizer, self.segmenter, self.escaped = tokenizer, segmenter, 0
        self.dtype = np.dtype("<u2" if tokenizer.vocabulary <= 1 << 16 else "<u4")
        self._numbers = {piece: number for number, piece in enumerate(tokenizer.pieces[:-1])}
        # By the segmenter's own numbers, the tokens; -1 stands for none.
        self._tokens = np.array([self._numbers.get(piece, -1) for piece in segmenter.pieces])

    def encode(self, data: bytes) -> np.ndarray:
        """Tokens [N], dtype as on disk, of which `tokenizer.decode` gives exactly these bytes."""
        before, tokens = self.escaped, []
        for part in NO_TEXT.split(data.decode("utf-8", "surrogateescape")):
            if NO_TEXT.match(part):
                tokens += self._spell(part.encode("utf-8", "surrogateescape"))
            elif part:
                tokens += self._cut(part)
        if self.tokenizer.decode(tokens) != data:
            # Only if a package's spans are not what they should be.
            self.escaped = before + len(data)
            tokens = [*data]
        return np.array(tokens, self.dtype)

    def _spell(self, data: bytes) -> list[int]:
        """A piece of its own, or single bytes."""
        if data in self._numbers and len(data) > 1:
            return [self._numbers[data]]
        self.escaped += len(data)
        return [*data]

    def _cut(self, text: str) -> list[int]:
        """Tokens of a text, by the segmenter as far as it loses nothing."""
        data, numbers = text.encode(), self.segmenter.segment(text)
        tokens = self._tokens[numbers]
        if len(tokens) and tokens.min() >= 0:
            found = self.tokenizer.decode(tokens.tolist())
            if found == data:
                return list(tokens.tolist())
            # Many put a space before each text.
            if found == b" " + data:
                first = self.tokenizer.pieces[tokens[0]][1:]
                return [*(self._spell(first) if first else []), *tokens[1:].tolist()]
        if self.segmenter.spans is not None:
            return self._join_spans(data, *self.segmenter.spans(text))
        lines = text.splitlines(keepends=True)
        return self._spell(data) if len(lines) < 2 else [token for line in lines for token in self._cut(line)]

    def _join_spans(self, data: bytes, numbers: list[int], spans: list[tuple[int, int]]) -> list[int]:
        """The same, span by span: tokens where they spell the bytes that they stand for."""
        tokens: list[int] = []
        done = start = stop = 0
        group: list[int] = []
        ids = self._tokens[numbers].tolist() if numbers else []
        for token, (first, last) in [*zip(ids, spans, strict=True), (-1, (len(data), len(data)))]:
            # Tokens that share a character, or that stand for nothing, belong together.
            if group and first >= stop > start:
                part = data[start:stop]
                whole = min(group) >= 0 and self.tokenizer.decode(group) == part
                tokens += group if whole else self._spell(part)
                done, group = stop, []
            if not group:
                start = max(first, done)
                stop = start
                if done < start:
                    tokens += self._spell(data[done:start])
                    done = start
            group.append(token)
            stop = max(stop, last)
        return tokens + self._spell(data[done:])
