"""Contextual compression of the parameters: take out what a context does not need, in stages over all layers.

Groups of parameters (heads of attention, channels of recurrences and MLPs, states of SSD) are scored over a calibration
context, by activation times gradient: to first order, what the loss gains when the group is left out. All layers are
ranked together, and those that are worth least for their parameters go. Scores are taken again after every stage, since
groups stand in for each other. What is left has smaller tensors; bytes, times and rates are measured.

Beside it: as many groups taken out of every place by their norm, as many single weights set to zero by their size, and
plain quantisation at equal size. And half of each block and of each MLP taken out alone: which is missed least? The run
must be one without context mixing, whose tables would hide what the network lost.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from archive.points import Point
from data.errors import UsageError
from studies.common import argument, file_option, option, png_option
from studies.two_part.options import GROUP, parse_points


def parse_shares(text: str) -> list[float]:
    """The type of --remove."""
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or found[0] <= 0 or found[-1] >= 1 or found != sorted(set(found)):
        raise UsageError("give rising numbers between 0 and 1, by commas")
    return found


@dataclass
class Prune:
    """Take out what its contexts do not need, and measure."""

    run: Path = argument("run.dir of a finished run without context mixing", metavar="RUN")
    held_out: Path = option("text that the run has not seen", metavar="FILE")
    corpus: str | None = option("the run's corpus, if it is no longer where data.source says", None, metavar="FILE")
    remove: Sequence[float] = option(
        "share of blocks' and MLPs' parameters gone after each stage, rising (default: 0.1,0.2,0.3,0.4,0.5)",
        (0.1, 0.2, 0.3, 0.4, 0.5), type=parse_shares,
    )  # fmt: skip
    corpus_lanes: int | None = option(
        "score only so many of the run's lanes, evenly apart, and draw totals up from them (default: all)", None,
        metavar="N",
    )  # fmt: skip
    calibration_steps: int = option("segments of all lanes that scores are taken on (default: 16)", 16)
    retrain_steps: int = option("steps of learning after each stage (default: none)", 0)
    points: Sequence[Point] = option("as of two-part (default: 8,6,5,4)", (8, 6, 5, 4), type=parse_points)
    group: int | None = option(f"weights that share a step (default: {GROUP})", None)
    png: Path | None = png_option()
    json: Path | None = file_option("write what was measured")
