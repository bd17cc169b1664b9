"""The live curve of a run: curve.csv for programs, TensorBoard for people. Rank 0 keeps it.

The x axis of every TensorBoard chart is corpus bytes coded. A resumed run goes on from its checkpoint: whatever was
recorded beyond that point is dropped from both.
"""

import csv
import os
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams as hparams_summaries

from data.errors import UsageError
from train.config import flatten
from train.monitors import Monitors

HEADER = ("step", "coded_bytes", "coded_tokens", "data_bits", "total_bits", "elapsed_secs", "tokens_per_sec",
          "learning_rate")  # fmt: skip
# What TensorBoard's HPARAMS page shows of a run, besides its configuration.
RUN_METRICS = ("description_length/total_bytes", "description_length/bits_per_byte", "description_length/ratio",
               "machine/elapsed_secs")  # fmt: skip
# It shows the first five of these, in alphabetical order, and lists the others before the rest of the configuration.
FIRST_HPARAMS = ("data.source", "data.vocabulary", "model.block", "model.depth", "model.width", "train.matrix_lr",
                 "train.seed", "train.table_lr", "train.vector_lr")  # fmt: skip


def unsmoothed(*tags: str) -> dict[str, Any]:
    """A chart for each of `tags`, for a layout. TensorBoard smooths lines by 0.6 at first, which bends sums. It draws
    margins, here of no width, as they are; but finds no tags for them by a regular expression, and puts such charts
    after all others of a category, in reverse."""
    return {tag.split("/")[-1].replace("_", " "): ["Margin", [tag] * 3] for tag in reversed(tags)}


LAYOUT = {
    "So far": unsmoothed("description_length/total_bytes", "description_length/bits_per_byte",
                         "description_length/ratio", "description_length/data_bytes"),
    "Smoothed": {
        "bytes so far, and baselines": ["Multiline", ["description_length/total_bytes", "other_codes/.*"]],
        "bits per byte of data, now": ["Multiline", ["rate/bits_per_byte_now"]],
        "terms, bytes so far": ["Multiline", ["description_length/(data|code|(reference_)?tokenizer)_bytes"]],
    },
}  # fmt: skip
# Baselines, which are flat lines, get a point for so many points of the curve. TensorBoard scales a chart to the middle
# 90 % of its points: so the highest baseline is in view, and nine tenths of the curve.
BASELINE_RECORDS = 8


class Metrics:
    """Call `begin` once, `record` as often as points are wanted and after the last step, then `end` and `close`."""

    def __init__(self, run_dir: Path, resume_from_bytes: int | None, monitors: dict[str, Any] | None = None):
        """`resume_from_bytes`: coded bytes of the checkpoint that the run goes on from; None starts a new curve.
        `monitors`: the loggers that train.monitors.read_monitors found."""
        path = run_dir / "curve.csv"
        self.start = time.monotonic()
        if resume_from_bytes is not None and path.exists():
            self.start -= truncate_curve(path, resume_from_bytes)
        self.file = path.open("x" if resume_from_bytes is None else "a", newline="", encoding="utf-8")
        self.records, self.monitors = 0, Monitors(monitors or {}, run_dir)
        self.rows = csv.writer(self.file, lineterminator="\n")
        if self.file.tell() == 0:
            self.rows.writerow(HEADER)
        # TensorBoard names a run by the folder of its events.
        purge_step = None if resume_from_bytes is None else resume_from_bytes + 1
        self.writer = SummaryWriter(str(run_dir), purge_step=purge_step, flush_secs=10)

    def begin(
        self,
        fixed_bits: dict[str, float],
        baselines: dict[str, Any],
        hparams: dict[str, Any],
        uncharged_bytes: int | None = None,
        flat: bool = True,
    ) -> None:
        """Record what does not change: the terms "code", "tokenizer" and "side", the baselines in bytes, and the
        configuration, nested or flat. `uncharged_bytes` is what a tokenizer would cost that is not charged. TensorBoard
        gets the baselines as `flat` lines of this run, or not at all: write_flat_lines draws them for many."""
        self.fixed_bits = fixed_bits
        self.baselines = flat_lines(baselines)
        self.elsewhere = set() if flat else set(self.baselines)
        if uncharged_bytes is not None:
            self.baselines["description_length/reference_tokenizer_bytes"] = uncharged_bytes
        self.writer.add_custom_scalars(LAYOUT)
        # TensorBoard shows plain values only: others become text.
        shown = {
            name: value if isinstance(value, bool | int | float | str) else str(value)
            for name, value in flatten(hparams).items()
        }
        experiment, session, self.session_end = hparams_summaries(shown, dict.fromkeys(RUN_METRICS))
        put_first(experiment, FIRST_HPARAMS)
        for summary in (experiment, session):
            self.writer.file_writer.add_summary(summary)  # type: ignore[attr-defined]
        self.monitors.begin(shown)
        self.flush()

    def record(
        self, step: int, coded_bytes: int, coded_tokens: int, data_bits: float, bits_per_byte_now: float,
        scalars: dict[str, float],
    ) -> None:  # fmt: skip
        """Record a point of the curve, after `step` steps. Sums are over all ranks, from the start of the corpus;
        `bits_per_byte_now` is the rate since the last point. `scalars` holds `optim/learning_rate`,
        `machine/tokens_per_sec`, and what else is to be charted."""
        total_bits = sum(self.fixed_bits.values(), data_bits)
        elapsed_secs = time.monotonic() - self.start
        rate, learning_rate = scalars["machine/tokens_per_sec"], scalars["optim/learning_rate"]
        sums = (step, coded_bytes, coded_tokens, data_bits, total_bits)
        self.rows.writerow((*sums, f"{elapsed_secs:.3f}", f"{rate:.1f}", learning_rate))
        self.file.flush()
        points = {
            "description_length/total_bytes": total_bits / 8,
            "description_length/data_bytes": data_bits / 8,
            "description_length/code_bytes": self.fixed_bits["code"] / 8,
            "description_length/tokenizer_bytes": self.fixed_bits["tokenizer"] / 8,
            "description_length/bits_per_byte": total_bits / max(coded_bytes, 1),
            "rate/bits_per_byte_now": bits_per_byte_now,
            "description_length/ratio": 8 * coded_bytes / total_bits,
            **scalars,
        }
        if self.records % BASELINE_RECORDS == 0:
            points |= self.baselines
        self.records += 1
        self.write(points, coded_bytes)

    def end(self, report: dict[str, Any]) -> None:
        """Record the cost of the finished run, from its `report` (report.json), and that it is finished."""
        cost = {name: value for name, value in report["cost"].items() if isinstance(value, int | float)}
        points = {f"machine/{name}": value for name, value in cost.items() if name != "tokens_per_sec"}
        self.write(points | self.baselines, report["corpus"]["bytes"])
        self.writer.file_writer.add_summary(self.session_end)  # type: ignore[attr-defined]
        self.flush()

    def write(self, points: dict[str, float], coded_bytes: int) -> None:
        for tag, value in points.items():
            if tag not in self.elsewhere:
                self.writer.add_scalar(tag, value, coded_bytes)
        self.monitors.write(points, coded_bytes)

    def flush(self) -> None:
        """Put all points on disk."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self.writer.flush()

    def close(self, failed: bool = False) -> None:
        """`failed` says that the run has not come to its end."""
        self.file.close()
        self.writer.close()
        self.monitors.close(failed)


def put_first(experiment: Any, names: Collection[str]) -> None:
    """Let TensorBoard list these parameters of an `experiment`, a summary, before all others, by saying that runs
    differ in them."""
    kept = experiment.value[0].metadata.plugin_data
    content = HParamsPluginData.FromString(kept.content)
    for info in content.experiment.hparam_infos:
        info.differs = info.name in names
    kept.content = content.SerializeToString()


def flat_lines(baselines: dict[str, Any]) -> dict[str, Any]:
    """The baselines in bytes, by the names of their charts."""
    return {f"other_codes/{name}_bytes": size_bytes for name, size_bytes in baselines.items()}


def write_flat_lines(folder: Path, baselines: dict[str, Any], corpus_bytes: int) -> None:
    """Let `folder` be a run of TensorBoard's that has nothing except the baselines, unless it is there already."""
    if any(folder.glob("events.*")):
        return
    with SummaryWriter(str(folder)) as writer:
        for tag, size_bytes in flat_lines(baselines).items():
            for coded_bytes in (0, corpus_bytes):
                writer.add_scalar(tag, size_bytes, coded_bytes)


def truncate_curve(path: Path, resume_from_bytes: int) -> float:
    """Drop the rows of a curve.csv after `resume_from_bytes` coded bytes, and an incomplete last line, in one
    truncation. Returns the elapsed seconds of the last row that is kept."""
    kept_bytes, elapsed_secs = 0, 0.0
    with path.open("r+b") as stream:
        for line in stream:
            fields = line.decode().rstrip("\n").split(",")
            if kept_bytes:
                if not line.endswith(b"\n") or int(fields[1]) > resume_from_bytes:
                    break
                elapsed_secs = float(fields[5])
            elif tuple(fields) != HEADER:
                raise UsageError(f"{path} does not begin with {','.join(HEADER)}: it is no curve of this program")
            kept_bytes += len(line)
        stream.truncate(kept_bytes)
        os.fsync(stream.fileno())
    return elapsed_secs
