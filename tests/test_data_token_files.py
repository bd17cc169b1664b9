"""Token files: each format comes back byte for byte from its tokens, counts as many bytes as it has, or is refused."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import token_formats
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import data.prepare
import data.token_files
from data.documents import open_source
from data.errors import RunFailed, UsageError
from data.output import token_chunks
from data.prepare import PreparedCorpus, prepare
from data.token_pieces import END_BYTES, read_pieces
from data.tokenizer import load_tokenizer

IDS = [7, 0, 499, 3, 3, 256, 42, 1] * 40
FORMATS: dict[str, Callable[[Path], Any]] = {
    "bare.bin": lambda path: token_formats.nano_gpt(path, IDS),
    "llm.bin": lambda path: token_formats.llm_c(path, IDS),
    "llama.bin": lambda path: token_formats.llama_3(path, [*IDS, 128_000]),
    "ids.npy": lambda path: token_formats.npy(path, IDS),
    "wide.npy": lambda path: token_formats.npy(path, [*IDS, 200_000], np.int64),
    "mega.bin": lambda path: token_formats.megatron(path, [[IDS[:5]], [IDS[5:]], [[]], [[1]]]),
    "sentences.bin": lambda path: token_formats.megatron(path, [[], [IDS[:5], [], IDS[5:9]], [], [IDS[9:]]], "int32"),
}


def decoded(prepared: PreparedCorpus) -> list[bytes]:
    """The files that a decoder writes for the tokens of a corpus."""
    found, begun = [], b""
    for chunk, ends in token_chunks(prepared.tokens.read(0, len(prepared.tokens)), prepared.tokenizer):
        begun += chunk
        if ends:
            found.append(begun)
            begun = b""
    assert not begun
    return found


def check(prepared: PreparedCorpus, paths: list[Path], ids: list[int]) -> None:
    manifest, tokenizer = prepared.manifest, prepared.tokenizer
    contents = [path.read_bytes() for path in paths]
    assert decoded(prepared) == contents
    assert b"".join(chunk for chunk, _ in prepared.source.chunks()) == b"".join(contents)
    assert (manifest.bytes, manifest.documents) == (sum(map(len, contents)), len(contents))
    tokens = prepared.tokens.read(0, manifest.tokens)
    # What the ledger counts.
    assert sum(len(tokenizer.pieces[token]) for token in tokens) == manifest.bytes
    assert tokens[tokens < prepared.source.tokens.ids(tokenizer)].tolist() == ids
    assert tokens[-1] == tokenizer.end_of_document == tokenizer.vocabulary - 1


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_comes_back_byte_for_byte(tmp_path, name, monkeypatch):
    # Sizes that no format's ids divide.
    monkeypatch.setattr(data.token_files, "BLOCK_BYTES", 104)
    FORMATS[name](tmp_path / name)
    prepared = prepare(f"tokens:{tmp_path / name}", cache_dir=tmp_path / "cache", shard_batches=1)
    extra = {"llama.bin": [128_000], "wide.npy": [200_000], "mega.bin": [1]}.get(name, [])
    paths = [path for path in sorted(tmp_path.iterdir()) if path.is_file()]
    check(prepared, paths, [*IDS, *extra])
    files = prepared.source.tokens
    assert files.count == len(IDS) + len(extra)
    # Only Megatron-LM's have ends between the ids. The others stay where they are.
    mapped = len(paths) == 1
    assert not prepared.manifest.shards if mapped else len(prepared.manifest.shards) > 5
    assert ({path.name for path in prepared.directory.iterdir()} == {"manifest.json"}) == mapped
    assert prepared.source.names == (() if len(paths) == 1 else ("mega.bin", "mega.idx")[:2] if name == "mega.bin" else
                                     ("sentences.bin", "sentences.idx"))  # fmt: skip
    assert files.documents == {"mega.bin": 4, "sentences.bin": 4}.get(name, 0)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.lists(st.lists(st.integers(0, 120), max_size=5), max_size=3), max_size=6),
    st.sampled_from(["uint8", "int8", "int16", "int32", "int64", "uint16"]),
    st.integers(0, 2), st.sampled_from([8, 16, 1 << 20]),
)  # fmt: skip
def test_any_index_of_megatron_comes_back(tmp_path_factory, documents, dtype, rest, block_bytes):
    folder = tmp_path_factory.mktemp("mega")
    paths = token_formats.megatron(folder / "corpus", documents, dtype, min(rest, len(documents)))
    before, data.token_files.BLOCK_BYTES = data.token_files.BLOCK_BYTES, block_bytes
    try:
        prepared = prepare(f"tokens:{folder / 'corpus'}", cache_dir=folder / "cache")
    finally:
        data.token_files.BLOCK_BYTES = before
    check(prepared, paths, [number for document in documents for sequence in document for number in sequence])
    assert prepared.source.tokens.documents == len(documents) - min(rest, len(documents))


def test_shards_are_the_documents_in_order_under_their_names(tmp_path):
    for number in range(3):
        token_formats.llm_c(tmp_path / f"fineweb_train_{number:06d}.bin", IDS[: 9 * number])
    prepared = prepare(f"tokens:{tmp_path}/*.bin", cache_dir=tmp_path / "cache")
    paths = sorted(tmp_path.glob("*.bin"))
    check(prepared, paths, [*IDS[:9], *IDS[:18]])
    assert prepared.source.names == tuple(path.name for path in paths)


def test_pairs_of_one_sequence_and_of_several_go_together(tmp_path):
    first = token_formats.megatron(tmp_path / "a", [[[1, 2]], [[3]]])
    second = token_formats.megatron(tmp_path / "b", [[[4], [5]], [[6]]])
    prepared = prepare(f"tokens:{tmp_path}/*.idx", cache_dir=tmp_path / "cache")
    check(prepared, [*first, *second], [1, 2, 3, 4, 5, 6])


def test_what_was_prepared_is_used_again_until_a_file_changes(tmp_path):
    path = token_formats.llm_c(tmp_path / "a.bin", IDS)
    first = prepare(f"tokens:{path}", cache_dir=tmp_path / "cache")
    begun = (first.directory / "manifest.json").stat().st_mtime_ns
    again = prepare(f"tokens:{path}", cache_dir=tmp_path / "cache")
    assert (again.directory / "manifest.json").stat().st_mtime_ns == begun
    token_formats.llm_c(path, [*IDS[1:], 5])
    changed = prepare(f"tokens:{path}", cache_dir=tmp_path / "cache")
    check(changed, [path], [*IDS[1:], 5])


def test_a_killed_preparation_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(data.token_files, "BLOCK_BYTES", 100)
    paths, number = token_formats.megatron(tmp_path / "a", [[IDS]]), data.token_files.TokenFiles.number
    path, calls = paths[0], []

    def fail(self, block, tokenizer):
        calls.append(block.offset)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return number(self, block, tokenizer)

    monkeypatch.setattr(data.token_files.TokenFiles, "number", fail)
    with pytest.raises(KeyboardInterrupt):
        prepare(f"tokens:{path}", cache_dir=tmp_path / "cache", shard_batches=1)
    prepared = prepare(f"tokens:{path}", cache_dir=tmp_path / "cache", shard_batches=1)
    # The shard that was being written is written again, and those before it are not.
    assert calls[4] == calls[3] > calls[0]
    check(prepared, paths, IDS)


def test_files_are_read_where_they_are_and_a_change_is_an_error(tmp_path):
    paths = [token_formats.llm_c(tmp_path / f"{count}.bin", IDS[:count]) for count in (0, 7, 9)]
    prepared = prepare(f"tokens:{tmp_path}/*.bin", cache_dir=tmp_path / "cache")
    end, stream = prepared.tokenizer.end_of_document, prepared.tokens
    whole = [end, *IDS[:7], end, *IDS[:9], end]
    assert stream.read(0, 19).dtype == np.int64
    for start in range(20):
        for stop in range(start, 20):
            assert stream.read(start, stop).tolist() == whole[start:stop]
    with pytest.raises(IndexError):
        stream.read(3, 20)
    paths[1].write_bytes(paths[1].read_bytes() + b"x")
    with pytest.raises(RunFailed, match=r"7.bin was changed while its ids were read: leave it alone, and start a new"):
        stream.read(2, 4)


def test_a_declared_vocabulary_is_kept_and_that_of_bytes_avoided(tmp_path):
    path = token_formats.nano_gpt(tmp_path / "a.bin", IDS)
    source = f"tokens:{path}"
    assert prepare(source, cache_dir=tmp_path / "cache").tokenizer.vocabulary == 501
    assert prepare(source, cache_dir=tmp_path / "cache", token_ids=50_304).tokenizer.vocabulary == 50_305
    small = token_formats.nano_gpt(tmp_path / "small.bin", [255, 0])
    assert prepare(f"tokens:{small}", cache_dir=tmp_path / "cache").tokenizer.vocabulary == 258
    with pytest.raises(UsageError, match=r"data.token_ids 256 makes 257 symbols, as bytes have: give 257"):
        prepare(f"tokens:{small}", cache_dir=tmp_path / "cache", token_ids=256)


def test_the_description_of_a_vocabulary_takes_five_bytes_and_damage_is_an_error():
    for form, ends in enumerate(END_BYTES):
        tokenizer = load_tokenizer("tokens", bytes([form, 4, 3, 0, 0]))
        assert len(tokenizer.encoding) == 5 and tokenizer.vocabulary == 196_608 + len(ends)
    for damaged in b"", b"\1", b"\xff\4\0\0\1", b"\0\xff\0\0\1", b"\0\4\4\0\1", b"\0\1\0\1\1", b"\0\4" + 99 * b"\1":
        with pytest.raises(IndexError):
            read_pieces(damaged)


def patched(path: Path, offset: int, content: bytes) -> Path:
    whole = bytearray(path.read_bytes())
    whole[offset : offset + len(content)] = content
    path.write_bytes(whole)
    return path


def cut(path: Path, size: int) -> Path:
    path.write_bytes(path.read_bytes()[:size])
    return path


def pair(folder: Path) -> tuple[Path, Path]:
    data, index = token_formats.megatron(folder / "m", [[[1, 2, 3]], [[4, 5]]])
    return data, index


def mixed_types(folder: Path) -> Path:
    token_formats.npy(folder / "a.npy", [1], np.uint16)
    return token_formats.npy(folder / "b.npy", [1], np.int64).parent


def mixed_formats(folder: Path) -> Path:
    token_formats.llm_c(folder / "a.bin", [1])
    return token_formats.nano_gpt(folder / "b.bin", [1]).parent


def wide_ids(folder: Path) -> Path:
    path = folder / "a.bin"
    path.write_bytes(np.array([*IDS, 70_000], "<u4").tobytes())
    return path


def lone_index(folder: Path) -> Path:
    data, index = pair(folder)
    data.unlink()
    return index


MADE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "cut shard": (lambda f: cut(token_formats.llm_c(f / "a.bin", IDS), 1100),
                  "a.bin says that it has 320 ids, and has 38: it was cut off; fetch it again"),
    "longer shard": (lambda f: patched(token_formats.llm_c(f / "a.bin", IDS), 1664, b"\0"), "and has 320.5: it was"),
    "cut header": (lambda f: cut(token_formats.llm_c(f / "a.bin", IDS), 700), "says that it has 320 ids, and has 0"),
    "magic": (lambda f: token_formats.llm_c(f / "a.bin", IDS, magic=20240522),
              "begins with a header of magic 20240522, and llm.c has 20240520 or 20240801: write its ids as .npy"),
    "version": (lambda f: token_formats.llm_c(f / "a.bin", IDS, version=2), "has version 2 of llm.c's format, not 1"),
    "more in the header": (lambda f: patched(token_formats.llm_c(f / "a.bin", IDS), 999, b"x"),
                           "more in its header than llm.c writes, so it could not come back"),
    "odd": (lambda f: patched(token_formats.nano_gpt(f / "a.bin", IDS), 640, b"x"), "641 bytes, no whole number of"),
    "bare ids of 32 bits": (wide_ids,
                            "a.bin seems to hold ids of 32 bits, and bare ids have 16; write its ids as .npy"),
    "cut .npy": (lambda f: cut(token_formats.npy(f / "a.npy", IDS), 300), "is no whole .npy file (mmap length is"),
    "no .npy": (lambda f: patched(token_formats.npy(f / "a.npy", IDS), 0, b"x"), "is no whole .npy file"),
    "long .npy": (lambda f: patched(token_formats.npy(f / "a.npy", IDS), 128 + 4 * 320, b"x"), "is not as numpy.save"),
    "floats": (lambda f: token_formats.npy(f / "a.npy", [1], np.float32), "[1] of <f4, not a row of whole numbers"),
    "big-endian": (lambda f: token_formats.npy(f / "a.npy", [1], ">i4"), "[1] of >i4, not a row of whole numbers"),
    "two axes": (lambda f: token_formats.npy(f / "a.npy", [[1], [2]]), "[2, 1] of <i4, not a row"),  # type: ignore[list-item]
    "wrong index": (lambda f: patched(pair(f)[1], 0, b"X"), "m.idx begins with b'XMIDIDX\\x00\\x00', not with"),
    "index version": (lambda f: patched(pair(f)[1], 9, b"\2"), "m.idx has version 2, type 8; only version 1"),
    "index of floats": (lambda f: patched(pair(f)[1], 17, b"\6"), "m.idx has version 1, type 6; only version 1"),
    "cut index": (lambda f: cut(pair(f)[1], 80), "m.idx has 80 bytes, and 2 sequences and 3 entries of documents"),
    "cut pair": (lambda f: cut(pair(f)[0], 8), "m.idx describes 10 bytes in sequences one after the other, and"),
    "pointers": (lambda f: patched(pair(f)[1], 50, b"\4"), "describes 10 bytes in sequences one after the other, and"),
    "documents": (lambda f: patched(pair(f)[1], 58, b"\1"), "its documents do not begin at 0 and follow each other"),
    "lone index": (lone_index, "is an index, and there is no"),
    "mixed types": (mixed_types, "b.npy has NumPy's .npy, int64, and "),
    "mixed formats": (mixed_formats, "b.bin has bare ids, as nanoGPT writes them, uint16, and "),
    "text": (lambda f: patched(f / "a.txt", 0, b""), "a.txt is no token file: name .bin, .npy"),
    "missing": (lambda f: f / "none.bin", "no such file, folder or glob match"),
    "negative": (lambda f: token_formats.npy(f / "a.npy", [1, 2, -3]), "a.npy: byte 136 has the id -3, and no id is"),
    "huge": (lambda f: token_formats.npy(f / "a.npy", [1, 1 << 18]),
             "a.npy: byte 132 has the id 262,144, and 262,144 ids are the most"),
}  # fmt: skip


@pytest.mark.parametrize("name", MADE)
def test_what_is_wrong_is_said_in_a_line_and_nothing_is_left(tmp_path, name):
    make, message = MADE[name]
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.txt").touch() if name == "text" else None
    with pytest.raises(UsageError) as error:
        prepare(f"tokens:{make(folder)}", cache_dir=tmp_path / "cache")
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not [path for path in tmp_path.glob("cache/*") if path.is_dir()]


@pytest.mark.parametrize("make", [token_formats.llm_c, token_formats.nano_gpt, token_formats.npy])
def test_an_id_beyond_the_vocabulary_is_named_with_file_and_offset(tmp_path, make, monkeypatch):
    monkeypatch.setattr(data.token_files, "BLOCK_BYTES", 100)
    path = make(tmp_path / ("a.npy" if make is token_formats.npy else "a.bin"), [*IDS, 500, 3])
    size = 4 if make is token_formats.npy else 2
    offset = path.stat().st_size - 2 * size
    with pytest.raises(
        UsageError, match=f"{path.name}: byte {offset:,} has the id 500, and the vocabulary has 500 ids"
    ):
        prepare(f"tokens:{path}", cache_dir=tmp_path / "cache", token_ids=500)
    assert not [found for found in tmp_path.glob("cache/*") if found.is_dir()]
    with pytest.raises(UsageError, match=r"data.token_ids 70,000: files of uint16 take 65,536 at most"):
        prepare(f"tokens:{token_formats.nano_gpt(tmp_path / 'b.bin', IDS)}", cache_dir=tmp_path, token_ids=70_000)


def test_bare_ids_of_small_alphabets_are_taken_as_they_are(tmp_path):
    path = token_formats.nano_gpt(tmp_path / "dna.bin", [0, 3, 1, 2] * 200)
    check(prepare(f"tokens:{path}", cache_dir=tmp_path / "cache"), [path], [0, 3, 1, 2] * 200)


def test_an_id_beyond_the_vocabulary_in_a_pair_counts_no_ends(tmp_path):
    token_formats.megatron(tmp_path / "m", [[[1], [2, 3]], [[4, 500]]])
    with pytest.raises(UsageError, match=r"m.bin: byte 8 has the id 500"):
        prepare(f"tokens:{tmp_path / 'm'}", cache_dir=tmp_path / "cache", token_ids=500)


def test_servers_are_refused():
    with pytest.raises(UsageError, match="token files are not read from servers"):
        open_source("tokens:https://host/a.bin")
    with pytest.raises(UsageError, match="'tokens:' names nothing"):
        open_source("tokens:")


def test_a_header_says_what_numpy_writes(tmp_path):
    for dtype in np.uint8, np.int8, np.int16, np.uint16, np.int32, np.uint32, np.int64:
        for count in 0, 1, 12345:
            path = token_formats.npy(tmp_path / "a.npy", [1] * count, dtype)
            assert open_source(f"tokens:{path}").tokens.count == count


def test_the_index_begins_with_what_megatron_reads(tmp_path):
    data_path, index = token_formats.megatron(tmp_path / "m", [[[1, 2]], [[3]]])
    prepared = prepare(f"tokens:{data_path}", cache_dir=tmp_path / "cache")
    head = struct.unpack("<9sQBQQ", decoded(prepared)[1][:34])
    assert head == (b"MMIDIDX\0\0", 1, 8, 2, 3) and decoded(prepared)[1] == index.read_bytes()
