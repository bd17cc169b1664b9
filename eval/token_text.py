"""The text that the ids in token files stand for: a second measure beside the bytes of the files.

It needs the tokenizer that made the ids, with its own numbers. A decoder does not, so nothing is charged for it.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import UsageError
from data.output import CHUNK_TOKENS
from data.prepare import PreparedCorpus
from data.token_files import TokenFiles
from data.tokenizer_files import KINDS, read_tokenizer_file
from eval.baselines import cached_baselines
from eval.measured import CorpusBytes
from eval.schema import TokenFilesRead, TokenText
from train.config import DataConfig


def describe_token_files(
    corpus: PreparedCorpus, files: TokenFiles, data: DataConfig, baselines: bool
) -> TokenFilesRead:
    """What the report says of a corpus of token files, with text and its `baselines` if data.tokenizer names a file.

    Raises UsageError if that is not the tokenizer of the ids.
    """
    manifest, vocabulary, documents, text = corpus.manifest, files.ids(corpus.tokenizer), files.documents, None
    if files.records:
        documents = manifest.documents
    if data.end_token >= 0 or data.tokenizer not in KINDS:
        counts = np.zeros(corpus.tokenizer.vocabulary, np.int64)
        for part in _parts(corpus):
            counts += np.bincount(part, minlength=len(counts))
        counts = counts[:vocabulary]
        if data.end_token >= 0:
            if data.end_token >= vocabulary or not counts[data.end_token]:
                raise UsageError(f"data.end_token {data.end_token} is no id in data.source {data.source}: leave it out")
            documents = int(counts[data.end_token])
        if data.tokenizer not in KINDS:
            text = _measure_text(corpus, data, counts, baselines)
    ids = manifest.tokens - manifest.documents if files.records else files.count
    more = {"text": text} if text else {}
    return TokenFilesRead(format=files.format, vocabulary=vocabulary, ids=ids, documents=documents, **more)


def _measure_text(corpus: PreparedCorpus, data: DataConfig, counts: np.ndarray, baselines: bool) -> TokenText:
    file = read_tokenizer_file(data.tokenizer)
    own = file.open().pieces
    # By id; what the tokenizer has beyond the vocabulary would stand where the ends are.
    pieces = [*own, *[b""] * len(counts)][: len(counts)]
    if data.end_token >= 0:
        pieces[data.end_token] = b""
    beyond = [number for number in np.flatnonzero(counts).tolist() if number >= len(own) and number != data.end_token]
    if beyond:
        problem = f"it has {len(own):,} tokens, and data.source {data.source} has the id {beyond[0]:,}"
        raise file.error(problem, "name the tokenizer of these ids, and an id that ends documents as --data.end_token")
    lengths = np.array([len(piece) for piece in pieces])
    text_bytes = int((counts * lengths).sum())
    found: dict[str, Any] = {}
    if baselines and text_bytes:
        directory = corpus.directory / f"text-{file.sha256[:16]}-{data.end_token}"
        directory.mkdir(exist_ok=True)
        chunks = partial(_text, corpus, pieces)
        found = cached_baselines(CorpusBytes(directory, corpus.manifest.sha256, chunks, text_bytes), True).sections(
            "baselines"
        )
    return TokenText(tokenizer=Path(data.tokenizer).name, bytes=text_bytes, **found)


def _parts(corpus: PreparedCorpus) -> Iterator[np.ndarray]:
    for start in range(0, len(corpus.tokens), CHUNK_TOKENS):
        yield corpus.tokens.read(start, min(start + CHUNK_TOKENS, len(corpus.tokens)))


def _text(corpus: PreparedCorpus, pieces: list[bytes]) -> Iterator[bytes]:
    """The text, in chunks. Ends stand for none."""
    for part in _parts(corpus):
        yield b"".join(map(pieces.__getitem__, part[part < len(pieces)].tolist()))
