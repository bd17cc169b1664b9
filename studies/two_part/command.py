"""The two-part code of a finished run: its weights measured at each precision, the table and the figure."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from archive.points import Point
from archive.weights import pack_counts, unpack_counts
from data.errors import RunFailed, UsageError
from data.files import write_file
from data.streams import publish
from eval.layout import csv_text
from eval.plots import DOTS_PER_INCH, WIDTH_INCHES, Theme, bytes_formatter, frame
from model.lm import LanguageModel
from studies.common import write_figures
from studies.scoring import FinishedRun, code_weights, connect_alone, open_run, tables
from studies.two_part.options import TABLES, TwoPart, check_group
from train.engine import Place
from train.loop import Learner, TokenSource

HEADING = f"{'weights as':<12}{'weights':>12}{'tables':>12}{'data':>12}{'code':>10}{'total':>13}{'prequential':>14}"


def execute(options: TwoPart) -> None:
    """Raises UsageError for wrong options, RunFailed if weights do not come back as they were."""
    group = check_group(options.group, options.points)
    runs = [open_run(run, options.corpus) for run in options.runs]
    for run in runs:
        if run.model.mixing is not None and "|" in run.config.model.block:
            raise UsageError(
                f"{run.folder} is of several models side by side, and each has tables of context mixing: name runs "
                "of one model, or without context mixing"
            )
    if options.tables and all(run.model.mixing is None for run in runs):
        raise UsageError(
            f"--tables {' '.join(options.tables)} has no effect on runs without context mixing: leave it out"
        )
    rows: list[Row] = []
    with connect_alone(runs[0].config.engine.threads) as place:
        for run in runs:
            for treatment in ["none"] if run.model.mixing is None else options.tables or TABLES:
                rows += measure(run, treatment, options.points, group, place)
    write_figures(options.png, draw, rows)
    if options.csv:
        cells = [{n: round(v) if isinstance(v, float) else v for n, v in asdict(row).items()} for row in rows]
        write_file(options.csv, csv_text(cells).encode())


@dataclass(frozen=True)
class Row:
    """One two-part code, or the "prequential" one. `tables` says what becomes of the context mixing's tables, or is
    "none" for a model without.

    `fixed_bytes` are code, tokenizer and side information, the same as the prequential code pays."""

    run: str
    tables: str
    point: Point | Literal["prequential"]
    weight_bytes: int
    table_bytes: int
    data_bytes: float
    fixed_bytes: float
    total_bytes: float
    prequential_bytes: float

    @property
    def times(self) -> float:
        """How many times the prequential total this is."""
        return self.total_bytes / self.prequential_bytes

    def __str__(self) -> str:
        return (
            f"{name_point(self.point):<12}{self.weight_bytes:>12,}{self.table_bytes:>12,}{self.data_bytes:>12,.0f}"
            f"{self.fixed_bytes:>10,.0f}{self.total_bytes:>13,.0f}{f'x {self.times:.3f}':>14}"
        )


def name_point(point: Point | str) -> str:
    return f"{point} bits" if isinstance(point, int) else point


def measure(run: FinishedRun, treatment: str, points: Sequence[Point], group: int, place: Place) -> list[Row]:
    """A row for each of `points`, printed as it is found."""
    total_bytes, fixed_bytes = run.report.description_length.total_bits / 8, run.fixed_bits / 8
    own = Row(
        run.folder.name, "none", "prequential", 0, 0, total_bytes - fixed_bytes, fixed_bytes, total_bytes, total_bytes
    )
    publish(f"\n{run.folder}{'' if treatment == 'none' else f', tables {treatment}'}\n{HEADING}\n{own}")
    table_bytes = measure_tables(run.model) if treatment == "charged" else 0
    rows = []
    for point in points:
        weight_bytes, model = code_weights(run.model, point, group)
        if point == "fp32" and not all(map(torch.equal, model.parameters(), run.model.parameters())):
            raise RunFailed("fp32 weights do not come back as they were")
        if model.mixing is not None and treatment != "charged":
            model.mixing.counts, model.mixing.latest = map(torch.zeros_like, tables(model))
        source = CountingSource(run.source) if treatment == "learned" else run.source
        data_bytes = run.corpus_bits(model, place, source) / 8
        all_bytes = weight_bytes + table_bytes + data_bytes + fixed_bytes
        sizes = weight_bytes, table_bytes, data_bytes, fixed_bytes, all_bytes, total_bytes
        rows.append(Row(run.folder.name, treatment, point, *sizes))
        publish(str(rows[-1]))
    publish(format_verdict(rows))
    return rows


def measure_tables(model: LanguageModel) -> int:
    """Bytes that the tables take. Raises RunFailed if they do not come back as they are."""
    packed_bytes = 0
    for table in tables(model):
        words = table.cpu().view(len(table), -1).view(torch.int16).numpy()
        packed = pack_counts(words)
        if not np.array_equal(unpack_counts(packed, *words.shape), words):
            raise RunFailed("the tables do not come back as they were")
        packed_bytes += len(packed)
    return packed_bytes


class CountingSource:
    """A token source whose learner counts each segment in its tables, as in training."""

    def __init__(self, source: TokenSource):
        self.source = source

    def segment(self, step: int, learner: Learner) -> np.ndarray:
        assert learner.model.mixing is not None
        targets = self.source.segment(step, learner)
        tokens = torch.from_numpy(targets).to(learner.recent.device)
        learner.looked = learner.model.mixing.take_in(torch.cat([learner.recent, tokens], 1), [])
        return targets


def format_verdict(rows: Sequence[Row]) -> str:
    """Where the two-part code of a run is shortest, and what is left of it if the weights were free."""
    best = min(rows, key=lambda row: row.total_bytes)
    free = min(row.data_bytes + row.fixed_bytes for row in rows)
    compared = f"{abs(best.times - 1):.1%} {'longer' if best.times > 1 else 'shorter'} than"
    return (
        f"shortest with weights as {name_point(best.point)}: {best.total_bytes:,.0f} bytes, {compared} the prequential "
        f"{best.prequential_bytes:,.0f}; with weights for nothing it would be {free:,.0f}"
    )


def draw(rows: Sequence[Row], theme: Theme) -> Figure:
    """Total bytes against bits a weight as stacked bars, a panel for each run and treatment of its tables, each with
    the prequential total as a line."""
    panels: dict[str, list[Row]] = {}
    for row in rows:
        panels.setdefault(row.run if row.tables == "none" else f"{row.run}, tables {row.tables}", []).append(row)
    columns = min(len(panels), 4)
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(WIDTH_INCHES, 3.1 * lines + 0.5), dpi=DOTS_PER_INCH, layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False, sharey=True)
    most_bytes = max(max(row.total_bytes, row.prequential_bytes) for row in rows)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes, (name, panel) in zip(grid.flat, panels.items(), strict=False):
        draw_panel(axes, panel, theme)
        frame(axes)
        axes.set_title(name)
        axes.set_ylim(0, 1.06 * most_bytes)
        axes.yaxis.set_major_formatter(bytes_formatter(most_bytes))
    grid[0, 0].set_ylabel("description length")
    for axes in grid[-1]:
        axes.set_xlabel("weights as: bits, or float")
    handles, names = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, ncols=4, loc="outside upper center")
    return figure


def draw_panel(axes: Axes, rows: Sequence[Row], theme: Theme) -> None:
    """The bars of one run, and how many times the prequential total the shortest is."""
    places, floor = np.arange(len(rows)), np.zeros(len(rows))
    parts = {
        "code, tokenizer, side": (theme.faint, [row.fixed_bytes for row in rows]),
        "data given the weights": (theme.data, [row.data_bytes for row in rows]),
        "weights (and tables)": (theme.fixed, [float(row.weight_bytes + row.table_bytes) for row in rows]),
    }
    for part, (color, sizes) in parts.items():
        axes.bar(places, sizes, 0.75, floor, color=color, label=part, alpha=0.85)
        floor += sizes
    axes.axhline(rows[0].prequential_bytes, color=theme.ink, lw=1.4, ls=(0, (4, 2)), label="prequential total")
    best = int(floor.argmin())
    # Above its neighbours too, into which it may reach.
    height = floor[max(0, best - 2) : best + 3].max()
    axes.annotate(
        f"x {rows[best].times:.2f}", (best, height), (0, 3), textcoords="offset points", ha="center", size=8.5,
        weight="bold",
    )  # fmt: skip
    axes.set_xticks(places, [name_point(row.point).removesuffix(" bits") for row in rows], size=7.5, rotation=90)
