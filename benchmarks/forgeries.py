"""Forgeries of a finished run, for benchmarks/tampering.py and the tests of launch/report.py verify.

A careless forger changes one thing. A careful one also changes what follows from it: sums, checksums, ledgers, the
curve and the report, so that no file contradicts another.
"""

import csv
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.files import file_sha256
from data.lanes import Lanes
from eval.schema import DescriptionLength, load_report
from studies.verify.rerun import MODEL_FILE
from studies.verify.spans import Span, find_spans
from train.checkpoint import POINTER
from train.metrics import HEADER
from train.nats import NATS_FILE, SUMS_FILE, lane_span, read_nats
from train.saved_engine import load_saved

CURVE_FILE, REPORT_FILE = "curve.csv", "report.json"


@dataclass(frozen=True)
class Copy:
    """A copy of a finished run, to be tampered with."""

    run_dir: Path
    lanes: Lanes

    @property
    def spans(self) -> list[Span]:
        return find_spans(self.run_dir, self.lanes.steps)

    @property
    def middle(self) -> Span:
        return self.spans[len(self.spans) // 2]


def open_copy(run_dir: Path) -> Copy:
    return Copy(run_dir, read_nats(run_dir).lanes)


def change_curve(copy: Copy) -> None:
    """A row of the curve says a byte less."""
    path = copy.run_dir / CURVE_FILE
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    row = rows[len(rows) // 2]
    for name in ("data_bits", "total_bits"):
        row[name] = repr(float(row[name]) - 8)
    write_curve(path, rows)


def change_rate(copy: Copy) -> None:
    """A row of the curve has another learning rate."""
    path = copy.run_dir / CURVE_FILE
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    row = rows[len(rows) // 2]
    row["learning_rate"] = repr(float(row["learning_rate"]) * 1.01)
    write_curve(path, rows)


def write_curve(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, HEADER, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


def change_report(copy: Copy) -> None:
    """The report says a byte less, in all of its sums."""
    path = copy.run_dir / REPORT_FILE
    write_data_bits(path, load_report(path).description_length.data_bits - 8)


def write_data_bits(path: Path, data_bits: float) -> None:
    report = load_report(path)
    length = report.description_length
    kept = {f"{name}_bits": getattr(length, f"{name}_bits") for name in ("code", "tokenizer", "side")}
    if length.warm_start_bits:
        kept["warm_start_bits"] = length.warm_start_bits
    made = DescriptionLength(corpus_bytes=report.corpus.bytes, data_bits=data_bits, **kept)
    path.write_bytes(report.model_copy(update={"description_length": made}).content())


def change_nats(copy: Copy) -> None:
    """A token costs the least less that float32 can say."""
    nats = np.load(copy.run_dir / NATS_FILE, mmap_mode="r+")
    index = token_of(copy)
    nats[index] = np.nextafter(nats[index], np.float32(0))
    nats.flush()


def token_of(copy: Copy) -> int:
    """A token in the middle of the middle span, of a lane that is not the first."""
    step = (copy.middle.start + copy.middle.stop) // 2
    return copy.lanes.span(step, copy.lanes.lanes // 2)[0]


def forge_nats(copy: Copy) -> None:
    """The same, and all that follows from it."""
    change_nats(copy)
    refit(copy)


def refit(copy: Copy) -> None:
    """Let every file say what follows from nats.npy."""
    lanes, nats = copy.lanes, np.load(copy.run_dir / NATS_FILE)
    states = {span.stop: span.after for span in copy.spans if span.after}
    with (copy.run_dir / CURVE_FILE).open(newline="") as file:
        rows = {int(row["step"]): row for row in csv.DictReader(file)}
    report = load_report(copy.run_dir / REPORT_FILE)
    lane_nats = torch.zeros(lanes.lanes, dtype=torch.float64)
    for step in range(lanes.steps):
        start, stop = lanes.segment(step)
        block = np.zeros((lanes.lanes, stop - start), np.float32)
        for lane, row in enumerate(block):
            first, last = lane_span(lanes, lane, start, stop)
            row[: last - first] = nats[first:last]
        # As the ledger adds.
        lane_nats += torch.from_numpy(block).double().sum(1)
        if step + 1 in rows:
            data_bits = float(lane_nats.sum()) / math.log(2)
            total_bits = data_bits + report.description_length.fixed_bits
            rows[step + 1] |= {"data_bits": repr(data_bits), "total_bits": repr(total_bits)}
        if step + 1 in states:
            parts = sorted(states[step + 1].rglob("rank-*.pt"))
            for path, part in zip(parts, lane_nats.chunk(len(parts)), strict=True):
                saved = torch.load(path, weights_only=True)
                torch.save(saved | {"lane_nats": part.clone()}, path)
            sign(states[step + 1])
    write_curve(copy.run_dir / CURVE_FILE, list(rows.values()))
    write_data_bits(copy.run_dir / REPORT_FILE, float(lane_nats.sum()) / math.log(2))
    path = copy.run_dir / SUMS_FILE
    sums = json.loads(path.read_text()) | {"sha256": file_sha256(copy.run_dir / NATS_FILE)}
    path.write_text(json.dumps(sums | {"lane_nats": lane_nats.tolist()}))


def sign(state: Path) -> None:
    """Let the latest.json of a state have the SHA-256 of its files."""
    path = state / POINTER
    pointer = json.loads(path.read_text())
    pointer["files"] = {name: file_sha256(state / pointer["tag"] / name) for name in pointer["files"]}
    path.write_text(json.dumps(pointer))


def change_parameter(copy: Copy) -> Path:
    """A parameter in the state after the middle span has another last bit. Returns the state."""
    state = copy.middle.after
    assert state
    (path,) = state.rglob(MODEL_FILE)
    saved = load_saved(str(path))
    tensor = max((one for name, one in saved["module"].items() if name.startswith("layers.")), key=torch.numel)
    with torch.no_grad():
        number = tensor.view(-1)[tensor.numel() // 2 :][:1]
        number.copy_(torch.nextafter(number, number + 1))
    torch.save(saved, path)
    return state


def forge_parameter(copy: Copy) -> None:
    """The same, with its checksum."""
    sign(change_parameter(copy))


# By what is done, a sentence for a table.
FORGERIES: dict[str, Callable[[Copy], Path | None]] = {
    "a row of the curve, by a byte": change_curve,
    "a learning rate in the curve": change_rate,
    "the report's total, by a byte": change_report,
    "the nats of a token, by their last bit": change_nats,
    "a parameter of a kept state, by its last bit": change_parameter,
    "the nats of a token, and all sums": forge_nats,
    "a parameter of a kept state, and its checksum": forge_parameter,
}
