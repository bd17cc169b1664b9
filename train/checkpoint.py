"""Checkpoints: everything that a run needs to go on as if it had never stopped, and nothing else: only what is sound
counts as one.

A checkpoint is a folder of its own, checkpoints/step-N; `latest.json` names the newest whole one and the SHA-256 of its
files. It is replaced atomically once every rank has written, so a run that dies while saving keeps the previous one.
(DeepSpeed's own `latest` file is written before the other ranks are done, and a tag that is used twice can mix states.)
"""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.utils._pytree import tree_flatten, tree_leaves

from data.errors import UsageError
from data.files import file_sha256, write_file
from train.hosts import about_peers
from train.ledger import Ledger
from train.loop import Learner
from train.regrouping import load_regrouped_engine, regroup
from train.saved_engine import load_engine, load_saved

POINTER = "latest.json"
MAX_POINTER_BYTES = 1 << 20

# Of a file that is cut off, torch's reader says that an argument is invalid. Other errors are the machine's.
MISFITS = {errno.EINVAL, errno.ENOENT, errno.EISDIR, errno.ENOTDIR}


def save_checkpoint(
    folder: Path, learner: Learner, ledger: Ledger, source: dict[str, Any], step: int, elapsed_secs: float, keep: int
) -> None:
    """Save the state after `step` steps, that of the token source too, and drop all but the `keep` newest checkpoints.

    Every rank must call it.
    """
    place, tag = learner.place, f"step-{step:09d}"
    if place.rank == 0:
        # Left by a run that died while saving; its parts must not mix with ours.
        shutil.rmtree(folder / tag, ignore_errors=True)
        (folder / tag).mkdir(parents=True)
    dist.barrier()
    try:
        learner.engine.save_checkpoint(str(folder), tag=tag, save_latest=False)
        torch.save(held(learner, ledger) | {"source": source}, folder / tag / f"rank-{place.rank:05d}.pt")
    except (OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and about_peers(error):
            raise
        # PyTorch reports a full disk as a RuntimeError about positions.
        shutil.rmtree(folder / tag, ignore_errors=True)
        reason = str(error).splitlines()[0]
        raise OSError(
            f"{folder / tag} cannot be written ({reason}); is the disk full? Earlier ones are whole"
        ) from error
    dist.barrier()
    if place.rank == 0:
        files = sorted(path for path in (folder / tag).rglob("*") if path.is_file())
        sums = {str(path.relative_to(folder / tag)): synced_sha256(path) for path in files}
        pointer = {"tag": tag, "step": step, "world_size": place.world_size, "elapsed_secs": elapsed_secs}
        write_file(folder / POINTER, json.dumps(pointer | {"files": sums}, indent=1).encode())
        for old in sorted(folder.glob("step-*"))[:-keep]:
            shutil.rmtree(old)


def sound(learner: Learner) -> bool:
    """Whether everything that this rank would save can be gone on with: finite parameters and lane states, and moments
    that are numbers."""
    optimizer = learner.engine.optimizer
    values = [*learner.model.parameters(), *tree_leaves(learner.states)]
    moments = tree_leaves([list(one.values()) for one in optimizer.state.values()])
    pieces = [p for p in values if hasattr(p, "ds_tensor")]
    if pieces:
        # ZeRO stage 3: this rank's piece of each, without the padding, which DeepSpeed leaves as it finds it.
        rank, moments = learner.place.rank, []
        values += [p.ds_tensor.flatten()[: max(0, p.ds_numel - rank * p.ds_tensor.numel())] for p in pieces]
    finite = all(bool(x.isfinite().all()) for x in values if isinstance(x, Tensor))
    return finite and not any(bool(x.isnan().any()) for x in moments if isinstance(x, Tensor))


def drop_torn(folder: Path, tag: str) -> None:
    """Remove what runs that died while saving left beyond `tag`, the last whole checkpoint: it must not count among
    those that are kept."""
    for torn in folder.glob("step-*"):
        if torn.name > tag:
            shutil.rmtree(torn, ignore_errors=True)


def held(learner: Learner, ledger: Ledger) -> dict[str, Any]:
    """What a rank has to keep beside model and optimiser."""
    return {
        "states": learner.states,
        "recent": learner.recent,
        "lane_nats": ledger.lane_nats,
        "tokens": ledger.tokens,
        "bytes": ledger.bytes,
        "rng": torch.get_rng_state(),
    }


def synced_sha256(path: Path) -> str:
    """SHA-256 of a file that is on disk for certain."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
    return file_sha256(path)


def read_pointer(folder: Path) -> dict[str, Any] | None:
    """What latest.json says, or None if nothing was ever saved.

    Raises UsageError if it, or a file that it names, is damaged.
    """
    path = folder / POINTER
    if not path.exists():
        return None
    try:
        with path.open("rb") as file:
            pointer = json.loads(file.read(MAX_POINTER_BYTES))
        for name, expected in pointer["files"].items():
            if file_sha256(folder / Path(pointer["tag"]).name / name) != expected:
                raise UsageError(f"{name} does not match its SHA-256")
        kinds = {"tag": str, "step": int, "world_size": int, "elapsed_secs": float}
        return {name: kind(pointer[name]) for name, kind in kinds.items()}
    except (ArithmeticError, AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError) as error:
        raise UsageError(f"the checkpoint of {path} is damaged ({error}): restore it or start a new run") from None


def checkpoint_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """The model's tensors as the latest checkpoint has them, without optimiser or engine.

    Raises UsageError if there is none, or it is damaged.
    """
    pointer = read_pointer(folder)
    if pointer is None:
        raise UsageError(f"{folder} holds no checkpoint: the run needs run.checkpoint_secs above 0")
    path = folder / pointer["tag"] / "mp_rank_00_model_states.pt"
    with fitting(path):
        return dict(load_saved(str(path))["module"])


def load_checkpoint(
    folder: Path, learner: Learner, ledger: Ledger, any_world: bool
) -> tuple[int, float, dict[str, Any]]:
    """Put the latest checkpoint back. Returns the steps done, the seconds they took and the token source's state; zeros
    and nothing if nothing was saved yet.

    Raises UsageError if the checkpoint is damaged, not this run's, or, unless `any_world`, of another world size.
    """
    pointer, place = read_pointer(folder), learner.place
    if place.rank == 0:
        drop_torn(folder, pointer["tag"] if pointer else "")
    if pointer is None:
        return 0, 0.0, {}
    tag, world_size = pointer["tag"], pointer["world_size"]

    def part(rank: int) -> dict[str, Any]:
        return torch.load(folder / tag / f"rank-{rank:05d}.pt", map_location=place.device, weights_only=True)

    if world_size != place.world_size and not any_world:
        raise UsageError(
            f"{folder} was saved by {world_size} ranks and this run has {place.world_size}: an archive is written and "
            "read by one number of ranks; resume with that"
        )
    with fitting(folder / tag):
        now = held(learner, ledger)
        if world_size == place.world_size:
            load_engine(learner.engine, str(folder), tag)
            saved = part(place.rank)
        else:
            load_regrouped_engine(learner, folder, tag)
            saved = regroup([part(rank) for rank in range(world_size)], learner)
        refuse_misfit(saved, now)
        learner.states, learner.recent = saved["states"], saved["recent"]
        ledger.lane_nats, ledger.tokens, ledger.bytes = saved["lane_nats"], saved["tokens"], saved["bytes"]
        torch.set_rng_state(saved["rng"].cpu())
        return pointer["step"], pointer["elapsed_secs"], saved["source"]


@contextmanager
def fitting(path: Path) -> Iterator[None]:
    """Within it, whatever goes wrong, but for a lost peer or a full disk, is a UsageError of one line about the
    checkpoint `path`."""
    try:
        yield
    except Exception as error:
        if isinstance(error, RuntimeError) and about_peers(error):
            raise
        if isinstance(error, OSError) and error.errno not in MISFITS:
            raise
        lines = str(error).splitlines() or [""]
        reason = lines[0] if isinstance(error, ValueError) else f"{type(error).__name__}: {lines[0]}"
        raise UsageError(f"the checkpoint {path} does not fit: {reason}") from error


def refuse_misfit(saved: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise UsageError unless `saved` has the tensors and numbers that a rank holds `now`."""
    for name, value in now.items():
        (found, found_tree), (wanted, wanted_tree) = tree_flatten(saved[name]), tree_flatten(value)
        # Attention's memory of a lane grows.
        grown = int(name == "states")
        if found_tree != wanted_tree or not all(alike(a, b, grown) for a, b in zip(found, wanted, strict=True)):
            raise UsageError(f"{name} is not what this run holds: start a new run")


def alike(a: Any, b: Any, grown: int) -> bool:
    """Whether two values are of one type and, as tensors, of one shape but for `grown` dimensions."""
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return type(a) is type(b)
    differing = sum(x != y for x, y in zip(a.shape, b.shape, strict=False))
    return a.dim() == b.dim() and differing <= grown and a.is_complex() == b.is_complex()
