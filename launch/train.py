"""Train a language model over a corpus for exactly one epoch and report the corpus's description length.

deepspeed launch/train.py                                    the embedded corpus, minutes on two CPU cores
deepspeed launch/train.py --data.source FILE --run.dir runs/mine
deepspeed launch/train.py --run.dir runs/mine --run.resume   go on after a kill
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
from launch import entry

entry.begin(__name__)

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from data.documents import folder_name
from data.errors import UsageError
from data.files import write_file
from data.header import PINS
from data.lanes import Lanes
from data.names import pack_names
from data.prepare import PreparedCorpus
from eval.code_size import CodeSize, measure_code, reference_machine
from eval.decoder_imports import refuse_late_imports
from eval.description_length import DescriptionLength, side_bits
from eval.provenance import what_was_run
from eval.report import build_report, write_report
from eval.schema import Report
from eval.tables import terminal_table
from launch.corpus import CODE_FILE, count, identity, measure, prepare_corpus, told
from launch.warm_start import WarmStart, warm_start
from train.command_line import CONFIG_FILE, parse_config, read_deepspeed_config, save_config
from train.config import BYTE_SYMBOLS, Config
from train.engine import Place, disconnect
from train.frozen import TOKENIZER_FILE
from train.hosts import Seat, hosts_without, join, naming_lost, refuse_unshared
from train.meta import meta_model, refuse_giant
from train.metrics import Metrics
from train.ranks import after_rank_0, from_rank_0, meet_apart
from train.run import CHECKPOINTS, CorpusSource, Outcome, ResumableSource, Run, last_good

WrapSource = Callable[[CorpusSource, Config, Place], ResumableSource]
Finish = Callable[[Config, Place, PreparedCorpus, CodeSize, Outcome], None]


def main(arguments: list[str]) -> int:
    return entry.exit_status(lambda: start(arguments))


def start(arguments: list[str]) -> None:
    with entry.publishing():
        config = parse_config(__doc__ or "", arguments)
    pin(config.engine.portable)
    train_and_leave(config)


def train(config: Config) -> Report | None:
    """One epoch over the corpus, from its preparation to its report, which is returned on rank 0.

    Call it from the main thread, which gets the signals, and as often as you like. Several ranks stay connected: at the
    end of your program, all of them call train.engine.disconnect with their Place.

    Raises UsageError for what is wrong with `config`, RunFailed or OSError for what goes wrong later, Stopped after a
    signal or run.stop_after_steps.
    """
    place, report = one_run(config, lambda source, *_: source, lambda *_: None)
    if place.world_size == 1:
        disconnect(place)
    return report


def train_and_leave(
    config: Config, wrap: WrapSource = lambda source, *_: source, finish: Finish = lambda *_: None
) -> None:
    """The same, as the last that these ranks do together. `wrap` may put another source of tokens around the corpus;
    `finish` is called, on rank 0, before the report is written."""
    place, _ = one_run(config, wrap, finish)
    disconnect(place)


def one_run(config: Config, wrap: WrapSource, finish: Finish) -> tuple[Place, Report | None]:
    refuse_unpinned(config.engine.portable)
    extra = read_deepspeed_config(config.engine.deepspeed_config)
    meet_apart()
    place, seats = join(config.engine.threads, config.engine.timeout_secs)
    config = resolve(config, place)
    with signals_restored(), naming_lost(place, seats, lambda: remedy(config.run.dir)):
        return place, run_epoch(config, place, seats, extra, wrap, finish)


@contextmanager
def signals_restored() -> Iterator[None]:
    """Within it, a run may take signals as requests to stop."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def remedy(run_dir: str) -> str:
    """What is left of a run that lost its ranks, and how to go on."""
    again = f" --run.dir {run_dir} --run.resume" if (Path(run_dir) / CONFIG_FILE).exists() else ""
    return f"{last_good(Path(run_dir) / CHECKPOINTS)} Start all ranks again{again and ' with'}{again}"


def run_epoch(
    config: Config, place: Place, seats: list[Seat], extra: dict[str, Any], wrap: WrapSource, finish: Finish
) -> Report | None:
    """The same, once the ranks have met. `extra` are the user's DeepSpeed keys."""
    meta_model(config.model, BYTE_SYMBOLS)
    corpus = after_rank_0(place, "preparation", lambda: prepare_corpus(config, place, extra))
    refuse_giant(config.model, config.train, corpus.tokenizer.vocabulary, place.world_size)
    manifest = corpus.manifest
    ours = f"{manifest.sha256} {manifest.tokenizer['sha256']}"
    if odd := hosts_without(place, seats, ours == from_rank_0(place, "corpus", ours)):
        raise UsageError(
            f"data.source {config.data.source} has other bytes or another tokenizer on {odd} than on {seats[0].host}: "
            "copy the source, or name a data.cache_dir that all hosts share"
        )
    lanes = Lanes(manifest.tokens, config.train.lanes, config.train.segment_tokens)
    warm = warm_start(config, corpus, place)
    fixed = identity(corpus) | ({"warm start": warm.sha256} if warm else {})
    source = CorpusSource(lanes, lanes.share(place.rank, place.world_size), corpus.tokens.read, fixed)
    run = Run(config, place, corpus.tokenizer, lanes, wrap(source, config, place), extra)
    if warm and run.first_step == 0:
        warm.put(run.learner.model, place)
    if config.run.checkpoint_secs:
        refuse_unshared(place, seats, Path(config.run.dir), "run.dir")
    if place.rank == 0:
        try:
            return keep_books(run, config, place, corpus, warm, extra, finish)
        finally:
            if run.lock:
                run.lock.release()
    run.go(None, 0.0, manifest.bytes)
    return None


def pin(portable: bool) -> None:
    """Start again with the instruction sets pinned, if they are to be and are not: PyTorch looks when it is loaded."""
    if portable and not pinned():
        entry.restart(PINS)


def pinned() -> bool:
    return all(os.environ.get(name) == value for name, value in PINS.items())


def refuse_unpinned(portable: bool) -> None:
    """Raise UsageError where a caller from Python asks for what comes too late."""
    if portable and not pinned():
        wanted = " ".join(f"{name}={value}" for name, value in PINS.items())
        raise UsageError(
            f"engine.portable is true, but PyTorch was loaded without it. Start the program with {wanted} in its "
            "environment, or launch/train.py, which does so"
        )


def resolve(config: Config, place: Place) -> Config:
    """`config` with everything that was left to the machine filled in."""
    bf16 = place.device.type == "cuda"
    name = f"{folder_name(config.data.source)}-{config.model.block.replace(' ', '+')}-{config.model.width}"
    run_dir = config.run.dir or from_rank_0(place, "run.dir", f"runs/{name}-{time.strftime('%Y%m%d-%H%M%S')}")
    precision: Any = ("bf16" if bf16 else "fp32") if config.engine.precision == "auto" else config.engine.precision
    engine = replace(config.engine, precision=precision, threads=torch.get_num_threads())
    return replace(config, engine=engine, run=replace(config.run, dir=run_dir))


def keep_books(
    run: Run,
    config: Config,
    place: Place,
    corpus: PreparedCorpus,
    warm: WarmStart | None,
    extra: dict[str, Any],
    finish: Finish,
) -> Report:
    """The run as rank 0 sees it: its fixed terms before and its report after."""
    run_dir, manifest = Path(config.run.dir), corpus.manifest
    machine = reference_machine()
    run_as = what_was_run(config, extra, place.device.type, place.world_size)
    write_file(run_dir / "environment.json", json.dumps(machine, indent=1).encode())
    write_file(run_dir / TOKENIZER_FILE, corpus.tokenizer.encoding)
    values = told(config, corpus.tokenizer, extra)
    code = measure_code(values, config.run.reference_packages)
    if not config.run.resume:
        write_file(run_dir / CODE_FILE, code.packed)
        if warm:
            warm.keep(run_dir)
    # What can be resumed has a configuration, so that is written last.
    save_config(config, run_dir / CONFIG_FILE)
    baselines = measure(corpus) if config.run.baselines else None
    tokenizer_bits = 8 * len(corpus.tokenizer.encoding)
    warm_start_bytes = len(warm.packed) if warm else 0
    names_bytes = len(pack_names(corpus.source.names))
    side = side_bits(manifest.tokens, place.world_size, warm_start_bytes=warm_start_bytes, names_bytes=names_bytes)
    length = DescriptionLength(0.0, code.code_bits, tokenizer_bits, side, 8.0 * warm_start_bytes)

    metrics = Metrics(run_dir, run.resumed_bytes)
    sizes = baselines.sizes if baselines else {}
    hparams = {section: values[section] for section in ("data", "model", "train", "engine")}
    metrics.begin(code.code_bits, tokenizer_bits, length.side_bits, sizes, hparams)
    with refuse_late_imports(code.modules, config.run.reference_packages):
        outcome = run.go(metrics, length.total_bits, manifest.bytes)
    finish(config, place, corpus, code, outcome)

    report = build_report(
        corpus={name: getattr(manifest, name) for name in ("name", "bytes", "sha256", "documents", "tokens")},
        model={name: getattr(config.model, name) for name in ("block", "width", "depth")}
        | {"parameters": run.cost.parameters, "parameters_non_embedding": run.cost.parameters_non_embedding},
        description_length=replace(length, data_bits=outcome.data_bits),
        coded={"tokens": outcome.coded_tokens, "bytes": outcome.coded_bytes},
        baselines=baselines,
        references=count(corpus),
        cost=outcome.cost,
        code=code,
        reference_machine=machine,
        run=run_as,
    )
    metrics.end(dict(report))
    metrics.close()
    write_report(run_dir, report, code.module_bytes)
    entry.publish(terminal_table(report))
    print(
        f"\nThe report is {run_dir}/report.html; watch the curves with: tensorboard --logdir {run_dir}", file=sys.stderr
    )
    return report


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
