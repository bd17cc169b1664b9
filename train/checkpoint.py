"""Checkpoints: all that a run needs to go on as if it had never stopped.

A checkpoint is a folder, checkpoints/step-N. `latest.json` names the newest complete one, with the SHA-256 of its
files. It is replaced atomically after every rank has written, so a run that dies while saving keeps the previous one.
(DeepSpeed writes its own `latest` file before the other ranks are done, and a tag that is used twice can mix states.)
"""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from data.errors import UsageError
from data.files import file_sha256, write_file
from train.ledger import Ledger
from train.loop import Learner
from train.ranks import about_peers
from train.saved_engine import load_engine, load_regrouped_engine, load_saved

POINTER = "latest.json"
MAX_POINTER_BYTES = 1 << 20

# Errors that a damaged checkpoint causes: a truncated file is an invalid argument. Others are the machine's.
MISFITS = {errno.EINVAL, errno.ENOENT, errno.EISDIR, errno.ENOTDIR}


def save_checkpoint(
    folder: Path, learner: Learner, ledger: Ledger, source: dict[str, Any], step: int, elapsed_secs: float, keep: int
) -> None:
    """Save the state after `step` steps, with that of the token source, and remove all but the `keep` newest
    checkpoints. Every rank must call it."""
    place, tag = learner.place, f"step-{step:09d}"
    if place.rank == 0:
        # A run that died while saving may have left parts, which must not mix with ours.
        shutil.rmtree(folder / tag, ignore_errors=True)
        (folder / tag).mkdir(parents=True)
    dist.barrier()
    _, tokens, coded_bytes = ledger.totals()
    try:
        learner.engine.save_checkpoint(str(folder), tag=tag, save_latest=False)
        torch.save(lane_tensors(learner, ledger) | {"source": source}, folder / tag / f"rank-{place.rank:05d}.pt")
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
        pointer |= {"tokens": tokens, "bytes": coded_bytes, "files": sums}
        write_file(folder / POINTER, json.dumps(pointer, indent=1).encode())
        for old in sorted(folder.glob("step-*"))[:-keep]:
            shutil.rmtree(old)


def is_sound(learner: Learner) -> bool:
    """Whether a run can go on from what this rank would save: its parameters and lane states are finite, its moments
    are numbers."""
    optimizer = learner.engine.optimizer
    values = [*learner.model.parameters(), *tree_leaves(learner.states)]
    moments = tree_leaves([list(one.values()) for one in optimizer.state.values()])
    pieces = [p for p in values if hasattr(p, "ds_tensor")]
    if pieces:
        # ZeRO stage 3: this rank's piece of each, without the padding, which DeepSpeed does not initialise.
        rank, moments = learner.place.rank, []
        values += [p.ds_tensor.flatten()[: max(0, p.ds_numel - rank * p.ds_tensor.numel())] for p in pieces]
    finite = all(bool(x.isfinite().all()) for x in values)
    return finite and not any(bool(x.isnan().any()) for x in moments if isinstance(x, Tensor))


def drop_torn(folder: Path, tag: str) -> None:
    """Remove what runs that died while saving left after `tag`, the last complete checkpoint: it would count as one of
    those to keep."""
    for torn in folder.glob("step-*"):
        if torn.name > tag:
            shutil.rmtree(torn, ignore_errors=True)


def lane_tensors(learner: Learner, ledger: Ledger) -> dict[str, Any]:
    """What a rank saves beside model and optimiser: tensors whose first dimension is its lanes, and `rng`."""
    batches = zip(*(tree_leaves(state) for state in learner.states), strict=True)
    states = [
        leaves[0] if dim is None else torch.cat([leaf.movedim(dim, 0) for leaf in leaves])
        for leaves, dim in zip(batches, lane_dims(learner), strict=True)
    ]
    return {"states": states, "recent": learner.recent, "lane_nats": ledger.lane_nats, "rng": torch.get_rng_state()}


def put_states(learner: Learner, states: list[Any]) -> None:
    """Put back `states`, as lane_tensors returned them."""
    number, tree = len(learner.states), tree_flatten(learner.states[0])[1]
    leaves = [
        [one] * number
        if dim is None
        else [part.movedim(0, dim).clone(memory_format=torch.contiguous_format) for part in one.chunk(number)]
        for one, dim in zip(states, lane_dims(learner), strict=True)
    ]
    learner.states = [tree_unflatten(list(batch), tree) for batch in zip(*leaves, strict=True)]


def lane_dims(learner: Learner) -> list[int | None]:
    """The dimension of each leaf of a state that counts lanes; None for what all lanes share."""
    one, two = (tree_leaves(learner.model.init_state(rows)) for rows in (1, 2))
    return [
        next((dim for dim in range(a.dim()) if a.shape[dim] != b.shape[dim]), None)
        for a, b in zip(one, two, strict=True)
    ]


def synced_sha256(path: Path) -> str:
    """SHA-256 of a file, after it has been written to disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
    return file_sha256(path)


def read_pointer(folder: Path, hashed: bool = True) -> dict[str, Any] | None:
    """What latest.json says, or None if there is none.

    Raises UsageError if it is damaged or, when `hashed`, a file that it names.
    """
    path = folder / POINTER
    if not path.exists():
        return None
    try:
        with path.open("rb") as file:
            pointer = json.loads(file.read(MAX_POINTER_BYTES))
        for name, expected in pointer["files"].items():
            if hashed and file_sha256(folder / Path(pointer["tag"]).name / name) != expected:
                raise UsageError(f"{name} does not match its SHA-256")
        kinds = {"tag": str, "step": int, "world_size": int, "elapsed_secs": float, "tokens": int, "bytes": int}
        return {name: kind(pointer[name]) for name, kind in kinds.items()}
    except (ArithmeticError, AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError) as error:
        raise UsageError(f"the checkpoint of {path} is damaged ({error}): restore it or start a new run") from None


def checkpoint_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """The model's tensors in the latest checkpoint, without optimiser or engine.

    Raises UsageError if there is none, or it is damaged.
    """
    pointer = read_pointer(folder)
    if pointer is None:
        raise UsageError(f"{folder} holds no checkpoint: the run needs run.checkpoint_secs above 0")
    path = folder / pointer["tag"] / "mp_rank_00_model_states.pt"
    with explain_misfit(path):
        return dict(load_saved(str(path))["module"])


def load_checkpoint(
    folder: Path, learner: Learner, ledger: Ledger, any_world: bool
) -> tuple[int, float, dict[str, Any]]:
    """Put back the latest checkpoint. Returns the steps done, the seconds they took, and the token source's state; 0,
    0.0 and {} if nothing was saved yet.

    Raises UsageError if the checkpoint is damaged, not this run's, or, unless `any_world`, of another world size.
    """
    pointer, place = read_pointer(folder), learner.place
    if place.rank == 0:
        drop_torn(folder, pointer["tag"] if pointer else "")
    if pointer is None:
        return 0, 0.0, {}
    tag, world_size = pointer["tag"], pointer["world_size"]
    if world_size != place.world_size and not any_world:
        raise UsageError(
            f"{folder} was saved by {world_size} ranks and this run has {place.world_size}: an archive is written and "
            "read by one number of ranks; resume with that"
        )
    with explain_misfit(folder / tag):
        if world_size == place.world_size:
            load_engine(learner.engine, str(folder), tag)
        else:
            load_regrouped_engine(learner, folder, tag)
        # Files of the ranks that had this rank's lanes, the first of which is `skipped` lanes into the first file.
        first, rows_then = place.rank * learner.rows, place.world_size * learner.rows // world_size
        ranks, skipped = range(first // rows_then, -(-(first + learner.rows) // rows_then)), first % rows_then
        files = [folder / tag / f"rank-{rank:05d}.pt" for rank in ranks]
        parts = [torch.load(file, map_location=place.device, weights_only=True) for file in files]
        saved = {
            name: pick_lanes(name, [part[name] for part in parts], value, 0 if name == "rng" else skipped)
            for name, value in lane_tensors(learner, ledger).items()
        }
        put_states(learner, saved["states"])
        learner.recent, ledger.lane_nats = saved["recent"], saved["lane_nats"]
        ledger.tokens, ledger.bytes = (pointer["tokens"], pointer["bytes"]) if place.rank == 0 else (0, 0)
        torch.set_rng_state(saved["rng"].cpu())
        return pointer["step"], pointer["elapsed_secs"], parts[0]["source"]


def pick_lanes(name: str, parts: list[Any], now: Any, skipped: int) -> Any:
    """As many lanes as `now` has of `parts`, after the first `skipped`: of a tensor, or of each in a list.

    Raises UsageError if they have another shape. Only attention's memory of a lane may differ from `now`, in length.
    """
    with suppress(AttributeError, RuntimeError, TypeError, ValueError):
        if isinstance(now, list):
            return [pick_lanes(name, list(one), wanted, skipped) for *one, wanted in zip(*parts, now, strict=True)]
        picked = torch.cat(parts)[skipped : skipped + len(now)] if now.dim() else parts[0]
        differing = sum(x != y for x, y in zip(picked.shape[1:], now.shape[1:], strict=False))
        kinds = [(x.shape[:1], x.dim(), x.is_complex(), x.is_floating_point()) for x in (picked, now)]
        if kinds[0] == kinds[1] and differing <= int(name == "states"):
            return picked
    raise UsageError(f"{name} is not what this run holds: start a new run")


@contextmanager
def explain_misfit(path: Path) -> Iterator[None]:
    """Within it, every error is a UsageError of one line about the checkpoint `path`, except a lost peer or a full
    disk."""
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
