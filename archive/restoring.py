"""Decoding that survives a kill: the decoder's place in its block, and tokens in a file."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from archive.coder import Decoder
from archive.decoding import Decoding
from archive.format import Archive
from archive.frames import rank_payload, read_frames
from data.errors import UsageError
from data.lanes import Lanes
from train.engine import Place
from train.loop import Learner


class RestorableDecoding(Decoding):
    """A token source that decodes `archive` into `tokens`, a file of 32-bit numbers that only rank 0 has."""

    def __init__(self, archive: Archive, lanes: Lanes, place: Place, tokens: Path):
        self.archive, self.place = archive, place
        kept = np.zeros(0, np.uint32)
        if place.rank == 0:
            if not tokens.exists():
                tokens.parent.mkdir(parents=True, exist_ok=True)
                tokens.touch()
            kept = np.memmap(tokens, np.uint32, "r+", shape=(lanes.tokens,))
        share = lanes.share(place.rank, place.world_size)
        super().__init__(lanes, share, archive.header["block_steps"], self.read_payloads(0), kept)

    def read_payloads(self, first_block: int) -> Iterator[bytes]:
        with self.archive.path.open("rb") as file:
            blocks = (content for kind, content in read_frames(file) if kind == b"B")
            for content in itertools.islice(blocks, first_block, None):
                yield rank_payload(content, self.place.rank)

    def segment(self, step: int, learner: Learner) -> np.ndarray:
        try:
            return super().segment(step, learner)
        except UsageError as error:
            offset = self.archive.offsets[step // self.block_steps]
            raise UsageError(f"{error} (it is at byte {offset}): this machine computes otherwise") from None

    def state(self) -> dict[str, Any]:
        if isinstance(self.tokens, np.memmap):
            self.tokens.flush()
        decoder = {"state": f"{self.decoder.state:x}", "position": self.decoder.position}
        return {"archive": self.archive.sha256, **decoder, "check": self.check}

    def restore(self, step: int, state: dict[str, Any]) -> None:
        """Go on after `step` steps. Raises UsageError if they were those of another archive."""
        if state["archive"] != self.archive.sha256:
            raise UsageError(
                f"the corpus had SHA-256 {state['archive']} when decompression began and {self.archive.path} has "
                f"{self.archive.sha256}: name that archive, or begin anew without --resume"
            )
        self.payloads = self.read_payloads(step // self.block_steps)
        if step % self.block_steps:
            self.decoder = Decoder(next(self.payloads))
            self.decoder.state, self.decoder.position = int(state["state"], 16), state["position"]
            self.check = state["check"]
