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

from eval.lines import Line, Point
from eval.scaling import Fit
from eval.scaling_analysis import LineResult, Scaling
from eval.schema import Corpus

FORMAT = 1
COLUMNS = tuple(entry.name for entry in fields(Point) if entry.name not in ("settings", "tokenizer_bits"))
EVENTS_SUFFIX = ".scaling"
LAYOUT = {
    "Scaling": {
        f"{term} bytes by width": ["Multiline", [f"scaling/{term}_bytes_by_width/.*"]] for term in ("total", "data")
    }
}


def scaling_json(scaling: Scaling, corpus: Corpus, best: dict[str, Any] | None) -> bytes:
    """scaling.json. `best` is what selection costs.

    Lengths are in bits. Sizes are widths in `shortest` and `vocabularies`, what `axis` names in `architectures`, and
    parameters beside the embedding in fits and predictions.
    """
    document = {
        "format": FORMAT,
        "corpus": {"name": corpus["name"], "bytes": corpus["bytes"], "sha256": corpus["sha256"]},
        "lines": [_line_values(result) for result in scaling.results],
        "architectures": [asdict(pair) | {"verdict": pair.verdict} for pair in scaling.pairs],
        "vocabularies": {
            family: [
                {
                    "vocabulary": result.line.vocabulary,
                    "width": result.shortest.size,
                    "total_bits": result.shortest.bits,
                }
                for result in results
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


def scaling_csv(lines: Sequence[Line]) -> bytes:
    """scaling.csv: a row a cell. `parameters` are all of them, `flops` those of the epoch, `line` what it lies on."""
    stream = io.StringIO()
    rows = csv.writer(stream, lineterminator="\n")
    rows.writerow([*COLUMNS, "line"])
    for line in lines:
        rows.writerows([*(getattr(point, name) for name in COLUMNS), line.label] for point in line.points)
    return stream.getvalue().encode()


def scaling_text(scaling: Scaling) -> str:
    """The best width and the power law of each line, and the crossings, for a terminal."""
    column = max(len("across widths"), *(len(result.line.label) for result in scaling.results)) + 2
    rows = [f"{'across widths':<{column}}{'widths':>9}{'best':>7}{'bytes':>13}   data bytes against N parameters"]
    for result in scaling.results:
        widths = f"{result.line.widths[0]}-{result.line.widths[-1]}"
        law = law_text(result.data.fit) if result.data.fit else f"no power law: {result.data.why_no_fit}"
        best = f"{result.shortest.size:>7.0f}{result.shortest.bits / 8:>13,.0f}"
        rows.append(f"{result.line.label:<{column}}{widths:>9}{best}   {law}")
    rows += ["", *(textwrap.fill(note, 100) for note in scaling.notes)] if scaling.notes else []
    crossed = [pair for pair in scaling.pairs if pair.crossings]
    if scaling.pairs:
        rows += ["", "shorter total"] if crossed else ["", "No two architectures cross."]
    rows += [f"by {pair.axis}: {pair.verdict}" for pair in crossed]
    return "\n".join(rows) + "\n"


def law_text(found: Fit) -> str:
    """ "612,000 + 1.2e+08 N^-0.35 (95 %: 0.31 to 0.38)"."""
    law, (low, high) = found.law, found.exponent_interval
    floor_bytes, scale_bytes = law.floor_bits / 8, law.scale_bits / 8
    return f"{floor_bytes:,.0f} + {scale_bytes:.2g} N^-{law.exponent:.2f} (95 %: {low:.2f} to {high:.2f})"


def write_tensorboard(directory: Path, scaling: Scaling, pictures: dict[str, bytes]) -> None:
    """The mean lengths of every line with the width as step, and the light pictures (PNG, by name), as TensorBoard
    events in `directory`. Takes the place of what an earlier call has written there."""
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
        for name, content in pictures.items():
            pixels = imread(io.BytesIO(content))
            # Transparent figures, put on white.
            opaque = pixels[..., :3] * pixels[..., 3:] + 1 - pixels[..., 3:]
            writer.add_image(f"figures/{name}", np.ascontiguousarray(opaque), dataformats="HWC")
