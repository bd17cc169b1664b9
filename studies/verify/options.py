"""Check a finished run without running all of it: do its files agree, and do spans of it come out again?

    python launch/report.py verify runs/mine
    python launch/report.py verify runs/mine --spans 5 --seed 7
    deepspeed launch/report.py verify runs/mine              a run of as many ranks

Train with --run.record_spans N to keep the state at N points of the epoch. First everything is compared that needs no
training: the report's terms with the corpus, the tokenizer and the code here, every row of the curve and the ledger of
every kept state with the code lengths that were kept (run.keep_nats). Then spans between two kept states are drawn at
random and run again. On a machine like the run's, each token's code length and the state at the end of the span must
come out to the last bit; elsewhere, within the tolerances that are printed.

Exit status 0: nothing differs. 1: something does, and the line on stderr says what was first. 2: bad arguments, or
another corpus or code than the run's.
"""

import math
from dataclasses import dataclass
from pathlib import Path

from data.errors import UsageError
from studies.common import argument, file_option, option

# Elsewhere, sums are taken in another order, and the difference grows as the span is learned (docs/verify.md).
TOKEN_NATS = 0.05


@dataclass(kw_only=True)
class Verify:
    """Check a finished run by running spans of it again."""

    run: Path = argument("run.dir of a finished run", metavar="RUN")
    spans: int | None = option("spans to run again (default: a hundredth of them, at least 1)", None, metavar="N")
    seed: int | None = option("draws the spans: 0 or more (default: from the system's entropy)", None, metavar="S")
    corpus: str = option(
        "where the corpus is, as data.source says it (default: where the run had it)", "", metavar="SOURCE"
    )
    tolerance: float = option(
        f"nats by which a token may differ on another machine (default: {TOKEN_NATS:g})", TOKEN_NATS, metavar="NATS"
    )
    scratch: Path | None = option(
        "folder for a state that is compared and removed; several hosts must share it (default: the system's)",
        None, metavar="DIR",
    )  # fmt: skip
    json: Path | None = file_option("write what was found")

    def __post_init__(self) -> None:
        """Raises UsageError for what is wrong with the arguments."""
        if self.spans is not None and self.spans < 1:
            raise UsageError(f"--spans {self.spans}: take 1 or more")
        if self.seed is not None and self.seed < 0:
            raise UsageError(f"--seed {self.seed}: take 0 or more")
        if not 0 < self.tolerance < math.inf:
            raise UsageError(f"--tolerance {self.tolerance}: give nats above 0, such as {TOKEN_NATS:g}")
