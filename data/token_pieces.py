"""Token files as a decoder writes them again, byte for byte. data/token_files.py reads them.

The tokens of such a corpus are the ids in its files. After them come the ends that its format has: the last one ends a
file, the one before it a document, and the one before that a sequence. The encoding is the format, the type of the
ids, and how many ids there are.
"""

import struct
from collections.abc import Iterator

import numpy as np

# Of any vocabulary: that of token files, of pieces that are learned, and of a file, with the bytes and an end beside it
# (data/joins.py).
MAX_IDS = 1 << 18
# By Megatron-LM's codes; it has no u4.
TYPES = ("u1", "u1", "i1", "i2", "i4", "i8", "f8", "f4", "u2", "u4")
BARE, LLM_C, LLAMA_3, NPY, DOCUMENTS, SEQUENCES = range(6)
# What a file has for each end: of a sequence, of a document, of the file.
END_BYTES = ((0,), (1024,), (1024,), (128,), (20, 42), (12, 8, 42))
MAGIC_AND_VERSION = {LLM_C: (20240520, 1), LLAMA_3: (20240801, 7)}
CHUNK_TOKENS = 1 << 18


def read_pieces(encoding: bytes) -> list[bytes]:
    """The bytes of each id in its file, then as many zeros as a file has bytes for each end."""
    ids, size = int.from_bytes(encoding[2:], "big"), np.dtype(TYPES[encoding[1]]).itemsize
    if ids > min(MAX_IDS, 256**size):
        raise IndexError(f"{ids} ids are too many")
    return [number.to_bytes(size, "little") for number in range(ids)] + [*map(bytes, END_BYTES[encoding[0]])]


def file_chunks(tokens: np.ndarray, encoding: bytes) -> Iterator[tuple[bytes, bool]]:
    """Yield (some bytes of a file, whether they end it) for the tokens [N] of a corpus."""
    form, kind, ids = encoding[0], np.dtype(f"<{TYPES[encoding[1]]}"), int.from_bytes(encoding[2:], "big")
    start = 0
    for stop in np.flatnonzero(tokens == ids + len(END_BYTES[form]) - 1).tolist():
        part, start = tokens[start:stop], stop + 1
        ends = np.flatnonzero(part >= ids)
        yield file_header(form, kind, len(part) - len(ends)), False
        for first in range(0, len(part), CHUNK_TOKENS):
            some = part[first : first + CHUNK_TOKENS]
            yield some[some < ids].astype(kind).tobytes(), False
        yield b"", True
        if form >= DOCUMENTS:
            yield file_index(form, encoding[1], part[ends] == ids, ends - np.arange(len(ends))), True


def file_header(form: int, kind: np.dtype, count: int) -> bytes:
    """What stands before `count` ids in a file."""
    if form == NPY:
        text = f"{{'descr': '{kind.str}', 'fortran_order': False, 'shape': ({count},), }}"
        return b"\x93NUMPY\1\0v\0" + text.ljust(117).encode() + b"\n"
    return struct.pack("<3i", *MAGIC_AND_VERSION[form], count).ljust(1024, b"\0") if form in MAGIC_AND_VERSION else b""


def file_index(form: int, code: int, sequences: np.ndarray, places: np.ndarray) -> bytes:
    """Megatron-LM's .idx for ends [E] at these places, in ids. `sequences` [E] says which of them end a sequence; in
    form DOCUMENTS, each ends a document, too."""
    stops = places[sequences]
    sizes = np.diff(stops, prepend=0)
    documents = sequences.cumsum()[sequences == (form == DOCUMENTS)]
    counts = struct.pack("<QBQQ", 1, code, len(sizes), len(documents) + 1)
    pointers = (stops - sizes) * np.dtype(TYPES[code]).itemsize
    rest = (
        sizes.astype("<i4").tobytes() + pointers.astype("<i8").tobytes() + bytes(8) + documents.astype("<i8").tobytes()
    )
    return b"MMIDIDX\0\0" + counts + rest
