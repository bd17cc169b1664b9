"""What DeepSpeed and the ledger cost: our training step against a bare PyTorch loop of the same model and optimiser.

    python benchmarks/overhead.py [--rounds 15] [--steps 20] [any option of launch/train.py]

Both run in one process, in turns of `--steps` steps, so that whatever else the machine does hits both. Prints the
median tokens/s of each and the median of the ratios of neighbouring turns; a ratio of 1 means no overhead.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from data.lanes import Lanes
from data.prepare import prepare
from model.lm import LanguageModel
from train.command_line import parse_config
from train.config import Config
from train.engine import connect, disconnect
from train.ledger import Ledger
from train.loop import Learner, one_epoch
from train.optim import build_optimizer, rate_scale
from train.run import CorpusSource


def bare_loop(config: Config, vocabulary: int, start: int, batches: Iterator[Tensor], steps: int) -> Iterator[float]:
    """The loop that one would write for one process without DeepSpeed. Yields nats."""
    torch.manual_seed(config.train.seed)
    model = LanguageModel(config.model, vocabulary)
    optimizer = build_optimizer(model, config.train, config.model.width)
    state = model.init_state(config.train.lanes)
    recent = torch.full((config.train.lanes, model.context), start)
    for step, targets in enumerate(batches):
        history = torch.cat([recent, targets.clamp(min=0)], 1)
        recent = history[:, -model.context :]
        nats, state = model(history[:, :-1], state, targets)
        loss = nats.sum() / (targets >= 0).sum()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * rate_scale(step / steps, config.train)
        optimizer.step()
        optimizer.zero_grad()
        if model.mixing is not None:
            model.mixing.learn(history[:, :-1], targets)
        yield loss.item()


def turn(advance: Callable[[], object], steps: int) -> float:
    start = time.perf_counter()
    for _ in range(steps):
        advance()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="turns of each loop")
    parser.add_argument("--steps", type=int, default=20, help="training steps of a turn")
    options, rest = parser.parse_known_args()
    config = parse_config("", rest)
    place = connect(config.engine.threads, config.engine.timeout_secs)
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
    batches = (torch.from_numpy(lanes.targets(step, share, corpus.tokens.read)) for step in range(lanes.steps))
    bare = bare_loop(config, vocabulary, first, batches, lanes.steps)
    loops: dict[str, Callable[[], object]] = {"onepass": lambda: next(ours), "bare": lambda: next(bare)}
    secs: dict[str, list[float]] = {name: [] for name in loops}
    for index in range(options.rounds):
        for name in sorted(loops, reverse=bool(index % 2)):
            secs[name].append(turn(loops[name], options.steps))
    tokens = options.steps * config.train.lanes * config.train.segment_tokens
    for name, values in secs.items():
        print(f"{name:8} {tokens / statistics.median(values[1:]):10,.0f} tokens/s (median of {len(values) - 1} turns)")
    ratios = [bare / ours for bare, ours in zip(secs["bare"][1:], secs["onepass"][1:], strict=True)]
    print(f"onepass / bare: median {statistics.median(ratios):.3f}, from {min(ratios):.3f} to {max(ratios):.3f}")
    disconnect(place)


if __name__ == "__main__":
    main()
