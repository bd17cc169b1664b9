"""Ranks, devices and DeepSpeed. What depends on the device is here; train/saved_engine.py reads DeepSpeed's files."""

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

if TYPE_CHECKING:
    from train.config import Config


@dataclass(frozen=True)
class Place:
    """Where this process stands among the ranks."""

    rank: int
    world_size: int
    device: torch.device

    def sum(self, values: list[float]) -> list[float]:
        """Sums over all ranks, in float64."""
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        if self.world_size > 1:
            dist.all_reduce(total)
        return total.tolist()

    def gather(self, rows: Tensor) -> Tensor:
        """Rows [B, ...] of all ranks, in order of rank: [world * B, ...]."""
        if self.world_size == 1:
            return rows
        out = rows.new_empty(self.world_size * len(rows), *rows.shape[1:])
        dist.all_gather_into_tensor(out, rows.contiguous())
        return out


def local_ranks() -> int:
    """The number of ranks on this host; torchrun and DeepSpeed have different names for it."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or 1)


def choose_backend(wanted: str, ranks: int, devices: int) -> str:
    """How `ranks` ranks of a host with so many CUDA devices exchange tensors: NCCL takes a device for each."""
    return ("nccl" if ranks <= devices else "gloo") if wanted == "auto" else wanted


def connect(threads: int, timeout_secs: int, backend: str = "auto") -> Place:
    """Join the ranks that a launcher (deepspeed, torchrun) started, or run alone. Fixes what the bits depend on."""
    import deepspeed

    env = os.environ
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    env |= {**alone, "CUBLAS_WORKSPACE_CONFIG": ":4096:8", **env}
    rank, local_rank, world_size = int(env["RANK"]), int(env["LOCAL_RANK"]), int(env["WORLD_SIZE"])
    if world_size == 1:
        # No other rank has to find it, so that any free port does: two runs on one machine do not need the same one.
        env["MASTER_ADDR"], env["MASTER_PORT"] = "127.0.0.1", "0"
    devices = torch.cuda.device_count()
    if devices:
        # Ranks may share a device. DeepSpeed takes this variable for the number of the device.
        local_rank %= devices
        env["LOCAL_RANK"] = str(local_rank)
        torch.cuda.set_device(local_rank)
    # Moments of rare symbols decay to denormal numbers, with which a CPU is several times slower.
    torch.set_flush_denormal(True)
    torch.set_num_threads(threads or max(1, len(os.sched_getaffinity(0)) // local_ranks()))
    # Errors, not warnings: with warnings, CUDA's attention takes forms whose gradients differ from run to run.
    torch.set_deterministic_debug_mode("error")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    # Shared-memory collectives take a minute to compile; gloo's are as good for our few messages.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # DeepSpeed 0.19 makes groups of its own without the time-out that init_distributed gets: they have PyTorch's
    # default, for which PyTorch 2.13 has no public setter.
    timeout = timedelta(seconds=timeout_secs)
    dist.distributed_c10d.default_pg_timeout = dist.distributed_c10d.default_pg_nccl_timeout = timeout
    backend = choose_backend(backend, local_ranks(), devices)
    if backend == "gloo" and not dist.is_initialized():
        # DeepSpeed would bind the group to a device, which is for NCCL. After a run that was refused, there is a group.
        dist.init_process_group(backend, timeout=timeout)
    deepspeed.init_distributed(backend, auto_mpi_discovery=False, timeout=timeout, verbose=False)
    return Place(rank, world_size, torch.device("cuda", local_rank) if devices else torch.device("cpu"))


def deepspeed_config(config: "Config", world_size: int, extra: dict[str, Any]) -> dict[str, Any]:
    """DeepSpeed's configuration, with a user's `extra` keys merged in."""
    rows = config.train.lanes // world_size // config.train.accumulation
    bf16 = config.engine.precision == "bf16"
    return {
        "overlap_comm": False,
        "steps_per_print": 0x7FFFFFFF,
        # Its clock would wait for the device, twice a step.
        "timers": {"throughput": {"enabled": False}},
        # Offload our optimisers as they are: slower than DeepSpeed's own, with the same bits.
        "zero_force_ds_cpu_optimizer": False,
        **extra,
        "train_micro_batch_size_per_gpu": rows,
        "gradient_accumulation_steps": config.train.accumulation,
        "gradient_clipping": config.engine.gradient_clipping,
        "zero_optimization": {
            "overlap_comm": False,
            # DeepSpeed refuses it for muon in stage 3.
            "reduce_scatter": config.engine.zero_stage < 3 or config.train.optimizer == "adamw",
            **extra.get("zero_optimization", {}),
            "stage": config.engine.zero_stage,
        },
        # Autocast keeps parameters, and so recurrences' decays, in fp32; DeepSpeed's bf16 section would cast them.
        "torch_autocast": {"enabled": bf16, "dtype": "bfloat16"},
    }


def build_engine(model: nn.Module, optimizer: torch.optim.Optimizer, settings: dict[str, Any]) -> Any:
    """The DeepSpeed engine that trains `model`."""
    import deepspeed

    engine = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)[0]
    if dist.get_world_size() == 1 and settings["zero_optimization"]["stage"] == 0:
        # A single rank would copy all gradients into a message to itself and back.
        engine.enable_backward_allreduce = False
    return engine


def disconnect() -> None:
    """Leave the ranks, all at the same time: a rank that leaves alone can make its peers abort.

    DeepSpeed forgets its groups, so that this process can connect again."""
    import deepspeed

    if dist.get_world_size() > 1:
        dist.barrier()
    deepspeed.comm.destroy_process_group()
