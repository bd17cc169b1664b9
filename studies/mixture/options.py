"""Which run to trust, and when: one code from all runs of a folder, and how much each of them counts in it.

    python launch/evaluate.py mixture runs/sweep
    python launch/evaluate.py mixture runs/sweep --png picture --csv weights.csv --json codes.json
    python launch/evaluate.py mixture runs/sweep --tensorboard runs/sweep/mixture

Runs that kept the code length of every token (run.keep_nats) over the same tokens, lanes and segments are put together.
Their codes have exact lengths, without any training:

- The Bayesian mixture of K runs: at most log2 K bits longer than the best of them. Its weights are the posterior.
- The switch between steps: the best run may change as the corpus grows, as from a small width to a large one (van
  Erven, Grünwald & de Rooij 2012, "Catching up faster by switching sooner").
- The switch at every token: each lane follows the run that predicts it best at the moment.

A decoder of these codes trains all the runs side by side. Its program is the programs of all runs and these codes in
one xz stream, which the table charges. Exit status 2: bad arguments, or there are no two runs that can be put together.
"""

from dataclasses import dataclass
from pathlib import Path

from studies.common import argument, file_option, option, png_option


@dataclass(kw_only=True)
class Mixture:
    """Code a corpus by all runs of a folder at once, and see which counts when."""

    runs_dir: Path = argument("finished runs at or below it are put together", metavar="RUNS_DIR")
    corpus: str = option("only runs over it: a name, or a SHA-256's start", "", metavar="NAME")
    csv: Path | None = file_option("write the weights of the runs, a row a step")
    json: Path | None = file_option("write the lengths of all codes, and where the best run changes")
    png: Path | None = png_option()
    tensorboard: Path | None = option("write charts of the codes and weights into this folder", None, metavar="DIR")
