"""What each architecture costs on this machine, beside attention of the same width.

    python benchmarks/blocks.py [--blocks ssd,mamba] [--rounds 15] [--threads 1] [--width 128]

Forward and backward passes over 16 rows of 32 tokens and over 4 rows of 256, and single-token steps of 16 rows as the
coder takes them. The blocks take turns, so that whatever else the machine does hits all. Prints attention's median
milliseconds, and for every block the median of its ratios to attention in the same round, and its parameters.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])
from launch import entry

entry.begin(__name__)

import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from model.registry import BLOCKS, load_block
from train.config import ModelConfig

SHAPES = {"16 x 32": (16, 32), "4 x 256": (4, 256)}


def training(block: nn.Module, rows: int, tokens: int, width: int) -> Callable[[], None]:
    x = torch.randn(rows, tokens, width, requires_grad=True)
    state = block.init_state(rows)  # type: ignore[operator]

    def work() -> None:
        y, _ = block(x, state)
        y.sum().backward()

    return work


def stepping(block: nn.Module, rows: int, width: int, steps: int = 50) -> Callable[[], None]:
    x = torch.randn(rows, 1, width)
    with torch.inference_mode():
        _, state = block(torch.randn(rows, 200, width), block.init_state(rows))  # type: ignore[operator]

    def work() -> None:
        nonlocal state
        with torch.inference_mode():
            for _ in range(steps):
                _, state = block(x, state)

    return work


def main() -> None:
    parser = entry.Parser(description=__doc__)
    parser.add_argument("--blocks", default=",".join(sorted(BLOCKS)))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--width", type=int, default=128)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    names = ["attention", *(name for name in options.blocks.split(",") if name != "attention")]
    blocks = {name: load_block(name)(ModelConfig(width=options.width)) for name in names}
    secs: dict[tuple[str, str], list[float]] = {}
    works = {
        (name, shape): training(blocks[name], *size, options.width) for name in names for shape, size in SHAPES.items()
    }
    works |= {(name, "step"): stepping(blocks[name], 16, options.width) for name in names}
    for _ in range(options.rounds + 1):
        for key, work in works.items():
            start = time.perf_counter()
            work()
            secs.setdefault(key, []).append(time.perf_counter() - start)
    columns = [*SHAPES, "step"]
    entry.publish(f"{'block':12}{'parameters':>12}" + "".join(f"{column:>10}" for column in columns))
    for name in names:
        ratios = [
            statistics.median(a / b for a, b in zip(secs[name, c][1:], secs["attention", c][1:], strict=True))
            for c in columns
        ]
        parameters = sum(p.numel() for p in blocks[name].parameters())
        entry.publish(f"{name:12}{parameters:>12,}" + "".join(f"{ratio:10.2f}" for ratio in ratios))
    medians = [statistics.median(secs["attention", column][1:]) * 1000 for column in columns]
    medians[-1] /= 50
    entry.publish("attention, ms           " + "".join(f"{median:10.2f}" for median in medians))


if __name__ == "__main__":
    sys.exit(entry.exit_status(main))
