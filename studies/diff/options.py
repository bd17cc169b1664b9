"""Compare two finished runs over one corpus byte by byte: where is one code shorter than the other, and is it noise?

    python launch/report.py diff runs/ssd-64 runs/attention-64
    python launch/report.py diff runs/bytes runs/bpe --find Melchizedek --out docs/diff
    python launch/report.py diff runs/a runs/b --by language        a field of the corpus' records

Both runs must have kept what every token cost (run.keep_nats) and code the same corpus; architecture, tokenizer, width
and lanes may differ. A piece's cost is divided equally among its bytes, so that sums stay those of both ledgers. It
prints the difference of the data terms, since when it is there, and where it comes from: by kind of character, first
and later occurrences of words, how long ago the 8 bytes before were last seen, and the place in a document. Intervals
are 95 %, by a bootstrap over the lanes of RUN_A. In --out it writes diff.html, which also shows the passages with the
largest gains and losses colored by bits saved, diff.csv (a row a class), diff-curve.csv, and pictures.
"""

from dataclasses import dataclass
from pathlib import Path

from studies.common import argument, option


@dataclass(kw_only=True)
class Diff:
    """Show where one code is shorter than another, byte by byte."""

    run_a: Path = argument("run.dir of a finished run", metavar="RUN_A")
    run_b: Path = argument("another, over the same corpus", metavar="RUN_B")
    out: Path | None = option(
        "folder for what is written (default: diff-RUN_A-RUN_B beside RUN_B)", None, metavar="DIR"
    )
    passages: int = option("passages of each sort on the page, 1 to 500 (default: 40)", 40, metavar="N")
    by: str = option(
        "also compare groups of documents: a field of their records, or `file` for the files of a folder", "",
        metavar="FIELD",
    )  # fmt: skip
    find: str = option("also show passages that hold this text", "", metavar="TEXT")
    corpus: str | None = option(
        "where the corpus is, as data.source says it (default: where the runs had it)", None, metavar="SOURCE"
    )
