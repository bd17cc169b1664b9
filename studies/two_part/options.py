"""The two-part code of a finished run: bits of its weights, and bits of the corpus given the weights.

Weights are quantised in groups, coded by the entropy coder of the archives, decoded again and compared; what is decoded
then codes the corpus, learning nothing. Shapes, steps and all else that the weights' decoder reads is counted. Code,
tokenizer and side information are charged as in the run's own, prequential, total, which stands beside it.

Context mixing keeps tables of counts beside the weights. `charged`: they are sent as they are at the end of the run.
`emptied`: they are not, and stay empty. `learned`: they begin empty and count what is decoded; only weights are sent.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from archive.points import FLOATS, Point
from data.errors import UsageError
from studies.common import argument, file_option, option, png_option

POINTS: tuple[Point, ...] = (*FLOATS, 8, 7, 6, 5, 4, 3, 2)
TABLES = ("charged", "emptied", "learned")
# Weights that share a step.
GROUP = 64


def parse_points(text: str) -> list[Point]:
    """The type of --points. Raises UsageError for what `pack` would refuse."""
    known: dict[str, Point] = {str(point): point for point in POINTS}
    if any(part not in known for part in text.split(",")):
        raise UsageError(f"give 2 to 8 bits a weight, or {', '.join(map(str, FLOATS))}, by commas")
    return [known[part] for part in text.split(",")]


@dataclass
class TwoPart:
    """Send the weights, then the corpus given the weights."""

    runs: list[Path] = argument("run.dir of a finished run", nargs="+", metavar="RUN")
    corpus: str | None = option("the runs' corpus, if it is no longer where data.source says", None, metavar="FILE")
    points: Sequence[Point] = option(
        "2 to 8 bits a weight, fp32, fp16, bf16, by commas (default: all)", POINTS, type=parse_points
    )
    group: int | None = option(f"weights that share a step; 0 is a whole tensor (default: {GROUP})", None)
    tables: list[str] | None = option("of context mixing, if any (default: all three)", None, choices=TABLES, nargs="+")
    png: Path | None = png_option()
    csv: Path | None = file_option("write the rows")


def check_group(group: int | None, points: Sequence[Point]) -> int:
    """The value of --group. Raises UsageError if it is out of range, or given without an effect."""
    if group is not None and all(point in FLOATS for point in points):
        raise UsageError(f"--group {group} has no effect on --points {','.join(map(str, points))}: leave it out")
    if group is not None and group < 0:
        raise UsageError(f"--group {group}: give 1 or more weights, or 0 for whole tensors")
    return GROUP if group is None else group
