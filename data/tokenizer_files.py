"""Tokenizers that somebody else trained, each read by the package that it was made for: a tokenizer.json (tokenizers),
ranks (tiktoken) and a sentencepiece .model. The content of a file says which it is, not its name.

A segmenter has `pieces`, the bytes of each token by its number (empty for tokens that stand for no text: special ones,
the unknown); `segment(text)`, the numbers of a text's tokens; and `spans(text)`, the numbers with the bytes of the
text that each stands for. Special tokens are left out: written in a text they are text.
"""

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from data.errors import UsageError

KINDS = ("bytes", "bpe")
MAX_FILE_BYTES = 256 << 20
INSTALL = "pip install -e '.[tokenizers]'"
WANTED = "give a tokenizer.json of tokenizers, ranks of tiktoken, or a .model of sentencepiece"
# A file of ranks does not say how tiktoken cuts text into words. These are the patterns of GPT-2, cl100k (Llama 3's is
# the same) and o200k, for files of up to so many ranks. Any of them is exact; they differ in the tokens.
PATTERNS = {
    100_000: r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    150_000: r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    1_048_576: r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll"
    r"|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}
Spans = tuple[list[int], list[tuple[int, int]]]


@dataclass(frozen=True)
class Segmenter:
    """A tokenizer of somebody else, ready to cut text."""

    format: str
    pieces: list[bytes]
    segment: Callable[[str], list[int]]
    spans: Callable[[str], Spans] | None
    """None where the package does not say."""


@dataclass(frozen=True)
class TokenizerFile:
    """A tokenizer's file, read but not yet understood."""

    path: Path
    content: bytes
    option: str = "data.tokenizer"

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    def open(self) -> Segmenter:
        """Raises UsageError, in one line with file and remedy, for whatever is no tokenizer that we can use."""
        start = self.content.lstrip()[:1]
        if start in (b"{", b"["):
            found = _open_json(self)
        elif re.match(rb"[A-Za-z0-9+/]+=* [0-9]+\s", self.content) or self.content.isascii():
            found = _open_ranks(self)
        else:
            found = _open_model(self)
        if not any(len(piece) > 1 for piece in found.pieces):
            raise self.error("it has no piece of two bytes or more", "give another, or take --data.tokenizer bytes")
        return found

    def error(self, problem: str, remedy: str = WANTED) -> UsageError:
        return UsageError(f"{self.option} {self.path}: {' '.join(problem.split())[:300]}; {remedy}")


def read_tokenizer_file(name: str, option: str = "data.tokenizer") -> TokenizerFile:
    """The file that an option names. Raises UsageError if it cannot be read."""
    path = Path(name).expanduser()
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        remedy = f"take bytes or bpe, or {WANTED}" if option == "data.tokenizer" else "name another"
        raise UsageError(f"{option} {name} cannot be read ({error.strerror}): {remedy}") from None
    if not content or len(content) > MAX_FILE_BYTES:
        size = f"more than {MAX_FILE_BYTES:,} bytes" if content else "no bytes"
        raise TokenizerFile(path, b"", option).error(f"it has {size}")
    return TokenizerFile(path, content, option)


def _types(part: Any) -> Iterator[str]:
    """The `type` of each object in a part of a tokenizer.json."""
    if isinstance(part, dict):
        yield str(part.get("type"))
    for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from _types(inner)


def _byte_characters() -> dict[str, int]:
    """The characters that stand for bytes in byte-level vocabularies, as GPT-2's encoder.py has them."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + place): byte for place, byte in enumerate(others)}


def _open_json(file: TokenizerFile) -> Segmenter:
    try:
        import tokenizers
    except ImportError:
        raise file.error("it needs the package tokenizers", INSTALL) from None
    try:
        tree = json.loads(file.content)
        kind = tree["model"].get("type") or "BPE"
        vocabulary = tree["model"]["vocab"]
        if not isinstance(vocabulary, (dict, list)):
            raise TypeError
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError):
        raise file.error("this JSON is no tokenizer of the package tokenizers: it has no model with a vocab") from None
    # Nothing may cut a text or add to it, or do it by chance.
    tree |= {"truncation": None, "padding": None, "post_processor": None}
    if "dropout" in tree["model"]:
        tree["model"]["dropout"] = None
    added = tree.get("added_tokens") or []
    tree["added_tokens"] = [token for token in added if isinstance(token, dict) and not token.get("special")]
    try:
        model = tokenizers.Tokenizer.from_str(json.dumps(tree))
    except Exception as error:
        # The package raises bare exceptions.
        raise file.error(f"the package tokenizers cannot read its model, of type {kind} ({error})") from None
    unknown = tree["model"].get("unk_token")
    if isinstance(vocabulary, list) and isinstance(place := tree["model"].get("unk_id"), int):
        unknown = vocabulary[place][0]
    special = {token.get("content") for token in added if isinstance(token, dict) and token.get("special")} | {unknown}
    outside = [tree.get(part) for part in ("normalizer", "pre_tokenizer", "decoder")]
    byte_level, spaced = "ByteLevel" in _types(outside), "\u2581" in json.dumps(outside, ensure_ascii=False)
    characters = _byte_characters()
    prefix, suffix = (tree["model"].get(part) or "" for part in ("continuing_subword_prefix", "end_of_word_suffix"))

    def to_bytes(token: str) -> bytes:
        if token in special:
            return b""
        if tree["model"].get("byte_fallback") and re.fullmatch("<0x[0-9A-F]{2}>", token):
            return bytes([int(token[3:5], 16)])
        if byte_level and all(character in characters for character in token):
            return bytes(characters[character] for character in token)
        token = token.removeprefix(prefix).removesuffix(suffix)
        return (token.replace("\u2581", " ") if spaced else token).encode()

    numbers = model.get_vocab(with_added_tokens=True)
    pieces = [b""] * (max(numbers.values(), default=-1) + 1)
    for token, number in numbers.items():
        pieces[number] = to_bytes(token)
    for token in tree["added_tokens"]:
        pieces[numbers[token["content"]]] = token["content"].encode()

    def spans(text: str) -> Spans:
        found = model.encode(text, add_special_tokens=False)
        # It counts characters.
        codes = np.frombuffer(text.encode("utf-32-le"), "<u4")
        places = np.cumsum([0, *(1 + (codes > 0x7F) + (codes > 0x7FF) + (codes > 0xFFFF))]).tolist()
        return found.ids, [(places[first], places[last]) for first, last in found.offsets]

    def segment(text: str) -> list[int]:
        ids: list[int] = model.encode_batch_fast([text], add_special_tokens=False)[0].ids
        return ids

    return Segmenter(f"tokenizer.json, {kind}", pieces, segment, spans)


def _open_ranks(file: TokenizerFile) -> Segmenter:
    try:
        import tiktoken
    except ImportError:
        raise file.error("it needs the package tiktoken", INSTALL) from None
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(file.content.splitlines(), 1):
        try:
            text, _, rank = line.partition(b" ")
            piece = base64.b64decode(text, validate=True)
            if not re.fullmatch(b"[0-9]{1,9}", rank.rstrip()) or not piece:
                raise ValueError
        except (binascii.Error, ValueError):
            shown = line[:40].decode(errors="backslashreplace")
            raise file.error(f"line {number} is {shown!r}, and no base64 and a rank of tiktoken") from None
        if piece in ranks:
            raise file.error(f"line {number} has the piece of an earlier line")
        ranks[piece] = int(rank)
    if len(set(ranks.values())) < len(ranks):
        raise file.error("two lines have the same rank")
    if max(ranks.values()) >= 1 << 20:
        raise file.error(f"the rank {max(ranks.values()):,} is too large")
    # tiktoken needs all bytes, as we do.
    for byte in range(256):
        ranks.setdefault(bytes([byte]), max(ranks.values()) + 1)
    pieces = [b""] * (max(ranks.values()) + 1)
    for piece, rank_number in ranks.items():
        pieces[rank_number] = piece
    pattern = next(pattern for most, pattern in PATTERNS.items() if len(ranks) <= most)
    name = ("GPT-2", "cl100k", "o200k")[[*PATTERNS.values()].index(pattern)]
    model = tiktoken.Encoding(file.path.name, pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    return Segmenter(f"ranks of tiktoken, cut by the pattern of {name}", pieces, model.encode_ordinary, None)


def _open_model(file: TokenizerFile) -> Segmenter:
    proto = sentencepiece_model_pb2.ModelProto()
    try:
        proto.ParseFromString(file.content)
        if not proto.pieces:
            raise ValueError
    except Exception:
        # protobuf's own class of errors is not in its types.
        raise file.error("it is no .model of sentencepiece, or was cut off") from None
    kind = {1: "unigram", 2: "BPE"}.get(proto.trainer_spec.model_type)
    if kind is None:
        raise file.error(f"its model type {proto.trainer_spec.model_type} is neither unigram nor BPE")
    try:
        model = sentencepiece.SentencePieceProcessor(model_proto=file.content)
    except (RuntimeError, ValueError, OSError) as error:
        raise file.error(f"sentencepiece cannot read it ({error})") from None
    pieces = []
    for entry in proto.pieces:
        if entry.type == entry.BYTE:
            pieces.append(bytes([int(entry.piece[3:5], 16)]))
        elif entry.type in (entry.NORMAL, entry.USER_DEFINED):
            pieces.append(entry.piece.replace("\u2581", " ").encode())
        else:
            pieces.append(b"")

    def spans(text: str) -> Spans:
        found = model.encode(text, return_type="proto").pieces
        return [piece.id for piece in found], [(piece.begin, piece.end) for piece in found]

    return Segmenter(f"sentencepiece, {kind}", pieces, model.encode, spans)
