"""One code from all runs of a folder: its table, weights and figure."""

import json
import math
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from data.files import write_file
from data.streams import publish
from eval.layout import csv_text, lay_out
from studies.common import write_figures
from studies.mixture.codes import Code, likeliest_path, share, switch_rates, token_switch
from studies.mixture.events import write_events
from studies.mixture.options import Mixture
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


def execute(options: Mixture) -> None:
    """Raises UsageError for what is wrong with the arguments, and where there are no two runs to put together."""
    found = [run for group in group_by_corpus(load_runs(options.runs_dir), options.corpus) for run in group]
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
    if options.csv:
        write_file(options.csv, weights_csv(runs, coded_bytes, codes).encode())
    if options.json:
        content = {"format": 1, "corpus": corpus.model_dump(), "codes": rows, "rate": rate, "switches": switches}
        write_file(options.json, json.dumps(content, indent=1, allow_nan=False, default=vars).encode())
    if options.tensorboard:
        write_events(options.tensorboard, runs, step_nats, coded_bytes, codes)
    write_figures(options.png, draw_mixture, runs, step_nats, coded_bytes, codes)


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
