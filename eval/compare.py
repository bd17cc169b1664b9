"""Several finished runs over one corpus, side by side."""

import csv
import io
import os
import textwrap
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, with_config
from typing_extensions import TypedDict

from data.documents import printable
from data.errors import UsageError
from data.files import write_file
from eval.comparison_plots import behind_figure, overlay_figure
from eval.curve import Curve, load_curve
from eval.description_length import side_bits
from eval.files import read_json
from eval.lines import Point, lines_of, load_settings, point_of
from eval.pages import render
from eval.plots import THEMES
from eval.scaling_analysis import Scaling, rounded
from eval.scaling_files import scaling_csv, scaling_json, write_tensorboard
from eval.scaling_plots import scaling_figure, vocabulary_figure
from eval.schema import Report, load_report
from eval.tables import duration, extrapolation_note, sizes

CSV_SECTIONS = ("model", "description_length", "cost")
SWEEP_LIMIT_BYTES = 16 << 20


@with_config(ConfigDict(extra="ignore", strict=True))
class Sweep(TypedDict):
    """What launch/sweep.py says of its cells in sweep.json, as far as it is of use here."""

    format: Annotated[int, Field(ge=1, le=1)]
    cells: Annotated[int, Field(ge=1)]
    names: list[str]


_SWEEP = TypeAdapter(Sweep)


@dataclass(frozen=True)
class Run:
    """A finished run; `name` is its directory, relative to the one that is compared."""

    name: str
    directory: Path
    report: Report
    curve: Curve
    point: Point

    @property
    def total_bytes(self) -> float:
        return self.report["description_length"]["total_bits"] / 8


@dataclass(frozen=True)
class Selection:
    """What it costs that a reported run was chosen as the best of several `cells`."""

    run: str
    cells: int
    selection_bits: float
    side_bits: float
    total_bits: float

    def __str__(self) -> str:
        return (
            f"{self.run} is the best of {self.cells:,} cells of a sweep: log2({self.cells:,}) = "
            f"{self.selection_bits:.2f} bits are charged to its side information, and its total with them is "
            f"{self.total_bits / 8:,.2f} bytes."
        )


def load_runs(runs_dir: Path) -> list[Run]:
    """The finished runs at or below `runs_dir`, shortest description first. One without a report.json is not finished.

    Raises UsageError when there are none, when a file is damaged, or when the runs code different corpora.
    """
    if not runs_dir.is_dir():
        raise UsageError(f"{runs_dir} is no directory: name one that holds run directories")
    directories = sorted(path.parent for path in runs_dir.rglob("report.json"))
    if not directories:
        raise UsageError(f"{runs_dir} holds no finished run: a run has a report.json once its epoch is done")
    runs = []
    for directory in directories:
        name = printable(str(directory.relative_to(runs_dir)) if directory != runs_dir else directory.resolve().name)
        report = load_report(directory / "report.json")
        point = point_of(name, report, load_settings(directory / "config.yaml"))
        runs.append(Run(name, directory, report, load_curve(directory / "curve.csv"), point))
    first = runs[0]
    for run in runs:
        if run.report["corpus"]["sha256"] != first.report["corpus"]["sha256"]:
            raise UsageError(
                f"{first.name} codes {_corpus(first)} and {run.name} codes {_corpus(run)}: description lengths of "
                "different corpora cannot be compared; name a directory whose runs share one"
            )
    return sorted(runs, key=lambda run: run.total_bytes)


def read_sweep(path: Path) -> Sweep:
    """A sweep.json. Raises UsageError, one line, if it is damaged."""
    sweep: Sweep = read_json(path, _SWEEP, SWEEP_LIMIT_BYTES)
    return sweep


def selection_of(runs_dir: Path, runs: list[Run]) -> Selection | None:
    """What choosing the best of the runs costs, if they are of the sweep that a sweep.json in `runs_dir` tells of.

    The cells are all that it could have been chosen from: those of sweep.json, finished or not, and those runs beside
    them that an earlier sweep left there. Raises UsageError if sweep.json is damaged.
    """
    path = runs_dir / "sweep.json"
    if not path.exists():
        return None
    sweep = read_sweep(path)
    cells = max(sweep["cells"], len({*sweep["names"], *(run.name for run in runs)}))
    best = runs[0].report
    tokens, ranks = best["corpus"]["tokens"], best["cost"]["world_size"]
    added_bits = side_bits(tokens, ranks, sweep_cells=cells) - side_bits(tokens, ranks)
    length = best["description_length"]
    return Selection(
        run=runs[0].name,
        cells=cells,
        selection_bits=added_bits,
        side_bits=length["side_bits"] + added_bits,
        total_bits=length["total_bits"] + added_bits,
    )


def comparison_table(runs: list[Run], selection: Selection | None = None) -> str:
    """The runs as a table for a terminal of 100 columns, or wider if their names are long."""
    corpus = runs[0].report["corpus"]
    widest = max(len("baseline"), *(len(run.name) for run in runs))
    lines = [
        f"\n{corpus['name']}: {corpus['bytes']:,} bytes, {len(runs)} finished runs\n",
        f"{'run':<{widest}}{'bytes':>15}{'bits/byte':>11}{'ratio':>8}{'parameters':>15}{'tokens/s':>11}{'time':>14}",
    ]
    for run in runs:
        length, model, cost = run.report["description_length"], run.report["model"], run.report["cost"]
        lines.append(
            f"{run.name:<{widest}}{run.total_bytes:>15,.0f}{length['bits_per_byte']:>11.4f}{length['compression_ratio']:>8.2f}"
            f"{model['parameters']:>15,}{cost['tokens_per_sec']:>11,.0f}{duration(cost['elapsed_secs']):>14}"
        )
    if selection:
        lines.append("\n" + textwrap.fill(str(selection), 100))
    rows = [row for row in sizes(_measured(runs)) if not row.ours]
    if rows:
        lines.append(f"\n{'baseline':<{widest}}{'bytes':>15}{'bits/byte':>11}{'ratio':>8}   {runs[0].name} is")
    for row in rows:
        bits_per_byte = 8 * row.bytes / corpus["bytes"]
        lines.append(f"{row.name:<{widest}}{row.bytes:>15,.0f}{bits_per_byte:>11.4f}{row.ratio:>8.2f}   {row.verdict}")
    return "\n".join([*lines, extrapolation_note(_measured(runs))]).rstrip() + "\n"


def write_comparison(
    runs: list[Run], out: Path, scaling: Scaling | None = None, selection: Selection | None = None
) -> list[Path]:
    """Write comparison.html, .csv and pictures into `out`, and of a sweep over widths scaling.json, .csv, pictures and
    TensorBoard events. Returns the paths of all but the events."""
    report = _measured(runs)
    corpus = report["corpus"]
    baselines: dict[str, Any] = {**report["baselines"]}
    curves = {run.name: run.curve for run in runs}
    lines = lines_of([run.point for run in runs])
    pictures = {"curves": {name: overlay_figure(curves, baselines, lines, theme) for name, theme in THEMES.items()}}
    files = {"comparison.png": pictures["curves"]["light"], "comparison.csv": _csv(runs).encode()}
    if len(runs) > 1:
        pictures["behind"] = {name: behind_figure(curves, lines, theme) for name, theme in THEMES.items()}
        files["comparison-behind.png"] = pictures["behind"]["light"]
    if scaling:
        figures = _scaling_pictures(scaling)
        pictures |= figures
        files |= {f"{name}.png": figure["light"] for name, figure in figures.items()}
        files |= {f"{name}-dark.png": figure["dark"] for name, figure in figures.items()}
        files["scaling.csv"] = scaling_csv(scaling.lines)
        files["scaling.json"] = scaling_json(scaling, corpus, asdict(selection) if selection else None)
    page = render(
        "comparison.html.j2",
        pictures,
        corpus=corpus,
        runs=runs,
        links={run.name: Path(os.path.relpath(run.directory / "report.html", out)).as_posix() for run in runs},
        baselines=[row for row in sizes(report) if not row.ours],
        note=extrapolation_note(report),
        scaling=scaling,
        selection=selection,
        rounded=rounded,
    )
    files = {"comparison.html": page, **files}
    out.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_file(out / name, content)
    if scaling:
        write_tensorboard(out / "tensorboard", scaling, {name: figure["light"] for name, figure in pictures.items()})
    return [out / name for name in files]


def _scaling_pictures(scaling: Scaling) -> dict[str, dict[str, bytes]]:
    """PNG bytes by the name of the figure and of the theme."""
    laws = {result.line.label: result.data.fit.law for result in scaling.results if result.data.fit}
    predictions = {r.line.label: r.data.prediction for r in scaling.results if r.data.prediction}
    pictures = {
        "scaling": {name: scaling_figure(scaling.lines, laws, predictions, theme) for name, theme in THEMES.items()}
    }
    if scaling.families:
        families = {family: [result.line for result in group] for family, group in scaling.families.items()}
        pictures["scaling-vocabulary"] = {name: vocabulary_figure(families, theme) for name, theme in THEMES.items()}
    return pictures


def _csv(runs: list[Run]) -> str:
    """A line a run: its name, and model, description length and cost as in report.json."""
    stream = io.StringIO()
    rows = csv.writer(stream, lineterminator="\n")
    for index, run in enumerate(runs):
        report: dict[str, Any] = {**run.report}
        values = {name: value for section in CSV_SECTIONS for name, value in report[section].items()}
        if index == 0:
            rows.writerow(["run", *values])
        rows.writerow([run.name, *values.values()])
    return stream.getvalue()


def _measured(runs: list[Run]) -> Report:
    """The report of the best run whose baselines were measured; of the best run where none were."""
    return next((run.report for run in runs if run.report["baselines"]), runs[0].report)


def _corpus(run: Run) -> str:
    corpus = run.report["corpus"]
    return f"{corpus['name']} ({corpus['bytes']:,} bytes, SHA-256 {corpus['sha256'][:8]}…)"
