"""The shards of one corpus, made by several hosts in a folder that they share.

Shard K is made by host K mod H. Each host reads all of the corpus, because only that tells where batches begin, and
tokenises its own shards. Host 0 is in charge: it describes the tokenizer, waits for the others' shards, compares where
they end with what it has read itself, and writes the manifest. So the bytes are those of one host. A host at work holds
a lock in the folder. If one is not, host 0 makes its shards.
"""

import contextlib
import sys
import time
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout
from tqdm import tqdm

from data.documents import Source
from data.errors import UsageError
from data.readers import CHUNK_BYTES
from data.shard_making import Plan, make_shards
from data.shards import Manifest, read_manifest

JOURNAL = "journal.json"
# How long a host may take to begin, and its files to show on others: network file systems remember what was not there.
ABSENT_SECS = 30.0
SAID_SECS = 10.0
LOOK_SECS = 0.1


def is_shared(source: Source, plan: Plan) -> bool:
    """Whether hosts may share the work: if there is more than a shard of it, and it is not behind a server, which each
    host would read."""
    small = source.expected_bytes is not None and source.expected_bytes <= plan.batches * CHUNK_BYTES
    return not small and not source.only_forwards


def lock_of(directory: Path, host: int) -> FileLock:
    """What a host holds while it makes shards."""
    return FileLock(directory / f"host-{host}.lock")


def is_at_work(directory: Path, host: int) -> bool:
    try:
        with lock_of(directory, host).acquire(timeout=0):
            return False
    except Timeout:
        return True


def help_host_0(
    directory: Path, source: Source, fingerprint: str, plan: Plan, host: int, hosts: int, in_charge: Callable[[], bool]
) -> None:
    """Make the shards of host `host` of `hosts`, while `in_charge()` says that host 0 is at work, until all are made.

    Raises UsageError if the source is not what host 0 describes.
    """

    def goes_on() -> bool:
        return in_charge() and not (directory / plan.manifest).exists()

    while (journal := read_journal(directory, fingerprint)) is None:
        if not goes_on():
            return
        time.sleep(LOOK_SECS)
    try:
        with lock_of(directory, host):
            say(f"host {host} of {hosts} makes its shards of {source.name}")
            made = make_shards(directory, source, journal, plan, lambda shard: shard % hosts == host)
            with contextlib.closing(made):
                for _ in made:
                    if not goes_on():
                        return
    except OSError:
        # Host 0 removes the folder where it gives up, and what is left over where it is done.
        if goes_on():
            raise


def read_journal(directory: Path, fingerprint: str) -> Manifest | None:
    """What an interrupted call finished, or what host 0 has begun; None if it is of no use."""
    with contextlib.suppress(OSError, UsageError):
        journal = read_manifest(directory, JOURNAL)
        if journal.fingerprint == fingerprint:
            return journal
    return None


def await_shards(directory: Path, plan: Plan, shards: int, hosts: int) -> set[int]:
    """Wait until all shards are there, or all that are missing are those of hosts that are not at work: these are
    returned. Says what it waits for."""
    said, seen = time.monotonic(), dict.fromkeys(range(hosts), time.monotonic())
    while missing := {n for n in range(shards) if not (directory / f"{plan.name(n)}.json").exists()}:
        now = time.monotonic()
        seen |= {host: now for host in {n % hosts for n in missing} if is_at_work(directory, host)}
        absent = {n for n in missing if now - seen[n % hosts] > ABSENT_SECS}
        names = ", ".join(str(host) for host in sorted({n % hosts for n in missing}))
        if absent == missing:
            say(f"host {names} is not at work: this one makes {len(absent):,} shards")
            return absent
        if now - said > SAID_SECS:
            said = now
            say(f"waiting for {len(missing):,} of {shards:,} shards, of host {names}")
        time.sleep(LOOK_SECS)
    return set()


def say(line: str) -> None:
    tqdm.write(f"onepass: {line}", file=sys.stderr)
