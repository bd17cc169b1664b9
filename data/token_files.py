"""Corpora that others have tokenised: ids in .bin and .npy files and Megatron-LM's pairs, checked and read as they are.

What a file has beside its ids (header, index) follows from them, so that a decoder can write it: data/token_pieces.py.
A file of which this is not true is refused.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.errors import UsageError
from data.token_pieces import (
    BARE,
    DOCUMENTS,
    END_BYTES,
    LLAMA_3,
    LLM_C,
    MAGIC_AND_VERSION,
    MAX_IDS,
    NPY,
    SEQUENCES,
    TYPES,
    file_header,
)
from data.tokenizer import Tokenizer, load_tokenizer

BLOCK_BYTES = 1 << 20
# Symbols of the `bytes` tokenizer, in which a model recognises letters. A vocabulary of ids never has as many.
BYTE_SYMBOLS = 257
FORMATS = {
    BARE: "bare ids, as nanoGPT writes them",
    LLM_C: "llm.c, GPT-2",
    LLAMA_3: "llm.c, Llama 3",
    NPY: "NumPy's .npy",
    DOCUMENTS: "Megatron-LM, documents of one sequence",
    SEQUENCES: "Megatron-LM, documents of sequences",
}
INDEX_MAGIC = b"MMIDIDX\0\0"
INDEX_START_BYTES = 34
END_OF_FILE, END_OF_DOCUMENT, END_OF_SEQUENCE = -1, -2, -3
REMEDY = "write its ids as .npy, which has no room for doubt"


@dataclass(frozen=True)
class Block:
    """Some bytes of a corpus, and the ids in them, from the byte `offset` of the file `path` on. Negative numbers among
    the `ids` are the ends above. `documents` counts those that end here: files, or records from `first_record` on."""

    path: Path | str
    offset: int
    content: bytes
    ids: np.ndarray
    documents: int
    first_record: int = 0

    def place(self, index: int, itemsize: int) -> str:
        """Where the id at an index is, for a person."""
        ends = int((self.ids[:index] < 0).sum())
        if self.first_record:
            return f"{self.path}: record {self.first_record + ends:,}"
        return f"{self.path}: byte {self.offset + itemsize * (index - ends):,}"


@dataclass(frozen=True)
class Kind:
    """A format, and the code of a type in TYPES."""

    form: int
    code: int

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(f"<{TYPES[self.code]}")

    def __str__(self) -> str:
        return f"{FORMATS[self.form]}, {self.dtype.name}"


@dataclass(frozen=True)
class TokenFiles:
    """The token files of a corpus: `paths` in the order of its documents, with each .idx after its .bin."""

    paths: list[Path]
    kind: Kind
    count: int
    """Ids in all of them."""
    documents: int
    """Documents by Megatron-LM's index; elsewhere 0."""
    blocks: Callable[[], Iterator[Block]]
    records: bool = False
    """Whether the documents are records of files that do not follow from the ids: then neither number is known."""

    @property
    def mappable(self) -> bool:
        """Whether the ids are in the files as a run reads them, with no ends in between."""
        return not self.records and self.kind.form < DOCUMENTS

    def map(self, path: Path) -> np.ndarray:
        """The ids [N] of a file, where they are. Only if they are mappable."""
        offset = END_BYTES[self.kind.form][0]
        empty = path.stat().st_size == offset
        return np.empty(0, self.kind.dtype) if empty else np.memmap(path, self.kind.dtype, "r", offset)

    @property
    def format(self) -> str:
        """In words."""
        return f"records, {self.kind.dtype.name}" if self.records else str(self.kind)

    def chunks(self) -> Iterator[tuple[bytes, bool]]:
        """Bytes of records, each of which ends a document."""
        for block in self.blocks():
            ends = np.flatnonzero(block.ids < 0)
            start = 0
            for stop in ((ends - np.arange(len(ends))) * self.kind.dtype.itemsize).tolist():
                yield block.content[start:stop], True
                start = stop

    def tokenizer(self, ids: int, blocks: Iterator[Block]) -> Tokenizer:
        """The vocabulary of a corpus that may hold the ids below `ids`, or, if that is 0, of those up to its largest.
        `blocks` are self.blocks(), read only in the second case. Raises UsageError for what is too large."""
        most = min(MAX_IDS, np.iinfo(self.kind.dtype).max + 1)
        if ids > most:
            raise UsageError(f"data.token_ids {ids:,}: files of {self.kind.dtype.name} take {most:,} at most")
        if ids and ids + len(END_BYTES[self.kind.form]) == BYTE_SYMBOLS:
            raise UsageError(f"data.token_ids {ids} makes {BYTE_SYMBOLS} symbols, as bytes have: give {ids + 1}")
        if not ids:
            for block in blocks:
                refuse_beyond(block, most, self.kind.dtype, f"{most:,} ids are the most")
                ids = max(ids, int(block.ids.max(initial=0)) + 1)
        ids += ids + len(END_BYTES[self.kind.form]) == BYTE_SYMBOLS
        return load_tokenizer("tokens", bytes([self.kind.form, self.kind.code]) + ids.to_bytes(3, "big"))

    def ids(self, tokenizer: Tokenizer) -> int:
        """How many of the tokens are ids."""
        return tokenizer.vocabulary - len(END_BYTES[self.kind.form])

    def number(self, block: Block, tokenizer: Tokenizer) -> np.ndarray:
        """The tokens [N] of a block, dtype as on disk. Raises UsageError for an id that is no token."""
        vocabulary, ids = tokenizer.vocabulary, self.ids(tokenizer)
        refuse_beyond(block, ids, self.kind.dtype, f"the vocabulary has {ids:,} ids: give a larger data.token_ids")
        tokens = np.where(block.ids < 0, block.ids + vocabulary, block.ids)
        return tokens.astype("<u2" if vocabulary <= 1 << 16 else "<u4")


def refuse_beyond(block: Block, limit: int, dtype: np.dtype, reason: str) -> None:
    """Raise UsageError for an id of `limit` or more."""
    if block.ids.max(initial=-1) >= limit:
        index = int((block.ids >= limit).argmax())
        place = block.place(index, dtype.itemsize)
        raise UsageError(f"{place} has the id {block.ids[index]:,}, and {reason}")


def refuse_negative(ids: np.ndarray, place: Callable[[int], str]) -> None:
    """Raise UsageError for an id below 0 in the file; `place` says where the id at an index is."""
    if ids.min(initial=0) < 0:
        index = int((ids < 0).argmax())
        raise UsageError(f"{place(index)} has the id {ids[index]:,}, and no id is below 0: write the file again")


def byte_place(path: Path, offset: int, dtype: np.dtype) -> Callable[[int], str]:
    """Names the byte of an id among those from `offset` on."""
    return lambda index: f"{path}: byte {offset + index * dtype.itemsize:,}"


def with_partners(paths: Sequence[Path]) -> list[Path]:
    """Files and, after each .bin, the .idx beside it. Raises UsageError for an .idx without its .bin."""
    found: dict[Path, None] = {}
    for path in paths:
        data, index = path.with_suffix(".bin"), path.with_suffix(".idx")
        if path.suffix == ".idx" and not data.is_file():
            raise UsageError(f"{path} is an index, and there is no {data}: put its .bin beside it")
        pair = path.suffix in (".bin", ".idx") and index.is_file()
        found |= {data: None, index: None} if pair else {path: None}
    return [*found]


def open_token_files(paths: list[Path]) -> TokenFiles:
    """Open what `with_partners` returned. Raises UsageError, with the file and what to do, for what is no token file,
    damaged, or not like the others."""
    first: Kind | None = None
    count = documents = 0
    indexes: dict[Path, Index] = {}
    given = set(paths)
    for path in paths:
        if path.suffix == ".idx":
            continue
        if path.suffix == ".bin" and path.with_suffix(".idx") in given:
            indexes[path] = Index(path)
            kind, ids = indexes[path].kind, indexes[path].count
            documents += len(indexes[path].documents) - 1
        elif path.suffix in (".bin", ".npy"):
            kind, ids = (inspect_npy if path.suffix == ".npy" else inspect_bin)(path)
        else:
            raise UsageError(f"{path} is no token file: name .bin, .npy, .bin with .idx, or .parquet files, by a glob")
        count += ids
        if first is None:
            first = kind
        elif {first.form, kind.form} == {DOCUMENTS, SEQUENCES} and first.code == kind.code:
            first = Kind(SEQUENCES, kind.code)
        elif kind != first:
            raise UsageError(f"{path} has {kind}, and {paths[0]} has {first}: name files of one format and type")
    assert first is not None
    kind = first

    def blocks() -> Iterator[Block]:
        for path in paths:
            if path in indexes:
                yield from indexes[path].blocks(kind)
            elif path.suffix != ".idx":
                yield from plain_blocks(path, kind)

    return TokenFiles(paths, kind, count, documents, blocks)


def inspect_bin(path: Path) -> tuple[Kind, int]:
    """Kind and number of ids of a .bin, with llm.c's header or without one."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(1024)
    magic, version, count = np.frombuffer(head[:12].ljust(12, b"\xff"), "<i4").tolist()
    for form, (known, known_version) in MAGIC_AND_VERSION.items():
        kind = Kind(form, TYPES.index("u4" if form == LLAMA_3 else "u2"))
        if magic != known:
            continue
        if version != known_version:
            raise UsageError(f"{path} has version {version} of llm.c's format, not {known_version}: {REMEDY}")
        if count < 0 or size != 1024 + count * kind.dtype.itemsize:
            found = f"{max(0, size - 1024) / kind.dtype.itemsize:,.9g}"
            raise UsageError(f"{path} says that it has {count:,} ids, and has {found}: it was cut off; fetch it again")
        if head != file_header(form, kind.dtype, count):
            raise UsageError(f"{path} has more in its header than llm.c writes, so it could not come back: {REMEDY}")
        return kind, count
    if len(head) == 1024 and not any(head[12:]):
        known_ones = " or ".join(str(known) for known, _ in MAGIC_AND_VERSION.values())
        raise UsageError(f"{path} begins with a header of magic {magic}, and llm.c has {known_ones}: {REMEDY}")
    if size % 2:
        raise UsageError(f"{path} has {size:,} bytes, no whole number of uint16 ids: it was cut off, or {REMEDY}")
    first, second = np.frombuffer(head[: len(head) // 4 * 4], "<u2").reshape(-1, 2).T
    # The upper halves of ids of 32 bits.
    if len(second) >= 64 and second.max() < MAX_IDS >> 16 < first.max():
        raise UsageError(
            f"{path} seems to hold ids of 32 bits, and bare ids have 16; {REMEDY}, or put its .idx beside it"
        )
    return Kind(BARE, TYPES.index("u2")), size // 2


def inspect_npy(path: Path) -> tuple[Kind, int]:
    """Kind and number of ids of a .npy."""
    try:
        ids = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{path} is no whole .npy file ({reason}): it was cut off, or is something else") from None
    if ids.ndim != 1 or ids.dtype.kind not in "iu" or ids.dtype.str[1:] not in TYPES or ids.dtype.str[0] == ">":
        raise UsageError(
            f"{path} is an array {list(ids.shape)} of {ids.dtype.str}, not a row of whole numbers in little-endian: "
            "save ids.ravel().astype('<u4') or the like"
        )
    kind = Kind(NPY, TYPES.index(ids.dtype.str[1:], 1))
    header = file_header(NPY, kind.dtype, len(ids))
    with path.open("rb") as file:
        if file.read(len(header)) != header or path.stat().st_size != len(header) + ids.nbytes:
            raise UsageError(f"{path} is not as numpy.save writes it, so it could not come back: save it again with it")
    return kind, len(ids)


def plain_blocks(path: Path, kind: Kind) -> Iterator[Block]:
    """The blocks of a file with a header, or none, before its ids."""
    offset, size, dtype = END_BYTES[kind.form][0], path.stat().st_size, kind.dtype
    with path.open("rb") as file:
        content = head = file.read(offset)
        while True:
            part = file.read(BLOCK_BYTES)
            content += part
            ids = np.frombuffer(part[: len(part) // dtype.itemsize * dtype.itemsize], dtype)
            refuse_negative(ids, byte_place(path, offset, dtype))
            last = not part or offset + len(part) >= size
            yield Block(path, offset, content, np.append(ids.astype(np.int64), [END_OF_FILE] * last), int(last))
            if last:
                return
            offset, content = offset + len(part), head[:0]


class Index:
    """Megatron-LM's .idx, mapped, of the .bin `path`. `count` ids, in sequences that end before those at `stops`."""

    def __init__(self, path: Path):
        """Raises UsageError where the two do not fit each other."""
        self.path, self.index = path, path.with_suffix(".idx")
        size, bin_size = self.index.stat().st_size, path.stat().st_size
        with self.index.open("rb") as file:
            head = file.read(INDEX_START_BYTES)
        if head[:9] != INDEX_MAGIC or len(head) < INDEX_START_BYTES:
            raise UsageError(
                f"{self.index} begins with {head[:9]!r}, not with Megatron-LM's {INDEX_MAGIC!r}: move it away if it is "
                f"no index of {path.name}"
            )
        version, sequences, documents = (int.from_bytes(head[at : at + 8], "little") for at in (9, 18, 26))
        code = head[17]
        if version != 1 or not 0 < code < 9 or TYPES[code][0] == "f":
            raise UsageError(
                f"{self.index} has version {version}, type {code}; only version 1 with whole numbers is known"
            )
        wanted = INDEX_START_BYTES + 12 * sequences + 8 * documents
        if size != wanted or not documents:
            raise UsageError(
                f"{self.index} has {size:,} bytes, and {sequences:,} sequences and {documents:,} entries of documents "
                f"make {wanted:,}: it was cut off, or has modes of sequences, which no archive could give back"
            )
        at = INDEX_START_BYTES
        mapped = np.memmap(self.index, np.uint8, "r")
        self.sizes = mapped[at : at + 4 * sequences].view("<i4")
        self.pointers = mapped[at + 4 * sequences : at + 12 * sequences].view("<i8")
        self.documents = mapped[at + 12 * sequences :].view("<i8")
        itemsize = np.dtype(TYPES[code]).itemsize
        self.count = bin_size // itemsize
        stops = np.append(self.pointers[1:], bin_size) if sequences else np.empty(0, np.int64)
        fits = np.array_equal(self.pointers + self.sizes.astype(np.int64) * itemsize, stops)
        if not fits or (self.pointers[0] if sequences else bin_size) or self.sizes.min(initial=0) < 0:
            total = int(self.sizes.sum(dtype=np.int64)) * itemsize
            raise UsageError(
                f"{self.index} describes {total:,} bytes in sequences one after the other, and {path} has {bin_size:,} "
                "or others: they are of different corpora, or cut off; fetch both again"
            )
        ordered = not self.documents[0] and (np.diff(self.documents) >= 0).all() and self.documents[-1] <= sequences
        if not ordered:
            raise UsageError(f"{self.index}: its documents do not begin at 0 and follow each other: write it again")
        single = len(self.documents) == sequences + 1 and (np.diff(self.documents) == 1).all()
        self.kind = Kind(DOCUMENTS if single else SEQUENCES, code)
        self.stops = stops // itemsize

    def blocks(self, kind: Kind) -> Iterator[Block]:
        """The ids with their ends, then the index itself."""
        offset = sequence = 0
        # Empty documents before the first sequence.
        ends = np.full(int((self.documents[1:] == 0).sum()), END_OF_DOCUMENT)
        with self.path.open("rb") as file:
            while True:
                content = file.read(BLOCK_BYTES)
                ids = np.frombuffer(content, kind.dtype)
                refuse_negative(ids, byte_place(self.path, offset, kind.dtype))
                before = offset // kind.dtype.itemsize
                stop = int(np.searchsorted(self.stops, before + len(ids), "right"))
                places, marks = self.ends(sequence, stop, kind)
                last = before + len(ids) >= self.count
                found = np.concatenate([ends, np.insert(ids.astype(np.int64), places - before, marks)])
                yield Block(self.path, offset, content, found, int(last))
                offset, sequence, ends = offset + len(content), stop, ends[:0]
                if last or not content:
                    break
        with self.index.open("rb") as file:
            following = file.read(BLOCK_BYTES)
            while content := following:
                following = file.read(BLOCK_BYTES)
                end = np.full(int(not following), END_OF_FILE)
                yield Block(self.index, 0, content, end, int(not following))

    def ends(self, first: int, stop: int, kind: Kind) -> tuple[np.ndarray, np.ndarray]:
        """Places, in ids, and kinds of the ends of the sequences from `first` to `stop`."""
        if kind.form == DOCUMENTS:
            return self.stops[first:stop], np.full(stop - first, END_OF_DOCUMENT)
        documents = np.diff(np.searchsorted(self.documents[1:], np.arange(first, stop + 1), "right"))
        places = np.repeat(self.stops[first:stop], 1 + documents)
        marks = np.full(len(places), END_OF_DOCUMENT)
        marks[np.cumsum(1 + documents) - 1 - documents] = END_OF_SEQUENCE
        return places, marks
