"""One body for every device: `device` runs a test on the CPU, and on CUDA under `pytest -m gpu`."""

import os

import pytest
import torch
from fork_server import ForkingSubprocess

import eval.decoder_imports

# Programs that tests start see a GPU under `pytest -m gpu` alone, so that what they are compared with ran there, too.
CUDA = pytest.param("cuda", marks=pytest.mark.gpu)


def pytest_configure(config: pytest.Config) -> None:
    if "gpu" not in config.getoption("markexpr").replace("not gpu", ""):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    eval.decoder_imports.subprocess = ForkingSubprocess  # type: ignore[attr-defined]


@pytest.fixture(params=["cpu", CUDA])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Where a test runs. What it expects is worked out on the CPU, or by hand, whatever the device."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return torch.device(request.param)


@pytest.fixture
def ranks(device: torch.device) -> int:
    """Two ranks, where there are as many devices."""
    return 2 if device.type == "cpu" else min(2, torch.cuda.device_count())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("gpu") and "device" not in item.fixturenames:  # type: ignore[attr-defined]
            raise pytest.UsageError(f"{item.nodeid} is marked gpu: take `device`, so that its body runs on a CPU, too")
