"""What a run costs: time, arithmetic, memory.

Model FLOPs utilisation (MFU) is the model's operations per second, as a fraction of the fastest matrix products
measured on the same device in the same precision. There are two conventions for the numerator:

    mfu      three times the operations of a forward pass, attention's scores among them (Chowdhery et al. 2022,
             arXiv:2204.02311, appendix B), as train/flops.py counts them
    mfu_6n   6 N a token (Kaplan et al. 2020, arXiv:2001.08361, section 2.1), N the network's parameters with the output
             layer, without the tables of which a token takes one row

Neither has elementwise work, such as a scan's: `elementwise_flops` counts it.
"""

import math
import platform
import re
import resource
import time
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from data.lanes import Lanes, read_stages
from train.flops import Work, forward_work
from train.loop import Learner

CLEAR_REFS = Path("/proc/self/clear_refs")
CPU_INFO = Path("/proc/cpuinfo")
# Sides of the square products that are tried, repetitions of each at most, and the time for one side at most.
SIDES = (256, 512, 1024, 2048, 4096, 8192)
REPEATS = 10
SIDE_SECS = 0.15


@dataclass(frozen=True)
class Peak:
    """The fastest square product [side, side] on one device."""

    flops_per_sec: float
    side: int
    dtype: str


def product_secs(device: torch.device, dtype: torch.dtype, side: int, repeats: int = REPEATS) -> float:
    """The shortest time of `repeats` products [side, side]. On CUDA the device's clock measures it, without the time to
    launch a kernel."""
    a = torch.randn(side, side, device=device).to(dtype)
    out = torch.empty_like(a)
    torch.mm(a, a, out=out)
    if device.type != "cuda":
        secs = []
        for _ in range(repeats):
            start = time.perf_counter()
            torch.mm(a, a, out=out)
            secs.append(time.perf_counter() - start)
        return min(secs)
    marks: list[Any] = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
    marks[0].record()
    for mark in marks[1:]:
        torch.mm(a, a, out=out)
        mark.record()
    torch.cuda.synchronize(device)
    return min(first.elapsed_time(then) for first, then in pairwise(marks)) / 1e3


def mean_number(schedule: int | str, start: float, stop: float) -> float:
    """Of a schedule, between two fractions of the epoch."""
    overlaps = (
        number * max(0.0, min(stop, end) - max(start, begin))
        for (number, begin), (_, end) in pairwise([*read_stages(schedule), (0, 1.0)])
    )
    return sum(overlaps) / (stop - start)


def free_bytes(device: torch.device) -> float:
    """Memory that PyTorch could give to new tensors. On a CPU the products are too small to matter."""
    if device.type != "cuda":
        return math.inf
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused


def measure_peak(device: torch.device, dtype: torch.dtype) -> Peak:
    """The denominator of MFU: the highest rate of square products of growing sides, in the precision of the run
    (`dtype`; for fp32 on CUDA also PyTorch's setting of TF32). The sides end where a product would take more than
    SIDE_SECS, or half of the free memory."""
    name = str(dtype).removeprefix("torch.")
    if device.type == "cuda" and dtype == torch.float32 and torch.backends.cuda.matmul.fp32_precision == "tf32":
        name = "tf32"
    best = Peak(0.0, 0, name)
    for side in SIDES:
        # Time grows with the cube of the side at most. There are at least two products: the first one is not timed.
        expected_secs = 2 * side**3 / best.flops_per_sec if best.side else 0.0
        if 2 * expected_secs > SIDE_SECS or 16 * side**2 > free_bytes(device) / 2:
            break
        repeats = REPEATS if 4 * REPEATS * expected_secs < SIDE_SECS else max(1, int(SIDE_SECS / 4 / expected_secs))
        rate = 2 * side**3 / product_secs(device, dtype, side, repeats)
        best = max(best, Peak(rate, side, name), key=lambda peak: peak.flops_per_sec)
    if device.type == "cpu" and dtype == torch.bfloat16:
        # Without instructions for bf16, they are faster as products of fp32, and so is what autocast leaves in fp32.
        widened = measure_peak(device, torch.float32)
        best = max(best, replace(widened, dtype=name), key=lambda peak: peak.flops_per_sec)
    return best


def run_dtype(learner: Learner) -> torch.dtype:
    """The precision of a run's matrix products."""
    return torch.bfloat16 if learner.engine.torch_autocast_enabled() else torch.float32


def device_name(device: torch.device) -> str:
    """The name of the device; for a processor, with the threads of a rank."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{processor_name()}, {threads} thread{'s' if threads > 1 else ''}"


def processor_name() -> str:
    """The system's name for it, such as "Intel(R) Xeon(R) Processor"."""
    info = CPU_INFO.read_text(errors="replace") if CPU_INFO.exists() else ""
    names = [line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def peak_rss_bytes() -> int:
    """Largest resident memory of this process since Cost.begin, where the system can tell."""
    if CLEAR_REFS.exists():
        status = CLEAR_REFS.with_name("status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def find_embeddings(model: Any) -> set[str]:
    """The names of the tables of embeddings among a model's parameters: one, or that of each member."""
    network = getattr(model, "network", None)
    if network is None:
        return {name for name, _ in model.named_parameters() if own_name(name) == "embedding"}
    table = network.get_input_embeddings().weight
    return {name for name, p in model.named_parameters() if p is table}


def own_name(name: str) -> str:
    """A parameter's name in its member of a model.mixture.Mixture; in other models the name itself."""
    return re.sub(r"^members\.\d+\.", "", name)


def is_tied(model: Any) -> bool:
    """Whether that table is the output layer's, too."""
    network = getattr(model, "network", None)
    return network is not None and network.get_input_embeddings().weight is network.get_output_embeddings().weight


class Cost:
    """The clock of a run that has already taken `earlier_secs`, and what its model needs."""

    def __init__(self, learner: Learner, lanes: Lanes, earlier_secs: float):
        self.learner, self.lanes = learner, lanes
        sizes = {name: getattr(p, "ds_numel", p.numel()) for name, p in learner.model.named_parameters()}
        self.parameters = sum(sizes.values())
        embeddings = find_embeddings(learner.model)
        self.parameters_non_embedding = self.parameters - sum(sizes[name] for name in embeddings)
        # Nearly all of context mixing's parameters are such tables.
        tables = "grams", "recalled", "seen"
        looked_up = {name for name in sizes if own_name(name) in tables or own_name(name).startswith("mixing.")}
        if not is_tied(learner.model):
            looked_up |= embeddings
        self.matrix_parameters = sum(size for name, size in sizes.items() if name not in looked_up)
        self.earlier_secs = earlier_secs

    def begin(self) -> None:
        """Start the clock, and reset the peak of memory: what came before, such as baselines, is not the run's."""
        if CLEAR_REFS.exists():
            CLEAR_REFS.write_text("5")
        self.start = time.monotonic() - self.earlier_secs
        self.last_call = time.monotonic()

    @property
    def elapsed_secs(self) -> float:
        return time.monotonic() - self.start

    def points(self, tokens: int, steps: int) -> dict[str, float]:
        """Charts of the time since the last call, in which `tokens` were coded in `steps` steps, and of memory."""
        then, self.last_call = self.last_call, time.monotonic()
        secs = self.last_call - then
        return {
            "machine/tokens_per_sec": tokens / secs,
            "machine/ms_per_step": 1000 * secs / max(steps, 1),
            "machine/peak_memory_bytes": self.peak_memory_bytes(),
        }

    def peak_memory_bytes(self) -> int:
        """Of this rank: on the device, or of the process on a CPU."""
        device = self.learner.place.device
        return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_rss_bytes()

    def work(self) -> tuple[Work, float]:
        """The work of all forward passes of the epoch, and the tokens in them; padding is counted as work."""
        model, device, schedule = self.learner.model, self.learner.place.device, self.learner.config.replay
        lanes, whole, tokens = self.lanes, Work(0, 0, []), 0.0
        for (_, start, length), (_, stop, _) in pairwise(lanes.stages):
            stage_tokens = min(stop, lanes.lane_tokens) - start
            if stage_tokens <= 0:
                continue
            segment = min(length, stage_tokens)
            work, learned = forward_work(model, segment, device), float(segment)
            if replayed := mean_number(schedule, start / lanes.stages[-1][1], stop / lanes.stages[-1][1]):
                work += forward_work(model, 2 * length, device, alone=True).times(replayed)
                learned += replayed * 2 * length
            segments = lanes.lanes * stage_tokens / segment
            whole, tokens = whole + work.times(segments), tokens + learned * segments
        return whole, tokens

    def summary(self) -> dict[str, Any]:
        """The `cost` section of a report. A backward pass counts as two forward passes; padding is counted as work.
        Without `mfu` where an operator of the model has no formula: `uncounted` names it."""
        elapsed_secs, place = self.elapsed_secs, self.learner.place
        # Before measure_peak, which needs memory, too.
        memory = self.peak_memory_bytes()
        work, learned = self.work()
        peak = measure_peak(place.device, run_dtype(self.learner))
        available = elapsed_secs * peak.flops_per_sec * place.world_size
        known = {"uncounted": work.uncounted} if work.uncounted else {"mfu": 3.0 * work.flops / available}
        return {
            "world_size": place.world_size,
            "optimizer_steps": self.lanes.steps,
            "elapsed_secs": elapsed_secs,
            "tokens_per_sec": self.lanes.tokens / elapsed_secs,
            "model_flops": 3.0 * work.flops,
            "elementwise_flops": 3.0 * work.elementwise,
            **known,
            "mfu_6n": 6 * self.matrix_parameters * learned / available,
            "peak_flops_per_sec": peak.flops_per_sec,
            "peak_shape": [peak.side] * 3,
            "peak_dtype": peak.dtype,
            "device": device_name(place.device),
            "peak_memory_bytes": memory,
        }
