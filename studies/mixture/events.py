"""A mixture in TensorBoard: what its codes take so far, beside the runs, and how much each run counts."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from studies.events import line_writer, remove_events
from studies.mixture.codes import Code
from studies.mixture.plots import mean_between
from studies.scaling.runs import ComparedRun

EVENTS_SUFFIX = ".mixture"
# TensorBoard draws no more of a chart.
POINTS = 1000


def write_events(
    directory: Path, runs: Sequence[ComparedRun], step_nats: np.ndarray, coded_bytes: np.ndarray, codes: dict[str, Code]
) -> None:
    """Events in `directory`, in place of what an earlier call wrote there: x is corpus bytes coded.

    Each code has the chart of data bytes that runs have, and one of the bytes saved beside `runs[0]`, the best. Each
    run has its mean weight in each code since the point before. The switch at every token is the one with its best
    rate. Shapes as in draw_mixture.
    """
    shown = np.unique(np.linspace(0, len(coded_bytes) - 1, POINTS).round().astype(int))
    places = coded_bytes[shown].round().astype(int)
    remove_events(directory, EVENTS_SUFFIX)
    for name, code in codes.items():
        with line_writer(directory, name, EVENTS_SUFFIX) as writer:
            code_bytes, saved_bytes = (
                np.cumsum(nats)[shown] / np.log(256) for nats in (code.step_nats, step_nats[:, 0] - code.step_nats)
            )
            for at, size, saved in zip(places, code_bytes, saved_bytes, strict=True):
                writer.add_scalar("description_length/data_bytes", size, at)
                writer.add_scalar("mixture/saved_bytes", saved, at)
    weights = {name: mean_between(code.weights, shown) for name, code in codes.items() if code.weights.size}
    for number, run in enumerate(runs):
        with line_writer(directory, f"weight of {run.name}", EVENTS_SUFFIX) as writer:
            for name, means in weights.items():
                for at, weight in zip(places, means[:, number], strict=True):
                    writer.add_scalar(f"mixture/weight_in_{name.replace(' ', '_')}", weight, at)
