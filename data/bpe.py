"""Bytes to tokens: learn pieces, describe them in few bytes, cut bytes into the fewest pieces.

sentencepiece works on text, so it sees every byte as one character. Any bytes are therefore legal input, and a piece
may end inside a UTF-8 character. Of sentencepiece's special characters only the space can occur.
"""

import io
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import chain

import numpy as np
import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from data.errors import UsageError
from data.token_pieces import MAX_IDS
from data.tokenizer import Tokenizer, grow_pieces, load_tokenizer

# Printable ASCII stands for itself, every other byte becomes a Latin letter.
CHARACTERS = [chr(byte if 32 <= byte < 127 else byte + 0x100) for byte in range(256)]
UNKNOWN = "\ufffd"
# A piece stays inside one of these: digits, punctuation, or anything else (letters, bytes above 127, line ends), each
# with the space before it. Pieces without this limit make fewer tokens but more bits (research/ has a note).
WORD = re.compile(rb" ?(?:[0-9]{1,64}|[!-/:-@[-`{-~]{1,64}|[^ -@[-`{-~]{1,64})| ")
MAX_WORDS = 250_000
# sentencepiece is fastest on a few thousand characters at a time.
BLOCK_CHARACTERS = 4096

_translation = dict(enumerate(CHARACTERS))
_byte_of = {character: byte for byte, character in enumerate(CHARACTERS)} | {"\u2581": 32}


def _characters(data: bytes) -> str:
    return data.decode("latin-1").translate(_translation)


def _count_words(chunks: Iterable[bytes], sample_bytes: int) -> Counter[bytes]:
    """Count the words in the first sample_bytes; drop rare ones if there are too many, so that memory does not grow."""
    words: Counter[bytes] = Counter()
    for chunk in chunks:
        words.update(WORD.findall(chunk[:sample_bytes]))
        sample_bytes -= len(chunk)
        if len(words) > 4 * MAX_WORDS or sample_bytes <= 0:
            words = Counter(dict(words.most_common(MAX_WORDS)))
        if sample_bytes <= 0:
            break
    return words


def train_pieces(chunks: Iterable[bytes], vocabulary: int, sample_bytes: int) -> list[bytes]:
    """Learn vocabulary - 257 pieces of two bytes or more, or as many as there are, by byte-pair encoding over the first
    sample_bytes. Raises UsageError if the vocabulary is out of range."""
    if not 258 <= vocabulary <= MAX_IDS:
        remedy = f"use 258 (256 bytes, document end, one piece) to {MAX_IDS}, or the bytes tokenizer"
        raise UsageError(f"data.vocabulary {vocabulary} is out of range: {remedy}")
    words = _count_words(chunks, sample_bytes)
    model = io.BytesIO()
    if not words:
        return []
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(f"{_characters(word)}\t{count}" for word, count in words.items()),
        input_format="tsv",
        model_writer=model,
        model_type="bpe",
        # sentencepiece counts the unknown and the bytes that occur; we count the document end and every byte.
        vocab_size=vocabulary - 256 + len(set(b"".join(words))),
        # A corpus may give fewer pieces.
        hard_vocab_limit=False,
        character_coverage=1.0,
        unk_piece=UNKNOWN,
        bos_id=-1,
        eos_id=-1,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        # WORD decides where pieces end.
        split_by_whitespace=False,
        split_by_unicode_script=False,
        split_by_number=False,
        num_threads=1,
        minloglevel=2,
    )
    trained = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    pieces = [trained.id_to_piece(index) for index in range(1, trained.vocab_size())]
    return [bytes(map(_byte_of.__getitem__, piece)) for piece in pieces if len(piece) > 1]


def encode_pieces(pieces: Iterable[bytes]) -> bytes:
    """The smallest description of a set of pieces that we have; data.tokenizer.load_tokenizer reads it.

    Raises UsageError on a piece that is not the join of two others, one of them shorter than 16 bytes. Byte-pair
    encoding learns no such piece.
    """
    wanted = set(pieces)
    choices = _choices(wanted)
    coded: list[tuple[int, int, int]] = []

    def draw(weights: np.ndarray) -> int:
        index = next(choices)
        coded.append((int(weights[index]), int(weights[:index].sum()), int(weights.sum())))
        return index

    if wanted != set(grow_pieces(draw)[256:]):
        raise UsageError("a piece is not the join of two others")
    state = 0
    for weight, below, total in reversed(coded):
        state = state // weight * total + below + state % weight
    return state.to_bytes((state.bit_length() + 7) // 8, "big")


def _choices(wanted: set[bytes]) -> Iterator[int]:
    """What grow_pieces has to draw, in turn, in order to grow exactly the wanted pieces."""
    partners: dict[tuple[int, bytes], list[bytes]] = defaultdict(list)
    for piece in wanted:
        for cut in range(1, len(piece)):
            partners[0, piece[:cut]].append(piece[cut:])
            partners[1, piece[cut:]].append(piece[:cut])
    return draws(partners)


def draws(partners: dict[tuple[int, bytes], list[bytes]], longest: int | None = 15) -> Iterator[int]:
    """What grow_pieces has to draw, in turn, in order to join each piece with its `partners`: (0, piece) has those
    after it, (1, piece) those before it. Pieces of more than `longest` bytes, if there is a limit, get no partners."""
    pieces = [bytes([byte]) for byte in range(256)]
    numbers = {piece: number for number, piece in enumerate(pieces)}
    for number, piece in enumerate(pieces):
        if longest is not None and len(piece) > longest:
            continue
        for side in 0, 1:
            start = 0
            for other in sorted(numbers[other] for other in partners[side, piece] if other in numbers):
                joined = pieces[other] + piece if side else piece + pieces[other]
                if other <= number - side and joined not in numbers:
                    yield from (1, other - start)
                    numbers[joined] = len(pieces)
                    pieces.append(joined)
                    start = other + 1
            yield 0


def train_tokenizer(kind: str, chunks: Iterable[bytes], vocabulary: int, sample_bytes: int) -> Tokenizer:
    """Learn a tokenizer. Raises UsageError on an unknown kind or a vocabulary that is out of range."""
    if kind not in ("bytes", "bpe"):
        raise UsageError(f"data.tokenizer {kind!r} is unknown; use 'bytes' or 'bpe'")
    encoding = b"" if kind == "bytes" else encode_pieces(train_pieces(chunks, vocabulary, sample_bytes))
    return load_tokenizer(kind, encoding)


class Encoder:
    """Bytes to tokens: the fewest pieces that spell them, which a unigram model with equal scores finds. So the pieces
    alone decide the tokens, and a decoder needs no merge ranks or scores."""

    escaped = 0

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self.dtype = np.dtype("<u2" if tokenizer.vocabulary <= 1 << 16 else "<u4")
        model = sentencepiece_model_pb2.ModelProto()
        model.trainer_spec.model_type = model.trainer_spec.UNIGRAM
        model.trainer_spec.unk_id = tokenizer.end_of_document
        model.normalizer_spec.add_dummy_prefix = False
        model.normalizer_spec.remove_extra_whitespaces = False
        for piece in tokenizer.pieces[:-1]:
            model.pieces.add(piece=_characters(piece).replace(" ", "\u2581"), score=-1)
        # sentencepiece needs a piece for the unknown: the end of a document, which no bytes spell.
        model.pieces.add(piece=UNKNOWN, type=model.SentencePiece.UNKNOWN)
        self._model = sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())

    def encode(self, data: bytes) -> np.ndarray:
        """Tokens [N], dtype as on disk, of which `tokenizer.decode` gives exactly these bytes."""
        if self.tokenizer.kind != "bytes":
            tokens = list(chain.from_iterable(self._model.encode(_blocks(data))))
            # True by construction. If sentencepiece ever does otherwise, single bytes are always right.
            if self.tokenizer.decode(tokens) == data:
                return np.array(tokens, self.dtype)
        return np.frombuffer(data, np.uint8).astype(self.dtype)


def _blocks(data: bytes) -> list[str]:
    """The bytes as characters, cut at the first space after each BLOCK_CHARACTERS, where no piece crosses."""
    text = _characters(data)
    blocks, start = [], 0
    while start < len(text):
        stop = text.find(" ", start + BLOCK_CHARACTERS, start + 2 * BLOCK_CHARACTERS)
        stop = stop if stop > 0 else start + 2 * BLOCK_CHARACTERS
        blocks.append(text[start:stop])
        start = stop
    return blocks
