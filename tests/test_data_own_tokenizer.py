"""Tokenizers from files: bijective on any bytes, segmented by their own package, described in few bytes, or refused."""

import base64
import contextlib
import io
import lzma
import random
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

import data.batches
import data.describe
from data.describe import KEPT, describe_pieces, listed_bytes, tokenizer_of
from data.errors import UsageError
from data.file_encoder import FileEncoder, open_encoder, usable_pieces
from data.joins import MAX_PIECES, read_joins
from data.listing import Listing
from data.prepare import prepare
from data.shards import MANIFEST, PIECES
from data.token_pieces import MAX_IDS
from data.tokenizer import load_tokenizer
from data.tokenizer_files import read_tokenizer_file

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "LICENSE").read_text()[:6000] + "caf\u00e9 \u65e5\u672c\u8a9e \u65e5\u672c \U0001f600 " * 20
QUIET: Any = {"show_progress": False}


def byte_level() -> tokenizers.Tokenizer:
    model = tokenizers.Tokenizer(models.BPE())
    model.pre_tokenizer, model.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    model.train_from_iterator(
        [TEXT],
        trainers.BpeTrainer(vocab_size=500, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, **QUIET),
    )
    return model


def word_piece() -> tokenizers.Tokenizer:
    """Lower case, no accents, no spaces: it loses much."""
    model = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    model.normalizer, model.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    model.train_from_iterator([TEXT], trainers.WordPieceTrainer(vocab_size=400, special_tokens=["[UNK]"], **QUIET))
    return model


def metaspace() -> tokenizers.Tokenizer:
    model = tokenizers.Tokenizer(models.Unigram())
    model.pre_tokenizer, model.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    model.train_from_iterator(
        [TEXT], trainers.UnigramTrainer(vocab_size=300, unk_token="<unk>", special_tokens=["<unk>"], **QUIET)
    )
    return model


def sentencepiece_model(kind: str, **options: Any) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.split("\n")),
        model_writer=model,
        model_type=kind,
        vocab_size=600,
        hard_vocab_limit=False,
        minloglevel=2,
        num_threads=1,
        **options,
    )
    return model.getvalue()


def made(name: str, folder: Path) -> Path:
    path = folder / name
    if name in JSON:
        path.write_text(JSON[name]().to_str())
    else:
        path.write_bytes(OTHERS[name]())
    return path


JSON = {"byte level": byte_level, "word piece": word_piece, "metaspace": metaspace}
OTHERS = {
    "bpe model": lambda: sentencepiece_model("bpe", byte_fallback=True),
    "unigram model": lambda: sentencepiece_model("unigram"),
    "ranks": lambda: rank_lines(),
}
NAMES = [*JSON, *OTHERS]
SPECIAL = [
    "<|endoftext|>",
    "<unk>",
    "[UNK]",
    "<s>",
    "<0x41>",
    "\u2581",
    "  ",
    "\n\n",
    "\ufb01",
    "A\u0300",
    "\0",
    "\ufffd",
]


def rank_lines() -> bytes:
    """A rank for each byte, and one for each word of the text, longer and longer joins."""
    pieces = dict.fromkeys(bytes([byte]) for byte in range(256))
    for word in TEXT.encode().split(b" ")[:150]:
        for stop in range(2, len(word) + 1):
            pieces.setdefault(word[:stop])
    return b"".join(b"%s %d\n" % (base64.b64encode(piece), rank) for rank, piece in enumerate(pieces))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tokenizers")


@pytest.fixture(scope="module")
def encoders(folder: Path) -> dict[str, FileEncoder]:
    found = {}
    for name in NAMES:
        file = read_tokenizer_file(str(made(name, folder)))
        segmenter = file.open()
        found[name] = FileEncoder(tokenizer_of(usable_pieces(file, segmenter)), segmenter)
    return found


fragments = st.sampled_from([text.encode() for text in [*SPECIAL, TEXT[:300], TEXT[-60:]]])
any_bytes = (
    st.binary(max_size=200) | st.lists(fragments | st.binary(max_size=4)).map(b"".join) | st.text().map(str.encode)
)


@pytest.mark.parametrize("name", NAMES)
def test_every_byte_string_comes_back(name, encoders):
    encoder = encoders[name]

    @settings(max_examples=150, deadline=None)
    @given(any_bytes)
    def comes_back(data):
        tokens = encoder.encode(data)
        assert encoder.tokenizer.decode(tokens.tolist()) == data
        assert encoder.tokenizer.end_of_document not in tokens

    comes_back()


@pytest.mark.parametrize(("name", "format"), [
    ("byte level", "tokenizer.json, BPE"), ("word piece", "tokenizer.json, WordPiece"),
    ("metaspace", "tokenizer.json, Unigram"), ("bpe model", "sentencepiece, BPE"),
    ("unigram model", "sentencepiece, unigram"), ("ranks", "ranks of tiktoken, cut by the pattern of GPT-2"),
])  # fmt: skip
def test_a_file_is_known_by_its_content(name, format, encoders):
    assert encoders[name].segmenter.format == format


@pytest.mark.parametrize("name", ["byte level", "ranks", "bpe model", "metaspace"])
def test_tokens_are_those_of_the_package(name, encoders):
    """Where nothing is lost, and except for a space before the text, which the package added."""
    encoder, text = encoders[name], " ".join(TEXT[:4000].split())
    before = encoder.escaped
    tokens = encoder.encode(text.encode()).tolist()
    theirs = [encoder.segmenter.pieces[number] for number in encoder.segmenter.segment(text)]
    ours = [encoder.tokenizer.pieces[token] for token in tokens]
    assert ours[-len(theirs) + 1 :] == theirs[1:] and encoder.escaped - before <= len(theirs[0])


def test_what_would_be_lost_is_spelled_and_counted_and_the_rest_stays(encoders):
    encoder = encoders["word piece"]
    before = encoder.escaped
    tokens = encoder.encode(b"the license, The license").tolist()
    assert [encoder.tokenizer.pieces[token] for token in tokens[-9:]][-1] == b"license"
    # Three spaces, and "The", which the normaliser changes.
    assert encoder.escaped - before == 6
    encoder = encoders["byte level"]
    before = encoder.escaped
    encoder.encode("caf\u00e9".encode() + b"\xff\xfe" + b"the")
    assert encoder.escaped - before == 2


def test_special_tokens_are_no_pieces_and_their_text_is_text(encoders):
    for name in "byte level", "bpe model":
        encoder = encoders[name]
        assert not {b"<|endoftext|>", b"<s>"} & set(encoder.tokenizer.pieces)
        assert len(encoder.encode(b"<|endoftext|>")) > 1


@settings(max_examples=150, deadline=None)
@given(
    st.sets(
        st.binary(min_size=2, max_size=90) | st.text("ab \u65e5", min_size=2, max_size=6).map(str.encode), max_size=80
    )
)
def test_any_set_of_pieces_comes_back_from_its_description(pieces):
    pieces = {piece for piece in pieces if len(piece) > 1}
    encoding = describe_pieces(pieces)
    tokenizer = load_tokenizer("file", encoding)
    assert set(tokenizer.pieces[256:-1]) == pieces and tokenizer.pieces[-1] == b""
    assert tokenizer.pieces[:256] == [bytes([byte]) for byte in range(256)]
    assert tokenizer.vocabulary == 257 + len(pieces)
    assert describe_pieces(sorted(pieces)) == encoding


def test_joins_take_less_than_a_list(encoders):
    pieces = encoders["byte level"].tokenizer.pieces[256:-1]
    assert len(encoders["byte level"].tokenizer.encoding) < len(listed_bytes(pieces))


def test_foreign_descriptions_end_in_bounded_pieces(encoders):
    rng = random.Random(1)
    whole = encoders["byte level"].tokenizer.encoding
    for size in [0, 10, 100, 1000]:
        for encoding in (
            whole[:size],
            rng.randbytes(size),
            whole + rng.randbytes(size),
            listed_bytes([]) + b"\xff" * size,
        ):
            with contextlib.suppress(IndexError, lzma.LZMAError):
                pieces = read_joins(encoding)
                assert len(pieces) < 5000 and max(map(len, pieces)) < 256


def prepared(source: Path, file: Path, cache: Path, **options):
    return prepare(str(source), tokenizer=str(file), cache_dir=cache, **options)


def test_preparation_is_exact_parallel_cached_and_by_content(folder, tmp_path, monkeypatch):
    file, source = made("byte level", tmp_path), tmp_path / "text"
    source.write_bytes((TEXT.encode() + b"\xff") * 400)
    alone = prepared(source, file, tmp_path / "one", workers=1)
    assert alone.tokenizer.decode(alone.tokens.read(0, len(alone.tokens)).tolist()) == source.read_bytes()
    assert alone.manifest.escaped >= 400 and (alone.directory / PIECES).exists()
    monkeypatch.setattr(data.batches, "POOL_BYTES", 0)
    pooled = prepared(source, file, tmp_path / "two", workers=2)
    assert pooled.manifest == alone.manifest and pooled.tokenizer == alone.tokenizer
    assert load_tokenizer("file", alone.tokenizer.encoding) == alone.tokenizer
    # The name is nothing, the content all.
    monkeypatch.setattr(data.prepare, "encode_source", None)
    again = prepared(source, file.rename(tmp_path / "other name"), tmp_path / "one")
    assert again.directory == alone.directory
    monkeypatch.undo()
    other = prepared(source, made("ranks", tmp_path), tmp_path / "one")
    assert other.directory != alone.directory
    (alone.directory / PIECES).write_bytes(b"x")
    with pytest.raises(UsageError, match=r"pieces.bin does not match its SHA-256.*delete"):
        prepared(source, tmp_path / "other name", tmp_path / "one")


def test_a_description_is_made_once_and_anew_where_the_kept_one_is_not_whole(folder, tmp_path, monkeypatch):
    file = read_tokenizer_file(str(made("byte level", tmp_path)))
    pieces = usable_pieces(file, file.open())
    first = tokenizer_of(pieces, tmp_path / "cache")
    [kept] = (tmp_path / "cache").glob(f"*/{KEPT}")
    content = kept.read_bytes()
    monkeypatch.setattr(data.describe, "describe_pieces", None)
    assert tokenizer_of(pieces, tmp_path / "cache") == first
    with pytest.raises(TypeError):
        tokenizer_of(pieces - {min(pieces)}, tmp_path / "cache")
    monkeypatch.undo()
    # The description is damaged, the file cut off, or of other pieces.
    other = tokenizer_of(pieces - {min(pieces)}, tmp_path / "other")
    assert other != first
    [foreign] = (tmp_path / "other").glob(f"*/{KEPT}")
    for broken in content[:50] + b"x" + content[51:], content[:-1], b"", foreign.read_bytes():
        kept.write_bytes(broken)
        assert tokenizer_of(pieces, tmp_path / "cache") == first and kept.read_bytes() == content
    # A corpus that holds the cache leaves it out.
    (tmp_path / "cache" / "text").write_text("text")
    assert Listing(tmp_path / "cache", "cache").paths == [tmp_path / "cache" / "text"]


def test_a_file_with_other_pieces_is_not_taken_for_the_first(encoders, folder):
    with pytest.raises(UsageError, match="its pieces are not those that it had at first; put the file back"):
        open_encoder(encoders["ranks"].tokenizer, str(folder / "byte level"))


def test_a_tokenizer_that_loses_most_bytes_is_refused_and_leaves_nothing(tmp_path):
    file, source = made("word piece", tmp_path), tmp_path / "text"
    source.write_bytes(bytes(range(128, 256)) * 40)
    with pytest.raises(UsageError, match=r"loses 5,120 of the first 5,120 bytes.*--data.tokenizer bpe"):
        prepared(source, file, tmp_path / "cache")
    assert not [*(tmp_path / "cache").glob(f"*/{MANIFEST}")] and not [*(tmp_path / "cache").glob("*/tokens*")]


CUT = sentencepiece_model("bpe")
BAD = {
    "empty": (b"", "it has no bytes"),
    "other json": (b'{"vocab": []}', "this JSON is no tokenizer"),
    "list": (b"[1]", "this JSON is no tokenizer"),
    "broken json": (b'{"model": ', "this JSON is no tokenizer"),
    "unknown model": (b'{"version": "1.0", "model": {"type": "Magic", "vocab": {"a": 0}}}', "of type Magic"),
    "no pieces": (b'{"version": "1.0", "model": {"type": "BPE", "vocab": {}, "merges": []}}', "no piece of two bytes"),
    "bad line": (b"YQ== 0\nYWI= 1\nYWI\xff 2\n", "line 3 is 'YWI"),
    "no rank": (b"YQ== 0\nYWI= one\n", "line 2 is 'YWI= one'"),
    "same piece": (b"YQ== 0\nYWI= 1\nYWI= 2\n", "line 3 has the piece of an earlier line"),
    "same rank": (b"YQ== 0\nYWI= 0\n", "two lines have the same rank"),
    "prose": (b"It was the best of times\n", "line 1 is 'It was"),
    "cut off": (CUT[: len(CUT) // 2], "was cut off"),
    "nothing known": (bytes(range(128, 256)) * 3, "no .model of sentencepiece"),
    "words": (sentencepiece_model("word"), "its model type 3 is neither unigram nor BPE"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_tokenizer_is_refused_in_a_line_with_file_and_remedy(name, tmp_path):
    content, problem = BAD[name]
    (tmp_path / "file").write_bytes(content)
    (tmp_path / "text").write_text("text")
    with pytest.raises(UsageError) as caught:
        prepared(tmp_path / "text", tmp_path / "file", tmp_path / "cache")
    message = str(caught.value)
    assert problem in message and str(tmp_path / "file") in message and "\n" not in message and "give" in message
    assert not (tmp_path / "cache").exists()


def test_a_file_may_have_as_many_tokens_as_any_vocabulary_with_bytes_and_an_end():
    assert MAX_PIECES == MAX_IDS + 256


def test_a_file_that_cannot_be_read_and_too_many_pieces_are_refused(tmp_path, monkeypatch):
    (tmp_path / "text").write_text("text")
    with pytest.raises(
        UsageError, match=r"missing cannot be read \(No such file or directory\): take bytes or bpe, or"
    ):
        prepared(tmp_path / "text", tmp_path / "missing", tmp_path / "cache")
    monkeypatch.setattr("data.file_encoder.MAX_PIECES", 300)
    with pytest.raises(UsageError, match="different pieces, single bytes among them; 300 is the most"):
        prepared(tmp_path / "text", made("byte level", tmp_path), tmp_path / "cache")
