"""What DeepSpeed saved, read back. A decoder needs none of it, and would be charged for it in train/engine.py."""

import contextlib
import io
import os
from argparse import Namespace
from typing import Any

import torch
from deepspeed.checkpoint import ds_to_universal
from deepspeed.runtime.fp16.loss_scaler import LossScaler
from deepspeed.runtime.zero.config import ZeroStageEnum
from deepspeed.utils.tensor_fragment import fragment_address

from data.errors import UsageError


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


def make_universal(saved: str, universal: str) -> None:
    """Write the checkpoint in folder `saved`, of ZeRO stage 1 to 3, as one that any number of ranks can load."""
    options = {"num_extract_workers": 1, "num_merge_workers": 1, "keep_temp_folder": False, "strict": True}
    with plain_values(), contextlib.redirect_stdout(io.StringIO()):
        ds_to_universal.main(
            Namespace(input_folder=saved, output_folder=universal, inject_missing_state=True, **options)
        )


def load_saved(path: str) -> dict[str, Any]:
    """One file of a DeepSpeed checkpoint, on the CPU."""
    with plain_values():
        return torch.load(path, map_location="cpu", weights_only=True)
