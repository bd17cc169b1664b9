"""Does the shorter description predict the better held-out loss? All finished runs of a folder on a file they lack.

    python launch/evaluate.py generalisation runs/study FILE
    python launch/evaluate.py generalisation runs/study FILE --csv rows.csv --json found.json --png picture

Each finished run with a checkpoint scores FILE as held-out does, frozen, and FILE is refused if any run has seen it.
Beside that rate: the run's total description length, its data term, and the last tenth of its training. Agreement of
each with the held-out rates is Kendall's tau, among all runs and among those of equal vocabulary and width, whose
intervals come from drawing the runs again. All runs must code one corpus.

A run keeps its score (held_out.json in its folder) by the SHA-256 of FILE and of its checkpoint: the same command goes
on after a stop, and is quick when nothing is new. Exit status 2: bad arguments, or FILE was refused, and nothing was
scored.
"""

from dataclasses import dataclass
from pathlib import Path

from studies.common import argument, file_option, png_option
from studies.held_out.options import Search


@dataclass(kw_only=True)
class Generalisation(Search):
    """Compare the runs of a folder by how they score text that they have not seen."""

    runs_dir: Path = argument("finished runs at or below it are compared", metavar="RUNS_DIR")
    file: Path = argument("is read as one document of bytes", metavar="FILE")
    csv: Path | None = file_option("write the rows")
    json: Path | None = file_option("write rows and agreement")
    png: Path | None = png_option()
