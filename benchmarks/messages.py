"""How long a step's messages take by themselves, on the ranks and the network that it is started on.

    deepspeed --num_accelerators 2 benchmarks/messages.py [--rounds 40] [any option of launch/train.py]

The sizes are those of the model that the options make, in fp32 without ZeRO: all gradients in one all-reduce, as
DeepSpeed sends them; Muon's matrices, each from the rank that orthogonalised it; the tokens of a step. Prints the
median of each, measured from the moment when all ranks have come to it. A swap, in which each rank sends all its
gradients to the next and receives as many, is the least that two ranks could do.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])
from launch import entry

entry.begin(__name__)

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import distributed as dist

from benchmarks.overhead import finish
from benchmarks.roofline import symbols
from data.lanes import longest_segment
from model.lm import LanguageModel
from train.command_line import parse_config
from train.engine import connect, disconnect


def median_ms(message: Callable[[], object], rounds: int) -> float:
    secs = []
    for _ in range(rounds):
        dist.barrier()
        start = time.perf_counter()
        message()
        finish()
        secs.append(time.perf_counter() - start)
    return 1e3 * statistics.median(secs[rounds // 10 :])


def main() -> None:
    parser = entry.Parser(alone=False, description=__doc__)
    parser.add_argument("--rounds", type=int, default=40, help="times that each is sent (default: %(default)s)")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)
    options, rest = parser.parse_known_args()
    config = parse_config("", rest)
    place = connect(config.engine.threads, config.engine.timeout_secs)
    if place.world_size == 1:
        parser.error("one rank sends nothing: start it with deepspeed --num_accelerators 2")
    model = LanguageModel(config.model, symbols(config)).to(place.device)
    gradients = torch.cat([p.detach().flatten() for p in model.parameters()])
    received = torch.empty_like(gradients)
    matrices = [p.detach().clone() for p in model.parameters() if p.role == "matrix"]  # type: ignore[attr-defined]
    rows = config.train.lanes // place.world_size
    length = model.context + longest_segment(config.train.segment_tokens)
    tokens = torch.zeros(rows, length, dtype=torch.int64, device=place.device)

    def broadcasts() -> None:
        owners = enumerate(matrices)
        for work in [dist.broadcast(one, number % place.world_size, async_op=True) for number, one in owners]:
            work.wait()

    def swap() -> None:
        after, before = (place.rank + 1) % place.world_size, (place.rank - 1) % place.world_size
        sends = dist.P2POp(dist.isend, gradients, after), dist.P2POp(dist.irecv, received, before)
        for work in dist.batch_isend_irecv(list(sends)):
            work.wait()

    messages: dict[str, tuple[int, Callable[[], object]]] = {
        "gradients, all-reduced": (gradients.nbytes, lambda: dist.all_reduce(gradients)),
        "gradients, swapped": (gradients.nbytes, swap),
        f"Muon's {len(matrices)} matrices": (sum(one.nbytes for one in matrices), broadcasts),
        "tokens": (tokens.nbytes, lambda: place.gather(tokens)),
    }
    for name, (sent, message) in messages.items():
        taken = median_ms(message, options.rounds)
        if place.rank == 0:
            entry.publish(f"{name:24} {sent:12,} bytes {taken:8.2f} ms")
    disconnect()


if __name__ == "__main__":
    sys.exit(entry.exit_status(main))
