"""Score files that a finished run has not seen, with its frozen model, beside what its own corpus took in training.

    python launch/evaluate.py held-out runs/mine FILE...
    python launch/evaluate.py held-out runs/mine FILE --window 128 --threshold 0.05

Each file is one document, read from its first byte to its last without learning: bits per byte, its end included.

A file that the run was trained on would tell nothing, so the run's corpus is searched first: which bytes of FILE are in
a stretch of --window bytes or more that occurs in the corpus, byte by byte? Short passages that the corpus repeats at
--boilerplate places or more, such as markup, do not count. The longest passages in common are shown. Above the share
--threshold the file is refused. --contaminated scores it all the same, and says so. The corpus is found among the
prepared ones (data.cache_dir of the run) by its SHA-256, or read again from data.source, or from --corpus; it must be
the run's to the byte. What a warm-started run's parameters had seen before is searched too. Exit status 2: bad
arguments, or a file was refused; nothing was scored.
"""

from dataclasses import dataclass
from pathlib import Path

from studies.common import argument, option


@dataclass(kw_only=True)
class Search:
    """What the search for contamination takes."""

    window: int = option(
        "shortest stretch in common with the corpus that counts as seen, 8 or more (default: 64)", 64, metavar="BYTES"
    )
    threshold: float = option(
        "refuse a file of which more than this share was seen, 0 to 1 (default: 0.01)", 0.01, metavar="SHARE"
    )
    boilerplate: int = option(
        "do not count short passages that the corpus itself has at so many places or more; 0 counts all (default: 10)",
        10, metavar="TIMES",
    )  # fmt: skip
    contaminated: bool = option("score it all the same, and say so", False)
    corpus: str | None = option(
        "where the corpus is, as data.source says it (default: where the run had it)", None, metavar="SOURCE"
    )


@dataclass(kw_only=True)
class HeldOut(Search):
    """Score files that a run has not seen, and make sure of that."""

    run: Path = argument("run.dir of a finished run", metavar="RUN")
    files: list[Path] = argument("is read as one document of bytes", nargs="+", metavar="FILE")
