"""A run over two hosts, on a network that works, loses packets, falls silent, or loses a host.

Their bits are compared with those of two ranks on one host, and must be the same bit for bit: with two ranks a sum has
two terms, whose order does not matter. Needs root and a few Debian packages: see docs/clusters.md.
"""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from dist import run, wait_until
from test_launch_train import SMALL, TRAIN, curve, report
from two_hosts import TwoHosts, missing, wait

pytestmark = pytest.mark.hosts

# Waits are long, for machines that have other work to do. What is promised (docs/clusters.md): a rank stops within a
# minute of a peer's death, and within a minute after engine.timeout_secs where the network says nothing.
TIMEOUT_SECS, MARGIN_SECS, PATIENCE_SECS = 60, 60, 1200
CORPUS_BYTES = 40_009


@pytest.fixture(scope="module", autouse=True)
def _able() -> None:
    # When a test runs, not when tests are collected: it starts a process.
    if reason := missing():
        pytest.skip(reason)
