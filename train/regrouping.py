"""Resuming with another number of ranks: DeepSpeed's shards become a universal checkpoint, lanes change hands."""

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from train.loop import Learner
from train.ranks import after_rank_0
from train.saved_engine import load_engine, load_saved, make_universal


def load_regrouped_engine(learner: Learner, folder: Path, tag: str) -> None:
    """Put back model and optimiser as another number of ranks saved them. Every rank must call it."""
    if not learner.engine.zero_optimization():
        # Every rank had all of it.
        load_engine(learner.engine, str(folder), tag)
        return
    universal = folder / f"universal-{tag}"
    after_rank_0(learner.place, str(universal), lambda: convert(folder / tag, universal))
    optimizer = learner.engine.optimizer.optimizer
    groups = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    learner.engine._config.load_universal_checkpoint = True
    load_engine(learner.engine, str(folder), universal.name)
    learner.engine._config.load_universal_checkpoint = False
    # Stage 3 gives all groups the rates of the first, and all parameters one count of steps, which each would raise.
    for group, settings in zip(optimizer.param_groups, groups, strict=True):
        group.update(settings)
    for state in optimizer.state.values():
        state["step"] = state["step"].clone()
    # It holds parameters alone: buffers, the tables of the context mixing, are in the model's file as ever.
    buffers = load_saved(str(min(universal.glob("*model_states.pt"))))["module"]
    for name, buffer in learner.model.named_buffers():
        if name in buffers:
            buffer.copy_(buffers[name])
    torch.distributed.barrier()
    if learner.place.rank == 0:
        shutil.rmtree(universal)


def convert(saved: Path, universal: Path) -> None:
    """Write the checkpoint of one step as DeepSpeed's universal one, whole or not at all."""
    if universal.exists():
        return
    partial = universal.with_name(f"{universal.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    make_universal(str(saved), str(partial))
    partial.rename(universal)
    # DeepSpeed's own pointer; ours is latest.json.
    (saved.parent / "latest_universal").unlink(missing_ok=True)


def regroup(parts: list[dict[str, Any]], learner: Learner) -> dict[str, Any]:
    """What this rank has to put back, from what every rank of the earlier group saved, in their order. The counts of
    tokens and bytes all go to rank 0."""
    rank, rows = learner.place.rank, learner.rows
    mine = slice(rank * rows, (rank + 1) * rows)
    micro_batches = len(learner.states)
    trees = [tree_flatten(tree) for part in parts for tree in part["states"]]
    merged = []
    for leaves, dim in zip(zip(*(leaves for leaves, _ in trees), strict=True), batch_dims(learner), strict=True):
        whole = leaves[0] if dim is None else torch.cat(leaves, dim).narrow(dim, mine.start, rows)
        merged.append([whole] * micro_batches if dim is None else [c.clone() for c in whole.chunk(micro_batches, dim)])
    return {
        "states": [tree_unflatten(list(leaves), trees[0][1]) for leaves in zip(*merged, strict=True)],
        "recent": torch.cat([part["recent"] for part in parts])[mine].clone(),
        "lane_nats": torch.cat([part["lane_nats"] for part in parts])[mine].clone(),
        "tokens": sum(part["tokens"] for part in parts) if rank == 0 else 0,
        "bytes": sum(part["bytes"] for part in parts) if rank == 0 else 0,
        "rng": parts[0]["rng"],
        "source": parts[0]["source"],
    }


def batch_dims(learner: Learner) -> list[int | None]:
    """Of every leaf of a state, the dimension in which its rows lie; None for what all rows share."""
    one, two = (tree_leaves(learner.model.init_state(rows)) for rows in (1, 2))
    return [
        next(dim for dim in range(a.dim()) if a.shape[dim] != b.shape[dim]) if isinstance(a, Tensor) else None
        for a, b in zip(one, two, strict=True)
    ]
