"""Several finished runs over one corpus, side by side."""

import csv
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.files import write_file
from eval.curve import Curve, load_curve
from eval.pages import render
from eval.plots import THEMES, overlay_figure
from eval.schema import Report, load_report
from eval.tables import duration, extrapolation_note, sizes

CSV_SECTIONS = ("model", "description_length", "cost")


@dataclass(frozen=True)
class Run:
    """A finished run; `name` is its directory, relative to the one that is compared."""

    name: str
    directory: Path
    report: Report
    curve: Curve

    @property
    def total_bytes(self) -> float:
        return self.report["description_length"]["total_bits"] / 8


def load_runs(runs_dir: Path) -> list[Run]:
    """The finished runs at or below `runs_dir`, shortest description first. One without a report.json is not finished.

    Raises ValueError when there are none, when a file is damaged, or when the runs code different corpora.
    """
    if not runs_dir.is_dir():
        raise ValueError(f"{runs_dir} is no directory: name one that holds run directories")
    directories = sorted(path.parent for path in runs_dir.rglob("report.json"))
    if not directories:
        raise ValueError(f"{runs_dir} holds no finished run: a run has a report.json once its epoch is done")
    runs = []
    for directory in directories:
        name = str(directory.relative_to(runs_dir)) if directory != runs_dir else directory.resolve().name
        runs.append(Run(name, directory, load_report(directory / "report.json"), load_curve(directory / "curve.csv")))
    first = runs[0]
    for run in runs:
        if run.report["corpus"]["sha256"] != first.report["corpus"]["sha256"]:
            raise ValueError(
                f"{first.name} codes {_corpus(first)} and {run.name} codes {_corpus(run)}: description lengths of "
                "different corpora cannot be compared; name a directory whose runs share one"
            )
    return sorted(runs, key=lambda run: run.total_bytes)


def comparison_table(runs: list[Run]) -> str:
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
    rows = [row for row in sizes(_measured(runs)) if not row.ours]
    if rows:
        lines.append(f"\n{'baseline':<{widest}}{'bytes':>15}{'bits/byte':>11}{'ratio':>8}   {runs[0].name} is")
    for row in rows:
        bits_per_byte = 8 * row.bytes / corpus["bytes"]
        lines.append(f"{row.name:<{widest}}{row.bytes:>15,.0f}{bits_per_byte:>11.4f}{row.ratio:>8.2f}   {row.verdict}")
    return "\n".join([*lines, extrapolation_note(_measured(runs))]).rstrip() + "\n"


def write_comparison(runs: list[Run], out: Path) -> list[Path]:
    """Write comparison.html, comparison.png and comparison.csv into `out`. Returns their paths."""
    report = _measured(runs)
    baselines: dict[str, Any] = {**report["baselines"]}
    curves = {run.name: run.curve for run in runs}
    pictures = {name: overlay_figure(curves, baselines, theme) for name, theme in THEMES.items()}
    page = render(
        "comparison.html.j2",
        {"curves": pictures},
        corpus=report["corpus"],
        runs=runs,
        links={run.name: Path(os.path.relpath(run.directory / "report.html", out)).as_posix() for run in runs},
        baselines=[row for row in sizes(report) if not row.ours],
        note=extrapolation_note(report),
    )
    files = {"comparison.html": page, "comparison.png": pictures["light"], "comparison.csv": _csv(runs).encode()}
    out.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_file(out / name, content)
    return [out / name for name in files]


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
