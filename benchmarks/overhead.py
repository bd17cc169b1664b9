"""What DeepSpeed and the ledger cost: our training step against a bare PyTorch loop of the same model and optimiser.

    python benchmarks/overhead.py [--rounds 15] [--steps 20] [--compile] [any option of launch/train.py]

All run in one process, in turns of `--steps` steps, so that whatever else the machine does hits all. Prints the
median tokens/s of each and the median of the ratios of neighbouring turns; a ratio of 1 means no overhead. `--compile`
adds a third loop: the bare one with its layers compiled by torch.compile, and how long that took.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from data.lanes import Lanes
from data.prepare import prepare
from model.lm import LanguageModel
from train.command_line import parse_config
from train.config import Config
from train.engine import Place, connect, disconnect
from train.ledger import Ledger
from train.loop import Learner, one_epoch
from train.optim import build_optimizer, rate_scale
from train.run import CorpusSource


def bare_loop(
    config: Config, vocabulary: int, start: int, batches: Iterator[Tensor], steps: int, compiled: bool, place: Place
) -> Iterator[Tensor]:
    """The loop that one would write for one process without DeepSpeed. Yields nats."""
    torch.manual_seed(config.train.seed)
    model = LanguageModel(config.model, vocabulary).to(place.device)
    for layer in model.layers if compiled else []:
        layer.compile(dynamic=False)
    optimizer = build_optimizer(model, config.train, config.model.width)
    state = model.init_state(config.train.lanes)
    recent = torch.full((config.train.lanes, model.context), start, device=place.device)
    autocast = torch.autocast(place.device.type, torch.bfloat16, enabled=config.engine.precision == "bf16")
    for step, batch in enumerate(batches):
        targets = batch.to(place.device, non_blocking=True)
        history = torch.cat([recent, targets.clamp(min=0)], 1)
        recent = history[:, -model.context :]
        with autocast:
            nats, state = model(history[:, :-1], state, targets)
        loss = nats.sum() / (targets >= 0).sum()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * rate_scale(step / steps, config.train)
        optimizer.step()
        optimizer.zero_grad()
        if model.mixing is not None:
            model.mixing.learn(history[:, :-1], targets)
        yield loss.detach()


def finish() -> None:
    """Wait for what a CUDA device has been told to do."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def turn(loop: Iterator[object], steps: int) -> float:
    """Seconds of so many steps."""
    finish()
    start = time.perf_counter()
    for _ in range(steps):
        next(loop)
    finish()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="turns of each loop")
    parser.add_argument("--steps", type=int, default=20, help="training steps of a turn")
    parser.add_argument("--compile", action="store_true", help="also time the bare loop with compiled layers")
    options, rest = parser.parse_known_args()
    config = parse_config("", rest)
    place = connect(config.engine.threads, config.engine.timeout_secs)
    if config.engine.precision == "auto":
        config = replace(config, engine=replace(config.engine, precision="fp32"))
    data = config.data
    corpus = prepare(data.source, data.field, data.split, data.tokenizer, data.vocabulary, cache_dir=data.cache_dir)
    lanes = Lanes(len(corpus.tokens), config.train.lanes, config.train.segment_tokens)
    if lanes.steps < options.steps * options.rounds:
        parser.error(f"the corpus has {lanes.steps} steps, fewer than {options.rounds} rounds of {options.steps}")
    share, first = lanes.share(0, 1), corpus.tokenizer.end_of_document
    vocabulary = corpus.tokenizer.vocabulary
    learner = Learner(config, vocabulary, first, place)
    ledger = Ledger(len(share), torch.zeros(vocabulary, dtype=torch.int64).numpy(), place)
    source = CorpusSource(lanes, share, corpus.tokens.read, {"corpus": corpus.manifest.sha256})
    ours = one_epoch(learner, lanes, source, ledger)

    def bare(compiled: bool) -> Iterator[Tensor]:
        batches = (torch.from_numpy(lanes.targets(step, share, corpus.tokens.read)) for step in range(lanes.steps))
        return bare_loop(config, vocabulary, first, batches, lanes.steps, compiled, place)

    loops: dict[str, Iterator[object]] = {"onepass": ours, "bare": bare(False)}
    if options.compile:
        loops["compiled"] = bare(True)
        print(f"compiled its first step in {turn(loops['compiled'], 1):.0f} s")
    secs: dict[str, list[float]] = {name: [] for name in loops}
    for index in range(options.rounds):
        for name in sorted(loops, reverse=bool(index % 2)):
            secs[name].append(turn(loops[name], options.steps))
    tokens = options.steps * config.train.lanes * config.train.segment_tokens
    for name, values in secs.items():
        print(f"{name:8} {tokens / statistics.median(values[1:]):10,.0f} tokens/s (median of {len(values) - 1} turns)")
    for name in list(loops)[1:]:
        ratios = [theirs / ours for theirs, ours in zip(secs[name][1:], secs["onepass"][1:], strict=True)]
        spread = f"from {min(ratios):.3f} to {max(ratios):.3f}"
        print(f"onepass / {name}: median {statistics.median(ratios):.3f}, {spread}")
    disconnect(place)


if __name__ == "__main__":
    main()
