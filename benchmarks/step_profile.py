"""Where the time of a training step goes: by its parts, and by PyTorch's operators.

    python benchmarks/step_profile.py [--steps 60] [--operators 25] [any option of launch/train.py]
    deepspeed --num_accelerators 2 benchmarks/step_profile.py --engine.threads=1 ...      of two ranks

Steps are those of launch/train.py over the corpus. Parts are medians of steps without a profiler, of rank 0: what they
leave of a step is the loop's own, and the first tenth of the steps is not counted. Operators are self time by
torch.profiler in twenty steps after them, which it makes slower; on CUDA, of the device.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])
from launch import entry

entry.begin(__name__)

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.overhead import Corpus, finish
from train.command_line import parse_config
from train.engine import connect, disconnect
from train.loop import one_epoch

PROFILED = 20
# What the profiler records comes to lie between the blocks that steps free, so that large ones need new memory in every
# step. This much of it is touched before, or operators would be charged for page faults that they do not have.
TOUCHED = 4 << 30


class Parts:
    """Seconds of each part in each step. `time` wraps a function; a part may be entered several times a step."""

    def __init__(self) -> None:
        self.steps: dict[str, list[float]] = defaultdict(list)
        self.now: dict[str, float] = defaultdict(float)

    def time(self, owner: Any, method: str, name: str) -> None:
        """Time every call of `owner`'s method as a part."""
        function: Callable[..., Any] = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            finish()
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                finish()
                self.now[name] += time.perf_counter() - start

        setattr(owner, method, timed)

    def close(self, secs: float) -> None:
        """A step that took `secs` is over."""
        for name, value in {**self.now, "the whole step": secs}.items():
            self.steps[name].append(value)
        self.now.clear()

    def medians(self) -> dict[str, float]:
        return {name: statistics.median(values[len(values) // 10 :]) for name, values in self.steps.items()}


def touch(size: int) -> None:
    """Let the allocator have `size` bytes that the system has already given pages. A block is smaller than those that
    the allocator hands back (train/engine.py), and none is freed before all are there."""
    blocks = [torch.ones(1 << 26) for _ in range(size >> 28)]
    del blocks


def main() -> None:
    parser = entry.Parser(alone=False, description=__doc__)
    parser.add_argument("--steps", type=int, default=60, help="training steps by the clock (default: %(default)s)")
    parser.add_argument("--operators", type=int, default=25, help="operators to list (default: %(default)s)")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)
    options, rest = parser.parse_known_args()
    config = parse_config("", rest)
    place = connect(config.engine.threads, config.engine.timeout_secs)
    corpus = Corpus(config, place)
    learner, lanes, source, ledger = corpus.start(corpus.source())
    parts = Parts()
    parts.time(source, "segment", "reading tokens")
    parts.time(learner.engine, "forward", "forward pass")
    parts.time(learner.engine, "backward", "backward pass")
    parts.time(learner.engine, "step", "optimiser")
    parts.time(ledger, "add", "ledger")
    if learner.model.mixing is not None:
        parts.time(learner.model.mixing, "take_in", "counting")
    loop = one_epoch(learner, lanes, source, ledger)
    for _ in range(options.steps):
        start = time.perf_counter()
        next(loop)
        finish()
        parts.close(time.perf_counter() - start)
    touch(TOUCHED)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        for _ in range(PROFILED):
            next(loop)
        finish()
    if place.rank == 0:
        for name, secs in sorted(parts.medians().items(), key=lambda part: -part[1]):
            entry.publish(f"{1e3 * secs:8.2f} ms  {name}")
        events = profiler.key_averages()
        cuda = place.device.type == "cuda"
        micros = {
            event.key: (event.self_device_time_total if cuda else event.self_cpu_time_total, event.count)
            for event in events
        }
        total = sum(value for value, _ in micros.values())
        entry.publish(f"\nby operators, of {total / PROFILED / 1e3:.1f} ms a step under the profiler")
        for name, (value, count) in sorted(micros.items(), key=lambda row: -row[1][0])[: options.operators]:
            entry.publish(f"{value / total:7.1%} {value / PROFILED / 1e3:8.2f} ms {count / PROFILED:7.1f} x  {name}")
    disconnect()


if __name__ == "__main__":
    sys.exit(entry.exit_status(main))
