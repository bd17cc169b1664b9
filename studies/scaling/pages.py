"""The files of a comparison: a page, pictures, tables, and for TensorBoard what a sweep over widths shows."""

import io
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.image import imread
from torch.utils.tensorboard import SummaryWriter

from data.files import write_file
from eval.pages import render
from eval.plots import Picture, picture
from eval.tables import extrapolation_note
from studies.events import line_writer, remove_events
from studies.scaling.analysis import Scaling, size_text
from studies.scaling.plots import behind_figure, frontier_figure, overlay_figure, scaling_figure, vocabulary_figure
from studies.scaling.tables import (
    Comparison,
    comparison_csv,
    frontier_csv,
    frontier_rows,
    predicted_text,
    rates_rows,
    scaling_csv,
    scaling_json,
    verdict_texts,
    without_law,
)
from studies.scaling.tokenizers import tokenizer_figure
from studies.scaling.verdicts import Standing
from train.metrics import unsmoothed

TEMPLATES = Path(__file__).parent / "templates"
# Of the files of a picture, where that is not its name.
STEMS = {"curves": "comparison", "behind": "comparison-behind", "tokenizers": "comparison-tokenizers"}
EVENTS_SUFFIX = ".scaling"
LAYOUT = {"Scaling": unsmoothed("scaling/total_bytes_by_width", "scaling/data_bytes_by_width")}


def write_comparison(comparisons: list[Comparison], out: Path) -> list[Path]:
    """Write comparison.html into `out`, with a part for each corpus, and of each corpus comparison.csv, pictures, and
    of a sweep over widths scaling.json, .csv, pictures and TensorBoard events: into `out`, or where there are several
    corpora into a folder of it for each. Returns the paths of all except the events."""
    parts: list[dict[str, Any]] = []
    files: dict[Path, bytes] = {out / "comparison.html": b""}
    for comparison, folder in zip(comparisons, _folders(comparisons, out), strict=True):
        pictures = _pictures(comparison)
        reports = {run.name: os.path.relpath(run.directory / "report.html", out) for run in comparison.runs}
        links = {name: Path(path).as_posix() for name, path in reports.items()}
        parts.append({"comparison": comparison, "links": links, "pictures": pictures})
        files |= {folder / name: content for name, content in _files(comparison, pictures).items()}
        if comparison.scaling:
            folder.mkdir(parents=True, exist_ok=True)
            write_tensorboard(folder / "tensorboard", comparison.scaling, comparison.standing, pictures)
    files[out / "comparison.html"] = render(
        "comparison.html.j2",
        TEMPLATES,
        parts=parts,
        size_text=size_text,
        rates_rows=rates_rows,
        frontier_rows=frontier_rows,
        predicted_text=predicted_text,
        without_law=without_law,
        note_of=extrapolation_note,
    )
    for path, content in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, content)
    return list(files)


def _folders(comparisons: list[Comparison], out: Path) -> list[Path]:
    """`out`, or for each of several corpora "comparison-enwik8", with the checksum where two have one name."""
    if len(comparisons) == 1:
        return [out]
    names = [re.sub(r"[^\w.-]+", "_", one.corpus.name) for one in comparisons]
    return [
        out / f"comparison-{name}{'-' + one.corpus.sha256[:8] if names.count(name) > 1 else ''}"
        for name, one in zip(names, comparisons, strict=True)
    ]


def _pictures(comparison: Comparison) -> dict[str, Picture]:
    """By the names that TensorBoard has for them."""
    curves = {run.name: run.curve for run in comparison.runs}
    baselines = comparison.measured.baselines
    pictures = {"curves": picture(overlay_figure, curves, baselines, comparison.lines)}
    if len(comparison.runs) > 1:
        pictures["behind"] = picture(behind_figure, curves, comparison.lines)
    if comparison.several_tokenizers:
        pictures["tokenizers"] = picture(tokenizer_figure, comparison.runs)
    if scaling := comparison.scaling:
        laws = {result.line.label: result.data.fit.law for result in scaling.results if result.data.fit}
        predictions = {r.line.label: r.data.prediction for r in scaling.results if r.data.prediction}
        pictures["scaling"] = picture(scaling_figure, scaling.lines, laws, predictions)
        if scaling.frontiers:
            pictures["scaling-frontier"] = picture(frontier_figure, scaling.lines, scaling.frontiers)
        if scaling.families:
            families = {family: [result.line for result, _ in group] for family, group in scaling.families.items()}
            pictures["scaling-vocabulary"] = picture(vocabulary_figure, families)
    return pictures


def _files(comparison: Comparison, pictures: dict[str, Picture]) -> dict[str, bytes]:
    """What is written beside the page, by name."""
    files = {"comparison.csv": comparison_csv(comparison).encode()}
    for name, one in pictures.items():
        files |= one.files(STEMS.get(name, name))
    if comparison.scaling:
        files["scaling.csv"] = scaling_csv(comparison.scaling.lines).encode()
        if comparison.scaling.frontiers:
            files["scaling-frontier.csv"] = frontier_csv(comparison.scaling.frontiers).encode()
        files["scaling.json"] = scaling_json(comparison, comparison.scaling)
    return files


def write_tensorboard(directory: Path, scaling: Scaling, standing: Standing, pictures: dict[str, Picture]) -> None:
    """The mean lengths of every line with the width as step, the verdicts and power laws as text, and the pictures, by
    name, as TensorBoard events in `directory`: each line is a run of its own there, so that it has a color in charts.
    Replaces what an earlier call has written there."""
    remove_events(directory, EVENTS_SUFFIX)
    for line in scaling.lines:
        with line_writer(directory, line.label, EVENTS_SUFFIX) as writer:
            for term in ("total", "data"):
                for width, bits in zip(line.widths, line.means(f"{term}_bits"), strict=True):
                    writer.add_scalar(f"scaling/{term}_bytes_by_width", bits / 8, width)
    with SummaryWriter(str(directory), filename_suffix=EVENTS_SUFFIX) as writer:
        writer.add_custom_scalars(LAYOUT)
        for name, text in verdict_texts(scaling, standing).items():
            writer.add_text(name, text)
        for name, one in pictures.items():
            pixels = imread(io.BytesIO(one.light))
            # Transparent figures, put on white.
            opaque = pixels[..., :3] * pixels[..., 3:] + 1 - pixels[..., 3:]
            writer.add_image(f"figures/{name}", np.ascontiguousarray(opaque), dataformats="HWC")
