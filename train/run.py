"""A run, from the meeting of its ranks to the end of its epoch: `join_ranks`, `prepare_corpus`, `Run`, `go`."""

import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from data.documents import folder_name
from data.errors import RunFailed, Stopped, UsageError
from data.lanes import Lanes
from data.prepare import Job, PreparedCorpus
from data.shared_making import help_host_0, is_shared
from data.tokenizer import Tokenizer
from model.registry import block_folder, display_name
from train.checkpoint import POINTER, explain_misfit, is_sound, load_checkpoint, save_checkpoint
from train.command_line import CONFIG_FILE, check
from train.config import BYTE_SYMBOLS, Config
from train.corpus import CorpusSource, ResumableSource, identify, locate_data, prepare_data
from train.cost import Cost
from train.cuda import choose_compile, choose_kernels
from train.engine import Place
from train.gradient_norm import GradientNorm
from train.graphs import choose_graphs
from train.ledger import Ledger
from train.loop import Learner, one_epoch
from train.meta import meta_model, refuse_giant
from train.metrics import Metrics
from train.nats import NatsLedger, keeps_nats
from train.networks import check_behaviour
from train.own_blocks import find_own_blocks
from train.progress import Progress
from train.ranks import (
    Seat,
    about_peers,
    after_rank_0,
    explain_lost,
    from_rank_0,
    hosts_apart,
    hosts_without,
    join,
    meeting_apart,
    refuse_unshared,
)
from train.run_dir import CHECKPOINTS, claim, last_good, record_folder, record_steps


@dataclass(frozen=True)
class Session:
    """The ranks of a run, met.

    `config` is resolved: nothing in it is left to the machine. `place` is where this rank stands, `seats` are the hosts
    of all ranks. `extra` are the user's DeepSpeed keys.
    """

    config: Config
    place: Place
    seats: list[Seat]
    extra: dict[str, Any]


@contextmanager
def join_ranks(
    config: Config,
    extra: dict[str, Any],
    remedy: Callable[[Config], str],
    choose: Callable[[Config, Place], Config] = lambda config, _: config,
) -> Iterator[Session]:
    """Let the ranks meet for the run of `config`, with the user's DeepSpeed keys `extra`; then `choose` may fill in
    fields. Within it, signals ask for a clean stop, and a rank that loses the others says so in one line, which ends
    with `remedy(config)`: how to go on.

    Raises UsageError for what is wrong with `config`, ConnectionError for ranks that do not meet.
    """
    config = find_own_blocks(config)
    # A caller from Python may not have parsed it.
    check(config)
    with meeting_apart():
        place, seats = join(config.engine.threads, config.engine.timeout_secs, config.engine.backend)
    config = resolve(choose(config, place), place, extra)
    with restore_signals(), explain_lost(place, seats, lambda: remedy(config)):
        yield Session(config, place, seats, extra)


def resolve(config: Config, place: Place, extra: dict[str, Any] | None = None) -> Config:
    """`config`, which has the user's DeepSpeed keys `extra`, with everything that was left to the machine filled in."""
    cuda = place.device.type == "cuda"
    block = block_folder(display_name(config.model.block))
    name = f"{folder_name(config.data.source)}-{block}-{config.model.width}"
    run_dir = config.run.dir or from_rank_0(place, "run.dir", f"runs/{name}-{time.strftime('%Y%m%d-%H%M%S')}")
    engine = replace(config.engine, threads=torch.get_num_threads(), kernels=choose_kernels(config, place))
    config = replace(config, engine=engine)
    engine.compile, engine.graphs = choose_compile(config, place), choose_graphs(config, place, extra)
    if place.world_size > 1:
        # A single rank exchanges nothing, and may be resumed by several.
        engine.backend = torch.distributed.get_backend()  # type: ignore[assignment]
    if engine.precision == "auto":
        engine.precision = "bf16" if cuda else "fp32"
    return replace(config, engine=engine, run=replace(config.run, dir=run_dir))


def resume_remedy(config: Config) -> str:
    """What is left of a run that lost its ranks, and how to go on."""
    run_dir = Path(config.run.dir)
    again = f" with --run.dir {run_dir} --run.resume" if (run_dir / CONFIG_FILE).exists() else ""
    return f"{last_good(run_dir / CHECKPOINTS)} Start all ranks again{again}"


@contextmanager
def restore_signals() -> Iterator[None]:
    """Within it, a run may take signals as requests to stop."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def prepare_corpus(session: Session) -> PreparedCorpus:
    """The corpus as tokens, on every rank: rank 0 prepares it, and then the others find it done. Hosts that share its
    cache help with a large one.

    On a host that does not share rank 0's cache, it is prepared again. Raises UsageError if it cannot be prepared, or
    if a host has another one than rank 0.
    """
    config, place, seats = session.config, session.place, session.seats
    # What cannot be built is refused before any work.
    meta_model(config.model, BYTE_SYMBOLS)
    first_here = int(os.environ["LOCAL_RANK"]) == 0
    hosts, helped = [*dict.fromkeys(seat.host for seat in seats)], None
    if job := job_to_share(session):
        own = hosts.index(seats[place.rank].host)

        def helped(in_charge: Callable[[], bool]) -> None:
            if first_here:
                help_host_0(job.directory, job.source, job.fingerprint, job.plan, own, len(hosts), in_charge)

    sharing = len(hosts) if job else 1
    work = lambda: prepare_data(config.data, progress=first_here, hosts=sharing)  # noqa: E731
    corpus = after_rank_0(place, "preparation", work, helped)
    refuse_giant(config.model, config.train, corpus.tokenizer.vocabulary, place.world_size)
    ours = f"{corpus.manifest.sha256} {corpus.manifest.tokenizer['sha256']}"
    if odd := hosts_without(place, seats, ours == from_rank_0(place, "corpus", ours)):
        raise UsageError(
            f"data.source {config.data.source} has other bytes or another tokenizer on {odd} than on {seats[0].host}: "
            "copy the source, or name a data.cache_dir that all hosts share"
        )
    return corpus


def job_to_share(session: Session) -> Job | None:
    """The preparation of the corpus, if several hosts are to share the work, in one folder: what is done, small or read
    fast is not worth it."""
    place, seats, data = session.place, session.seats, session.config.data
    if len({seat.host for seat in seats}) == 1:
        return None
    job = after_rank_0(place, "preparation", lambda: locate_data(data))
    wanted = "" if job.is_done or not is_shared(job.source, job.plan) else job.directory.name
    chosen = from_rank_0(place, "corpus to share", wanted)
    others = chosen and hosts_without(place, seats, chosen == job.directory.name)
    return None if not chosen or others or hosts_apart(place, seats, job.directory.parent, "data.cache_dir") else job


def corpus_source(session: Session, corpus: PreparedCorpus, more: dict[str, str]) -> CorpusSource:
    """The lanes of this rank, read from `corpus`. `more` are SHA-256 of what else must not change, by name."""
    config, place = session.config, session.place
    lanes = Lanes(corpus.manifest.tokens, config.train.lanes, config.train.segment_tokens)
    return CorpusSource(lanes, lanes.share(place.rank, place.world_size), corpus.tokens.read, identify(corpus) | more)


@dataclass(frozen=True)
class Outcome:
    """What one epoch came to."""

    data_bits: float
    coded_tokens: int
    coded_bytes: int
    cost: dict[str, Any]


class StopRequest:
    """SIGTERM, SIGINT, and SIGUSR1, which Slurm can send before the time is up, as a flag that the loop
    looks at; a second signal kills as usual."""

    def __init__(self) -> None:
        self.signal = 0
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, self.note)

    def note(self, number: int, frame: Any) -> None:
        self.signal = number
        signal.signal(number, signal.SIG_DFL)


class Run:
    """One run over the lanes of a corpus, from its start or from the latest checkpoint in config.run.dir.

    As a context, it holds the run's directory. Raises UsageError on settings that do not fit the corpus or the
    checkpoint.
    """

    def __init__(self, session: Session, tokenizer: Tokenizer, source: ResumableSource):
        config, self.place, self.lanes, self.source = session.config, session.place, source.lanes, source
        self.config = config.run
        if config.run.checkpoint_secs or config.run.record_spans:
            refuse_unshared(self.place, session.seats, Path(config.run.dir))
        self.lock = claim(Path(config.run.dir)) if self.place.rank == 0 else None
        if config.engine.kernels == "off":
            leave_out_compiler()
        with explain_memory(), explain_deepspeed(config.engine.deepspeed_config, session.extra):
            self.learner = Learner(config, tokenizer.vocabulary, tokenizer.end_of_document, self.place, session.extra)
        if session.config.model.network:
            check_behaviour(self.learner)
        books = self.learner.rows, np.array([len(piece) for piece in tokenizer.pieces]), self.place
        keeping = keeps_nats(config.run, self.lanes.tokens, self.place)
        self.nats = NatsLedger(*books, self.lanes, Path(config.run.dir)) if keeping else None
        self.ledger = self.nats or Ledger(*books)
        self.folder = Path(config.run.dir) / CHECKPOINTS
        self.first_step, earlier_secs = 0, 0.0
        if config.run.resume:
            self.first_step, earlier_secs, state = load_checkpoint(
                self.folder, self.learner, self.ledger, isinstance(source, CorpusSource)
            )
            if self.first_step:
                with explain_misfit(self.folder):
                    source.restore(self.first_step, state)
        if self.nats:
            self.nats.begin(self.first_step)
        self.cost = Cost(self.learner, self.lanes, earlier_secs)
        hooks = self.place.rank == 0 and config.engine.graphs != "on"
        self.gradient_norm = GradientNorm(self.learner, self.config.log_steps, self.first_step, hooks)
        self.totals = self.ledger.totals()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self.nats:
            self.nats.close()
        if self.lock:
            self.lock.release()

    @property
    def resumed_bytes(self) -> int | None:
        """Corpus bytes that were already coded when this process started; None for a new run."""
        return self.totals[2] if self.config.resume else None

    def save(self, step: int, folder: Path) -> None:
        """Checkpoint the state after `step` steps. Raises RunFailed if it is not sound: the last one stays good."""
        if self.place.sum([not is_sound(self.learner)])[0]:
            self.refuse_unsound(step)
            return
        if self.nats:
            self.nats.sync()
        keep = self.config.keep_checkpoints
        state = self.source.state()
        save_checkpoint(folder, self.learner, self.ledger, state, step, self.cost.elapsed_secs, keep)

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
        record = record_steps(lanes.steps, config.record_spans, config.log_steps)
        saved, recorded = time.monotonic(), self.first_step
        self.cost.begin()
        with (
            explain_memory(),
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
                costs = self.cost.points(tokens - before[1], done - recorded)
                recorded = done
                progress.show(bits, coded_bytes, costs["machine/tokens_per_sec"])
                if metrics:
                    scalars = {
                        "optim/learning_rate": float(self.learner.engine.optimizer.param_groups[0]["lr"]),
                        "rate/nats_per_token_now": (bits - before[0]) * math.log(2) / max(tokens - before[1], 1),
                        "progress/coded_tokens": tokens,
                        **self.gradient_norm.points(),
                        **costs,
                    }
                    bits_per_byte_now = (bits - before[0]) / max(coded_bytes - before[2], 1)
                    metrics.record(done, coded_bytes, tokens, bits, bits_per_byte_now, scalars)
                # All ranks decide alike, or one would save while another goes on.
                late = self.place.rank == 0 and time.monotonic() - saved > config.checkpoint_secs
                signals, due = self.place.sum([stop.signal, late])
                stopping = bool(signals or ordered) and not last
                if done in record:
                    self.save(done, record_folder(Path(config.dir), done))
                if config.checkpoint_secs and (due or last or stopping):
                    if metrics:
                        metrics.flush()
                    self.save(done, self.folder)
                    saved = time.monotonic()
                if stopping:
                    raise Stopped(128 + stop.signal if stop.signal else 0, config.dir)
        bits, tokens, coded_bytes = self.totals
        if (tokens, coded_bytes) != (lanes.tokens, corpus_bytes):
            raise RunFailed(
                f"the ledger holds {tokens:,} tokens and {coded_bytes:,} bytes, the manifest {lanes.tokens:,} and "
                f"{corpus_bytes:,}: the epoch was not exact and its number means nothing"
            )
        if self.nats:
            self.nats.finish()
        return Outcome(bits, tokens, coded_bytes, self.cost.summary())


def leave_out_compiler() -> None:
    """Let optimisers not import PyTorch's compiler, which takes a second, where nothing is compiled: they do so to have
    the compiler leave their bookkeeping alone (torch._compile._disable_dynamo)."""
    optimizer: Any = torch.optim.Optimizer
    for method in (optimizer.add_param_group, optimizer.zero_grad, optimizer.state_dict, optimizer.load_state_dict):
        plain = getattr(method, "__wrapped__", method)
        plain.__dict__.setdefault("__dynamo_disable", plain)


@contextmanager
def explain_memory() -> Iterator[None]:
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
def explain_deepspeed(path: str, extra: dict[str, Any]) -> Iterator[None]:
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
