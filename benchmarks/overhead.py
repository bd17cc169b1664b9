"""What DeepSpeed and the ledger cost: our training step against a bare PyTorch loop of the same model and optimiser.

    python benchmarks/overhead.py [--rounds 15] [--steps 20] [--compile] [any option of launch/train.py]

All run in one process, in turns of `--steps` steps, so that whatever else the machine does hits all. Prints the
median tokens/s of each and the median of the ratios of neighbouring turns; a ratio of 1 means no overhead. `--compile`
adds a third loop: the bare one with its layers compiled by torch.compile, and how long that took.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])
from launch import entry

entry.begin(__name__)

import argparse
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from data.lanes import Lanes, longest_segment
from data.prepare import prepare
from model.lm import LanguageModel
from train.command_line import parse_config
from train.config import Config
from train.corpus import CorpusSource
from train.engine import Place, connect, disconnect
from train.ledger import Ledger
from train.loop import Learner, TokenSource, one_epoch
from train.optim import build_optimizer, rate_scale


def bare_loop(
    config: Config, vocabulary: int, start: int, batches: Iterator[Tensor], steps: int, compiled: bool, place: Place
) -> Iterator[Tensor]:
    """The loop that one would write for one process without DeepSpeed. Yields nats."""
    torch.manual_seed(config.train.seed)
    model = LanguageModel(config.model, vocabulary).to(place.device)
    for layer in model.layers if compiled else []:
        layer.compile(dynamic=False)
    optimizer = build_optimizer(model, config.train, config.model.width)
    state, mixing = model.init_state(config.train.lanes), model.mixing
    recent = torch.full((config.train.lanes, model.context), start, device=place.device)
    autocast = torch.autocast(place.device.type, torch.bfloat16, enabled=config.engine.precision == "bf16")
    for step, batch in enumerate(batches):
        targets = batch.to(place.device, non_blocking=True)
        whole = torch.cat([recent, targets], 1)
        history = whole.clamp(min=0)
        recent = history[:, -model.context :]
        looked = [] if mixing is None else mixing.take_in(whole, [])
        with autocast:
            nats, state = model(history[:, :-1], state, targets, looked=looked)
        loss = nats.sum() / (targets >= 0).sum()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * rate_scale(step / steps, config.train)
        optimizer.step()
        optimizer.zero_grad()
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


class Corpus:
    """The corpus that `config` names, or its first `tokens`, as launch/train.py would learn it on this rank."""

    def __init__(self, config: Config, place: Place, tokens: int = 0):
        data, train = config.data, config.train
        if config.engine.precision == "auto":
            config = replace(config, engine=replace(config.engine, precision="fp32"))
        corpus = prepare(data.source, data.field, data.split, data.tokenizer, data.vocabulary, cache_dir=data.cache_dir)
        self.config, self.place = config, place
        self.vocabulary, self.first = corpus.tokenizer.vocabulary, corpus.tokenizer.end_of_document
        self.lanes = Lanes(min(tokens or len(corpus.tokens), len(corpus.tokens)), train.lanes, train.segment_tokens)
        self.share, self.read = self.lanes.share(place.rank, place.world_size), corpus.tokens.read

    def source(self) -> CorpusSource:
        return CorpusSource(self.lanes, self.share, self.read, {})

    def start(self, source: TokenSource) -> tuple[Learner, Lanes, TokenSource, Ledger]:
        """What one_epoch takes to learn it from its beginning, as `source` gives it."""
        learner = Learner(self.config, self.vocabulary, self.first, self.place)
        return learner, self.lanes, source, Ledger(learner.rows, np.zeros(self.vocabulary, np.int64), self.place)

    def batches(self) -> Iterator[Tensor]:
        """Targets [R, T] of one step after another."""
        return (torch.from_numpy(self.lanes.targets(step, self.share, self.read)) for step in range(self.lanes.steps))


def corpus_of_turns(parser: entry.Parser) -> tuple[argparse.Namespace, Corpus]:
    """The options of `parser`, which has --rounds and --steps, and the corpus of the others. Ends the program if the
    corpus has fewer steps."""
    options, rest = parser.parse_known_args()
    config = parse_config("", rest)
    corpus = Corpus(config, connect(config.engine.threads, config.engine.timeout_secs))
    steps = corpus.lanes.steps
    if steps < options.steps * options.rounds:
        parser.error(f"the corpus has {steps} steps, fewer than {options.rounds} rounds of {options.steps}")
    return options, corpus


def main() -> None:
    parser = entry.Parser(alone=False, description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="turns of each loop")
    parser.add_argument("--steps", type=int, default=20, help="training steps of a turn")
    parser.add_argument("--compile", action="store_true", help="also time the bare loop with compiled layers")
    options, corpus = corpus_of_turns(parser)
    lanes = corpus.lanes
    if isinstance(lanes.segment_tokens, str):
        parser.error("turns of a schedule are not equal: give one --train.segment_tokens")
    ours = one_epoch(*corpus.start(corpus.source()))

    def bare(compiled: bool) -> Iterator[Tensor]:
        batches = corpus.batches()
        return bare_loop(corpus.config, corpus.vocabulary, corpus.first, batches, lanes.steps, compiled, corpus.place)

    loops: dict[str, Iterator[object]] = {"onepass": ours, "bare": bare(False)}
    if options.compile:
        loops["compiled"] = bare(True)
        entry.publish(f"compiled its first step in {turn(loops['compiled'], 1):.0f} s")
    secs: dict[str, list[float]] = {name: [] for name in loops}
    for index in range(options.rounds):
        for name in sorted(loops, reverse=bool(index % 2)):
            secs[name].append(turn(loops[name], options.steps))
    tokens = options.steps * lanes.lanes * longest_segment(corpus.config.train.segment_tokens)
    for name, values in secs.items():
        entry.publish(
            f"{name:8} {tokens / statistics.median(values[1:]):10,.0f} tokens/s (median of {len(values) - 1} turns)"
        )
    for name in list(loops)[1:]:
        ratios = [theirs / ours for theirs, ours in zip(secs[name][1:], secs["onepass"][1:], strict=True)]
        spread = f"from {min(ratios):.3f} to {max(ratios):.3f}"
        entry.publish(f"onepass / {name}: median {statistics.median(ratios):.3f}, {spread}")
    disconnect()


if __name__ == "__main__":
    sys.exit(entry.exit_status(main))
