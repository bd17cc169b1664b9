"""Two runs over one corpus, byte by byte: what each byte cost in the one and in the other.

A run pays for pieces, and two runs may cut the corpus into different ones. The cost of a piece is divided equally among
its bytes: a piece is one decision, whose bytes came together, and no other division would follow from what the model
said. Sums over whole pieces are those of the ledger, whatever the rule.

A corpus is a stream of units: its bytes, and DOCUMENT_END where a document ends, which a model has to code, too.

Shapes: `N` tokens, `U` units.
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.documents import make_printable
from data.errors import RunFailed, UsageError
from data.prepare import PreparedCorpus
from data.tokenizer import Tokenizer
from eval.schema import Report, finished_report
from studies.scoring import find_corpus
from train.command_line import CONFIG_FILE, load_config
from train.nats import KeptNats, read_nats
from train.run_dir import TOKENIZER_FILE

DOCUMENT_END = 256
CHUNK_TOKENS = 1 << 18
BLOCK_UNITS = 1 << 20
# By unit: whether it belongs to a word. Bytes beyond ASCII are letters of other scripts, nearly always.
WORD = np.array([unit > 127 or chr(unit).isalpha() for unit in range(256)] + [False])
# Longer words than this may be cut in two by the end of a block.
LONGEST_WORD = 1 << 12


@dataclass(frozen=True)
class ReadRun:
    """A finished run that kept its nats, and the corpus that it coded."""

    name: str
    folder: Path
    report: Report
    kept: KeptNats
    corpus: PreparedCorpus


@dataclass(frozen=True)
class Block:
    """A stretch of the corpus from unit `start` on: units [U], their bits in the two runs [2, U], and the first run's
    order: the lane of each unit [U], and the part of the lane that was coded before it [U], from 0 to 1."""

    start: int
    units: np.ndarray
    bits: np.ndarray
    lane: np.ndarray
    progress: np.ndarray


def open_runs(folders: list[Path], source: str | None) -> list[ReadRun]:
    """The runs, and their corpus from `source` or, if None, from where each had it.

    Raises UsageError if one is not finished or kept no nats, if they code different corpora, or token files.
    """
    reports = [finished_report(folder) for folder in folders]
    first, second = (report.corpus for report in reports)
    if (first.sha256, first.documents) != (second.sha256, second.documents):
        texts = [
            f"{c.name} ({c.bytes:,} bytes, {c.documents:,} documents, SHA-256 {c.sha256[:8]}…)" for c in (first, second)
        ]
        raise UsageError(
            f"{folders[0]} codes {texts[0]} and {folders[1]} codes {texts[1]}: code lengths of different corpora "
            "cannot be compared; name two runs over one"
        )
    if any(report.token_files for report in reports):
        raise UsageError(f"{folders[0]} codes token files, whose bytes are no text: name runs over the text itself")
    names = [folder.resolve().name for folder in folders]
    if names[0] == names[1]:
        names = [f"{folder.resolve().parent.name}/{name}" for folder, name in zip(folders, names, strict=True)]
    if names[0] == names[1]:
        names = [str(folder) for folder in folders]
    return [
        open_kept(folder, report, make_printable(name), source)
        for folder, report, name in zip(folders, reports, names, strict=True)
    ]


def open_kept(folder: Path, report: Report, name: str, source: str | None) -> ReadRun:
    """A finished run, to be called `name`. Raises UsageError if its files do not fit each other."""
    kept, length = read_nats(folder), report.description_length
    if kept.lanes.tokens != report.corpus.tokens or not math.isclose(kept.bits, length.data_bits, rel_tol=1e-12):
        raise UsageError(f"the nats that {folder} kept are not those of its report.json: they are of another run")
    encoding = (folder / TOKENIZER_FILE).read_bytes()
    corpus = find_corpus(folder, load_config(folder / CONFIG_FILE), report, encoding, source)
    return ReadRun(name, folder, report, kept, corpus)


class Pieces:
    """The pieces of a tokenizer as units, one after the other."""

    def __init__(self, tokenizer: Tokenizer):
        pieces = [*map(list, tokenizer.pieces[:-1]), [DOCUMENT_END]]
        self.units = np.array([unit for piece in pieces for unit in piece], np.uint16)
        self.lengths = np.array([len(piece) for piece in pieces])
        self.starts = self.lengths.cumsum() - self.lengths

    def read(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The units [U] of tokens [N], and how many each of the tokens has [N]."""
        lengths = self.lengths[tokens]
        before = lengths.cumsum() - lengths
        return self.units[np.repeat(self.starts[tokens] - before, lengths) + np.arange(lengths.sum())], lengths


def read_units(run: ReadRun) -> Iterator[np.ndarray]:
    """The units of a run's corpus, in chunks: a record of unit, bits, lane and progress (class Block) for each."""
    pieces, tokens, lane_tokens = Pieces(run.corpus.tokenizer), run.corpus.tokens, run.kept.lanes.lane_tokens
    for start in range(0, len(tokens), CHUNK_TOKENS):
        stop = min(start + CHUNK_TOKENS, len(tokens))
        units, lengths = pieces.read(tokens.read(start, stop))
        lane, offset = np.divmod(np.arange(start, stop), lane_tokens)
        chunk = np.empty(len(units), [("unit", "u2"), ("bits", "f8"), ("lane", "i4"), ("progress", "f4")])
        chunk["unit"] = units
        chunk["bits"] = np.repeat(run.kept.nats[start:stop].astype(np.float64) / math.log(2) / lengths, lengths)
        chunk["lane"], chunk["progress"] = np.repeat(lane, lengths), np.repeat(offset / lane_tokens, lengths)
        yield chunk


def read_blocks(run: ReadRun) -> Iterator[np.ndarray]:
    """The same in blocks of BLOCK_UNITS at most, that end between two words. They depend on the corpus alone."""
    rest: Any = np.empty(0)
    for chunk in read_units(run):
        rest = np.concatenate([rest, chunk]) if len(rest) else chunk
        while len(rest) >= BLOCK_UNITS:
            between = np.flatnonzero(~WORD[rest["unit"][BLOCK_UNITS - LONGEST_WORD : BLOCK_UNITS]])
            size = BLOCK_UNITS - LONGEST_WORD + int(between[-1]) + 1 if len(between) else BLOCK_UNITS
            yield rest[:size]
            rest = rest[size:]
    if len(rest):
        yield rest


def pair_blocks(runs: list[ReadRun]) -> Iterator[Block]:
    """The corpus of two runs in blocks.

    At its end, raises UsageError if its bytes are not those that both coded, or its documents end elsewhere; RunFailed
    if the bits do not sum to both ledgers.
    """
    start, sums, digest = 0, np.zeros(2), hashlib.sha256()
    for a, b in zip(*map(read_blocks, runs), strict=True):
        if not np.array_equal(a["unit"], b["unit"]):
            raise UsageError(f"{runs[0].folder} and {runs[1].folder} end the corpus' documents at different bytes")
        bits = np.stack([a["bits"], b["bits"]])
        sums += bits.sum(1)
        digest.update(a["unit"][a["unit"] < DOCUMENT_END].astype(np.uint8).tobytes())
        yield Block(start, a["unit"], bits, a["lane"], a["progress"])
        start += len(a)
    if digest.hexdigest() != runs[0].report.corpus.sha256:
        raise UsageError(f"the tokens of {runs[0].corpus.directory} are not the corpus: delete that folder, run again")
    for run, total in zip(runs, sums.tolist(), strict=True):
        # Each byte's share rounds by 2^-53 of it, and so does each addition within a block.
        if not math.isclose(total, run.kept.bits, rel_tol=1e-12):
            raise RunFailed(f"the bytes of {run.folder} take {total} bits, and its ledger has {run.kept.bits}")
