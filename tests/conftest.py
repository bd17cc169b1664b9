"""One body for every device: `device` runs a test on the CPU, and on CUDA under `pytest -m gpu`."""

import os
from collections.abc import Iterator

import pytest
import torch
from cpu_durations import CpuDurations
from fork_program import fork_decoder
from small_run import cache, corpus, undisturbed  # noqa: F401

import eval.decoder_imports

# Programs that tests start see a GPU under `pytest -m gpu` alone, so that what they are compared with ran there, too.
CUDA = pytest.param("cuda", marks=pytest.mark.gpu)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write_golden", action="store_true", help="write what tests/test_model_golden.py compares with")
    parser.addoption("--cpu_durations", type=int, metavar="N", help="print the N tests with the largest CPU seconds")


def pytest_configure(config: pytest.Config) -> None:
    if "gpu" not in config.getoption("markexpr").replace("not gpu", ""):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if config.getoption("cpu_durations") is not None:
        config.pluginmanager.register(CpuDurations(config.getoption("cpu_durations")))
    fork_decoder(eval.decoder_imports)


@pytest.fixture(autouse=True)
def subnormal_numbers() -> Iterator[None]:
    """A test that connects ranks in this process leaves PyTorch without them (train/engine.py)."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture(params=["cpu", CUDA])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Where a test runs. What it expects is worked out on the CPU, or by hand, whatever the device."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return torch.device(request.param)


@pytest.fixture
def ranks(device: torch.device) -> int:
    """Two ranks; on a single GPU they share it, over gloo."""
    return 2


# The longest first, so that two workers end together.
LONGEST = [
    "test_launch_ranks", "test_archive", "test_launch_train", "test_archive_warm_start", "test_scaling_sweep",
    "test_launch_entry", "test_scaling_slurm", "test_archive_embedded", "test_pruning_command",
    "test_launch_from_python",
]  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))
    for item in items:
        if item.get_closest_marker("gpu") and "device" not in item.fixturenames:  # type: ignore[attr-defined]
            raise pytest.UsageError(f"{item.nodeid} is marked gpu: take `device`, so that its body runs on a CPU, too")
