"""Which run to trust, and when: one code from all runs of a folder, and how much each of them counts in it.

    python launch/evaluate.py mixture runs/sweep
    python launch/evaluate.py mixture runs/sweep --png picture --csv weights.csv --json codes.json

Runs that kept the code length of every token (run.keep_nats) over the same tokens, lanes and segments are put together.
Their codes have exact lengths, without any training:

- The Bayesian mixture of K runs: at most log2 K bits longer than the best of them. Its weights are the posterior.
- The switch between steps: the best run may change as the corpus grows, as from a small width to a large one (van
  Erven, Grünwald & de Rooij 2012, "Catching up faster by switching sooner").
- The switch at every token: each lane follows the run that predicts it best at the moment.

A decoder of these codes trains all the runs side by side. Its program is the programs of all runs and these codes in
one xz stream, which the table charges. Exit status 2: bad arguments, or there are no two runs that can be put together.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data.files import write_file
from data.streams import publish
from eval.layout import csv_text, lay_out
from studies.common import argument, file_option, option, png_option, write_figures
from studies.mixture.codes import Code, likeliest_path, share, switch_rates, token_switch
from studies.mixture.plots import draw_mixture
from studies.mixture.runs import Together, program_bytes, put_together
from studies.scaling.runs import ComparedRun, group_by_corpus, load_runs, refuse_mixed

BAYES, STEPS, TOKENS = "Bayesian mixture", "switch between steps", "switch at every token"
NATS_PER_BYTE = math.log(256)
# Of the points where the best run changes, in a terminal.
MOST_SWITCHES = 6


@dataclass(frozen=True)
class Row:
    """A code: bytes of its data, and of its total with the programs that it takes."""

    code: str
    data_bytes: float
    program_bytes: float
    total_bytes: float


@dataclass(kw_only=True)
class Mixture:
    """Code a corpus by all runs of a folder at once, and see which counts when."""

    runs_dir: Path = argument("finished runs at or below it are put together", metavar="RUNS_DIR")
    corpus: str = option("only runs over it: a name, or a SHA-256's start", "", metavar="NAME")
    csv: Path | None = file_option("write the weights of the runs, a row a step")
    json: Path | None = file_option("write the lengths of all codes, and where the best run changes")
    png: Path | None = png_option()

    def execute(self) -> None:
        """Raises UsageError for what is wrong with the arguments, and where there are no two runs to put together."""
        found = [run for group in group_by_corpus(load_runs(self.runs_dir), self.corpus) for run in group]
        refuse_mixed(found)
        together = put_together(found)
        step_nats, codes, rate = code_all(together)
        runs = together.runs
        rows = table_rows(together, codes)
        corpus = runs[0].report.corpus
        coded_bytes = together.coded_tokens() * (corpus.bytes / corpus.tokens)
        switches = best_runs(runs, step_nats, coded_bytes)
        publish(f"\n{corpus.name}: {corpus.bytes:,} bytes, {len(runs)} runs over the same {corpus.tokens:,} tokens\n")
        publish("\n".join(table(rows)))
        publish(f"\nAt every token: a run is drawn again with probability 1/{1 / rate:,.0f} (the best of the rates).")
        publish(switch_text(switches))
        for name, reason in together.left_out.items():
            publish(f"{name} is left out: {reason}")
        if self.csv:
            write_file(self.csv, weights_csv(runs, coded_bytes, codes).encode())
        if self.json:
            content = {"format": 1, "corpus": corpus.model_dump(), "codes": rows, "rate": rate, "switches": switches}
            write_file(self.json, json.dumps(content, indent=1, allow_nan=False, default=vars).encode())
        write_figures(self.png, draw_mixture, runs, step_nats, coded_bytes, codes)


def code_all(together: Together) -> tuple[np.ndarray, dict[str, Code], float]:
    """Nats [n, K] of the runs at each step, the codes by name, and the rate of the switch at every token."""
    models, steps = len(together.runs), together.lanes.steps
    with tqdm(together.blocks(), unit="step", desc="switching", total=steps, leave=False) as blocks:
        tokens, rate, step_nats = token_switch(blocks, models, together.lanes.lanes)
    bayes, switch = share(step_nats, np.zeros(steps)), share(step_nats, switch_rates(steps))
    return step_nats, {BAYES: bayes, STEPS: switch, TOKENS: tokens}, rate


def table_rows(together: Together, codes: dict[str, Code]) -> list[Row]:
    """The runs alone, the shortest total first, then the codes of all."""
    rows = []
    for run in sorted(together.runs, key=lambda run: run.total_bits):
        rows.append(Row(run.name, run.data_bits / 8, run.code_bits / 8, run.total_bits / 8))
    program, best = float(program_bytes([run.directory for run in together.runs])), together.runs[0]
    fixed_bytes = program + (best.tokenizer_bits + best.side_bits) / 8
    for name, code in codes.items():
        data_bytes = code.nats / NATS_PER_BYTE
        rows.append(Row(name, data_bytes, program, data_bytes + fixed_bytes))
    return rows


def table(rows: list[Row]) -> list[str]:
    best = min(rows, key=lambda row: row.total_bytes)
    shortest = min(row.data_bytes for row in rows if row.code not in (BAYES, STEPS, TOKENS))
    cells = [("code", "data bytes", "beside the best", "programs", "total bytes", "")]
    for row in rows:
        beside = row.data_bytes - shortest
        numbers = f"{row.data_bytes:,.0f}", f"{beside:+,.0f}", f"{row.program_bytes:,.0f}", f"{row.total_bytes:,.0f}"
        cells.append((row.code, *numbers, "  shortest" if row is best else ""))
    widest = max(len(row.code) for row in rows)
    return lay_out(cells, f"<{widest}", ">13", ">17", ">11", ">13", "")


def best_runs(runs: list[ComparedRun], step_nats: np.ndarray, coded_bytes: np.ndarray) -> list[tuple[int, str]]:
    """On the likeliest path of the switch between steps: (corpus bytes coded before it, the run from there on)."""
    path = likeliest_path(step_nats, switch_rates(len(step_nats)))
    begins = [0, *(np.flatnonzero(np.diff(path)) + 1)]
    before = np.append(0, coded_bytes)
    return [(round(float(before[step])), runs[path[step]].name) for step in begins]


def switch_text(switches: list[tuple[int, str]]) -> str:
    if len(switches) == 1:
        return f"Between steps: {switches[0][1]} from the first byte to the last."
    words = [f"{name} from byte {start:,} on" for start, name in switches[:MOST_SWITCHES]]
    more = f"; and {len(switches) - MOST_SWITCHES} more changes" if len(switches) > MOST_SWITCHES else ""
    return f"Between steps, the likeliest: {'; '.join(words)}{more}."


def weights_csv(runs: list[ComparedRun], coded_bytes: np.ndarray, codes: dict[str, Code]) -> str:
    rows = []
    for step, coded in enumerate(coded_bytes):
        for name, code in codes.items():
            weights = {run.name: f"{weight:.6g}" for run, weight in zip(runs, code.weights[step], strict=True)}
            bits = f"{code.step_nats[step] / math.log(2):.6g}"
            rows.append({"coded_bytes": round(float(coded)), "code": name, "bits": bits} | weights)
    return csv_text(rows)
