"""What every token cost, kept beside a run: RUN/nats.npy, float32 [tokens], in the order of the corpus.

The numbers are those that the ledger adds, unrounded, so that any sum of them is exact: of a chunk, a document, or all,
which is the data term. RUN/nats.json, written when the epoch is done, says that the file is whole. A decoder keeps
nothing, so nothing of this is charged.

Shapes: `R` lanes of this rank, `T` time, `N` tokens of the corpus.
"""

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from pydantic import TypeAdapter
from torch import Tensor

from data.errors import RunFailed, UsageError
from data.files import file_sha256, read_json, write_file
from data.lanes import Lanes, longest_segment
from train.checkpoint import POINTER
from train.command_line import CONFIG_FILE, load_config
from train.config import RunConfig
from train.engine import Place
from train.ledger import Ledger
from train.run_dir import CHECKPOINTS

NATS_FILE, SUMS_FILE = "nats.npy", "nats.json"
FORMAT = 1
MAX_SUMS_BYTES = 64 << 20
DTYPE = np.dtype("<f4")
# Half a gibibyte. Of a larger corpus, nats are kept where they are asked for.
MOST_TOKENS = 1 << 27
# Nats of this rank that wait to be written: a limit of memory, where log_steps is large.
WAITING = 1 << 22


class NatsLedger(Ledger):
    """A ledger that also writes what every token costs to `run_dir`. Rank 0 writes for all; every rank must make the
    same calls."""

    def __init__(self, rows: int, token_bytes: np.ndarray, place: Place, lanes: Lanes, run_dir: Path):
        super().__init__(rows, token_bytes, place)
        self.lanes, self.path, self.sums_path = lanes, run_dir / NATS_FILE, run_dir / SUMS_FILE
        self.waiting: list[Tensor] = []
        # Within every lane, where the first that wait belong.
        self.offset = 0

    def begin(self, step: int) -> None:
        """Start a new file; or, after `step` steps, go on with the one that is there.

        Raises UsageError if that does not hold what those steps cost. What it holds of later ones will be overwritten.
        """
        if step:
            self.offset = self.lanes.segment(step - 1)[1]
            if self.differs(self.offset):
                raise UsageError(
                    f"{self.path} does not hold what the checkpoint's ledger says: put back the one that belongs to "
                    "it, or take --run.keep_nats off"
                )
        if self.place.rank == 0:
            self.file: BinaryIO = self.path.open("r+b" if step else "wb")
            if not step:
                header = {"descr": DTYPE.str, "fortran_order": False, "shape": (self.lanes.tokens,)}
                np.lib.format.write_array_header_1_0(self.file, header)
                self.file.truncate(self.file.tell() + self.lanes.tokens * DTYPE.itemsize)
                self.file.flush()
            self.first_byte = self.path.stat().st_size - self.lanes.tokens * DTYPE.itemsize

    def add(self, nats: Tensor, targets: np.ndarray) -> None:
        super().add(nats, targets)
        # The next step may overwrite them (train/graphs.py).
        self.waiting.append(nats.clone())
        if sum(map(Tensor.numel, self.waiting)) >= WAITING:
            self.write()

    def totals(self) -> tuple[float, int, int]:
        """The same, after what waits has been written: this is when a run waits for its device anyway."""
        self.write()
        return super().totals()

    def write(self) -> None:
        """Write the nats that wait: of each lane, one stretch of the corpus."""
        if not self.waiting:
            return
        start, block = self.offset, self.place.gather(torch.cat(self.waiting, 1))
        self.waiting, self.offset = [], start + block.shape[1]
        if self.place.rank == 0:
            for lane, row in enumerate(block.numpy(force=True).astype(DTYPE, copy=False)):
                first, stop = lane_span(self.lanes, lane, start, self.offset)
                self.file.seek(self.first_byte + first * DTYPE.itemsize)
                self.file.write(row[: stop - first])

    def sync(self) -> None:
        """Put on disk what the ledger holds: call it before a checkpoint counts."""
        self.write()
        if self.place.rank == 0:
            self.file.flush()
            os.fsync(self.file.fileno())

    def finish(self) -> None:
        """Close the account. Raises RunFailed unless the file sums to the ledger, lane by lane."""
        self.sync()
        if self.differs(self.lanes.lane_tokens):
            raise RunFailed(
                f"{self.path} does not sum to the ledger: something else wrote to it, or the disk lost what was "
                "written. The ledger itself is exact: go on with --run.resume --run.keep_nats off"
            )
        lane_nats = self.place.gather(self.lane_nats).tolist()
        if self.place.rank == 0:
            sums = {"format": FORMAT, "tokens": self.lanes.tokens, "sha256": file_sha256(self.path)}
            write_file(self.sums_path, json.dumps(sums | {"lane_nats": lane_nats}).encode())

    def differs(self, offset: int) -> bool:
        """Whether the file, up to an offset within every lane, sums to something else than the ledger. All ranks get
        rank 0's answer."""
        lane_nats, wrong = self.place.gather(self.lane_nats).tolist(), False
        if self.place.rank == 0:
            try:
                wrong = bool(wrong_lanes(map_nats(self.path, self.lanes.tokens), self.lanes, lane_nats, offset))
            except UsageError:
                wrong = True
        return bool(self.place.sum([wrong])[0])

    def close(self) -> None:
        if self.place.rank == 0:
            self.file.close()


def keeps_nats(config: RunConfig, tokens: int, place: Place) -> bool:
    """Whether a run over so many tokens keeps their nats. Every rank must call it, and gets the same answer.

    A resumed run goes on as it began. Raises UsageError if it is to keep what was not kept before.
    """
    if config.keep_nats == "off":
        return False
    saved, path = Path(config.dir) / CHECKPOINTS / POINTER, Path(config.dir) / NATS_FILE
    # Rank 0 looks: on other hosts the folder may be another one.
    begun_without = place.rank == 0 and config.resume and saved.exists() and not path.exists()
    begun_without = bool(place.sum([begun_without])[0])
    if begun_without and config.keep_nats == "on":
        raise UsageError(
            f"run.keep_nats is on, but {path} is not there, so the run began without it: leave it out, or start a new "
            "run"
        )
    wanted = config.keep_nats == "on" or config.record_spans > 0
    return not begun_without and (wanted or tokens <= MOST_TOKENS)


def lane_span(lanes: Lanes, lane: int, start: int, stop: int) -> tuple[int, int]:
    """Corpus tokens (start, stop) of a lane between two offsets within it; empty past the corpus' end."""
    first, last = (min(lane * lanes.lane_tokens + offset, lanes.tokens) for offset in (start, stop))
    return first, last


def map_nats(path: Path, tokens: int) -> np.ndarray:
    """nats.npy, memory-mapped. Raises UsageError if it is no such file, or has another number of tokens."""
    try:
        nats = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read ({error}): it comes from a run with run.keep_nats") from None
    if not isinstance(nats, np.ndarray) or nats.dtype != DTYPE or nats.shape != (tokens,):
        raise UsageError(f"{path} does not hold {tokens:,} nats in float32: it is damaged, or of another run")
    return nats


def sum_bound(lanes: Lanes) -> float:
    """How far, as a part of it, a ledger's sum may be from that of the same nats in another order."""
    # The ledger adds a sum of T for each step, one after the other, and each addition rounds by 2^-53 at most.
    return (lanes.steps + longest_segment(lanes.segment_tokens) + 16) * 2.0**-52


def wrong_lanes(nats: np.ndarray, lanes: Lanes, lane_nats: list[float], offset: int) -> list[int]:
    """The lanes whose nats [N] up to an offset within them do not sum to what the ledger has for them."""
    bound, found = sum_bound(lanes), []
    for lane, expected in enumerate(lane_nats):
        first, stop = lane_span(lanes, lane, 0, offset)
        total = float(nats[first:stop].sum(dtype=np.float64))
        if not abs(total - expected) <= bound * expected:
            found.append(lane)
    return found


@dataclass(frozen=True)
class KeptNats:
    """What every token of a finished run cost: `nats` float32 [N] in the order of the corpus, memory-mapped. `lanes` is
    the plan by which they were coded, `lane_nats` the ledger's sum of each lane."""

    nats: np.ndarray
    lanes: Lanes
    lane_nats: list[float]

    @property
    def bits(self) -> float:
        """The data term."""
        return math.fsum(self.lane_nats) / math.log(2)


@dataclass(frozen=True)
class Sums:
    """nats.json."""

    format: int
    tokens: int
    sha256: str
    lane_nats: list[float]


def read_sums(run_dir: Path) -> Sums:
    """Raises UsageError if a run kept no nats."""
    path = run_dir / SUMS_FILE
    if not path.exists():
        raise UsageError(
            f"{run_dir} holds no {SUMS_FILE}: the run is not finished, or did not keep what every token cost; train it "
            "with --run.keep_nats on"
        )
    sums: Sums = read_json(path, TypeAdapter(Sums), MAX_SUMS_BYTES)
    return sums


def read_nats(run_dir: Path) -> KeptNats:
    """The nats that a finished run kept. Raises UsageError if it kept none, or they do not sum to its ledger."""
    path, sums = run_dir / SUMS_FILE, read_sums(run_dir)
    train = load_config(run_dir / CONFIG_FILE).train
    if sums.format != FORMAT or len(sums.lane_nats) != train.lanes or sums.tokens < 1:
        raise UsageError(f"{path} is not of this run, or of another version of this program")
    lanes = Lanes(sums.tokens, train.lanes, train.segment_tokens)
    nats = map_nats(run_dir / NATS_FILE, sums.tokens)
    if wrong_lanes(nats, lanes, sums.lane_nats, lanes.lane_tokens):
        raise UsageError(f"{run_dir / NATS_FILE} does not sum to what {path} says: it was changed after the run")
    return KeptNats(nats, lanes, sums.lane_nats)
