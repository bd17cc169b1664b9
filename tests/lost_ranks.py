"""What a rank has to say when it has lost others, on one host or two."""

import json
from pathlib import Path


def complaints(text: str) -> list[str]:
    """What Onepass has to say, whoever passed it on."""
    assert "Traceback" not in text, text
    return [line[line.index("onepass: ") :] for line in text.splitlines() if "onepass: " in line]


def last_tag(run_dir: Path) -> str:
    """The name of the last good checkpoint; empty if there is none."""
    path = run_dir / "checkpoints" / "latest.json"
    return json.loads(path.read_text())["tag"] if path.exists() else ""


def under_way(run_dir: Path) -> bool:
    """Whether a run has saved two checkpoints."""
    return len(list(run_dir.glob("checkpoints/step-*"))) >= 2 and last_tag(run_dir) != ""


def assert_says_who_was_lost(log: str, rank: int, hosts: tuple[str, str], run_dir: Path, reason: str = "") -> None:
    """One line of `rank`, on the first of `hosts`, about the other rank of two, and how to go on."""
    (line,) = complaints(log)
    here, there = hosts
    assert f"rank {rank} on {here} lost rank {1 - rank} on {there} (" in line
    assert reason in line
    assert f"The last good checkpoint is {run_dir}/checkpoints/{last_tag(run_dir)}. " in line
    assert f"--run.dir {run_dir} --run.resume" in line


def assert_says_what_to_set(lines: list[str], address: str) -> None:
    """Of ranks that did not meet at `address`."""
    assert lines
    assert all(f"did not meet the others at {address}" in line for line in lines)
    assert all("GLOO_SOCKET_IFNAME" in line for line in lines)
