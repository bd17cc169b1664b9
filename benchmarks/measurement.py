"""A measurement of benchmarks/figures.py, and how the figures that pages quote are read from its results file."""

import csv
import json
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data.errors import UsageError

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"

# By name: a number and its unit.
Figures = dict[str, tuple[float, str]]


@dataclass(frozen=True)
class Entry:
    """One measurement.

    `keeps` is where its results come from: the commands write `file` themselves, or it is the report.json or curve.csv
    of `{run}`, or their standard output.
    """

    name: str
    tier: Literal["minutes", "hours", "gpu"]
    commands: tuple[str, ...]
    measures: tuple[str, ...]
    file: str
    keeps: Literal["file", "report.json", "curve.csv", "stdout"] = "file"
    figures: Callable[[Path], Figures] = lambda path: {}
    # Pages may divide its numbers by these: bytes that are printed as MB, say.
    scales: tuple[int, ...] = (1,)
    # The commands leave out what has a row already, so the file is removed before.
    anew: bool = False
    # The name that pages have for the pictures of `{run}`, its curve for light and for dark pages.
    pictures: str = ""


def from_report(path: Path) -> Figures:
    """The terms of a report.json in bytes, its time, and the other compressors."""
    report = json.loads(path.read_text())
    length = report["description_length"]
    figures: Figures = {
        f"{term}_bytes": (length[f"{term}_bits"] / 8, "bytes")
        for term in ("total", "data", "code", "tokenizer", "side")
    }
    figures["bits_per_byte"] = (length["bits_per_byte"], "bits a byte")
    figures["elapsed_secs"] = (report["cost"]["elapsed_secs"], "s")
    return figures | {f"{name}_bytes": (size, "bytes") for name, size in report["baselines"].items()}


def study_terms(path: Path) -> Figures:
    """Terms of the runs with equal parameters in the study of tokenizers: "kjv-bpe-2048-data", in bytes."""
    figures: Figures = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            figures["corpus"] = float(row["bytes"]), "bytes"
            for term in ("data", "tokenizer", "total") if row["equal"] == "parameters" else ():
                tokenizer = re.sub(r"\W", "-", row["tokenizer"])
                figures[f"{row['corpus']}-{tokenizer}-{term}"] = float(row[f"{term}_bytes"]), "bytes"
    return figures


def last_row(columns: dict[str, str], **wanted: str) -> Callable[[Path], Figures]:
    """Figures of the last row of a CSV file that has the values `wanted`: the `columns`, with their units. Without such
    a row, UsageError."""

    def read(path: Path) -> Figures:
        with path.open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if all(row[name] == value for name, value in wanted.items())]
        if not rows:
            values = ", ".join(f"{name} {value!r}" for name, value in wanted.items())
            raise UsageError(f"{path.name}: no row has {values}. Measure it")
        return {name: (float(rows[-1][name]), unit) for name, unit in columns.items()}

    return read


def picture_checksums(_: Path) -> Figures:
    """CRC-32 of the pictures of the gallery: none of them is another than those that the command took."""
    pictures = {path.stem: path.read_bytes() for path in sorted((ROOT / "docs").glob("gallery-*.png"))}
    return {f"{name.removeprefix('gallery-')}_crc32": (zlib.crc32(data), "CRC-32") for name, data in pictures.items()}


def whole_enwik8(path: Path) -> Figures:
    """The end of a run's curve.csv."""
    with path.open(newline="") as file:
        row = list(csv.DictReader(file))[-1]
    bits = {name: (float(row[f"{name}_bits"]) / 8, "bytes") for name in ("total", "data")}
    return {f"{name}_bytes": value for name, value in bits.items()} | {
        "elapsed_secs": (float(row["elapsed_secs"]), "s")
    }


def whole_xz(path: Path) -> Figures:
    """What xz makes of the whole of enwik8."""
    found = last_row({"xz-9e": "bytes"}, bytes="100000000")(path)
    return {"xz-9e_100000000": found["xz-9e"]}
