"""How fast models of real widths train on this GPU, against a plain GPT of the same shape.

    python benchmarks/gpu.py [--only attention-768,ssd-768] [--minutes 6] [--steps 8] [--commit NAME]
    python benchmarks/gpu.py --small            the same code at small shapes, on a CPU too

One row a model: milliseconds of a training step, tokens per second, model FLOPs utilisation (6 N a token over the rate
of the fastest square product), peak memory, speed and memory as ratios to benchmarks/plain_gpt.py under torch.compile,
and the seconds of the first step, with compiling. Then every block alone, forward and backward over the same tokens;
single-token steps, as archives take them; and the ten largest parts of the first row by the profiler. A row that fails
says why, and the others go on. Rows that would begin after --minutes are left out, and named.

Rows go to benchmarks/results/gpu.csv, or to --save FILE, with the card, PyTorch's version and the commit, and replace
rows of the same names.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])
from launch import entry

entry.begin(__name__)

import csv
import datetime
import gc
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from archive.decoding import code_segment
from benchmarks.overhead import finish
from benchmarks.plain_gpt import plain_step
from benchmarks.result_rows import commit
from data.lanes import Lanes, longest_segment
from model.cuda import use_kernels
from model.registry import BLOCKS, load_block
from train.choice import PIECES
from train.command_line import parse_config
from train.config import BYTE_SYMBOLS, Config, ModelConfig
from train.cost import Peak, device_name, measure_peak
from train.engine import Place, connect, disconnect
from train.graphs import choose_graphs
from train.loop import Learner

COLUMNS = [
    "row", "ms", "tokens_per_sec", "mfu_6n", "peak_bytes", "speed_ratio", "memory_ratio", "first_step_secs", "note",
    "device", "torch", "commit", "date",
]  # fmt: skip
WARM = 4


@dataclass(frozen=True)
class Shape:
    """A model of one block, and its steps. Ratios are to the plain GPT of this width, depth and number of tokens."""

    width: int
    depth: int
    rows: int
    time: int
    vocabulary: int = 16384
    head_width: int = 64

    @property
    def tokens(self) -> int:
        return self.rows * self.time

    @property
    def matrix_parameters(self) -> int:
        """N of a Transformer of this shape, with the output, without tables (Kaplan et al. 2020, section 2.1)."""
        return 12 * self.depth * self.width**2 + self.width * self.vocabulary

    def plain(self, place: Place, compiled: bool) -> Callable[[], object]:
        sizes = self.width, self.depth, self.head_width, self.vocabulary, self.rows, self.time
        return plain_step(*sizes, place.device, compiled)[0]

    def config(self, block: str, window: int, optimizer: Any) -> Config:
        config = Config()
        config.model = ModelConfig(
            block=block, width=self.width, depth=self.depth, head_width=self.head_width, window=window, ngram_orders=[]
        )
        config.train = replace(config.train, lanes=self.rows, segment_tokens=self.time, optimizer=optimizer)
        return config


WIDE, WIDER = Shape(768, 12, 32, 1024), Shape(2048, 16, 8, 1024)
SMALL, SMALLER = Shape(32, 2, 4, 16, 300, 16), Shape(64, 2, 2, 16, 300, 16)


class Bench:
    """What is measured, row after row."""

    def __init__(self, place: Place, options: Any):
        self.place, self.options, self.start = place, options, time.perf_counter()
        self.only = options.only.split(",") if options.only else []
        self.rows: list[dict[str, Any]] = []
        self.stamp = {
            "device": device_name(place.device),
            "torch": torch.__version__,
            "commit": describe_commit(options.commit),
            "date": datetime.date.today().isoformat(),
        }
        self.plain: dict[int, tuple[float, float]] = {}
        cuda = place.device.type == "cuda"
        self.precision: Any = "bf16" if cuda else "fp32"
        self.kernels: Any = "on" if cuda else "off"
        self.compile: Any = ("on" if cuda else "off") if options.compile == "auto" else options.compile
        self.peak: Peak = measure_peak(place.device, torch.bfloat16 if cuda else torch.float32)

    @contextmanager
    def row(self, name: str) -> Iterator[dict[str, Any] | None]:
        """A row to fill, or None if it is not asked for or comes too late. Memory is free again after it."""
        if self.only and not any(name.startswith(part) for part in self.only):
            yield None
            return
        found: dict[str, Any] = {"row": name}
        self.rows.append(found)
        if time.perf_counter() - self.start > 60 * self.options.minutes:
            found["note"] = "left out: --minutes are over"
            yield None
        else:
            if self.place.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            try:
                yield found
            except Exception as error:  # the other rows are still worth having
                found["note"] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        gc.collect()
        if self.place.device.type == "cuda":
            torch.cuda.empty_cache()
        print("  ".join(f"{key} {show(value)}" for key, value in found.items()), file=sys.stderr, flush=True)
        # After each row: a time limit may end the program.
        self.save()

    def save(self) -> None:
        write_rows(Path(self.options.save), [{**found, **self.stamp} for found in self.rows])

    def time(self, found: dict[str, Any], step: Callable[[], object], steps: int = 0) -> None:
        """Fill in milliseconds of a step, median, the time of the first one, and the peak of memory."""
        start = time.perf_counter()
        step()
        finish()
        found["first_step_secs"] = time.perf_counter() - start
        for _ in range(WARM - 1):
            step()
        secs = []
        for _ in range(steps or self.options.steps):
            finish()
            start = time.perf_counter()
            step()
            finish()
            secs.append(time.perf_counter() - start)
        found["ms"] = 1e3 * statistics.median(secs)
        if self.place.device.type == "cuda":
            found["peak_bytes"] = torch.cuda.max_memory_allocated()

    def plain_rows(self, shape: Shape) -> None:
        """The plain GPT, eager and compiled. As people run it: without deterministic algorithms."""
        torch.use_deterministic_algorithms(False)
        for compiled in (False, True):
            with self.row(f"plain-{shape.width}-{'compiled' if compiled else 'eager'}") as found:
                if found is not None:
                    self.time(found, shape.plain(self.place, compiled and self.compile == "on"))
                    self.rate(found, shape)
                    if compiled:
                        self.plain[shape.width] = found["ms"], found.get("peak_bytes", 0.0)
        torch.use_deterministic_algorithms(True)

    def rate(self, found: dict[str, Any], shape: Shape) -> None:
        found["tokens_per_sec"] = 1e3 * shape.tokens / found["ms"]
        found["mfu_6n"] = 6 * shape.matrix_parameters * found["tokens_per_sec"] / self.peak.flops_per_sec

    def build(self, config: Config, vocabulary: int, compiled: Any) -> Learner:
        """A learner as a run on this device has it."""
        config.engine = replace(config.engine, precision=self.precision, kernels=self.kernels, compile=compiled)
        config.engine.graphs = choose_graphs(config, self.place)
        return Learner(config, vocabulary, 0, self.place)

    def learner(self, config: Config, vocabulary: int) -> tuple[Learner, Callable[[], object]]:
        """A learner and its training step over random tokens."""
        learner = self.build(config, vocabulary, self.compile)
        shape = config.train.lanes, longest_segment(config.train.segment_tokens)
        tokens = torch.randint(vocabulary, shape, device=self.place.device)
        plan = Lanes(1000 * tokens.numel(), *shape)
        # Late enough for replay, and before rates fall.
        return learner, lambda: learner.learn(tokens, plan, 10)

    def model_row(self, name: str, shape: Shape, block: str, window: int = 0, optimizer: str = "adamw") -> None:
        """A model of ours, beside the plain GPT."""
        with self.row(name) as found:
            if found is not None:
                torch._dynamo.reset()
                _, step = self.learner(shape.config(block, window or shape.time, optimizer), shape.vocabulary)
                self.time(found, step)
                self.rate(found, shape)
                if shape.width in self.plain:
                    ms, peak = self.plain[shape.width]
                    found["speed_ratio"] = ms / found["ms"]
                    if peak:
                        found["memory_ratio"] = found["peak_bytes"] / peak

    def small_row(self, name: str, arguments: list[str]) -> None:
        """A training step of a configuration that we ship, and a single-token step of coding, unless it has replay,
        which changes nothing there."""
        config = parse_config("", arguments)
        vocabulary = config.data.vocabulary if config.data.tokenizer == "bpe" else BYTE_SYMBOLS
        rows, length = config.train.lanes, longest_segment(config.train.segment_tokens)
        with self.row(name) as found:
            if found is not None:
                torch._dynamo.reset()
                _, step = self.learner(config, vocabulary)
                self.time(found, step, 4 * self.options.steps)
                found["tokens_per_sec"] = 1e3 * rows * length / found["ms"]
        if config.train.replay:
            return
        with self.row(f"coding-{name}") as found:
            if found is not None:
                learner = self.build(config, vocabulary, "off")
                lanes = Lanes(rows * length, rows, length)
                self.time(found, lambda: code_segment(0, learner, lanes, range(lanes.lanes), zeros), 2)
                found["ms"] /= length
                found["note"] = "one token of all lanes"

    def block_rows(self, shape: Shape) -> None:
        """Every block alone, forward and backward."""
        for block in sorted(BLOCKS):
            with self.row(f"block-{block}") as found:
                if found is not None:
                    torch._dynamo.reset()
                    made = load_block(block)(shape.config(block, shape.time, "adamw").model).to(self.place.device)
                    if self.kernels == "on":
                        use_kernels(made)
                    state = made.init_state(shape.rows)
                    if self.compile == "on":
                        made.compile(dynamic=False)
                    x = torch.randn(shape.rows, shape.time, shape.width, device=self.place.device, requires_grad=True)

                    def step(block: Any = made, x: Any = x, state: Any = state) -> None:
                        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                            y, _ = block(x, state)
                        y.sum().backward()

                    self.time(found, step)

    def profile_rows(self, shape: Shape) -> None:
        """The ten largest parts of a step of attention, by the time of the device."""
        with self.row("profile-attention") as found:
            if found is None:
                return
            torch._dynamo.reset()
            _, step = self.learner(shape.config("attention", shape.time, "muon"), shape.vocabulary)
            self.time(found, step)
            with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
                for _ in range(3):
                    step()
                finish()
            cuda = self.place.device.type == "cuda"
            # Kernels alone: PyTorch's operators have the time of the kernels that they launch.
            device = DeviceType.CUDA if cuda else DeviceType.CPU
            times = {
                event.key: event.self_device_time_total if cuda else event.self_cpu_time_total
                for event in profiler.key_averages()
                if event.device_type == device
            }
            total = sum(times.values())
            for name, micros in sorted(times.items(), key=lambda part: -part[1])[:10]:
                note = f"{micros / total:.1%} {name[:120]}"
                self.rows.append({"row": "profile-part", "ms": micros / 3e3, "note": note})


def zeros(bounds: np.ndarray, time: int, below: int) -> np.ndarray:
    """In place of a coder: the first symbol of every row."""
    return np.zeros(len(bounds), np.int64)


def show(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Put rows in the place of those of the same names; the others in the file stay."""
    names, kept = {found["row"] for found in rows}, []
    if path.exists():
        with path.open(newline="") as file:
            kept = [found for found in csv.DictReader(file) if found["row"] not in names]
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows([*kept, *rows])


def describe_commit(given: str) -> str:
    try:
        return given or commit()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def main() -> None:
    parser = entry.Parser(description=__doc__)
    parser.add_argument("--only", default="", help="rows to run, by the start of their names, by commas")
    parser.add_argument("--minutes", type=float, default=6.0, help="no row begins later (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=8, help="steps to take the median of (default: %(default)s)")
    parser.add_argument("--compile", choices=["auto", "on", "off"], default="auto", help="auto: on CUDA")
    parser.add_argument("--small", action="store_true", help="small shapes, to try the command")
    parser.add_argument("--commit", default="", help="of this code, where there is no git")
    parser.add_argument("--save", default=str(Path(__file__).parent / "results" / "gpu.csv"), help="a CSV file")
    options = parser.parse_args()
    place = connect(0, 1800)
    bench = Bench(place, options)
    wide, wider = (SMALL, SMALLER) if options.small else (WIDE, WIDER)
    bench.plain_rows(wide)
    bench.model_row("attention-768-muon", wide, "attention", optimizer="muon")
    bench.model_row("attention-768-adamw", wide, "attention")
    bench.model_row("attention-768-window-128", wide, "attention", window=wide.time // 8)
    for block in sorted(BLOCKS.keys() - {"attention"}):
        bench.model_row(f"{block}-768", wide, block)
    bench.plain_rows(wider)
    bench.model_row("attention-2048-adamw", wider, "attention")
    bench.model_row("attention-2048-muon", wider, "attention", optimizer="muon")
    bench.small_row("default", [])
    bench.small_row("counted-once-default", ["--model.ngram_chunk=0"])
    bench.small_row("replay-default", ["--train.replay=1"])
    # What long plain text gets, at its longest steps.
    pieces = PIECES | {"train.segment_tokens": 64}
    bench.small_row("chosen-pieces", [f"--{name}={value}" for name, value in pieces.items()])
    if place.device.type == "cuda":
        bench.small_row("replay-default-recorded", ["--train.replay=1", "--engine.graphs=on"])
    enwik8 = ["--config", str(Path(sys.path[0]) / "configs" / "enwik8.yaml")]
    bench.small_row("enwik8", [*enwik8, "--model.ngram_rows_log2=10"] if options.small else enwik8)
    bench.block_rows(wide)
    bench.profile_rows(wide)
    bench.save()
    entry.publish(f"{bench.stamp['device']}, torch {torch.__version__}, {bench.peak.flops_per_sec / 1e12:.4g} TFLOP/s")
    for found in bench.rows:
        entry.publish("  ".join(f"{key} {show(value)}" for key, value in found.items()))
    disconnect()


if __name__ == "__main__":
    sys.exit(entry.exit_status(main))
