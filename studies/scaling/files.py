"""What a sweep over widths says, as scaling.json, as scaling.csv, as text for a terminal, and in TensorBoard."""

import csv
import io
import json
import re
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.image import imread

from eval.schema import Corpus
from studies.scaling.analysis import LineResult, Pair, Scaling
from studies.scaling.laws import NOT_IDENTIFIED, Fit
from studies.scaling.lines import Line, Point
from studies.scaling.verdicts import NOT_DISTINGUISHABLE, Standing

FORMAT = 1
COLUMNS = tuple(entry.name for entry in fields(Point) if entry.name not in ("settings", "curve", "commit"))
# Of a run's configuration, as columns.
SETTINGS = ("train.optimizer", "train.matrix_lr", "train.table_lr", "train.vector_lr")
# Of pairs of architectures in a terminal.
MOST_PAIRS = 10
EVENTS_SUFFIX = ".scaling"
LAYOUT = {
    "Scaling": {
        f"{term} bytes by width": ["Multiline", [f"scaling/{term}_bytes_by_width/.*"]] for term in ("total", "data")
    }
}


def settings_columns(point: Point) -> dict[str, Any]:
    """The settings of a run that a table of runs should not leave out, and the commit of its code."""
    chosen = {name.split(".")[1]: point.settings[name] for name in SETTINGS}
    return {"seed": point.seed, "vocabulary": point.vocabulary, **chosen, "commit": point.commit}


def scaling_json(scaling: Scaling, standing: Standing, corpus: Corpus, best: dict[str, Any] | None) -> bytes:
    """scaling.json. `best` is what selection costs.

    Lengths are in bits. Sizes are widths in `shortest` and `vocabularies`, what `axis` names in `architectures`, and
    parameters beside the embedding in fits and predictions. What is not identified is null.
    """
    document = {
        "format": FORMAT,
        "corpus": {"name": corpus["name"], "bytes": corpus["bytes"], "sha256": corpus["sha256"]},
        "lines": [_line_values(result) for result in scaling.results],
        "beside_shortest": {
            "shortest": standing.shortest.name,
            "cells": [
                {"cell": cell.name, "data": data.document(), "total": total.document()}
                for cell, data, total in standing.others
            ],
        },
        "architectures": [_pair_values(pair) for pair in scaling.pairs],
        "vocabularies": {
            family: [
                {
                    "vocabulary": result.line.vocabulary,
                    "width": result.shortest.size,
                    "total_bits": result.shortest.bits,
                    "beside_shortest": verdict.document() if verdict else None,
                }
                for result, verdict in results
            ]
            for family, results in scaling.families.items()
        },
        "best": best,
        "notes": scaling.notes,
    }
    return (json.dumps(document, indent=1) + "\n").encode()


def _line_values(result: LineResult) -> dict[str, Any]:
    line = result.line
    about = {"label": line.label, "block": line.block, "vocabulary": line.vocabulary, "widths": line.widths}
    values = {name: value for name, value in asdict(result).items() if name != "line"}
    return about | {"runs": [point.name for point in line.points]} | values


def _pair_values(pair: Pair) -> dict[str, Any]:
    identified = pair.identified
    return {
        "first": pair.first,
        "second": pair.second,
        "axis": pair.axis,
        "range": pair.range,
        "crossings": [asdict(at) | {"identified": at in identified} for at in pair.crossings],
        "verdict": pair.verdict,
        "data_verdict": pair.data_verdict,
        "nodes": [
            {"size": node.size, "data": node.data.document(), "total": node.total.document()} for node in pair.nodes
        ],
    }


def scaling_csv(lines: Sequence[Line]) -> bytes:
    """scaling.csv: a row a cell. `parameters` are all of them, `flops` those of the epoch, `line` what it lies on."""
    stream = io.StringIO()
    rows = csv.writer(stream, lineterminator="\n")
    for number, line in enumerate(lines):
        for point in line.points:
            row = {name: getattr(point, name) for name in COLUMNS} | settings_columns(point) | {"line": line.label}
            if number == 0 and point is line.points[0]:
                rows.writerow(row)
            rows.writerow(row.values())
    return stream.getvalue().encode()


def scaling_text(scaling: Scaling) -> str:
    """The best width and the power law of each line, and the crossings, for a terminal."""
    column = max(len("across widths"), *(len(result.line.label) for result in scaling.results)) + 2
    rows = [f"{'across widths':<{column}}{'widths':>9}{'best':>7}{'bytes':>13}   data bytes against N parameters"]
    for result in scaling.results:
        widths = f"{result.line.widths[0]}-{result.line.widths[-1]}"
        law = law_text(result.data.fit) if result.data.fit else without_law(result.data.why_no_fit, "no power law")
        best = f"{result.shortest.size:>7.0f}{result.shortest.bits / 8:>13,.0f}"
        rows.append(f"{result.line.label:<{column}}{widths:>9}{best}   {law}")
    rows += ["", *(textwrap.fill(note, 100) for note in scaling.notes)] if scaling.notes else []
    for result in scaling.results:
        if result.tied:
            widths = ", ".join(map(str, result.tied))
            told = f"{result.line.label}: width {result.shortest.size:.0f} is {NOT_DISTINGUISHABLE} from {widths}."
            rows += textwrap.wrap(told, 100)
    if scaling.pairs:
        rows += ["", *_pair_lines(scaling.pairs)]
    return "\n".join(rows) + "\n"


def _pair_lines(pairs: list[Pair]) -> list[str]:
    """Which architecture is shorter where: all pairs by width if they are few, and whatever crosses."""
    crossed = [pair for pair in pairs if pair.identified]
    shown = [pair for pair in pairs if pair in crossed or (pair.axis == "width" and len(pairs) <= 2 * MOST_PAIRS)]
    lines = []
    for pair in shown:
        lines.append(f"{pair.first} and {pair.second}, by {pair.axis}")
        lines += [f"  data   {pair.data_verdict}", f"  total  {pair.verdict}"]
    if any(pair.crossings for pair in pairs) and not crossed:
        lines.append(f"Crossings of architectures: {NOT_IDENTIFIED}.")
    elif not crossed:
        lines.append("No two architectures cross.")
    return lines


def law_text(found: Fit) -> str:
    """ "612,000 + 1.2e+08 N^-0.35 (95 %: 0.31 to 0.38)"; letters where a coefficient is not identified."""
    law, (low, high) = found.law, found.exponent_interval
    floor = f"{law.floor_bits / 8:,.0f}" if found.floor_interval else "L∞"
    scale = f"{law.scale_bits / 8:.2g}" if found.scale_interval else "a"
    unknown = " and ".join(text for text in (floor, scale) if text in ("L∞", "a"))
    end = f"; {unknown} {NOT_IDENTIFIED}" if unknown else ""
    return f"{floor} + {scale} N^-{law.exponent:.2f} (95 %: {low:.2f} to {high:.2f}){end}"


def without_law(why: str, what: str) -> str:
    """What stands in the place of a law that there is not: "not identified: ...", or the reason after `what`."""
    return why if why.startswith(NOT_IDENTIFIED) else f"{what}: {why}"


def write_tensorboard(directory: Path, scaling: Scaling, standing: Standing, pictures: dict[str, bytes]) -> None:
    """The mean lengths of every line with the width as step, the verdicts and power laws as text, and the light
    pictures (PNG, by name), as TensorBoard events in `directory`. Takes the place of what an earlier call has written
    there."""
    # torch takes seconds to import, and only sweeps need it here.
    from torch.utils.tensorboard import SummaryWriter

    for earlier in directory.glob(f"events.out.tfevents.*{EVENTS_SUFFIX}"):
        earlier.unlink()
    with SummaryWriter(str(directory), filename_suffix=EVENTS_SUFFIX) as writer:
        writer.add_custom_scalars(LAYOUT)
        for line in scaling.lines:
            tag = re.sub(r"[^-\w.]+", "_", line.label)
            for term in ("total", "data"):
                for width, bits in zip(line.widths, line.by_width(f"{term}_bits")[0], strict=True):
                    writer.add_scalar(f"scaling/{term}_bytes_by_width/{tag}", bits / 8, width)
        for name, text in verdict_texts(scaling, standing).items():
            writer.add_text(name, text)
        for name, content in pictures.items():
            pixels = imread(io.BytesIO(content))
            # Transparent figures, put on white.
            opaque = pixels[..., :3] * pixels[..., 3:] + 1 - pixels[..., 3:]
            writer.add_image(f"figures/{name}", np.ascontiguousarray(opaque), dataformats="HWC")


def verdict_texts(scaling: Scaling, standing: Standing) -> dict[str, str]:
    """What the runs show, and what they do not, as Markdown by the name of its chart."""
    cells = [
        f"| {cell.name} | {data.span} | {data.text} | {total.span} | {total.text} |"
        for cell, data, total in standing.others
    ]
    head = f"| bytes beside {standing.shortest.name} | data, 95 % | | total, 95 % | |\n|---|---|---|---|---|"
    laws = [
        f"| {result.line.label} | {trend.term} | "
        f"{law_text(trend.fit) if trend.fit else without_law(trend.why_no_fit, 'none')} |"
        for result in scaling.results
        for trend in (result.data, result.total)
    ]
    texts = {"verdicts/power_laws": "\n".join(["| | term | bytes against N parameters |\n|---|---|---|", *laws])}
    if cells:
        texts["verdicts/beside_shortest"] = "\n".join(
            [head, *cells, "", " ".join([*standing.sentences(), *standing.method()])]
        )
    if scaling.pairs:
        pairs = [f"| {p.first} and {p.second} | {p.axis} | {p.data_verdict} | {p.verdict} |" for p in scaling.pairs]
        texts["verdicts/architectures"] = "\n".join(["| | by | data | total |\n|---|---|---|---|", *pairs])
    return texts
