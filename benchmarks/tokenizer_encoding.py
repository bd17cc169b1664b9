"""How small can a tokenizer be written down, and what do its pieces cost? The tables of the note in research/.

    python benchmarks/tokenizer_encoding.py [--enwik8 ../shared/corpora/enwik8.xz]

Corpora: the King James Bible and the first 10,000,000 bytes of enwik8. Takes about ten minutes.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)
from launch import entry

entry.begin(__name__)

import ast
import inspect
import lzma
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence

import pyppmd
import sentencepiece
from sentencepiece import sentencepiece_model_pb2

import data.tokenizer
from data import bpe
from data.bpe import CHARACTERS, Encoder, encode_pieces, train_pieces
from data.documents import open_source
from data.tokenizer import load_tokenizer

WORDS = {
    "default: digits, punctuation, rest": bpe.WORD.pattern,
    "digits one by one": rb" ?(?:[0-9]|[!-/:-@[-`{-~]{1,64}|[^ -@[-`{-~]{1,64})| ",
    "digits with punctuation": rb" ?(?:[!-@[-`{-~]{1,64}|[^ -@[-`{-~]{1,64})| ",
    "line ends alone": rb" ?(?:[0-9]{1,64}|[!-/:-@[-`{-~]{1,64}|[^\n -@[-`{-~]{1,64})| |\n",
    "anything but spaces": rb" ?[^ ]{1,64}| ",
    "several words": rb"[^\n]{1,64}|\n",
}


def xz(content: bytes) -> bytes:
    """The smallest bare LZMA stream over its literal-context settings."""
    settings = [{"id": lzma.FILTER_LZMA1, "preset": 9 | lzma.PRESET_EXTREME, "lc": lc, "pb": 0} for lc in range(5)]
    return min((lzma.compress(content, lzma.FORMAT_RAW, filters=[setting]) for setting in settings), key=len)


def front_code(pieces: Sequence[bytes]) -> bytes:
    """Each piece as 0xF0 + the length that it shares with the one before, and the rest. No piece here has those."""
    coded, last = [], b""
    for piece in pieces:
        shared = next(length for length in range(len(piece), -1, -1) if last.startswith(piece[:length]))
        coded.append(bytes([0xF0 | shared]) + piece[shared:])
        last = piece
    return b"".join(coded)


def code_bytes(source: str) -> int:
    """What a piece of program adds to the compressed size of a decoder, comments and docstrings left out."""
    files = [path for room in ("model", "train") for path in sorted((ROOT / room).rglob("*.py"))]
    rest = "\n".join(strip_docstrings(path.read_text()) for path in files)
    return len(xz(f"{rest}\n{strip_docstrings(source)}".encode())) - len(xz(rest.encode()))


def strip_docstrings(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
            texts = [part for part in node.body if isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant)]
            node.body = [part for part in node.body if part not in texts] or [ast.Pass()]
    return ast.unparse(tree)


def front_decode(content: bytes) -> list[bytes]:
    pieces = [bytes([byte]) for byte in range(256)]
    for shared, rest in re.findall(rb"([\xf0-\xff])([^\xf0-\xff]*)", content):
        pieces.append(pieces[-1][: shared[0] & 15] + rest)
    return pieces


def sorted_decode(content: bytes) -> list[bytes]:
    return [bytes([byte]) for byte in range(256)] + content.split(b"\xff")


def encodings(pieces: list[bytes], model: bytes) -> dict[str, int]:
    """Bytes of the tokenizer's description in each form."""
    ordered = sorted(pieces)
    front = front_code(ordered)
    assert front_decode(front)[256:] == sorted_decode(b"\xff".join(ordered))[256:] == ordered
    return {
        "`.model`, xz": len(xz(model)),
        "sorted list, xz": len(xz(b"\xff".join(ordered))),
        "front-coded, xz": len(xz(front)),
        "front-coded, PPMd": min(len(pyppmd.compress(front, max_order=order, variant="I")) for order in (2, 3, 4)),
        "joins (ours)": len(encode_pieces(pieces)),
    }


def decoders() -> dict[str, int]:
    """Compressed bytes of the program that reads each form."""
    unpack = "lzma.decompress(content, lzma.FORMAT_RAW, filters=[{'id': lzma.FILTER_LZMA1, 'lc': 0, 'pb': 0}])"
    front, grow = inspect.getsource(front_decode), inspect.getsource(data.tokenizer)
    return {
        "sorted list, xz": code_bytes(inspect.getsource(sorted_decode).replace("content.", f"{unpack}.")),
        "front-coded, xz": code_bytes(f"content = {unpack}\n{front}"),
        "front-coded, PPMd": code_bytes(f"content = pyppmd.decompress(content, max_order=3)\n{front}"),
        "joins (ours)": code_bytes(grow[grow.index("def load_tokenizer") :]),
    }


def entropy_bytes(tokens: Sequence[int]) -> float:
    """Order-0 entropy of the token stream, in bytes."""
    counts = Counter(tokens).values()
    return -sum(count * math.log2(count / len(tokens)) for count in counts) / 8


def adaptive_bytes(tokens: Sequence[int], vocabulary: int, order: int) -> float:
    """Size under interpolated n-gram counts (Witten-Bell, orders 0 to `order`) that learn as they code."""
    seen: dict[int, dict] = {length: defaultdict(Counter) for length in range(order + 1)}
    totals: Counter = Counter()
    bits = 0.0
    for place, token in enumerate(tokens):
        probability = 1 / vocabulary
        for length in range(min(order, place) + 1):
            context = tuple(tokens[place - length : place])
            followers = seen[length][context]
            if followers:
                total, kinds = totals[context], len(followers)
                probability = (followers[token] + kinds * probability) / (total + kinds)
            followers[token] += 1
            totals[context] += 1
        bits -= math.log2(probability)
    return bits / 8


def segmentations(pieces: list[bytes], ranked: bytes) -> dict[str, Callable[[bytes], list[int]]]:
    """Ways to cut bytes into the same pieces."""

    def by_model(model: bytes) -> Callable[[bytes], list[int]]:
        processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        return lambda content: [token for part in processor.encode(bpe._blocks(content)) for token in part]

    def merge_by(key: Callable[[bytes], tuple]) -> bytes:
        model = sentencepiece_model_pb2.ModelProto()
        model.ParseFromString(ranked)
        del model.pieces[1:]
        for rank, piece in enumerate(sorted([*(bytes([byte]) for byte in range(256)), *pieces], key=key)):
            model.pieces.add(piece="".join(CHARACTERS[byte] for byte in piece).replace(" ", "\u2581"), score=-rank)
        return model.SerializeToString()

    encoder = Encoder(load_tokenizer("bpe", encode_pieces(pieces)))
    return {
        "merges in the learned order": by_model(ranked),
        "merges, short pieces first": by_model(merge_by(lambda piece: (len(piece), piece))),
        "merges, long pieces first": by_model(merge_by(lambda piece: (-len(piece), piece))),
        "fewest pieces (ours)": lambda content: encoder.encode(content).tolist(),
    }


def train(corpus: bytes, vocabulary: int) -> tuple[list[bytes], bytes]:
    """Pieces, and the sentencepiece model that they come from."""
    models: list[bytes] = []
    original = sentencepiece.SentencePieceProcessor

    def keep(model_proto: bytes) -> sentencepiece.SentencePieceProcessor:
        models.append(model_proto)
        return original(model_proto=model_proto)

    sentencepiece.SentencePieceProcessor = keep
    try:
        return train_pieces([corpus], vocabulary, len(corpus)), models[0]
    finally:
        sentencepiece.SentencePieceProcessor = original


def table(heads: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Print a Markdown table."""
    heads = list(heads)
    entry.publish(f"| {' | '.join(heads)} |\n|---|{'---:|' * (len(heads) - 1)}")
    for row in rows:
        cells = [f"{cell:,.0f}" if isinstance(cell, int | float) else str(cell) for cell in row]
        entry.publish(f"| {' | '.join(cells)} |")
    entry.publish()


def main() -> None:
    parser = entry.Parser(description=__doc__)
    parser.add_argument("--enwik8", type=Path, default=ROOT.parent / "shared" / "corpora" / "enwik8.xz")
    options = parser.parse_args()
    with lzma.open(options.enwik8) as file:
        corpora = {"KJV": b"".join(chunk for chunk, _ in open_source("kjv").chunks()), "enwik7": file.read(10_000_000)}
    trained = {(name, size): train(corpora[name], size) for name in corpora for size in (1024, 2048, 4096, 8192)}

    code = decoders()
    rows = [(name, str(size), *encodings(*trained[name, size]).values()) for name, size in trained]
    table(["corpus", "vocabulary", *encodings(*trained["KJV", 1024])], rows)
    table(["decoder", *code], [["code, xz", *code.values()]])

    rows = []
    for (name, size), (pieces, model) in trained.items():
        for how, cut in segmentations(pieces, model).items():
            tokens, head = cut(corpora[name]), cut(corpora[name][:3_000_000])
            rows.append((name, str(size), how, len(tokens), entropy_bytes(tokens), adaptive_bytes(head, size, 2)))
    table(["corpus", "vocabulary", "cut by", "tokens", "order 0, bytes", "adaptive order 2, first 3 MB"], rows)

    rows = []
    for name, corpus in corpora.items():
        for how, pattern in WORDS.items():
            bpe.WORD = re.compile(pattern)
            encoder = Encoder(load_tokenizer("bpe", encode_pieces(train_pieces([corpus], 2048, len(corpus)))))
            tokens, head = encoder.encode(corpus), encoder.encode(corpus[:3_000_000]).tolist()
            sizes = [adaptive_bytes(head, 2048, order) for order in (2, 3)]
            rows.append((name, how, len(tokens), len(encoder.tokenizer.encoding), *sizes))
    table(["corpus", "words", "tokens", "encoding", "adaptive order 2, first 3 MB", "order 3"], rows)


if __name__ == "__main__":
    sys.exit(entry.exit_status(main))
