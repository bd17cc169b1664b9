"""Blocks that are not of the project, PACKAGE.MODULE:CLASS: found, built, refused in a line, and used everywhere."""

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from dist import run
from torch import nn
from trained_run import project_text

import launch.check_block
from data.errors import UsageError
from eval.code_size import measure_code, unpack
from model.adapter import Stateless
from model.contract import Finding, check_behaviour, check_graphs, check_roles, check_splits, stir
from model.registry import display_names, load_block
from studies.scaling.cells import Grid, make_cells
from train.command_line import parse_config
from train.config import Config, DataConfig, ModelConfig, TrainConfig
from train.optim import build_optimizer
from train.own_blocks import find_own_blocks, refuse_own_blocks

BLOCKS = '''"""Blocks of somebody else."""
import json

import torch
from torch import nn
from torch.nn import functional as F

from .tables import TAPS


class GatedConv(nn.Module):
    """A gated causal convolution, which keeps no state."""

    def __init__(self, width):
        super().__init__()
        self.inputs = nn.Linear(width, 2 * width)
        self.conv = nn.Conv1d(width, width, TAPS, groups=width)
        self.out = nn.Linear(width, width)

    def forward(self, x):
        u, gate = self.inputs(x).chunk(2, -1)
        return self.out(self.conv(F.pad(u.mT, (TAPS - 1, 0))).mT * F.silu(gate))


class Carried(nn.Module):
    def __init__(self, config, *, head_width, taps=3):
        super().__init__()
        assert (head_width, taps) == (config.head_width, 3)
        self.cell = nn.GRU(config.width, config.width, batch_first=True)

    def init_state(self, batch):
        return (self.cell.weight_hh_l0.new_zeros(batch, self.cell.hidden_size),)

    def forward(self, x, state):
        y, last = self.cell(x, state[0].unsqueeze(0).contiguous())
        return y, (last[0],)


class Mean(nn.Module):
    """All that it was given counts, so its outputs depend on where a segment begins."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, width) / width**0.5)

    def forward(self, x):
        return x.cumsum(1) @ self.weight


class Future(Mean):
    def forward(self, x):
        return x.flip(1) @ self.weight


class Noisy(Mean):
    def forward(self, x):
        return F.dropout(x @ self.weight, 0.5, self.training)


class NeedsDim(nn.Module):
    def __init__(self, dim):
        super().__init__()


class Breaks(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.x = torch.zeros(undefined)


class NoForward(nn.Module):
    def init_state(self, batch):
        return (torch.zeros(batch, 1),)

    def forward(self, x):
        return x


class ListState(NoForward):
    def init_state(self, batch):
        return [torch.zeros(batch, 1)]

    def forward(self, x, state):
        return x, state


class Narrower(nn.Module):
    def forward(self, x):
        return x[..., 1:]


class NoModule:
    pass


def unused():
    return json.dumps(1)
'''
CONFIG = ModelConfig(width=16, head_width=8, window=9, ngram_orders=[])


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A package in a folder that is not on the path. It has a name of its own, as a process imports a name once."""
    folder = tmp_path_factory.mktemp("elsewhere") / "their_blocks"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "tables.py").write_text("TAPS = 4\nSPARE = [1, 2, 3]\n")
    (folder / "blocks.py").write_text(BLOCKS)
    before = [*sys.path]
    yield folder
    sys.path[:] = before


def build(package: Path, kind: str) -> Any:
    parse_config("", [f"--model.block={package}/blocks.py:{kind}", "--model.width=16"])
    return load_block(f"their_blocks.blocks:{kind}")(CONFIG)


def refusal(*arguments: str) -> str:
    with pytest.raises(UsageError) as caught:
        parse_config("", list(arguments))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_becomes_a_module_and_a_folder(package: Path) -> None:
    config = parse_config("", [f"--model.block=gru {package}/blocks.py:GatedConv"])
    assert config.model.block == "gru their_blocks.blocks:GatedConv"
    assert config.run.import_dir == str(package.parent)
    assert find_own_blocks(config) == config
    assert str(package.parent) in sys.path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("GatedCnov", "has no class GatedCnov. Did you mean GatedConv?"),
        ("unused", "unused is no class of PyTorch modules: derive it from torch.nn.Module"),
        ("NoModule", "NoModule is no class of PyTorch modules"),
        ("NeedsDim", "its constructor needs 'dim', which is no field of ModelConfig: take width"),
        ("Breaks", "it cannot be built at model.width 128 (NameError: name 'undefined' is not defined, blocks.py line"),
        ("NoForward", "it has init_state, so forward must take a state, too"),
        ("ListState", "the state from init_state(2) must be a tuple of tensors, and is a list of Tensor"),
        ("Narrower", "for x [2, 3, 128] it returns [2, 3, 127]"),
    ],
)
def test_a_wrong_block_is_refused_before_any_work(package: Path, kind: str, message: str) -> None:
    assert message in refusal(f"--model.block={package}/blocks.py:{kind}")


def test_a_wrong_module_or_file_is_refused_before_any_work(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    for name, text in {
        "json.py": "",
        "my-block.py": "",
        "needs_it.py": "import not_there\n",
        "bad.py": "class A(:\n",
    }.items():
        (tmp_path / name).write_text(text)
    assert "there is no module no_such: install its package, or name the file" in refusal("--model.block=no_such:A")
    (tmp_path / "no_such").mkdir()
    assert "It is in this folder: add --run.import_dir ." in refusal("--model.block=no_such.blocks:A")
    assert "missing.py is no Python file" in refusal("--model.block=missing.py:A")
    assert "json is the name of another module" in refusal("--model.block=json.py:A")
    assert "'my-block' cannot be a module's name" in refusal("--model.block=my-block.py:A")
    assert "importing needs_it fails (ModuleNotFoundError: No module named 'not_there', needs_it.py line 1)" in refusal(
        "--model.block=needs_it.py:A"
    )
    assert "importing bad fails (SyntaxError: invalid syntax, bad.py line 1)" in refusal("--model.block=bad.py:A")
    assert "blocks of one run come from one folder" in refusal(f"--model.block=bad.py:A {package}/blocks.py:GatedConv")
    assert "run.import_dir" in refusal("--run.import_dir=nowhere")
    assert "PACKAGE.MODULE:CLASS" in refusal("--model.block=a:b:c")


def test_roles_follow_from_what_a_parameter_is_in(package: Path) -> None:
    model = nn.ModuleList([build(package, "GatedConv"), build(package, "Carried"), build(package, "Mean")])
    roles = {name: (p.role, p.order) for name, p in model.named_parameters()}  # type: ignore[attr-defined]
    assert {name for name, role in roles.items() if role == ("matrix", -1)} == {
        *("0.block.inputs.weight", "0.block.out.weight", "1.cell.weight_ih_l0", "1.cell.weight_hh_l0"),
    }
    assert set(roles.values()) == {("matrix", -1), ("vector", 1)}
    assert check_roles(build(package, "Mean")).verdict == "warning"
    # 16 inputs to 32 outputs, stored the other way round than ours: the same step.
    weight = model[0].block.inputs.weight  # type: ignore[union-attr]
    groups = build_optimizer(model, TrainConfig(), 16).param_groups
    group = next(group for group in groups if any(p is weight for p in group["params"]))
    ours = nn.Parameter(weight.detach().mT.clone())
    ours.role, ours.lr = "matrix", 1.0  # type: ignore[attr-defined]
    theirs, gradient = nn.Parameter(weight.detach().clone()), torch.randn(32, 16)
    theirs.role, theirs.lr, theirs.order = "matrix", 1.0, group["order"]  # type: ignore[attr-defined]
    for p, g in ((ours, gradient.mT), (theirs, gradient)):
        holder = nn.Module()
        holder.weight, p.grad = p, g.contiguous()
        build_optimizer(holder, TrainConfig(), 16).step()
    torch.testing.assert_close(ours.detach(), theirs.detach().mT, rtol=0, atol=1e-6)
    assert not torch.equal(theirs.detach(), weight.detach())


def test_a_module_without_state_is_given_its_last_inputs_again(package: Path) -> None:
    block = stir(build(package, "GatedConv"))
    assert isinstance(block, Stateless)
    # Four taps are within a window of nine.
    assert check_splits(block, 16).verdict == "ok"
    x = torch.randn(2, 5, 16, dtype=torch.float64, requires_grad=True)
    y, (past,) = block(x, block.init_state(2))
    assert past.shape == (2, 8, 16) and not past.requires_grad
    assert torch.equal(past, torch.cat([torch.zeros(2, 3, 16), x.detach()], 1))
    torch.testing.assert_close(y, block.block(torch.cat([torch.zeros(2, 8, 16), x], 1))[:, -5:])  # type: ignore[operator]
    mean = check_splits(stir(build(package, "Mean")), 16)
    assert mean.verdict == "warning" and "root mean square" in mean.found
    assert (
        check_graphs(lambda: build(package, "GatedConv"), 16).found == "1 for the first segment, 0 for the next three"
    )


@pytest.mark.parametrize(
    ("kind", "failing"),
    [("GatedConv", set()), ("Carried", set()), ("Future", {"causality"}), ("Noisy", {"determinism"})],
)
def test_the_checks_of_the_contract_find_what_is_wrong(package: Path, kind: str, failing: set[str]) -> None:
    build(package, kind)
    found = [*check_behaviour(replace(CONFIG, block=f"their_blocks.blocks:{kind}"))]
    bad: list[Finding] = [one for one in found if one.verdict == "failed"]
    assert failing <= {one.check for one in bad}
    assert failing or not bad, bad
    assert all(one.remedy for one in bad)


def test_the_command_says_a_verdict_a_line(
    package: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = ["--width=16", "--model.head_width=8", "--model.window=9"]
    assert launch.check_block.main([f"{package}/blocks.py:GatedConv", *small]) == 0
    lines = capsys.readouterr().out.splitlines()
    torch.use_deterministic_algorithms(False)
    assert lines[0] == "their_blocks.blocks:GatedConv at width 16"
    assert lines[-1].startswith("GatedConv holds the contract")
    for check in ("causality", "single tokens", "widths", "parameters", "flops", "code"):
        assert any(line.startswith(f"  {check:<15}ok") for line in lines), lines
    assert launch.check_block.main(["no_such.module:A"]) == 2
    assert launch.check_block.main(["gru attention"]) == 2
    assert "is a pattern: check one block at a time" in capsys.readouterr().err
    monkeypatch.setattr(launch.check_block, "findings", lambda config: [Finding("rows", "failed", "x", "do y")])
    assert launch.check_block.main(["gru"]) == 1
    torch.use_deterministic_algorithms(False)
    assert "gru does not hold the contract." in capsys.readouterr().out


def test_names_are_short_and_stay_apart() -> None:
    assert display_names(["a.b:Conv", "gru a.b:Conv"]) == {"a.b:Conv": "Conv", "gru a.b:Conv": "gru Conv"}
    assert display_names(["a.b:Conv", "c:Conv"]) == {"a.b:Conv": "a.b:Conv", "c:Conv": "c:Conv"}
    assert display_names(["gru", "a:gru"]) == {"gru": "gru", "a:gru": "a:gru"}


def test_the_code_of_a_block_is_followed_from_its_class(package: Path) -> None:
    build(package, "GatedConv")
    config = Config(DataConfig(tokenizer="bytes"), replace(CONFIG, block="gru"))
    plain = unpack(measure_code(config.to_dict()).packed)[1]
    assert "model/adapter.py" not in plain
    assert "BLOCKS={'gru':'GRU'}" in plain["model/registry.py"]
    config.model.block = "their_blocks.blocks:GatedConv"
    sources = unpack(measure_code(config.to_dict()).packed)[1]
    assert "BLOCKS={}" in sources["model/registry.py"]
    assert sources["their_blocks/tables.py"] == "TAPS=4\n"
    assert "model/adapter.py" in sources
    assert "class GatedConv" in sources["their_blocks/blocks.py"]
    for gone in ("Carried", "unused", "import json", "NoModule"):
        assert gone not in sources["their_blocks/blocks.py"]
    # All else that both need is the same, except parts of layers that the gru needs alone.
    both = (plain.keys() & sources.keys()) - {"model/registry.py", "model/layers.py"}
    assert all(plain[name] == sources[name] for name in both)


def test_no_archive_chooses_what_is_imported(package: Path) -> None:
    with pytest.raises(UsageError, match=r"written with the block os:Evil, .* --embedded"):
        refuse_own_blocks({"model": {"block": "gru os:Evil"}}, Path("an.archive"))
    for damaged in ({}, {"model": 3}, {"model": {"block": 3}}, None):
        with pytest.raises(UsageError, match="damaged"):
            refuse_own_blocks(damaged, Path("an.archive"))
    refuse_own_blocks({"model": {"block": "gru attention"}}, Path("an.archive"))


def test_cells_of_a_sweep_have_short_names(package: Path, tmp_path: Path) -> None:
    given = ["--model.ngram_orders=[]", "--data.tokenizer=bytes", "--model.head_width=8"]
    blocks = ["gru", f"{package}/blocks.py:GatedConv", f"gru {package}/blocks.py:Carried"]
    cells = make_cells(Grid(tmp_path, given, blocks, [16], [0], [], "parameters"))
    assert [cell.name for cell in cells] == ["gru-16", "GatedConv-16", "gru+Carried-16"]
    config = parse_config("", cells[1].arguments)
    assert config.model.block == "their_blocks.blocks:GatedConv"
    assert config.run.import_dir == str(package.parent)


def test_a_block_from_elsewhere_trains_resumes_and_decodes(package: Path, tmp_path: Path) -> None:
    # Enough that an archive is shorter than the text, or it would be stored as it is.
    text = project_text()[:40_000]
    (tmp_path / "text").write_bytes(text)
    small = [f"--data.cache_dir={tmp_path / 'cache'}", "--data.tokenizer=bytes", "--model.width=16", "--model.window=9",
             "--model.head_width=8", "--model.depth=2", "--model.ngram_orders=[]", "--train.lanes=64",
             "--run.baselines=false", "--engine.threads=1", "--engine.timeout_secs=120"]  # fmt: skip
    block = f"--model.block=gru {package}/blocks.py:GatedConv"

    def work(program: str, *arguments: str, ranks: int = 1) -> str:
        done = run(program, *arguments, ranks=ranks, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    source = f"--data.source={tmp_path / 'text'}"
    work("launch/train.py", source, *small, block, "--run.dir=runs/one", "--run.stop_after_steps=3")
    work("launch/train.py", "--run.dir=runs/one", "--run.resume", "--run.stop_after_steps=0")
    work("launch/train.py", source, *small, block, "--run.dir=runs/two", ranks=2)
    one, two = (json.loads((tmp_path / "runs" / name / "report.json").read_text()) for name in ("one", "two"))
    assert one["model"]["block"] == "gru their_blocks.blocks:GatedConv"
    bits = [report["description_length"]["data_bits"] for report in (one, two)]
    assert bits[0] == pytest.approx(bits[1], rel=1e-6)
    work("launch/report.py", "runs")
    compared = (tmp_path / "runs/comparison.csv").read_text()
    assert "gru GatedConv" in compared and "their_blocks" not in compared
    work("launch/compress.py", "text", "an.archive", *small, block)
    refused = run("launch/decompress.py", "an.archive", "back", cwd=tmp_path)
    assert refused.returncode == 1
    assert "their_blocks.blocks:GatedConv, which is not of this project" in refused.stderr
    shutil.rmtree(package)
    work("launch/decompress.py", "an.archive", "back", "--embedded")
    assert (tmp_path / "back").read_bytes() == text
