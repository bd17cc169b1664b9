"""Compressing: the loop of training, fed from the corpus, with every token coded before it is learned from.

`coded_frames` makes the archive of what was coded, by a model that learns (launch/compress.py) or a fixed one
(studies/fixed_model).
"""

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from archive.coder import encode
from archive.decoding import code_segment
from archive.format import block_content, block_count, header_content
from archive.pins import current_pins
from data.errors import RunFailed
from data.files import write_file
from data.lanes import Lanes
from data.tokenizer import Tokenizer
from eval.code_size import reference_machine
from train.corpus import CorpusSource
from train.engine import Place
from train.loop import Learner

BLOCK_STEPS = 256


class EncodingSource:
    """A token source that codes what `corpus` reads. Rank 0 writes every block's payloads to a file in `folder`.

    Raises RunFailed where the model's probabilities are not numbers.
    """

    def __init__(self, corpus: CorpusSource, folder: Path, place: Place, block_steps: int = BLOCK_STEPS):
        self.corpus, self.folder, self.place, self.block_steps = corpus, folder, place, block_steps
        self.lanes = corpus.lanes
        self.begin_block()

    def begin_block(self) -> None:
        # Shares [..., 2] of the coder's number: start and width, of every symbol since the block began.
        self.shares: list[np.ndarray] = []
        self.check = 0

    def segment(self, step: int, learner: Learner) -> np.ndarray:
        targets = self.corpus.segment(step, learner)

        def code(bounds: np.ndarray, time: int, below: int) -> np.ndarray:
            symbols, row = targets[: len(bounds), time] // below % (bounds.shape[1] - 1), np.arange(len(bounds))
            starts = bounds[row, symbols]
            widths = bounds[row, symbols + 1] - starts
            # NaN has become the smallest integer.
            if (starts < 0).any() or (widths <= 0).any():
                raise RunFailed(f"the model's probabilities stopped being numbers at step {step}: try lower rates")
            self.shares.append(np.stack([starts, widths], 1))
            return symbols

        code_segment(step, learner, self.lanes, self.corpus.share, code)
        self.check = zlib.crc32(targets.data, self.check)
        if (step + 1) % self.block_steps == 0 or step + 1 == self.lanes.steps:
            shares = np.concatenate(self.shares)[::-1].tolist()
            content = block_content(gather_payloads(encode(shares, self.check), self.place))
            if self.place.rank == 0:
                self.folder.mkdir(parents=True, exist_ok=True)
                write_file(block_file(self.folder, step // self.block_steps), content)
            self.begin_block()
        return targets

    def state(self) -> dict[str, Any]:
        shares = np.concatenate([np.empty((0, 2), np.int64), *self.shares])
        return {**self.corpus.state(), "shares": torch.from_numpy(shares), "check": self.check}

    def restore(self, step: int, state: dict[str, Any]) -> None:
        self.corpus.restore(step, state)
        self.shares, self.check = [state["shares"].numpy()], state["check"]


def block_file(folder: Path, block: int) -> Path:
    """Where the payloads of a block wait for the rest."""
    return folder / f"block-{block:08d}"


def gather_payloads(payload: bytes, place: Place) -> list[bytes]:
    """The payloads of all ranks, in order of rank, on every rank."""
    lengths = place.gather(torch.tensor([[len(payload)]], device=place.device)).flatten().tolist()
    padded = torch.frombuffer(bytearray(payload.ljust(max(lengths) + 1, b"\0")), dtype=torch.uint8)
    return [
        bytes(row[:length].tolist())
        for row, length in zip(place.gather(padded[None].to(place.device)), lengths, strict=True)
    ]


def coded_header(
    about: dict[str, Any], lanes: Lanes, tokenizer: Tokenizer, world_size: int, threads: int, packages: dict[str, str]
) -> dict[str, Any]:
    """The header of an archive of coded tokens. `about` are the fields that depend on the method, `packages` those that
    its decoder needs beside the reference machine; this process says the rest of itself."""
    return {
        "tokenizer": tokenizer.kind,
        "lanes": lanes.lanes,
        "segment_tokens": lanes.segment_tokens,
        "block_steps": BLOCK_STEPS,
        "world_size": world_size,
        "threads": threads,
        "machine": reference_machine() | packages,
        "pins": current_pins(),
        **about,
    }


def coded_frames(
    header: dict[str, Any], tokenizer: Tokenizer, program: bytes, folder: Path, names: bytes, end: bytes
) -> Iterator[tuple[bytes, bytes]]:
    """The frames of an archive, for archive.format.write_archive: with the payloads that an EncodingSource left in
    `folder`. `names` is what data.names.pack_names made of the documents' names, `end` what end_content returned."""
    yield b"H", header_content(header)
    yield b"T", tokenizer.encoding
    yield b"P", program
    for block in range(block_count(header)):
        yield b"B", block_file(folder, block).read_bytes()
    if names:
        yield b"N", names
    yield b"E", end
