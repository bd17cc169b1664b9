"""On CUDA: the same numbers as on a CPU, and the same promises. `pytest -m gpu`, on a machine with a device."""

import csv
import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from dist import run, start, wait_until
from trained_run import project_text

from model.lm import LanguageModel
from model.registry import BLOCKS, load_block
from train.config import ModelConfig
from train.optim import orthogonalise

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
TRAIN, COMPRESS, DECOMPRESS = "launch/train.py", "launch/compress.py", "launch/decompress.py"
SMALL = [
    "--model.width=32", "--model.head_width=16", "--model.window=32", "--model.ngram_orders=[1,2,3]",
    "--model.ngram_rows_log2=12", "--train.segment_tokens=32", "--train.lanes=8", "--data.tokenizer=bytes",
    "--run.log_steps=5", "--run.baselines=false",
]  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "source.txt"
    path.write_bytes(project_text()[:30_011])
    return path


def trained(run_dir: Path, corpus: Path, *more: str) -> dict[str, Any]:
    cache = f"--data.cache_dir={corpus.with_name('cache')}"
    done = run(TRAIN, f"--data.source={corpus}", cache, f"--run.dir={run_dir}", *SMALL, *more)
    assert done.returncode == 0, done.stderr
    return json.loads((run_dir / "report.json").read_text())["description_length"]


@pytest.mark.parametrize("name", sorted(BLOCKS))
def test_blocks_give_the_outputs_and_gradients_of_a_cpu(name: str) -> None:
    torch.manual_seed(1)
    block = load_block(name)(ModelConfig(width=32, head_width=16, window=7)).double()
    with torch.no_grad():
        for p in block.parameters():
            p.add_(0.3 * torch.randn_like(p))
    x = torch.randn(3, 23, 32, dtype=torch.float64)
    found = []
    for device in ("cpu", "cuda"):
        block = block.to(device)
        inputs = x.to(device).requires_grad_()
        state, parts = block.init_state(3), []
        for part in inputs.split([20, 1, 2], 1):
            y, state = block(part, state)
            parts.append(y)
        y = torch.cat(parts, 1)
        gradients = torch.autograd.grad(y.square().sum(), [inputs, *block.parameters()])
        found.append([part.detach().cpu() for part in (y, *gradients)])
    for cpu, cuda in zip(*found, strict=True):
        assert cpu.abs().max() > 0
        assert (cpu - cuda).abs().max() < 1e-8 * max(1.0, float(cpu.abs().max()))


@pytest.mark.parametrize("vocabulary", [257, 600])
def test_context_mixing_counts_and_prices_as_on_a_cpu(vocabulary: int) -> None:
    config = ModelConfig(width=32, ngram_orders=[1, 2, 5], ngram_lags=[[2], [1, 3]], ngram_words=4, ngram_rows_log2=10)
    torch.manual_seed(1)
    model = LanguageModel(config, vocabulary)
    tokens = torch.randint(min(vocabulary, 60), (4, model.context + 40))
    counts, nats = [], []
    for device in ("cpu", "cuda"):
        copy = LanguageModel(config, vocabulary)
        copy.load_state_dict(model.state_dict())
        copy.to(device)
        history, targets = tokens[:, :-1].to(device), tokens[:, copy.context :].to(device)
        assert copy.mixing is not None
        copy.mixing.learn(history, targets)
        counts.append(copy.mixing.counts.cpu())
        nats.append(copy(history, copy.init_state(4), targets)[0].detach().cpu())
        # The decoder's way to the same prices: the whole distribution.
        every = copy(history, copy.init_state(4))[0].gather(2, targets[..., None])[..., 0]
        assert (every.detach().cpu() + nats[-1]).abs().max() < 1e-3
    assert counts[0].any()
    assert torch.equal(*counts)
    assert (nats[0] - nats[1]).abs().max() < 1e-3


@pytest.mark.parametrize("shape", [(2, 64, 64), (3, 32, 96), (3, 128, 32)])
def test_orthogonalised_in_bf16_as_in_fp32(shape: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    matrices = torch.randn(shape)
    values = torch.linalg.svdvals(orthogonalise(matrices.cuda()).float()).cpu()
    assert values.min() > 0.3
    assert values.max() < 1.4


@pytest.mark.parametrize("precision, tolerance", [("fp32", 2e-3), ("bf16", 0.02)])
def test_a_run_learns_as_on_a_cpu(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, tolerance: float
) -> None:
    cuda = trained(tmp_path / "cuda", corpus, f"--engine.precision={precision}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    cpu = trained(tmp_path / "cpu", corpus, "--engine.precision=fp32")
    assert cuda["data_bits"] != cpu["data_bits"]
    assert cuda["data_bits"] == pytest.approx(cpu["data_bits"], rel=tolerance)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_zero_stages_learn_alike(corpus: Path, tmp_path: Path, stage: int) -> None:
    bits = [
        trained(tmp_path / str(number), corpus, "--train.optimizer=adamw", f"--engine.zero_stage={number}")["data_bits"]
        for number in (0, stage)
    ]
    assert bits[0] < 6 * 30_011
    assert bits[1] == pytest.approx(bits[0], rel=0.01)


def test_a_killed_run_goes_on_bit_for_bit(corpus: Path, tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole", corpus)
    cache = f"--data.cache_dir={corpus.with_name('cache')}"
    given = [f"--data.source={corpus}", cache, f"--run.dir={tmp_path / 'killed'}", *SMALL, "--run.checkpoint_secs=0.01"]
    process = start(TRAIN, *given)
    path = tmp_path / "killed" / "curve.csv"
    wait_until(lambda: path.exists() and len(path.read_text().splitlines()) >= 3, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "report.json").exists()
    done = run(TRAIN, f"--run.dir={tmp_path / 'killed'}", "--run.resume")
    assert done.returncode == 0, done.stderr
    with path.open() as file:
        *_, last = csv.DictReader(file)
    assert float(last["data_bits"]) == pytest.approx(whole["data_bits"], rel=1e-12)


def test_an_archive_made_on_cuda_comes_back_there(corpus: Path, tmp_path: Path) -> None:
    archive, back = tmp_path / "archive", tmp_path / "back"
    # It repeats itself, so that it comes out smaller with the decoder beside it.
    short = tmp_path / "short"
    short.write_bytes(corpus.read_bytes()[:1_500] * 30)
    done = run(COMPRESS, str(short), str(archive), *SMALL, "--train.lanes=32", "--train.segment_tokens=8")
    assert done.returncode == 0, done.stderr
    done = run(DECOMPRESS, str(archive), str(back))
    assert done.returncode == 0, done.stderr
    assert back.read_bytes() == short.read_bytes()
    assert archive.stat().st_size < short.stat().st_size
