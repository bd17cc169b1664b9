"""Coding with the frozen model of a finished run.

This is the other meaning of lossless compression with a language model: both sides have the trained model, and nothing
is learned on the way. Both sizes are printed: with the model shared, and with the model charged in full.
"""

from dataclasses import dataclass
from pathlib import Path

from data.files import output_file
from studies.common import argument, option


@dataclass
class Encode:
    """Code a file with the frozen model of a run."""

    file: Path = argument("is read")
    archive: Path = argument("is written; must not exist", type=output_file)
    checkpoint: Path = option("run.dir of a finished run", metavar="RUN")


@dataclass
class Decode:
    """Bring back what encode wrote, given the same run."""

    archive: Path = argument("is read")
    file: Path = argument("is written; must not exist", type=output_file)
    checkpoint: Path = option("run.dir of the run that wrote it", metavar="RUN")
