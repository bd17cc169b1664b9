"""What a run costs: time, arithmetic, memory."""

import resource
import time
from pathlib import Path
from typing import Any

import torch

from data.lanes import Lanes
from train.flops import forward_flops
from train.loop import Learner

CLEAR_REFS = Path("/proc/self/clear_refs")


def gemm_flops_per_sec(device: torch.device, dtype: torch.dtype, size: int = 1024, repeats: int = 10) -> float:
    """Rate of square matrix products [size, size], the yardstick of MFU: best of `repeats`."""
    a = torch.randn(size, size, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        a @ a
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def peak_rss_bytes() -> int:
    """Largest resident memory of this process since the mark was last set."""
    if CLEAR_REFS.exists():
        status = CLEAR_REFS.with_name("status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Cost:
    """The clock of a run that has already taken `earlier_secs`, and what its model needs."""

    def __init__(self, learner: Learner, lanes: Lanes, earlier_secs: float):
        self.learner, self.lanes = learner, lanes
        sizes = {name: getattr(p, "ds_numel", p.numel()) for name, p in learner.model.named_parameters()}
        self.parameters = sum(sizes.values())
        self.parameters_non_embedding = self.parameters - sizes["embedding"]
        self.earlier_secs = earlier_secs

    def begin(self) -> None:
        """Start the clock, and the high-water mark of memory: compressing the baselines, say, is not the run's."""
        if CLEAR_REFS.exists():
            CLEAR_REFS.write_text("5")
        self.start = time.monotonic() - self.earlier_secs
        self.last_call = time.monotonic()

    @property
    def elapsed_secs(self) -> float:
        return time.monotonic() - self.start

    def tokens_per_sec(self, tokens: int) -> float:
        """Rate of the `tokens` coded since the last call."""
        then, self.last_call = self.last_call, time.monotonic()
        return tokens / (self.last_call - then)

    def summary(self) -> dict[str, Any]:
        """The `cost` section of a report. A backward pass counts as two forward passes; padding is counted as work."""
        elapsed_secs, place = self.elapsed_secs, self.learner.place
        segment = min(self.lanes.segment_tokens, self.lanes.lane_tokens)
        segments = self.lanes.lanes * self.lanes.lane_tokens / segment
        flops = forward_flops(self.learner.model, segment, place.device)
        if replay := self.learner.replay:
            again = forward_flops(self.learner.model, replay.tokens, place.device, alone=True)
            flops += self.learner.config.replay * again
        model_flops = 3 * flops * segments
        dtype = torch.bfloat16 if self.learner.engine.torch_autocast_enabled() else torch.float32
        peak = gemm_flops_per_sec(place.device, dtype) * place.world_size
        cuda = place.device.type == "cuda"
        return {
            "world_size": place.world_size,
            "optimizer_steps": self.lanes.steps,
            "elapsed_secs": elapsed_secs,
            "tokens_per_sec": self.lanes.tokens / elapsed_secs,
            "model_flops": model_flops,
            "mfu": model_flops / elapsed_secs / peak,
            "peak_memory_bytes": torch.cuda.max_memory_allocated(place.device) if cuda else peak_rss_bytes(),
        }
