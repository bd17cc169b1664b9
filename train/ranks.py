"""Ranks: how they meet, on which host each is, who was lost, and how the others wait for rank 0."""

from __future__ import annotations

import itertools
import json
import os
import re
import secrets
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import distributed as dist

from data.errors import UsageError
from data.files import write_file
from train.engine import Place, connect, local_ranks
from train.launched import keep_memory

# The launcher gives it to every run that asks for no other.
LAUNCHERS_PORT = "29500"
PORT_SECS = 120.0
# How long a file may take to show on other hosts: network file systems remember for a while that it was not there.
SHARED_SECS = 30.0

Result = TypeVar("Result")

# All ranks do the same in the same order. They number what they say to each other, because their store forgets nothing:
# a second run of the same ranks must not find what the first one said.
_NUMBERS = itertools.count()


@dataclass(frozen=True)
class Seat:
    """Where a rank runs: the host's name, and its address as others see it."""

    host: str
    address: str


def free_port() -> int:
    """A port of this host on which no process listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def meeting_apart() -> Iterator[None]:
    """Within it, the ranks that one `deepspeed` started, on this host only, have a port of their own to meet at.

    The launcher names the same port every time: two runs on one host would collide there.
    """
    env, parent = os.environ, Path(f"/proc/{os.getppid()}/stat")
    chosen = env.get("MASTER_PORT") != LAUNCHERS_PORT
    if chosen or env.get("CROSS_SIZE") != "1" or env["WORLD_SIZE"] == "1" or not parent.exists():
        yield
        return
    # The ranks share their parent, the launcher, which its process number and its start (field 22) identify. Rank 0
    # writes the port to a file that the others know.
    start = parent.read_text().rpartition(")")[2].split()[19]
    note = Path(tempfile.gettempdir()) / f"onepass-{os.getppid()}-{start}"
    if env["RANK"] == "0":
        env["MASTER_PORT"] = str(free_port())
        write_file(note, env["MASTER_PORT"].encode())
        try:
            yield
        finally:
            # Who has met has read it.
            note.unlink(missing_ok=True)
        return
    deadline = time.monotonic() + PORT_SECS
    while not note.exists() or note.stat().st_uid != os.getuid():
        if time.monotonic() > deadline:
            raise OSError(f"rank 0 left no port in {note} within {PORT_SECS} s: it has not come up")
        time.sleep(0.05)
    env["MASTER_PORT"] = note.read_text()
    yield


def refuse_backend(wanted: str, ranks: int, devices: int) -> None:
    """Raise UsageError if `ranks` ranks of a host with so many GPUs cannot use the backend."""
    if wanted == "nccl" and ranks > devices:
        raise UsageError(
            f"engine.backend nccl needs a GPU for each rank, and this host has {ranks} ranks and {devices} GPUs: take "
            "--engine.backend gloo, or start fewer ranks"
        )


def join(threads: int, timeout_secs: int, backend: str) -> tuple[Place, list[Seat]]:
    """Join the ranks, and learn where each of them is. Raises ConnectionError if they do not meet in time, UsageError
    if they cannot use the backend."""
    # Programs have begun with it (launch/entry.py); who trains from Python has not.
    keep_memory()
    refuse_backend(backend, local_ranks(), torch.cuda.device_count())
    try:
        place = connect(threads, timeout_secs, backend)
        if place.world_size == 1:
            return place, [Seat(socket.gethostname(), "127.0.0.1")]
        store = rank_store()
        store.set(f"onepass/seat-{place.rank}", json.dumps([socket.gethostname(), own_address()]))
        seats = [Seat(*json.loads(store.get(f"onepass/seat-{rank}"))) for rank in range(place.world_size)]
        # Rank 0 keeps the store. It may refuse the run next, and leave: not before the others have read.
        if place.rank:
            store.set(f"onepass/seated-{place.rank}", "")
        else:
            store.wait([f"onepass/seated-{rank}" for rank in range(1, place.world_size)])
        return place, seats
    except RuntimeError as error:
        if not about_peers(error):
            raise
        env = os.environ
        raise ConnectionError(
            f"rank {env['RANK']} of {env['WORLD_SIZE']} on {socket.gethostname()} did not meet the others at "
            f"{env['MASTER_ADDR']}:{env['MASTER_PORT']} ({shorten(error)}). Start all of them within "
            f"engine.timeout_secs ({timeout_secs}), and name the network interface between the hosts in "
            "GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME (docs/clusters.md)"
        ) from error


def rank_store() -> dist.Store:
    """The store through which the ranks met. PyTorch 2.13 makes it, and has no public name for it."""
    return dist.distributed_c10d._get_default_store()


def own_address() -> str:
    """The address from which this host reaches rank 0's. Nothing is sent: a datagram socket only looks up its route."""
    found = socket.getaddrinfo(os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"], type=socket.SOCK_DGRAM)
    family, kind, _, _, address = found[0]
    with socket.socket(family, kind) as probe:
        probe.connect(address)
        return probe.getsockname()[0]


@contextmanager
def explain_lost(place: Place, seats: list[Seat], remedy: Callable[[], str]) -> Iterator[None]:
    """Within it, a failed exchange between ranks is a ConnectionError of one line, which ends with `remedy()`."""
    try:
        yield
    except RuntimeError as error:
        if place.world_size == 1 or not about_peers(error):
            raise
        me, peers = f"rank {place.rank} on {seats[place.rank].host}", name_lost(error, place.rank, seats)
        raise ConnectionError(f"{me} lost {peers} ({shorten(error)}). {remedy()}") from error


def about_peers(error: RuntimeError) -> bool:
    """Whether other ranks are to blame. Gloo, the backend of CPUs, raises no class of its own."""
    return isinstance(error, dist.DistError) or "gloo" in str(error).lower()


def shorten(error: RuntimeError) -> str:
    """What a backend says, without its source file and its advice."""
    line = re.sub(r"^\[\S+\.\w+:\d+\] ", "", str(error).splitlines()[0])
    return line.split(". ")[0].rstrip(".")


def name_lost(error: RuntimeError, rank: int, seats: list[Seat]) -> str:
    """The ranks that may be lost: those at the address that the error names, or all others if it names no address."""
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
    """The hosts with a rank that does not call this with `good`. Every rank must call it, and gets the same answer."""
    said = place.gather(torch.tensor([[int(good)]], device=place.device)).flatten().tolist()
    return ", ".join(sorted({seats[rank].host for rank, yes in enumerate(said) if not yes}))


def hosts_apart(place: Place, seats: list[Seat], folder: Path, name: str) -> str:
    """The hosts for which `folder`, which is called `name`, is not the folder that rank 0 has. Every rank must call it,
    and gets the same answer."""
    # A new name: a network file system may remember that a file did not exist.
    probe = folder / from_rank_0(place, f"probe of {name}", f".shared-{secrets.token_hex(8)}")
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
    return blind


def refuse_unshared(place: Place, seats: list[Seat], folder: Path) -> None:
    """Raise UsageError, on every rank, unless `folder`, a run.dir, is one folder for all of them.

    Every rank must call it. On one host there is nothing to ask.
    """
    if len({seat.host for seat in seats}) == 1:
        return
    if blind := hosts_apart(place, seats, folder, "run.dir"):
        raise UsageError(
            f"run.dir {folder} on {blind} is not the folder that {seats[0].host} has: name one on a file system that "
            "all hosts share, or save no states (checkpoint_secs 0, record_spans 0)"
        )


def new_key(name: str) -> str:
    return f"onepass/{next(_NUMBERS)}-{name}"


def from_rank_0(place: Place, name: str, value: str) -> str:
    """Rank 0's `value`, on every rank."""
    if place.world_size == 1:
        return value
    store, key = rank_store(), new_key(name)
    if place.rank == 0:
        store.set(key, value)
    return store.get(key).decode()


def after_rank_0(
    place: Place, name: str, work: Callable[[], Result], helped: Callable[[Callable[[], bool]], None] | None = None
) -> Result:
    """Run `work()` on rank 0, and then on the other ranks, which find in a cache what rank 0 has done.

    They wait without a collective, which would time out. Until rank 0 is done they may help: `helped` gets what says
    whether it still works. Raises ChildProcessError there if rank 0 failed.
    """
    if place.world_size == 1:
        return work()
    store, key = rank_store(), new_key(name)
    if place.rank == 0:
        outcome = "failed"
        try:
            result = work()
            outcome = "done"
            return result
        finally:
            store.set(key, outcome)
    try:
        if helped:
            helped(lambda: not store.check([key]))
        while not store.check([key]):
            time.sleep(0.1)
        outcome = store.get(key).decode()
    except RuntimeError:
        outcome = "failed"
    if outcome == "failed":
        raise ChildProcessError(f"rank 0 failed, or was lost, at: {name}")
    return work()
