"""The archive: written whole or not at all, and verified from its first byte to its last before any of it is used.

    file   "ONEPASS", a byte (the format: 2 if there are names of documents, else 1), frames; nothing follows
    frame  kind (1 byte), content length (u32), content, CRC-32 (u32) of the frame's number (u32), kind, length, content

    H      header: canonical JSON, deflated
    T      methods model and fixed: the tokenizer's encoding; empty if the header names a file in place of it
    P      methods model and fixed: the decoder's program (eval.code_size.CodeSize.packed); only in method fixed empty
    B      methods model and fixed, block_count of them: of each rank the length of its payload (u32), and the payload
    S      method stored: 1 if it ends its document else 0 (1 byte), then at most 1 MiB of the corpus
    N      format 2 alone: the names of the documents (data/names.py)
    E      SHA-256 of the corpus (32 bytes), data_bits (float64)

Numbers are little-endian. That a frame's number is under its checksum shows frames that are swapped, doubled or lost.
"""

import hashlib
import json
import math
import re
import struct
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from archive.checked_frames import END_BYTES, FORMAT, MAX_HEADER_BYTES, NAMED_FORMAT, CheckedFrames, frame
from archive.checked_frames import ArchiveError as ArchiveError
from archive.frames import MAGIC, read_frames
from data.documents import Chunks
from data.errors import UsageError
from data.files import new_file
from data.lanes import Lanes, read_schedule
from data.names import pack_names, unpack_names


@dataclass(frozen=True)
class Archive:
    """What a verified archive says of itself. Payloads stay in the file: archive.frames and documents_of read them."""

    path: Path
    header: dict[str, Any]
    encoding: bytes
    """The tokenizer's."""
    program: bytes
    offsets: "array[int]"
    """Where each B or S frame begins in the file and, last, where the end frame does. Eight bytes a frame, since small
    documents can make millions of them."""
    sha256: str
    data_bits: float
    part_bytes: dict[str, int]
    """Bytes of header, tokenizer, program, payload, names and end; framing is the rest of the file."""
    names: tuple[str, ...] = ()
    """Of each document its path below the folder that was archived; empty if it has none."""

    @property
    def blocks(self) -> int:
        """Number of B or S frames."""
        return len(self.offsets) - 1

    def span(self, block: int) -> tuple[int, int]:
        """Offset in the file and length, in bytes, of the content of B or S frame `block`, counted from 0."""
        return self.offsets[block] + 5, self.offsets[block + 1] - self.offsets[block] - 9


def block_content(payloads: list[bytes]) -> bytes:
    """Content of a B frame from the payload of each rank, in order."""
    return b"".join(len(payload).to_bytes(4, "little") + payload for payload in payloads)


def end_content(sha256: str, data_bits: float) -> bytes:
    """Content of the E frame, from the corpus' SHA-256 in hexadecimal and what the training loss said."""
    return bytes.fromhex(sha256) + struct.pack("<d", data_bits)


def stored_frames(header: dict[str, Any], chunks: Chunks, names: tuple[str, ...] = ()) -> Iterator[tuple[bytes, bytes]]:
    """Yield the (kind, content) of frames that store a corpus as it is; `chunks` as data.documents.Source yields them.

    Raises UsageError if they are not the bytes and documents that the header counts.
    """
    yield b"H", header_content(header)
    digest, corpus_bytes, documents = hashlib.sha256(), 0, 0
    for chunk, ends_document in chunks:
        digest.update(chunk)
        corpus_bytes += len(chunk)
        documents += ends_document
        yield b"S", bytes([ends_document]) + chunk
    if difference := _difference(header, corpus_bytes, documents):
        raise UsageError(f"{difference}: the corpus changed while it was read; run again")
    if names:
        yield b"N", pack_names(names)
    yield b"E", end_content(digest.hexdigest(), 8 * corpus_bytes)


def _difference(header: dict[str, Any], corpus_bytes: int, documents: int) -> str:
    """How far the corpus is from what its header counts; empty where it is not."""
    stated = header["corpus"]["bytes"], header["corpus"]["documents"]
    if stated == (corpus_bytes, documents):
        return ""
    return f"there are {corpus_bytes} bytes in {documents} documents, not {stated[0]} in {stated[1]} as the header says"


def write_archive(path: Path, frames: Iterable[tuple[bytes, bytes]]) -> None:
    """Write the (kind, content) of all frames, whose order is the caller's care.

    If this fails, or `frames` does, nothing is left behind and `path` is as before.
    """
    with new_file(path) as file:
        file.write(MAGIC)
        file_format = FORMAT
        for number, (kind, content) in enumerate(frames):
            file.write(frame(number, kind, content))
            file_format = NAMED_FORMAT if kind == b"N" else file_format
        file.seek(len(MAGIC) - 1)
        file.write(bytes([file_format]))


def documents_of(archive: Archive) -> Chunks:
    """Yield (chunk of at most 1 MiB, whether it ends its document) of an archive of method stored."""
    with archive.path.open("rb") as file:
        for kind, content in read_frames(file):
            if kind == b"S":
                yield content[1:], content[:1] == b"\1"


def open_archive(path: Path) -> Archive:
    """Read an archive through and check all of it, in a few MiB of memory however large it is.

    Raises ArchiveError on whatever we would not have written, and OSError if the file cannot be read.
    """
    with path.open("rb") as file:
        return _read(CheckedFrames(path, file))


def _read(frames: CheckedFrames) -> Archive:
    magic = frames.read(len(MAGIC))
    if magic[:-1] != MAGIC[:-1]:
        raise frames.error("this is no archive of Onepass", "name one that launch/compress.py wrote")
    if magic[-1] not in (FORMAT, NAMED_FORMAT):
        raise frames.error(f"written by format {magic[-1]}, this reads 1 and 2", "take the release that wrote it")
    named = magic[-1] == NAMED_FORMAT
    content = frames.next({b"H": "header"})[1]
    try:
        header = parse_header(content)
    except UsageError as error:
        raise frames.error(str(error)) from None
    part_bytes = {"header": len(content), "tokenizer": 0, "program": 0, "payload": 0, "names": 0, "end": END_BYTES}
    encoding, program, offsets = b"", b"", array("Q")
    check_stored: Callable[[str, float], None] = lambda *_: None  # noqa: E731
    # What comes after the S or B frames.
    last = {b"N": "names"} if named else {b"E": "end"}
    if header["method"] == "stored":
        part_bytes["payload"] = header["corpus"]["bytes"]
        content, check_stored = _read_stored(frames, header, offsets, last)
    else:
        blocks, ranks = block_count(header), header["world_size"]
        # The least that so many empty blocks take, so that no number of tokens keeps us busy.
        if blocks * (9 + 4 * ranks) > frames.file_bytes:
            tokens = header["corpus"]["tokens"]
            raise frames.error(f"{tokens} tokens make {blocks} blocks, more than {frames.file_bytes} bytes can hold")
        encoding = frames.next({b"T": "tokenizer"})[1]
        program = frames.next({b"P": "program"})[1]
        if header["method"] == "model" and not program:
            raise frames.error("it is empty, but method model needs one")
        part_bytes |= {"tokenizer": len(encoding), "program": len(program)}
        for block in range(blocks):
            part_bytes["payload"] += frames.next_block(f"block {block}", ranks)
            offsets.append(frames.offset)
        content = frames.next(last)[1]
    offsets.append(frames.offset)
    names: tuple[str, ...] = ()
    if named:
        part_bytes["names"] = len(content)
        try:
            names = unpack_names(content, header["corpus"]["documents"])
        except ValueError as error:
            raise frames.error(str(error)) from None
        content = frames.next({b"E": "end"})[1]
    sha256, data_bits = _read_end(frames, content)
    check_stored(sha256, data_bits)
    part_bytes["framing"] = frames.file_bytes - sum(part_bytes.values())
    return Archive(frames.path, header, encoding, program, offsets, sha256, data_bits, part_bytes, names)


def _read_stored(
    frames: CheckedFrames, header: dict[str, Any], offsets: "array[int]", last: dict[bytes, str]
) -> tuple[bytes, Callable[[str, float], None]]:
    """Check the S frames, up to a frame of the `last` kind; fill `offsets`. Returns the content of that, and what
    checks the content of the end frame."""
    digest, corpus_bytes, documents, flag = hashlib.sha256(), 0, 0, b"\1"
    while True:
        kind, content = frames.next({b"S": f"chunk {len(offsets)}", **last})
        if kind in last:
            break
        offsets.append(frames.offset)
        flag = content[:1]
        if flag not in (b"\0", b"\1"):
            raise frames.error(f"its first byte is {flag!r}, not 0 or 1")
        digest.update(content[1:])
        corpus_bytes += len(content) - 1
        documents += flag[0]

    def check(sha256: str, data_bits: float) -> None:
        if difference := _difference(header, corpus_bytes, documents):
            raise frames.error(difference)
        if flag != b"\1":
            raise frames.error("the last document does not end")
        if sha256 != digest.hexdigest():
            raise frames.error(f"it says SHA-256 {sha256}, but that of the chunks is {digest.hexdigest()}")
        if data_bits != 8 * corpus_bytes:
            raise frames.error(f"it says {data_bits} data bits, but the chunks have {8 * corpus_bytes}")

    return content, check


def _read_end(frames: CheckedFrames, content: bytes) -> tuple[str, float]:
    """SHA-256 in hexadecimal and data_bits from the content of the end frame, after which nothing may follow."""
    if len(content) != END_BYTES:
        raise frames.error(f"it has {len(content)} bytes, not {END_BYTES}")
    data_bits = struct.unpack("<d", content[32:])[0]
    if not 0 <= data_bits < math.inf:
        raise frames.error(f"it says {data_bits} data bits")
    if surplus := frames.file_bytes - frames.file.tell():
        raise frames.error(f"{surplus} bytes follow it")
    return content[:32].hex(), data_bits


MAX_JSON_BYTES = 1 << 20


# What a header holds: `str` is any text, `dict` an object of texts, a range its integers, a pattern its texts, and
# `read_schedule` what that returns as it is.
_SHA256 = re.compile("[0-9a-f]{64}")
_COUNT, _WORLD = range(1, 1 << 62), range(1, (1 << 16) + 1)
_CORPUS = {"name": str, "bytes": range(1 << 62), "documents": _COUNT, "tokens": _COUNT}
_CODED = {
    "corpus": _CORPUS,
    "tokenizer": str,
    "lanes": range(1, (1 << 20) + 1),
    "segment_tokens": read_schedule,
    "block_steps": range(1, (1 << 16) + 1),
    "world_size": _WORLD,
    "threads": _WORLD,
    "machine": dict,
    "pins": dict,
}
_METHODS = {
    "model": {"method": str, **_CODED, "code": _SHA256},
    "fixed": {"method": str, **_CODED, "code": re.compile(""), "model": _SHA256},
    "stored": {"method": str, "corpus": _CORPUS | {"tokens": range(1)}},
}


def block_count(header: dict[str, Any]) -> int:
    """Number of blocks of a coded corpus."""
    steps = Lanes(header["corpus"]["tokens"], header["lanes"], header["segment_tokens"]).steps
    return -(-steps // header["block_steps"])


def header_content(header: dict[str, Any]) -> bytes:
    """Content of the H frame. Raises UsageError if a reader would refuse it."""
    content = zlib.compress(_canonical(header), 9)
    if len(content) > MAX_HEADER_BYTES:
        raise UsageError(f"the header takes {len(content)} bytes, more than {MAX_HEADER_BYTES}: shorten its texts")
    parse_header(content)
    return content


def _canonical(header: Any) -> bytes:
    """JSON in ASCII, where even a file name that is not UTF-8 finds an escape."""
    return json.dumps(header, sort_keys=True, separators=(",", ":")).encode()


def parse_header(content: bytes) -> dict[str, Any]:
    """The header from the content of its frame, every field checked. Raises UsageError."""
    inflater = zlib.decompressobj()
    try:
        text = inflater.decompress(content, MAX_JSON_BYTES)
        if not inflater.eof or inflater.unused_data:
            raise UsageError(f"its JSON does not end with its frame, or takes more than {MAX_JSON_BYTES:,} bytes")
        header = json.loads(text)
        if _canonical(header) != text:
            raise UsageError("its JSON is not in canonical form")
        method = header.get("method") if isinstance(header, dict) else None
        if method not in list(_METHODS):
            raise UsageError(f"its method is {method!r:.60}, not {', '.join(_METHODS)}")
        _check("header", header, _METHODS[method])
        if method != "stored":
            block_count(header)
            if header["lanes"] % header["world_size"]:
                raise UsageError(f"{header['lanes']} lanes cannot be shared by {header['world_size']} ranks")
    except (ValueError, RecursionError, zlib.error) as error:
        raise UsageError(str(error)) from None
    return header


def _check(name: str, value: Any, rule: Any) -> None:
    """Raise UsageError unless `value` is what `rule`, a part of _METHODS, says."""
    if isinstance(rule, dict):
        if not isinstance(value, dict) or value.keys() != rule.keys():
            raise UsageError(f"{name} is {value!r:.200}, not an object of {', '.join(rule)}")
        for key, part in rule.items():
            _check(key if name == "header" else f"{name}.{key}", value[key], part)
        return
    fits = False
    if isinstance(rule, range):
        fits, wanted = type(value) is int and value in rule, f"an integer from {rule[0]} to {rule[-1]}"
    elif rule is read_schedule:
        with suppress(TypeError, ValueError):
            fits = read_schedule(value) == value
        wanted = "an integer from 1 to 1048576, or a schedule of such"
    elif rule is dict:
        fits = isinstance(value, dict) and all(isinstance(text, str) for text in value.values())
        wanted = "an object of texts"
    else:
        fits = isinstance(value, str) and (rule is str or rule.fullmatch(value) is not None)
        wanted = "text" if rule is str else f"text like {rule.pattern!r}"
    if not fits:
        raise UsageError(f"{name} is {value!r:.60}, not {wanted}")
