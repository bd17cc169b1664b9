"""What DeepSpeed saved, read back, by as many ranks or by another number. A decoder does not need this file."""

import contextlib
import io
import os
import shutil
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from deepspeed.checkpoint import ds_to_universal
from deepspeed.runtime.fp16.loss_scaler import LossScaler
from deepspeed.runtime.zero.config import ZeroStageEnum
from deepspeed.utils.tensor_fragment import fragment_address

from data.errors import UsageError
from train.loop import Learner
from train.ranks import after_rank_0


def load_engine(engine: Any, folder: str, tag: str) -> None:
    """Put back what `engine.save_checkpoint(folder, tag)` saved, unpickling nothing but tensors and plain values."""
    with plain_values():
        loaded, _ = engine.load_checkpoint(folder, tag=tag, load_lr_scheduler_states=False)
    if loaded is None:
        # DeepSpeed only warns, and would train from the start.
        raise UsageError(f"DeepSpeed found no checkpoint {tag} in {folder}")


def plain_values() -> Any:
    """A context in which nothing is unpickled but tensors, plain values and DeepSpeed's few harmless types."""
    # DeepSpeed would let a checkpoint run code; PyTorch heeds this variable over what a caller asks for.
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    return torch.serialization.safe_globals([LossScaler, ZeroStageEnum, fragment_address])


def load_saved(path: str) -> dict[str, Any]:
    """One file of a DeepSpeed checkpoint, on the CPU."""
    with plain_values():
        return torch.load(path, map_location="cpu", weights_only=True)


def load_regrouped_engine(learner: Learner, folder: Path, tag: str) -> None:
    """Put back model and optimiser, which another number of ranks saved. Every rank must call it."""
    if not learner.engine.zero_optimization():
        # Every rank saved all of it.
        load_engine(learner.engine, str(folder), tag)
        return
    if learner.config.optimizer == "muon":
        # DeepSpeed 0.19 converts Adam's two moments.
        raise UsageError("ZeRO cannot divide muon's momentum anew: resume with as many ranks as saved it")
    universal = folder / f"universal-{tag}"
    after_rank_0(learner.place, str(universal), lambda: convert(folder / tag, universal))
    optimizer = learner.engine.optimizer.optimizer
    groups = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    # DeepSpeed 0.19 has no public setter: its configuration says so at the start, before there is a checkpoint to see.
    learner.engine._config.load_universal_checkpoint = True
    load_engine(learner.engine, str(folder), universal.name)
    learner.engine._config.load_universal_checkpoint = False
    # Stage 3 gives all groups the settings of the first group, and all parameters one shared count of steps.
    for group, settings in zip(optimizer.param_groups, groups, strict=True):
        group.update(settings)
    for state in optimizer.state.values():
        state["step"] = state["step"].clone()
    # The universal checkpoint has parameters only. Buffers, the tables of context mixing, are in the model's file.
    buffers = load_saved(str(min(universal.glob("*model_states.pt"))))["module"]
    for name, buffer in learner.model.named_buffers():
        if name in buffers:
            buffer.copy_(buffers[name])
    torch.distributed.barrier()
    if learner.place.rank == 0:
        shutil.rmtree(universal)


def convert(saved: Path, universal: Path) -> None:
    """Write a checkpoint, of ZeRO stage 1 to 3, as one that any number of ranks can load: complete, or not at all."""
    if universal.exists():
        return
    partial = universal.with_name(f"{universal.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    options = {"num_extract_workers": 1, "num_merge_workers": 1, "keep_temp_folder": False, "strict": True}
    with plain_values(), contextlib.redirect_stdout(io.StringIO()):
        ds_to_universal.main(
            Namespace(input_folder=str(saved), output_folder=str(partial), inject_missing_state=True, **options)
        )
    partial.rename(universal)
    # DeepSpeed's own pointer, which we do not use.
    (saved.parent / "latest_universal").unlink(missing_ok=True)
