"""The spans of a run between two kept states, which of them are drawn, and what a draw may miss."""

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from data.errors import RunFailed, UsageError
from train.checkpoint import POINTER, read_pointer
from train.run_dir import CHECKPOINTS, RECORD


@dataclass(frozen=True)
class Span:
    """The steps from `start` to `stop`, the `number`th of a run's spans from 1 on. `before` and `after` are folders of
    checkpoints with the states at both ends: None before the first step, and where the end was not kept."""

    number: int
    start: int
    stop: int
    before: Path | None
    after: Path | None


def find_spans(run_dir: Path, steps: int) -> list[Span]:
    """All spans of a finished run of `steps` steps: between its start, the states of its record, its last checkpoint,
    and its end. Without a record, that is one span or two.

    Raises RunFailed for states of steps that the run has not. Their files are not looked at.
    """
    kept: dict[int, Path] = {}
    for folder in sorted({run_dir / CHECKPOINTS, *run_dir.glob(f"{RECORD}/*")}):
        if (folder / POINTER).exists():
            step = read_kept(folder, hashed=False)["step"]
            if not 0 < step <= steps:
                raise RunFailed(f"{folder} holds the state after step {step}, and the run has {steps} steps")
            # Those of the record, which are read last, stay where they are.
            kept[step] = folder
    edges = sorted({0, *kept, steps})
    return [
        Span(number + 1, start, stop, kept.get(start), kept.get(stop))
        for number, (start, stop) in enumerate(pairwise(edges))
    ]


def read_kept(folder: Path, hashed: bool = True) -> dict[str, Any]:
    """What the latest.json of a kept state says. Raises RunFailed if it is damaged or, when `hashed`, if the files are
    not those that it names."""
    with refuted():
        pointer = read_pointer(folder, hashed)
    if pointer is None:
        raise RunFailed(f"{folder} holds no {POINTER}, and its state cannot be found")
    return pointer


@contextmanager
def refuted() -> Iterator[None]:
    """Within it, a file that is not what it should be is no mistake of the user's, but what was to be found."""
    try:
        yield
    except UsageError as error:
        # What to do about it is said to who runs, not to who verifies.
        raise RunFailed(str(error).partition(": restore it")[0]) from None


def draw(spans: list[Span], count: int, seed: int) -> list[Span]:
    """`count` of the spans, without repetition, each set with the same probability; in their order."""
    return sorted(random.Random(seed).sample(spans, min(count, len(spans))), key=lambda span: span.number)


def missed(spans: int, drawn: int, forged: int) -> float:
    """The probability that none of `forged` spans is among the `drawn` ones, of `spans` in all: hypergeometric, which
    is at most (1 - forged / spans)^drawn."""
    return math.comb(spans - forged, drawn) / math.comb(spans, drawn)
