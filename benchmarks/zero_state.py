"""What a rank holds and sends under each ZeRO stage, counted in the running engine: bytes a parameter.

    deepspeed --num_accelerators 2 benchmarks/zero_state.py [--stages 0,1,2,3] [any option of launch/train.py]

Builds the engine of launch/train.py, AdamW and bf16 autocast as on GPUs (`--train.optimizer=muon` for stage 0), trains
two steps of random tokens, and counts in the second: the tensors of this process between steps, after the backward
pass and before the optimiser's arithmetic, DeepSpeed's reduction buckets apart from the rest; and the tensors given to
every collective. Counts need no GPU; the lanes' carried state is in them. Keys of --engine.deepspeed_config are heeded.
benchmarks/cluster_plan.py has formulas for these numbers.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])
from launch import entry

entry.begin(__name__)

import gc
from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.roofline import symbols
from data.lanes import Lanes, longest_segment
from train.command_line import parse_config, read_deepspeed_config
from train.config import Config
from train.engine import Place, connect, disconnect
from train.loop import Learner

# Elements: DeepSpeed's own is 5e8, which would hide everything else.
BUCKET = 1_000_000


def live_bytes() -> Counter[str]:
    """Bytes of all tensors of this process, those of whole reduction buckets apart."""
    storages = {}
    for found in gc.get_objects():
        if issubclass(type(found), Tensor) and found.device.type != "meta":
            storage = found.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    held: Counter[str] = Counter()
    for size in storages.values():
        held["buckets" if size == 4 * BUCKET else "state"] += size
    return held


class Collectives(TorchDispatchMode):
    """Sums the bytes of the largest tensor that each collective takes or gives."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            leaves = torch.utils._pytree.tree_leaves(args)
            sizes = [leaf.nbytes for leaf in leaves if isinstance(leaf, Tensor)]
            self.sent[func._schema.name.removeprefix("c10d::").strip("_")] += max(sizes, default=0)
        return func(*args, **(kwargs or {}))


def measure(config: Config, place: Place) -> None:
    """Train two steps and print what the second held and sent, on rank 0."""
    extra = read_deepspeed_config(config.engine.deepspeed_config)
    small = {"reduce_bucket_size": BUCKET, "allgather_bucket_size": BUCKET}
    extra["zero_optimization"] = small | extra.get("zero_optimization", {})
    vocabulary = symbols(config)
    before = live_bytes()["state"]
    learner = Learner(config, vocabulary, 0, place, extra)
    parameters = sum(getattr(p, "ds_numel", p.numel()) for p in learner.model.parameters())
    length = longest_segment(config.train.segment_tokens)
    targets = torch.randint(vocabulary, (learner.rows, length), device=place.device)
    plan = Lanes(targets.numel() * place.world_size, config.train.lanes, length)
    learner.learn(targets, plan, 0)
    held = {"between steps": live_bytes()}
    engine_step = learner.engine.step

    def note(when: str) -> None:
        # Of all micro-batches, and of all groups of parameters, which ZeRO updates in turn.
        held[when] = max(held.get(when, Counter()), live_bytes(), key=Counter.total)

    def step() -> None:
        note("after backward")
        engine_step()

    def before_update(*_: object) -> None:
        note("before the update")

    learner.engine.step = step
    getattr(learner.engine.optimizer, "optimizer", learner.engine.optimizer).register_step_pre_hook(before_update)
    with Collectives() as collectives:
        learner.learn(targets, plan, 0)
    if place.rank == 0:
        entry.publish(f"ZeRO {config.engine.zero_stage}, {config.train.optimizer}, {parameters:,} parameters, ", end="")
        entry.publish(f"{place.world_size} ranks; bytes a parameter:")
        for when, found in held.items():
            buckets = found["buckets"] // (4 * BUCKET)
            entry.publish(f"    held {when:17} {(found['state'] - before) / parameters:6.2f} and {buckets} buckets")
        for name, size in sorted(collectives.sent.items()):
            entry.publish(f"    given to {name:20} {size / parameters:6.2f}")


def main() -> None:
    parser = entry.Parser(alone=False, description=__doc__)
    parser.add_argument("--stages", default="0,1,2,3")
    options, rest = parser.parse_known_args()
    fixed = ["--train.optimizer=adamw", "--engine.precision=bf16", "--model.ngram_orders=[]", "--model.width=256"]
    config = parse_config("", [*fixed, *rest])
    place = connect(config.engine.threads, config.engine.timeout_secs)
    for stage in options.stages.split(","):
        config.engine.zero_stage = int(stage)  # type: ignore[assignment]
        measure(config, place)
        gc.collect()
    disconnect()


if __name__ == "__main__":
    sys.exit(entry.exit_status(main))
