"""The finished runs over one corpus side by side: a table for terminals, a page, pictures and files."""

import csv
import io
import os
import re
import textwrap
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data.files import write_file
from eval.pages import data_uris, render
from eval.plots import THEMES
from eval.schema import Report
from eval.tables import duration, extrapolation_note, sizes
from studies.scaling.analysis import Scaling, analyse, rounded
from studies.scaling.comparison_plots import behind_figure, overlay_figure
from studies.scaling.files import scaling_csv, scaling_json, settings_columns, without_law, write_tensorboard
from studies.scaling.lines import lines_of
from studies.scaling.plots import scaling_figure, vocabulary_figure
from studies.scaling.runs import Run, Selection
from studies.scaling.verdicts import Standing, standing_of

CSV_SECTIONS = ("model", "description_length", "cost")

Pictures = dict[str, dict[str, bytes]]

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Section:
    """The runs over one corpus, shortest first, and what they show. `scaling` is None without two widths on a line."""

    runs: list[Run]
    standing: Standing
    scaling: Scaling | None
    selection: Selection | None

    @property
    def corpus(self) -> Any:
        return self.runs[0].report["corpus"]

    @property
    def measured(self) -> Report:
        """The report of the best run whose baselines were measured; of the best run where none were."""
        return next((run.report for run in self.runs if run.report["baselines"]), self.runs[0].report)


def section_of(runs: list[Run], selection: Selection | None = None) -> Section:
    """What the runs, all of one corpus, show."""
    points = [run.point for run in runs]
    return Section(runs, standing_of(lines_of(points)), analyse(points), selection)


def comparison_table(section: Section) -> str:
    """The runs as a table for a terminal of 100 columns, or wider if their names are long."""
    runs, corpus = section.runs, section.corpus
    widest = max(len("baseline"), *(len(run.name) for run in runs))
    lines = [
        f"\n{corpus['name']}: {corpus['bytes']:,} bytes, {len(runs)} finished runs\n",
        f"{'run':<{widest}}{'total bytes':>13}{'data':>13}{'code':>9}{'bits/byte':>10}{'ratio':>7}{'parameters':>13}"
        f"{'tokens/s':>10}{'time':>13}",
    ]
    for run in runs:
        length, model, cost = run.report["description_length"], run.report["model"], run.report["cost"]
        data_bytes, code_bytes = length["data_bits"] / 8, length["code_bits"] / 8
        lines.append(
            f"{run.name:<{widest}}{run.total_bytes:>13,.0f}{data_bytes:>13,.0f}{code_bytes:>9,.0f}"
            f"{length['bits_per_byte']:>10.4f}{length['compression_ratio']:>7.2f}{model['parameters']:>13,}"
            f"{cost['tokens_per_sec']:>10,.0f}{duration(cost['elapsed_secs']):>13}"
        )
    lines += _standing_lines(section.standing)
    if section.selection:
        lines.append("\n" + textwrap.fill(str(section.selection), 100))
    rows = [row for row in sizes(section.measured) if not row.ours]
    if rows:
        lines.append(f"\n{'baseline':<{widest}}{'bytes':>15}{'bits/byte':>11}{'ratio':>8}   {runs[0].name} is")
    for row in rows:
        bits_per_byte = 8 * row.bytes / corpus["bytes"]
        lines.append(f"{row.name:<{widest}}{row.bytes:>15,.0f}{bits_per_byte:>11.4f}{row.ratio:>8.2f}   {row.verdict}")
    return "\n".join([*lines, extrapolation_note(section.measured)]).rstrip() + "\n"


def _standing_lines(standing: Standing) -> list[str]:
    """Every cell beside the shortest, a line for each of its terms, and what they show together."""
    if not standing.others:
        return []
    widest = max(len("bytes beside"), *(len(cell.name) for cell, _, _ in standing.others))
    lines = ["", f"{'bytes beside':<{widest}}  {'':<5}  {standing.shortest.name}"]
    for cell, *both in standing.others:
        for name, found in zip((cell.name, ""), both, strict=True):
            lines.append(f"{name:<{widest}}  {found.term:<5}  {found.span:<28}  {found.text}")
    return [*lines, "", textwrap.fill(" ".join([*standing.sentences(), *standing.method()]), 100)]


def write_comparison(sections: list[Section], out: Path) -> list[Path]:
    """Write comparison.html into `out`, with a part for each section, and of each section comparison.csv, pictures, and
    of a sweep over widths scaling.json, .csv, pictures and TensorBoard events: into `out`, or where there are several
    sections into a folder of it for each. Returns the paths of all but the events."""
    folders = [out] if len(sections) == 1 else [out / name for name in _folder_names(sections)]
    parts: list[dict[str, Any]] = []
    files: dict[Path, bytes] = {out / "comparison.html": b""}
    for section, folder in zip(sections, folders, strict=True):
        pictures = _pictures(section)
        parts.append(_part(section, pictures, out))
        files |= {folder / name: content for name, content in _files(section, pictures).items()}
        if section.scaling:
            light = {name: figure["light"] for name, figure in pictures.items()}
            folder.mkdir(parents=True, exist_ok=True)
            write_tensorboard(folder / "tensorboard", section.scaling, section.standing, light)
    files[out / "comparison.html"] = render(
        "comparison.html.j2", {}, TEMPLATES, parts=parts, rounded=rounded, without_law=without_law
    )
    for path, content in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, content)
    return list(files)


def _folder_names(sections: list[Section]) -> list[str]:
    """ "comparison-enwik8", with the checksum where two corpora have one name."""
    names = [re.sub(r"[^\w.-]+", "_", section.corpus["name"]) for section in sections]
    return [
        f"comparison-{name}{'-' + section.corpus['sha256'][:8] if names.count(name) > 1 else ''}"
        for name, section in zip(names, sections, strict=True)
    ]


def _part(section: Section, pictures: Pictures, out: Path) -> dict[str, Any]:
    """What the page says of a section."""
    runs, report = section.runs, section.measured
    return {
        "corpus": section.corpus,
        "runs": runs,
        "standing": section.standing,
        "scaling": section.scaling,
        "selection": section.selection,
        "links": {run.name: Path(os.path.relpath(run.directory / "report.html", out)).as_posix() for run in runs},
        "baselines": [row for row in sizes(report) if not row.ours],
        "note": extrapolation_note(report),
        "pictures": data_uris(pictures),
    }


def _pictures(section: Section) -> Pictures:
    """PNG bytes by the name of the figure and of the theme."""
    baselines: dict[str, Any] = {**section.measured["baselines"]}
    curves = {run.name: run.curve for run in section.runs}
    lines = lines_of([run.point for run in section.runs])
    pictures = {"curves": {name: overlay_figure(curves, baselines, lines, theme) for name, theme in THEMES.items()}}
    if len(section.runs) > 1:
        pictures["behind"] = {name: behind_figure(curves, lines, theme) for name, theme in THEMES.items()}
    if not (scaling := section.scaling):
        return pictures
    laws = {result.line.label: result.data.fit.law for result in scaling.results if result.data.fit}
    predictions = {r.line.label: r.data.prediction for r in scaling.results if r.data.prediction}
    pictures["scaling"] = {
        name: scaling_figure(scaling.lines, laws, predictions, theme) for name, theme in THEMES.items()
    }
    if scaling.families:
        families = {family: [result.line for result, _ in group] for family, group in scaling.families.items()}
        pictures["scaling-vocabulary"] = {name: vocabulary_figure(families, theme) for name, theme in THEMES.items()}
    return pictures


def _files(section: Section, pictures: Pictures) -> dict[str, bytes]:
    """What is written beside the page, by name."""
    files: dict[str, bytes] = {"comparison.png": pictures["curves"]["light"], "comparison.csv": _csv(section)}
    if "behind" in pictures:
        files["comparison-behind.png"] = pictures["behind"]["light"]
    if scaling := section.scaling:
        figures = {name: figure for name, figure in pictures.items() if name.startswith("scaling")}
        files |= {f"{name}.png": figure["light"] for name, figure in figures.items()}
        files |= {f"{name}-dark.png": figure["dark"] for name, figure in figures.items()}
        best = asdict(section.selection) if section.selection else None
        files["scaling.csv"] = scaling_csv(scaling.lines)
        files["scaling.json"] = scaling_json(scaling, section.standing, section.corpus, best)
    return files


def _csv(section: Section) -> bytes:
    """A line a run: its name, its settings that matter, model, description length and cost as in report.json, and how
    its cell stands beside the shortest one."""
    rows = []
    beside = {point.name: standing for standing in section.standing.others for point in standing[0].points}
    for run in section.runs:
        report: dict[str, Any] = {**run.report}
        row = {"run": run.name, **settings_columns(run.point)}
        for name in CSV_SECTIONS:
            row |= report[name]
        row["beside"] = section.standing.shortest.name
        for found in beside[run.name][1:] if run.name in beside else ():
            row |= found.columns()
        rows.append(row)
    names = list(dict.fromkeys(name for row in rows for name in row))
    stream = io.StringIO()
    table = csv.DictWriter(stream, names, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return stream.getvalue().encode()
