"""Ranks on several hosts: who is where, who was lost, and whether they share a folder."""

from __future__ import annotations

import itertools
import json
import os
import re
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import distributed as dist

from data.errors import UsageError
from train.engine import Place, connect
from train.ranks import from_rank_0

# How long a file may take to show on other hosts; network file systems remember for a while what is not there.
SHARED_SECS = 30.0


@dataclass(frozen=True)
class Seat:
    """Where a rank runs: the host's name, and its address as others see it."""

    host: str
    address: str


def join(threads: int, timeout_secs: int) -> tuple[Place, list[Seat]]:
    """Join the ranks, and learn where each of them is. Raises ConnectionError if they do not meet in time."""
    try:
        place = connect(threads, timeout_secs)
        if place.world_size == 1:
            return place, [Seat(socket.gethostname(), "127.0.0.1")]
        store = dist.distributed_c10d._get_default_store()
        store.set(f"onepass/seat-{place.rank}", json.dumps([socket.gethostname(), own_address()]))
        return place, [Seat(*json.loads(store.get(f"onepass/seat-{rank}"))) for rank in range(place.world_size)]
    except RuntimeError as error:
        if not about_peers(error):
            raise
        env = os.environ
        raise ConnectionError(
            f"rank {env['RANK']} of {env['WORLD_SIZE']} on {socket.gethostname()} did not meet the others at "
            f"{env['MASTER_ADDR']}:{env['MASTER_PORT']} ({brief(error)}). Start all of them within engine.timeout_secs "
            f"({timeout_secs}), and name the network interface between the hosts in GLOO_SOCKET_IFNAME and "
            "NCCL_SOCKET_IFNAME (docs/clusters.md)"
        ) from error


def own_address() -> str:
    """The address from which this host reaches rank 0's. Nothing is sent: a datagram socket only looks up its route."""
    found = socket.getaddrinfo(os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"], type=socket.SOCK_DGRAM)
    family, kind, _, _, address = found[0]
    with socket.socket(family, kind) as probe:
        probe.connect(address)
        return probe.getsockname()[0]


@contextmanager
def naming_lost(place: Place, seats: list[Seat], remedy: Callable[[], str]) -> Iterator[None]:
    """Within it, a failed exchange between ranks is a ConnectionError of one line, which ends with `remedy()`."""
    try:
        yield
    except RuntimeError as error:
        if place.world_size == 1 or not about_peers(error):
            raise
        me = f"rank {place.rank} on {seats[place.rank].host}"
        raise ConnectionError(f"{me} lost {lost(error, place.rank, seats)} ({brief(error)}). {remedy()}") from error


def about_peers(error: RuntimeError) -> bool:
    """Whether other ranks are to blame. Gloo, the backend of CPUs, raises no class of its own."""
    return isinstance(error, dist.DistError) or "gloo" in str(error).lower()


def brief(error: RuntimeError) -> str:
    """What a backend says, without its source file and its advice."""
    line = re.sub(r"^\[\S+\.\w+:\d+\] ", "", str(error).splitlines()[0])
    return line.split(". ")[0].rstrip(".")


def lost(error: RuntimeError, rank: int, seats: list[Seat]) -> str:
    """Who may be lost: the ranks at the address that the error names, or all others if it names none."""
    others = [number for number in range(len(seats)) if number != rank]
    named = [number for number in others if f"[{seats[number].address}]" in str(error)]
    words = []
    # Ranks of one host whose numbers follow each other are named together.
    together = itertools.groupby(enumerate(named or others), lambda pair: (seats[pair[1]].host, pair[1] - pair[0]))
    for (host, _), pairs in together:
        numbers = [number for _, number in pairs]
        ranks = f"rank {numbers[0]}" if len(numbers) == 1 else f"ranks {numbers[0]} to {numbers[-1]}"
        words.append(f"{ranks} on {host}")
    return " or ".join(words)


def hosts_without(place: Place, seats: list[Seat], good: bool) -> str:
    """The hosts that have a rank that does not call this with `good`. Every rank must call it, and is told the same."""
    said = place.gather(torch.tensor([[int(good)]], device=place.device)).flatten().tolist()
    return ", ".join(sorted({seats[rank].host for rank, yes in enumerate(said) if not yes}))


def refuse_unshared(place: Place, seats: list[Seat], folder: Path) -> None:
    """Raise UsageError, on every rank, unless `folder`, a run.dir, is one folder for all of them.

    Every rank must call it. On one host there is nothing to ask.
    """
    if len({seat.host for seat in seats}) == 1:
        return
    # A name that nobody has looked up before: a network file system could remember that it was not there.
    probe = folder / from_rank_0(place, "probe of run.dir", f".shared-{secrets.token_hex(8)}")
    if place.rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
    place.sum([0])
    deadline = time.monotonic() + SHARED_SECS
    while not (seen := probe.exists()) and time.monotonic() < deadline:
        time.sleep(0.5)
    blind = hosts_without(place, seats, seen)
    if place.rank == 0:
        probe.unlink()
    if blind:
        raise UsageError(
            f"run.dir {folder} on {blind} is not the folder that {seats[0].host} has: name one on a file system that "
            "all hosts share, or save no checkpoints (checkpoint_secs 0)"
        )
