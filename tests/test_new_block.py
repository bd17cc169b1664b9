"""A new architecture is one file and one line: in a copy of the project with a block more, everything finds it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from dist import ROOT
from test_mutants import PARTS

BLOCK = '''"""A leaky average of each channel.

Paper: Nobody 2026, "Toy" (arXiv:2601.00001).
"""

import torch
from torch import nn

from model.layers import Linear, parameter, precise


class Toy(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.width = config.width
        self.inputs = Linear(config.width, config.width)
        self.memory = parameter(torch.linspace(0.0, 6.2, config.width), "vector", lr=0.1)
        self.out = Linear(config.width, config.width, gain=0.0)

    def init_state(self, batch):
        return (self.memory.new_zeros(batch, self.width),)

    def forward(self, x, state):
        (h,), found = state, []
        for now in precise(self.inputs(x)).unbind(1):
            h = torch.lerp(now, h, self.memory.sigmoid())
            found.append(h)
        return self.out(torch.stack(found, 1)), (h,)


def pruning_groups(block):
    channels = torch.arange(len(block.memory))
    out = ("out.weight", 0, channels)
    owned = [("inputs.weight", 1, channels), ("memory", 0, channels), out]
    return "channels", len(channels), owned, [out], lambda left: {"width": left}
'''
# Tests that take all blocks together; the others have the block's name in theirs.
TOGETHER = [
    "tests/test_eval_code_size.py::test_modules_that_only_some_configurations_import_are_charged_to_those",
    "tests/test_train_cost.py::test_every_operator_of_every_block_is_counted",
]
PYTEST = ["-m", "pytest", "-p", "no:cacheprovider"]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy with one file and one line more."""
    folder = tmp_path_factory.mktemp("project")
    for part in [*PARTS, "docs", "CONTRIBUTING.md"]:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, folder / part)
    (folder / "model/blocks/toy.py").write_text(BLOCK)
    registry = folder / "model/registry.py"
    changed = registry.read_text().replace("BLOCKS = {\n", 'BLOCKS = {\n    "toy": "Toy",\n')
    assert changed != registry.read_text()
    registry.write_text(changed)
    return folder


def run(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    return subprocess.run(
        [sys.executable, *arguments], cwd=project, env=environment, capture_output=True, text=True, timeout=600
    )


@pytest.mark.slow
def test_tests_go_over_it_once_its_golden_losses_are_written(project: Path) -> None:
    golden = [*PYTEST, "tests/test_model_golden.py", "-k", "toy"]
    done = run(project, *golden)
    assert done.returncode == 1 and "tests/test_model_golden.py -k toy --write_golden" in done.stdout
    assert run(project, *golden, "--write_golden").returncode == 0
    done = run(project, *PYTEST, "-rA", "tests", "-k", "toy")
    assert done.returncode == 0, done.stdout[-3000:]
    files = set(re.findall(r"^PASSED tests/(\w+)\.py::", done.stdout, re.MULTILINE))
    assert files >= {
        "test_archive_coding", "test_model_blocks", "test_model_golden", "test_model_recurrent",
        "test_pruning_surgery", "test_sampling", "test_scaling_cells", "test_train_checkpoint",
    }  # fmt: skip
    done = run(project, *PYTEST, *TOGETHER)
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.slow
def test_it_is_found_by_commands(project: Path) -> None:
    done = run(project, "launch/check_block.py", "toy")
    assert done.returncode == 0 and "toy holds the contract." in done.stdout, done.stdout
    (project / "text.txt").write_bytes((ROOT / "LICENSE").read_bytes()[:4000])
    given = ["--widths=16", "--model.head_width=8", "--data.tokenizer=bytes", "--data.source=text.txt", "--jobs=1"]
    done = run(project, "launch/sweep.py", "--dir=runs", "--blocks=gru,toy", *given, "--data.cache_dir=cache")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "toy" in (project / "runs/comparison.csv").read_text()


@pytest.mark.slow
def test_the_table_of_blocks_is_out_of_date_until_it_is_written(project: Path) -> None:
    page = project / "docs/blocks.md"
    check = "from benchmarks import pages; print(*pages.check(), sep='\\n')"
    write = (
        f"from benchmarks.pages import *; page = Path({str(page)!r}); page.write_text(written(page.read_text(), {{}}))"
    )
    assert "docs/blocks.md: its table of blocks" in run(project, "-c", check).stdout
    assert run(project, "-c", write).returncode == 0
    assert "| `toy` | A leaky average of each channel | Nobody 2026 (arXiv:2601.00001) |" in page.read_text()
    assert "blocks.md" not in run(project, "-c", check).stdout
