"""Decompressing: the loop of training, fed by a decoder. Both directions predict here, so they cannot drift apart.

A decoder knows only the tokens so far, and a parallel forward pass over T tokens is not bit-identical to T single ones.
So sender and receiver take their probabilities from the stepwise form, one token of all lanes at a time, and then run
the same update on the finished segment.

This file is also a program, `python -m archive.decoding ARCHIVE OUTPUT`: it is what the code term of a description
length counts, and an archive carries it along.

Shapes: `R` lanes of this rank, `T` time, `V` vocabulary.
"""

import json
import lzma
import math
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from archive.coder import Decoder, cumulative
from archive.frames import rank_payload, read_frames, read_header
from data.errors import UsageError
from data.lanes import Lanes
from data.output import token_chunks, write_documents
from data.tokenizer import load_tokenizer
from train.engine import connect, disconnect
from train.loop import Learner, one_epoch

Code = Callable[[np.ndarray, int, int], np.ndarray]


def code_segment(step: int, learner: Learner, lanes: Lanes, share: range, code: Code) -> np.ndarray:
    """Targets [R, T] of a step, digit by digit. `code(bounds, t, below)` writes or reads a digit of the tokens at time
    t of the lanes that have one, as symbols with these shares [rows, radix + 1] of the coder's number; `below` is the
    number of tokens that a digit stands for."""
    start, stop = lanes.segment(step)
    targets = np.full((len(share), stop - start), -1)
    recent, states = learner.recent[:, -learner.model.context :].clamp(min=0), learner.states
    radices = learner.model.radices
    for time in range(stop - start):
        seen, states = learner.see(recent, states)
        rows = sum(lane * lanes.lane_tokens + start + time < lanes.tokens for lane in share)
        node, below = np.ones((len(share), 1), np.int64), math.prod(radices)
        for digit, radix in enumerate(radices):
            below //= radix
            bounds = cumulative(learner.following(seen, recent.new_tensor(node), digit)[:rows, 0].numpy(force=True))
            node *= radix
            node[:rows, 0] += code(bounds, time, below)
        # A payload that no encoder wrote may end beside the tree's leaves: the check of its block will fail.
        node = (node - math.prod(radices)).clip(max=learner.model.vocabulary - 1)
        targets[:rows, time] = node[:rows, 0]
        recent = torch.cat([recent[:, 1:], recent.new_tensor(node)], 1)
        if learner.chunk and (time + 1) % learner.chunk == 0:
            tokens = recent.new_tensor(targets[:, : time + 1])
            learner.looked = learner.count(tokens, learner.recent, learner.looked)
    return targets


class Decoding:
    """A token source that decodes `payloads`, one a block of `block_steps`. Rank 0 collects all ranks' tokens.

    Raises UsageError where the tokens are not those that were encoded.
    """

    def __init__(self, lanes: Lanes, share: range, block_steps: int, payloads: Iterator[bytes], tokens: np.ndarray):
        self.lanes, self.share, self.block_steps = lanes, share, block_steps
        self.payloads, self.tokens, self.check = payloads, tokens, 0

    def segment(self, step: int, learner: Learner) -> np.ndarray:
        if step % self.block_steps == 0:
            self.decoder, self.check = Decoder(next(self.payloads)), 0
        targets = code_segment(step, learner, self.lanes, self.share, lambda bounds, *_: self.decoder.decode(bounds))
        self.check = zlib.crc32(targets.data, self.check)
        ends = (step + 1) % self.block_steps == 0 or step + 1 == self.lanes.steps
        # All ranks stop, or one would wait for the others.
        if ends and learner.place.sum([self.decoder.state != self.check])[0]:
            raise UsageError(f"block {step // self.block_steps} decodes to other tokens than were encoded")
        everything = learner.place.gather(torch.from_numpy(targets).to(learner.place.device))
        if learner.place.rank == 0:
            for lane, row in enumerate(everything.numpy(force=True)):
                first, stop = self.lanes.span(step, lane)
                self.tokens[first:stop] = row[: stop - first]
        return targets


def main(archive: str, output: str) -> None:
    """Decode `archive` into `output`: a file, or a folder if there are several documents."""
    with Path(archive).open("rb") as file:
        frames = read_frames(file)
        header = read_header(next(frames)[1])
        tokenizer = load_tokenizer(header["tokenizer"], next(frames)[1])
        text = lzma.decompress(next(frames)[1]).split(b"\0")[0]
        extra = json.loads(text)["engine"]["deepspeed_config"]
        # A name a field, as in train.config, which a decoder need not have.
        config: Any = json.loads(text, object_hook=lambda fields: SimpleNamespace(**fields))
        place = connect(header["threads"], config.engine.timeout_secs, config.engine.backend)
        learner = Learner(config, tokenizer.vocabulary, tokenizer.end_of_document, place, extra)
        lanes = Lanes(header["corpus"]["tokens"], config.train.lanes, config.train.segment_tokens)
        tokens = np.empty(lanes.tokens, np.uint32)
        payloads = (rank_payload(content, place.rank) for _, content in frames)
        source = Decoding(lanes, lanes.share(place.rank, place.world_size), header["block_steps"], payloads, tokens)
        for step in one_epoch(learner, lanes, source, None):
            if place.rank == 0:
                print(f"step {step:,} of {lanes.steps:,}", end="\r", file=sys.stderr)
        *_, (_, end) = frames
    if place.rank == 0:
        single = header["corpus"]["documents"] == 1
        write_documents(token_chunks(tokens, tokenizer), Path(output), single, end[:32].hex())
    disconnect()


if __name__ == "__main__":
    main(*sys.argv[1:])
