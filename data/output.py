"""Decoded documents on their way to disk: under a temporary name until their SHA-256 is that of the archive."""

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from data.errors import UsageError
from data.tokenizer import Tokenizer

CHUNK_TOKENS = 1 << 18


def token_chunks(tokens: np.ndarray, tokenizer: Tokenizer) -> Iterator[tuple[bytes, bool]]:
    """Yield (some bytes of a document, whether they end it) for the tokens [N] of a corpus."""
    if tokenizer.kind == "tokens":
        from data.token_pieces import file_chunks

        yield from file_chunks(tokens, tokenizer.encoding)
        return
    for start in range(0, len(tokens), CHUNK_TOKENS):
        part, first = tokens[start : start + CHUNK_TOKENS], 0
        for end in np.flatnonzero(part == tokenizer.end_of_document):
            yield tokenizer.decode(part[first:end]), True
            first = int(end) + 1
        if first < len(part):
            yield tokenizer.decode(part[first:]), False


def write_documents(chunks: Iterable[tuple[bytes, bool]], output: Path, single: bool, sha256: str) -> None:
    """Write a `single` document to the file `output`, or several to numbered files in the folder `output`.

    Raises UsageError, leaving nothing, if their bytes have another SHA-256.
    """
    temporary = output.with_name(f".{output.name[:32]}.{os.getpid()}.tmp")
    digest, number, fresh = hashlib.sha256(), 0, True
    try:
        if not single:
            temporary.mkdir()
        for chunk, ends in chunks:
            digest.update(chunk)
            with (temporary if single else temporary / f"{number:08d}").open("wb" if fresh else "ab") as file:
                file.write(chunk)
            fresh = ends and not single
            number += ends
        if digest.hexdigest() != sha256:
            raise UsageError(f"the decoded bytes have SHA-256 {digest.hexdigest()}, the archive says {sha256}")
        os.sync()
        temporary.rename(output)
    finally:
        if not single:
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)
