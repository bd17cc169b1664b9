"""Who is said to be lost, and what a backend's message is cut down to."""

import pytest
from torch import distributed as dist

from train.hosts import Seat, about_peers, brief, lost

CLOSED = RuntimeError(
    "[/__w/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [10.0.0.2]:41131. This is "
    "typically caused by a remote worker crashing."
)
LATE = RuntimeError("[../gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 20000ms for recv to complete")
SEATS = [Seat(f"node-{number}", f"10.0.0.{number}") for number in (1, 1, 2, 2, 2, 3)]


@pytest.mark.parametrize(
    ("error", "rank", "expected"),
    [
        (CLOSED, 0, "ranks 2 to 4 on node-2"),
        (CLOSED, 3, "rank 2 on node-2 or rank 4 on node-2"),
        (LATE, 0, "rank 1 on node-1 or ranks 2 to 4 on node-2 or rank 5 on node-3"),
        (LATE, 5, "ranks 0 to 1 on node-1 or ranks 2 to 4 on node-2"),
    ],
)
def test_the_address_that_failed_tells_who_is_lost(error: RuntimeError, rank: int, expected: str) -> None:
    assert lost(error, rank, SEATS) == expected


def test_messages_lose_their_source_file_and_advice() -> None:
    assert brief(CLOSED) == "Connection closed by peer [10.0.0.2]:41131"
    assert brief(LATE) == "Timed out waiting 20000ms for recv to complete"


def test_other_errors_are_nobody_elses_fault() -> None:
    assert about_peers(LATE)
    assert about_peers(dist.DistNetworkError("The client socket has timed out"))
    assert not about_peers(RuntimeError("CUDA out of memory"))
