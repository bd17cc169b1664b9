"""How near a training step comes to the rate of matrix products alone, by width.

    python benchmarks/roofline.py [--widths 128,256,512] [--rounds 7] [any option of launch/train.py]

For each width: floating-point operations of the matrix products in one step, counted by PyTorch's dispatcher (the
model's: forward and backward; the optimiser's: Newton-Schulz), seconds of the step (median), and both rates as parts of
the rate that square products reach in the turns between the steps, of the side and the precision that MFU is measured
with (train/cost.py). Tokens are random: speed does not depend on them. The rest of a step is memory traffic: norms,
nonlinearities, looking up counts, Adam.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])
from launch import entry

entry.begin(__name__)

import statistics
import time
from dataclasses import replace
from typing import Any

import torch

from benchmarks.overhead import finish
from data.lanes import Lanes, longest_segment
from train.command_line import parse_config
from train.config import BYTE_SYMBOLS, Config
from train.cost import measure_peak, product_secs, run_dtype
from train.engine import Place, connect, disconnect
from train.flops import OperationCounter
from train.loop import Learner


def symbols(config: Config) -> int:
    """Of the vocabulary that is asked for: a corpus may give fewer pieces."""
    return config.data.vocabulary if config.data.tokenizer == "bpe" else BYTE_SYMBOLS


def step_flops(learner: Learner, tokens: torch.Tensor) -> tuple[int, int]:
    """Of one step's matrix products: all of them, and the optimiser's."""
    with OperationCounter() as everything:
        learner.learn(tokens, Lanes(tokens.numel(), *tokens.shape), 0)
    with OperationCounter() as optimizer:
        for p in learner.model.parameters():
            p.grad = torch.zeros_like(p)
        learner.engine.optimizer.step()
        learner.engine.optimizer.zero_grad()
    return everything.flops, optimizer.flops


def measure(config: Config, place: Place, rounds: int) -> dict[str, Any]:
    """Figures of one width."""
    vocabulary = symbols(config)
    learner = Learner(config, vocabulary, 0, place)
    shape = config.train.lanes, longest_segment(config.train.segment_tokens)
    tokens = torch.randint(vocabulary, shape, device=place.device)
    total, optimizer = step_flops(learner, tokens)
    dtype = run_dtype(learner)
    peak = measure_peak(place.device, dtype)
    secs, rates = [], []
    for _ in range(rounds):
        rates.append(2 * peak.side**3 / product_secs(place.device, dtype, peak.side, repeats=3))
        start = time.perf_counter()
        for _ in range(3):
            learner.learn(tokens, Lanes(tokens.numel(), *tokens.shape), 0)
        finish()
        secs.append((time.perf_counter() - start) / 3)
    parts = [total / taken / rate for taken, rate in zip(secs, rates, strict=True)]
    part = statistics.median(parts)
    return {
        "tokens_a_step": tokens.numel(),
        "parameters": sum(p.numel() for p in learner.model.parameters()),
        "model_gflop": (total - optimizer) / 1e9,
        "optimizer_gflop": optimizer / 1e9,
        "step_ms": 1e3 * statistics.median(secs),
        "yardstick": f"{peak.dtype} products of {peak.side:,}",
        "gemm_gflop_per_sec": statistics.median(rates) / 1e9,
        "products_part": part,
        "model_part": part * (total - optimizer) / total,
    }


def main() -> None:
    parser = entry.Parser(alone=False, description=__doc__)
    parser.add_argument("--widths", default="128,256,512", help="by commas (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="turns of three steps, each beside the yardstick")
    options, rest = parser.parse_known_args()
    config = parse_config("", rest)
    place = connect(config.engine.threads, config.engine.timeout_secs)
    if config.engine.precision == "auto":
        precision: Any = "fp32" if place.device.type == "cpu" else "bf16"
        config = replace(config, engine=replace(config.engine, precision=precision))
    for width in map(int, options.widths.split(",")):
        row = measure(replace(config, model=replace(config.model, width=width)), place, options.rounds)
        told = (f"{name} {value if isinstance(value, str) else f'{value:,.4g}'}" for name, value in row.items())
        entry.publish(f"width {width}: " + ", ".join(told))
    disconnect()


if __name__ == "__main__":
    sys.exit(entry.exit_status(main))
