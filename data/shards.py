"""Prepared corpora on disk: a manifest and memory-mapped token shards. Both are untrusted input, and checked."""

import base64
import dataclasses
import hashlib
import json
from bisect import bisect_right
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ConfigDict, NonNegativeInt, PositiveInt, TypeAdapter
from pydantic.dataclasses import dataclass

from data.errors import RunFailed, UsageError
from data.files import file_sha256, read_json, write_file
from data.token_files import TokenFiles
from data.tokenizer import Tokenizer, load_tokenizer

FORMAT = 3
MANIFEST = "manifest.json"
# The manifest of a streamed corpus, whose shards are no tokens.
INDEX = "index.json"
MAX_JSON_BYTES = 64 << 20
MAX_ENCODING_BYTES = 4 << 20
# The pieces of somebody else's tokenizer, whose encoding takes seconds to read.
PIECES = "pieces.bin"
MAX_PIECES_BYTES = 64 << 20
STRICT = ConfigDict(strict=True, extra="forbid")


@dataclass(frozen=True, config=STRICT)
class Shard:
    """One file of tokens, little-endian, two bytes each (four where the vocabulary passes 65,536)."""

    file: str
    tokens: NonNegativeInt
    sha256: str


@dataclass(frozen=True, config=STRICT)
class Manifest:
    """What a prepared corpus holds. Until it is whole, its journal is such a file, without shards."""

    format: int
    name: str
    bytes: NonNegativeInt
    tokens: NonNegativeInt
    documents: NonNegativeInt
    sha256: str
    """Of the corpus' bytes, documents in order."""
    fingerprint: str
    """Identity of the source, see data.documents.Source."""
    begun_ns: PositiveInt = dataclasses.field(compare=False)
    """When the reading of the source began, as time.time_ns gives it."""
    tokenizer: dict[str, Any]
    """kind, vocabulary, encoding (base64) and sha256 (of the encoding). Of somebody else's tokenizer also the SHA-256
    of PIECES, and of its file: name, format, SHA-256 and bytes as xz."""
    shards: list[Shard]
    batches: NonNegativeInt = 0
    """How many batches (data/batches.py) the shards hold, or, of a streamed corpus, describe."""
    escaped: NonNegativeInt = 0
    """Bytes that somebody else's tokenizer would have lost, so that each is a token (data/file_encoder.py)."""


def describe_tokenizer(tokenizer: Tokenizer) -> dict[str, Any]:
    """The manifest's entry for a tokenizer."""
    return {
        "kind": tokenizer.kind,
        "vocabulary": tokenizer.vocabulary,
        "encoding": base64.b64encode(tokenizer.encoding).decode(),
        "sha256": hashlib.sha256(tokenizer.encoding).hexdigest(),
    }


def pieces_content(tokenizer: Tokenizer) -> bytes:
    """What PIECES holds: the length of each piece, a byte each, and the pieces."""
    return bytes(map(len, tokenizer.pieces)) + b"".join(tokenizer.pieces)


def cut_pieces(content: bytes, vocabulary: int) -> list[bytes]:
    """The pieces of a pieces_content."""
    stops = [*accumulate(content[:vocabulary], initial=vocabulary)]
    return [content[start:stop] for start, stop in pairwise(stops)]


def _read_pieces(path: Path, vocabulary: int, sha256: str) -> list[bytes]:
    with path.open("rb") as file:
        content = file.read(MAX_PIECES_BYTES + 1)
    if hashlib.sha256(content).hexdigest() != sha256 or not 0 < vocabulary <= len(content):
        raise UsageError(f"{path} does not match its SHA-256")
    return cut_pieces(content, vocabulary)


def restore_tokenizer(entry: dict[str, Any], directory: Path) -> Tokenizer:
    """The tokenizer that the entry of the manifest in `directory` describes. Raises UsageError where the entry is not
    consistent."""
    encoding = base64.b64decode(entry["encoding"], validate=True)
    if len(encoding) > MAX_ENCODING_BYTES or hashlib.sha256(encoding).hexdigest() != entry["sha256"]:
        raise UsageError("the tokenizer's encoding does not match its SHA-256, or is too large")
    if entry["kind"] == "file":
        pieces = _read_pieces(directory / PIECES, entry["vocabulary"], entry["pieces_sha256"])
        return Tokenizer("file", encoding, pieces)
    tokenizer = load_tokenizer(entry["kind"], encoding)
    if tokenizer.vocabulary != entry["vocabulary"]:
        raise UsageError("the tokenizer has another vocabulary than the manifest says")
    return tokenizer


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write a manifest, whole or not at all."""
    write_file(path, json.dumps(dataclasses.asdict(manifest), indent=1).encode())


def read_manifest(directory: Path, name: str = MANIFEST) -> Manifest:
    """Read and check a manifest. Raises UsageError naming the file if it is not one of ours."""
    path = directory / name
    try:
        manifest: Manifest = read_json(path, TypeAdapter(Manifest), MAX_JSON_BYTES)
        if manifest.format != FORMAT:
            raise UsageError(f"its format is {manifest.format}, ours is {FORMAT}")
        if name in (MANIFEST, INDEX) and not all([manifest.bytes, manifest.tokens, manifest.documents]):
            raise UsageError("it is of an empty corpus")
        restore_tokenizer(manifest.tokenizer, directory)
    except (ValueError, LookupError, TypeError, OSError) as error:
        remedy = f"delete {directory} and run again"
        raise UsageError(f"{path} is not the manifest of a prepared corpus ({error}); {remedy}") from error
    return manifest


class TokenStream:
    """Parts of a corpus as one stream of tokens."""

    def __init__(self, parts: list[np.ndarray]):
        self._parts = parts
        self._starts = [0, *accumulate(map(len, parts))]

    def __len__(self) -> int:
        return self._starts[-1]

    def read(self, start: int, stop: int) -> np.ndarray:
        """Tokens [stop - start], int64. Raises IndexError unless 0 <= start <= stop <= len."""
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"tokens {start} to {stop} of {len(self)}")
        first, last = (bisect_right(self._starts, place) for place in (start, stop))
        parts = [
            self._parts[number][max(0, start - self._starts[number]) : stop - self._starts[number]]
            for number in range(min(first, len(self._parts)) - 1, min(last, len(self._parts)))
        ]
        return np.concatenate(parts, dtype=np.int64, casting="safe")


def check_shard(directory: Path, shard: Shard) -> Path:
    """Check the file of a shard, and return its path. Raises UsageError if it is altered."""
    path = directory / Path(shard.file).name
    if not path.is_file() or file_sha256(path) != shard.sha256:
        raise UsageError(f"{path} does not match its SHA-256; delete {directory} and run again")
    return path


class TokenShards(TokenStream):
    """The corpus as one stream of tokens, memory-mapped."""

    def __init__(self, directory: Path, manifest: Manifest):
        """Map and check every shard. Raises UsageError naming a file that is missing, cut, foreign or altered."""
        dtype = np.dtype("<u2" if manifest.tokenizer["vocabulary"] <= 1 << 16 else "<u4")
        remedy = f"delete {directory} and run again"
        parts: list[np.ndarray] = []
        for shard in manifest.shards:
            path = directory / Path(shard.file).name
            if not path.is_file() or path.stat().st_size != shard.tokens * dtype.itemsize:
                raise UsageError(f"{path} is missing or has the wrong size; {remedy}")
            check_shard(directory, shard)
            # Some files of an index (data/token_files.py) end in bytes without a token.
            parts.append(np.memmap(path, dtype, mode="r") if shard.tokens else np.empty(0, dtype))
        super().__init__(parts)
        if len(self) != manifest.tokens:
            found = f"the shards hold {len(self)} tokens, not {manifest.tokens}"
            raise UsageError(f"{directory / MANIFEST}: {found}; {remedy}")


class MappedFiles(TokenStream):
    """Token files (data/token_files.py) as one stream of tokens, memory-mapped where they are."""

    def __init__(self, files: TokenFiles, end: int):
        """`end` is the token that ends a file."""
        super().__init__([part for path in files.paths for part in (files.map(path), np.array([end]))])
        self._files = [(path, status_of(path)) for path in files.paths]

    def read(self, start: int, stop: int) -> np.ndarray:
        """The same. Raises RunFailed if a file has been changed since it was mapped."""
        found = super().read(start, stop)
        path, status = self._files[min(bisect_right(self._starts, start) - 1, len(self._parts) - 1) // 2]
        if status_of(path) != status:
            raise RunFailed(f"{path} was changed while its ids were read: leave it alone, and start a new run")
        return found


def status_of(path: Path) -> tuple[int, int, int]:
    """What changes when a file does."""
    status = path.stat()
    return status.st_size, status.st_ctime_ns, status.st_ino
