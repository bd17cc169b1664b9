"""A run: the loop, watched. Progress bar, live curve, checkpoints, clean stops, and the final reckoning."""

import json
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from filelock import FileLock, Timeout

from data.errors import RunFailed, Stopped, UsageError
from data.lanes import Lanes
from data.tokenizer import Tokenizer
from train.checkpoint import POINTER, fitting, load_checkpoint, save_checkpoint, sound
from train.config import Config
from train.cost import Cost
from train.engine import Place
from train.hosts import about_peers
from train.ledger import Ledger
from train.loop import Learner, TokenSource, one_epoch
from train.metrics import Metrics
from train.progress import Progress

CHECKPOINTS = "checkpoints"
LOCK_FILE = ".lock"


@dataclass(frozen=True)
class Outcome:
    """What one epoch came to."""

    data_bits: float
    coded_tokens: int
    coded_bytes: int
    cost: dict[str, Any]


class StopRequest:
    """SIGTERM, SIGINT, and SIGUSR1, which Slurm is often told to send before the time is up, as a flag that the loop
    looks at; a second signal kills as usual."""

    def __init__(self) -> None:
        self.signal = 0
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, self.note)

    def note(self, number: int, frame: Any) -> None:
        self.signal = number
        signal.signal(number, signal.SIG_DFL)


class ResumableSource(TokenSource, Protocol):
    """A source of tokens whose progress can be put in a checkpoint: tensors and plain values."""

    def state(self) -> dict[str, Any]: ...

    def restore(self, step: int, state: dict[str, Any]) -> None: ...


class CorpusSource:
    """Training: the tokens of a prepared corpus, read with `read(start, stop)`."""

    def __init__(self, lanes: Lanes, share: range, read: Callable[[int, int], np.ndarray], identity: dict[str, str]):
        """`identity` holds the SHA-256 of what must not change on the way, such as the corpus, by name."""
        self.lanes, self.share, self.read, self.identity = lanes, share, read, identity

    def segment(self, step: int, learner: Learner) -> np.ndarray:
        return self.lanes.targets(step, self.share, self.read)

    def state(self) -> dict[str, Any]:
        return {"identity": self.identity}

    def restore(self, step: int, state: dict[str, Any]) -> None:
        for name in {**self.identity, **state["identity"]}:
            before, now = state["identity"].get(name), self.identity.get(name)
            if before != now:
                raise UsageError(
                    f"the {name} had SHA-256 {before} when the run began and has {now} now: put it back, or start "
                    "a new run"
                )


class Run:
    """One run over the `lanes` of a corpus, from its start or from the latest checkpoint in config.run.dir.

    `extra` are the user's DeepSpeed keys. Raises UsageError on settings that do not fit the corpus or the checkpoint.
    """

    def __init__(
        self,
        config: Config,
        place: Place,
        tokenizer: Tokenizer,
        lanes: Lanes,
        source: ResumableSource,
        extra: dict[str, Any],
    ):
        self.config, self.place, self.lanes, self.source = config.run, place, lanes, source
        self.lock = claim(Path(config.run.dir)) if place.rank == 0 else None
        with naming_memory(), naming_deepspeed(config.engine.deepspeed_config, extra):
            self.learner = Learner(config, tokenizer.vocabulary, tokenizer.end_of_document, place, extra)
        self.ledger = Ledger(self.learner.rows, np.array([len(piece) for piece in tokenizer.pieces]), place)
        self.folder = Path(config.run.dir) / CHECKPOINTS
        self.first_step, earlier_secs = 0, 0.0
        if config.run.resume:
            self.first_step, earlier_secs, state = load_checkpoint(
                self.folder, self.learner, self.ledger, isinstance(source, CorpusSource)
            )
            if self.first_step:
                with fitting(self.folder):
                    source.restore(self.first_step, state)
        self.cost = Cost(self.learner, self.lanes, earlier_secs)
        self.totals = self.ledger.totals()

    @property
    def resumed_bytes(self) -> int | None:
        """Corpus bytes that were already coded when this process started; None for a new run."""
        return self.totals[2] if self.config.resume else None

    def save(self, step: int) -> None:
        """Checkpoint the state after `step` steps. Raises RunFailed if it is not sound: the last one stays good."""
        if self.place.sum([not sound(self.learner)])[0]:
            self.refuse_unsound(step)
            return
        keep = self.config.keep_checkpoints
        state = self.source.state()
        save_checkpoint(self.folder, self.learner, self.ledger, state, step, self.cost.elapsed_secs, keep)

    def refuse_unsound(self, step: int) -> None:
        """What is coded is exact, but nothing can go on from `step`. Raises RunFailed unless it is the end."""
        if step < self.lanes.steps:
            raise RunFailed(f"the parameters stopped being finite numbers at step {step}. {self.remedy}")
        if self.place.rank == 0:
            (self.folder / POINTER).unlink(missing_ok=True)
            print("onepass: the last step's parameters are not finite numbers, and not saved", file=sys.stderr)

    @property
    def remedy(self) -> str:
        """How to go on after numbers that were none: never by resuming, which would come to the same."""
        return (
            f"{last_good(self.folder)} A resumed run keeps its rates and would end here again: start a new one with "
            "lower --train.matrix_lr, --train.table_lr and --train.vector_lr"
        )

    def go(self, metrics: Metrics | None, fixed_bits: float, corpus_bytes: int) -> Outcome:
        """Run to the end of the epoch. `fixed_bits` are the terms that do not grow; `metrics` is rank 0's live curve.

        Raises RunFailed on a loss that is no number or a ledger that disagrees with the manifest, Stopped on a signal.
        """
        config, lanes, stop = self.config, self.lanes, StopRequest()
        saved = time.monotonic()
        self.cost.begin()
        with (
            naming_memory(),
            Progress(corpus_bytes, self.totals[2], fixed_bits, shown=self.place.rank == 0) as progress,
        ):
            for done in one_epoch(self.learner, lanes, self.source, self.ledger, self.first_step):
                last, ordered = done == lanes.steps, done == config.stop_after_steps
                if done % config.log_steps and not last and not ordered:
                    continue
                before, self.totals = self.totals, self.ledger.totals()
                bits, tokens, coded_bytes = self.totals
                if not math.isfinite(bits):
                    raise RunFailed(
                        f"the loss stopped being a number in the {config.log_steps} steps before step {done}, after "
                        f"{before[2]:,} coded bytes. {self.remedy}"
                    )
                tokens_per_sec = self.cost.tokens_per_sec(tokens - before[1])
                progress.show(bits, coded_bytes, tokens_per_sec)
                if metrics:
                    scalars = {
                        "optim/learning_rate": self.learner.engine.optimizer.param_groups[0]["lr"],
                        "cost/tokens_per_sec": tokens_per_sec,
                    }
                    bits_per_byte_now = (bits - before[0]) / max(coded_bytes - before[2], 1)
                    metrics.record(done, coded_bytes, tokens, bits, bits_per_byte_now, scalars)
                # All ranks decide alike, or one would save while another goes on.
                late = self.place.rank == 0 and time.monotonic() - saved > config.checkpoint_secs
                signals, due = self.place.sum([stop.signal, late])
                stopping = bool(signals or ordered) and not last
                if config.checkpoint_secs and (due or last or stopping):
                    if metrics:
                        metrics.flush()
                    self.save(done)
                    saved = time.monotonic()
                if stopping:
                    raise Stopped(128 + stop.signal if stop.signal else 0, config.dir)
        bits, tokens, coded_bytes = self.totals
        if (tokens, coded_bytes) != (lanes.tokens, corpus_bytes):
            raise RunFailed(
                f"the ledger holds {tokens:,} tokens and {coded_bytes:,} bytes, the manifest {lanes.tokens:,} and "
                f"{corpus_bytes:,}: the epoch was not exact and its number means nothing"
            )
        return Outcome(bits, tokens, coded_bytes, self.cost.summary())


@contextmanager
def naming_memory() -> Iterator[None]:
    """Within it, to run out of memory is a RunFailed of one line."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        full = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)
        if not full:
            raise
        raise RunFailed(
            f"out of memory ({str(error).splitlines()[0][:200] if str(error) else 'no more is known'}): take more "
            "--train.accumulation, fewer --train.lanes, or a smaller model"
        ) from error


@contextmanager
def naming_deepspeed(path: str, extra: dict[str, Any]) -> Iterator[None]:
    """Within it, what DeepSpeed says against the user's `extra` keys, from the file `path`, is a UsageError of one
    line. It has no class of its own for that: without such keys, an error is a bug."""
    try:
        yield
    except RunFailed:
        raise
    except Exception as error:
        if not extra or isinstance(error, OSError) or (isinstance(error, RuntimeError) and about_peers(error)):
            raise
        reason = " ".join(str(error).split()).split(" For further information visit")[0][:400] or type(error).__name__
        raise UsageError(
            f"engine.deepspeed_config {path}: DeepSpeed refuses it ({reason}): change what it names"
        ) from error


def claim(folder: Path) -> FileLock:
    """Make `folder` this process' own until it ends, however it ends. Raises UsageError if it is another's."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK_FILE)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UsageError(f"{folder} is in use by another process: wait for its end, or name another folder") from None
    except NotImplementedError:
        print(f"onepass: no file in {folder} can be locked: see to it that no two runs use it at once", file=sys.stderr)
    return lock


def last_good(folder: Path) -> str:
    """A sentence that names the last good checkpoint. One that was being written does not count."""
    pointer = folder / POINTER
    if not pointer.exists():
        return "No checkpoint had been saved yet."
    return f"The last good checkpoint is {folder / json.loads(pointer.read_text())['tag']}."
