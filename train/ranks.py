"""Ranks that wait for rank 0: to prepare a corpus, to name a directory."""

import time
from collections.abc import Callable
from typing import TypeVar

from torch import distributed as dist

from train.engine import Place

Result = TypeVar("Result")


def from_rank_0(place: Place, name: str, value: str) -> str:
    """Rank 0's `value`, on every rank."""
    if place.world_size == 1:
        return value
    store = dist.distributed_c10d._get_default_store()
    if place.rank == 0:
        store.set(f"onepass/{name}", value)
    return store.get(f"onepass/{name}").decode()


def after_rank_0(place: Place, name: str, work: Callable[[], Result]) -> Result:
    """`work()` on rank 0, and then, on the other ranks, which by then find it done and cached.

    They wait without a collective, which would time out. Raises ChildProcessError there if rank 0 failed.
    """
    if place.world_size == 1:
        return work()
    store, key = dist.distributed_c10d._get_default_store(), f"onepass/{name}"
    if place.rank == 0:
        outcome = "failed"
        try:
            result = work()
            outcome = "done"
            return result
        finally:
            store.set(key, outcome)
    try:
        while not store.check([key]):
            time.sleep(0.1)
        outcome = store.get(key).decode()
    except RuntimeError:
        outcome = "failed"
    if outcome == "failed":
        raise ChildProcessError(f"rank 0 failed, or was lost, at: {name}")
    return work()
