"""What a width needs on a cluster, by number of GPUs and ZeRO stage: memory, messages, time, description length.

    python benchmarks/cluster_plan.py [--widths 128,1024,8192] [--depths 2,24] [--worlds 1,8,64] [--out]
        [--peak_tflops 989] [--utilisation 0.4] [--link_gbytes 50] [--gpu_gbytes 80] [--law research/architectures/kjv]
        [any option of launch/train.py]

Needs no GPU and next to no memory: models are built of fake tensors, so parameters, FLOPs and what autograd saves are
counted exactly at any width. What the engine holds and sends is a formula, checked against benchmarks/zero_state.py.
Seconds are a MODEL and were never measured: arithmetic (muon's iterations too, of those matrices that fall to a GPU)
at --utilisation (an assumption) of the peak, then messages at the link's rate, which neither overlap (Onepass sets
overlap_comm to false) nor wait for latency. Defaults: an H100 (989 TFLOP/s of dense bf16), a 400 Gb/s link a GPU. The
global batch is that of --train.lanes and --train.segment_tokens, whatever the number of GPUs. Description lengths come
from a fitted power law, and are marked as extrapolated outside of the widths and the depth that it was fitted on.

The table shows GB (1e9 bytes) a GPU; `equal at` is how many tokens a GPU must take a step for its arithmetic to last as
long as its messages. --out writes all columns to benchmarks/results/cluster_plan.csv.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)
from launch import entry

entry.begin(__name__)

import argparse
import csv
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.roofline import symbols
from data.lanes import longest_segment
from model.lm import LanguageModel
from studies.scaling.laws import PowerLaw
from studies.scoring import tables
from train.command_line import parse_config
from train.config import Config
from train.flops import forward_flops
from train.optim import orthogonalise

RESULTS = ROOT / "benchmarks" / "results" / "cluster_plan.csv"
PLANS = [("muon", 0), ("adamw", 0), ("adamw", 1), ("adamw", 2), ("adamw", 3)]
FP32 = 4
# DeepSpeed's defaults, in elements: zero_optimization.reduce_bucket_size and stage3_max_live_parameters.
BUCKET, MOST_LIVE = 500_000_000, 1_000_000_000
GPUS_A_NODE = 8
SHOWN = ("state", "deepspeed_estimate", "gpu", "sent")


def saved_bytes(model: LanguageModel, rows: int, time: int) -> int:
    """What autograd keeps of a forward pass over [rows, time] tokens under bf16 autocast, parameters not counted."""
    own = {tensor.untyped_storage()._cdata for tensor in [*model.parameters(), *model.buffers()]}
    kept: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    history = torch.zeros(rows, model.context - 1 + time, dtype=torch.int64)
    with saved_tensors_hooks(note, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
        model(history, model.init_state(rows), history[:, -time:])
    return sum(tensor.untyped_storage().nbytes() for address, tensor in kept.items() if address not in own)


def state_bytes(optimizer: str, stage: int, world: int, parameters: int, matrices: int, accumulation: int) -> int:
    """fp32 parameters, gradients and moments on each GPU when they are largest, before the update.

    Stages 1 and 2 hold the parameters, and shards of a master copy, two moments, the gradients and, of all groups in
    turn, gradients in one piece. Stage 1 adds up whole gradients of micro-batches. Stage 3 holds shards of all that,
    and at its largest the gathered parameters.
    """
    if stage == 0:
        return FP32 * (4 * parameters - (matrices if optimizer == "muon" else 0))
    whole = parameters if stage < 3 else min(parameters, MOST_LIVE)
    held = whole + 5 * parameters // world
    return FP32 * (max(held, 2 * parameters + 3 * parameters // world) if stage == 1 and accumulation > 1 else held)


def buffer_bytes(stage: int, world: int, parameters: int) -> int:
    """DeepSpeed's reduction bucket, which ZeRO allocates in full however small the model is."""
    return FP32 * (BUCKET if stage else min(parameters, BUCKET) * (world > 1))


def muon_needs(model: LanguageModel, world: int) -> tuple[int, int]:
    """FLOPs of an update on the GPU that has most of it to do, and bytes that orthogonalising the largest group needs
    (fp32 input and output, bf16 work), beside the results of all groups in bf16, which wait for those of other GPUs."""
    shapes = Counter(p.shape for p in model.parameters() if p.role == "matrix")  # type: ignore[attr-defined]
    flops, before = [0] * world, 0
    for shape, count in shapes.items():
        with FlopCounterMode(display=False) as counter:
            # In bf16, as on GPUs: fp32 takes another way.
            orthogonalise(torch.empty(1, *shape, dtype=torch.bfloat16))
        for number in range(before, before + count):
            flops[number % world] += counter.get_total_flops()
        before += count
    sizes = [count * shape.numel() for shape, count in shapes.items()]
    return max(flops), 10 * max(sizes) + 2 * sum(sizes)


def sent_bytes(stage: int, world: int, parameters: int, accumulation: int) -> tuple[int, int]:
    """Bytes that each GPU sends in a step, by rings: as DeepSpeed 0.19.8 does it, and as ZeRO's paper counts
    (Rajbhandari et al. 2020, arXiv:1910.02054, section 7: 2 Psi, of stage 3 3 Psi).

    An all-reduce passes everything around twice, reduce-scatter and all-gather once. Stages 1 and 2 all-reduce
    gradients and gather parameters, 3 Psi; stage 3 gathers again for the backward pass only what it had to drop.
    Stages 2 and 3 reduce gradients after each micro-batch, and stage 3 gathers for each.
    """
    once = FP32 * parameters * (world - 1) // world
    ours = {0: 2, 1: 3, 2: 1 + 2 * accumulation, 3: (2 if parameters <= MOST_LIVE else 3) * accumulation}
    return ours[stage] * once, (3 if stage == 3 else 2) * once


def predicted(folder: Path, config: Config, vocabulary: int) -> tuple[int | None, str]:
    """Total bytes by the law of `folder`'s scaling.json for this architecture without context mixing, and what it is
    worth."""
    lines = json.loads((folder / "scaling.json").read_text())["lines"]
    name = config.model.block
    found = [
        line for line in lines if (line["block"], line["vocabulary"]) == (name, vocabulary) and line["total"]["fit"]
    ]
    if not found:
        return None, f"no law of {name}, {vocabulary} symbols"
    model = LanguageModel(replace(config.model, ngram_orders=[]), vocabulary)
    size = sum(p.numel() for p in model.parameters()) - model.embedding.numel()
    low, high = min(found[0]["widths"]), max(found[0]["widths"])
    inside = low <= config.model.width <= high and config.model.depth == 2
    note = "inside" if inside else f"extrapolated from widths {low} to {high}, depth 2"
    return round(float(PowerLaw(**found[0]["total"]["fit"]["law"]).bits(size)) / 8), note


def rows_of(config: Config, worlds: list[int], options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for every number of GPUs and plan."""
    lanes, accumulation = config.train.lanes, config.train.accumulation
    # Memory is that of the longest segments.
    time = longest_segment(config.train.segment_tokens)
    flops_per_sec = options.peak_tflops * 1e12 * options.utilisation
    vocabulary = symbols(config)
    model = LanguageModel(config.model, vocabulary)
    numbers = [(p.numel(), p.role) for p in model.parameters()]  # type: ignore[attr-defined]
    parameters, matrices = sum(n for n, _ in numbers), sum(n for n, role in numbers if role == "matrix")
    largest = max(sum(p.numel() for p in part.parameters(recurse=False)) for part in model.modules())
    one, two = (saved_bytes(model, rows, time) for rows in (1, 2))
    flops_per_token = 3 * forward_flops(model, time) / time
    total_bytes, law = predicted(Path(options.law), config, vocabulary)
    mixing_bytes = sum(table.nbytes for table in tables(model))
    about = {"width": config.model.width, "depth": config.model.depth, "parameters": parameters}
    for world in worlds:
        rows = lanes // world
        cluster = {"num_gpus_per_node": min(world, GPUS_A_NODE), "num_nodes": -(-world // GPUS_A_NODE)}
        estimates = {
            2: estimate_zero2_model_states_mem_needs(parameters, cpu_offload=False, **cluster)[1],
            3: estimate_zero3_model_states_mem_needs(
                parameters, largest, cpu_offload=False, cpu_offload_params=False, **cluster
            )[1],
        }
        gathered = 8 * (world - 1) * rows * (model.context - 1 + 2 * time) if mixing_bytes else 0
        update_flops, update_bytes = muon_needs(model, world)
        for optimizer, stage in PLANS:
            memory = {
                "state_bytes": state_bytes(optimizer, stage, world, parameters, matrices, accumulation),
                "buffer_bytes": buffer_bytes(stage, world, parameters) + (update_bytes if optimizer == "muon" else 0),
                "autocast_bytes": 2 * one - two,
                "mixing_bytes": mixing_bytes,
                "activation_bytes": (two - one) * rows // accumulation,
            }
            sent, paper = sent_bytes(stage, world, parameters, accumulation)
            update = update_flops if optimizer == "muon" else 0
            # Broadcasts, by rings, of the matrices that others have orthogonalised, in bf16.
            sent += 2 * matrices * (world - 1) // world if optimizer == "muon" else 0
            compute_secs = (flops_per_token * rows * time + update) / flops_per_sec
            message_secs = (sent + gathered) / (options.link_gbytes * 1e9)
            gpu_bytes = sum(memory.values())
            yield about | {"world_size": world, "zero_stage": stage, "optimizer": optimizer, **memory} | {
                "gpu_bytes": gpu_bytes, "fits": gpu_bytes <= options.gpu_gbytes * 1e9,
                "deepspeed_estimate_bytes": estimates.get(stage), "activation_bytes_per_token": (two - one) // time,
                "sent_bytes": sent, "paper_sent_bytes": paper, "gathered_token_bytes": gathered,
                "flops_per_token": round(flops_per_token), "update_flops": update,
                "tokens_per_gpu_step": rows * time,
                "model_compute_secs": f"{compute_secs:.3g}", "model_message_secs": f"{message_secs:.3g}",
                "model_tokens_per_sec_per_gpu": round(rows * time / (compute_secs + message_secs)),
                "equal_at_tokens": round(message_secs * flops_per_sec / flops_per_token),
                "law_total_bytes": total_bytes, "law": law,
            }  # fmt: skip


def show(row: dict[str, Any]) -> None:
    gigabytes = {name: "" if row[f"{name}_bytes"] is None else f"{row[f'{name}_bytes'] / 1e9:.2f}" for name in SHOWN}
    state, estimate, held, sent = gigabytes.values()
    law = f"{row['law_total_bytes'] or 'none':{',' if row['law_total_bytes'] else ''}}{' *' * (row['law'] != 'inside')}"
    shape = f"{row['width']:>6}{row['depth']:>6}{row['parameters'] / 1e6:>11,.1f}"
    plan = f"{row['world_size']:>6}{row['optimizer']:>7} {row['zero_stage']}"
    speed = f"{row['model_tokens_per_sec_per_gpu']:>12,}{row['equal_at_tokens']:>10,}"
    sizes = f"{state:>9}{estimate:>10}{held:>8}{' ' if row['fits'] else '!'}{sent:>8}"
    entry.publish(f"{shape}{plan}{sizes}{speed}{law:>12}")


HEADING = """\
 width depth parameters  GPUs   ZeRO    state DeepSpeed     all    sent    tokens/s     equal         law
                million                  GB  says, GB      GB      GB model, a GPU at tokens total bytes"""


def main() -> None:
    parser = entry.Parser(alone=False, description=__doc__)
    parser.add_argument("--widths", default="128,256,512,1024,2048,4096,8192")
    parser.add_argument("--depths", default="2,24", help="layers; instead of --model.depth")
    parser.add_argument("--worlds", default="1,8,64", help="numbers of GPUs, eight a node; they divide the lanes")
    parser.add_argument("--peak_tflops", type=float, default=989.0, help="of one GPU, dense bf16")
    parser.add_argument("--utilisation", type=float, default=0.4, help="part of the peak that is reached: assumed")
    parser.add_argument("--link_gbytes", type=float, default=50.0, help="GB/s that one GPU sends to the next")
    parser.add_argument("--gpu_gbytes", type=float, default=80.0, help="GB of one GPU's memory")
    parser.add_argument("--law", default=str(ROOT / "research/architectures/kjv"), help="folder of a scaling.json")
    parser.add_argument("--out", action="store_true", help=f"write {RESULTS.relative_to(ROOT)}")
    options, rest = parser.parse_known_args()
    fixed = ["--model.block=ssd attention", "--data.vocabulary=1024", "--train.lanes=64", "--train.segment_tokens=1024"]
    config = parse_config("", [*fixed, *rest])
    widths, depths, worlds = ([int(n) for n in getattr(options, k).split(",")] for k in ("widths", "depths", "worlds"))
    if odd := [world for world in worlds if config.train.lanes % (world * config.train.accumulation)]:
        parser.error(f"{odd[0]} GPUs do not share train.lanes {config.train.lanes} evenly: give a multiple")
    entry.publish(HEADING)
    table = []
    with FakeTensorMode():
        for depth in depths:
            for width in widths:
                model = replace(config.model, width=width, depth=depth)
                for row in rows_of(replace(config, model=model), worlds, options):
                    show(row)
                    table.append(row)
    entry.publish(f"! more than {options.gpu_gbytes:g} GB    * extrapolated, or no law: see the column law")
    if options.out:
        with RESULTS.open("w", newline="") as file:
            writer = csv.DictWriter(file, table[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(table)


if __name__ == "__main__":
    sys.exit(entry.exit_status(main))
