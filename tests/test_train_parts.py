"""Optimiser, schedule, ledger, configuration: small parts against numbers worked out by hand or by PyTorch."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from model.lm import LanguageModel
from train.command_line import OWNED_KEYS, parse_config, read_deepspeed_config, save_config
from train.config import Config, ModelConfig, TrainConfig
from train.engine import Place, choose_backend, deepspeed_config
from train.ledger import Ledger
from train.optim import Muon, build_optimizer, orthogonalise, orthogonalise_together, rate_scale
from train.options import read_tree
from train.ranks import refuse_backend

PLACE = Place(0, 1, torch.device("cpu"))


@pytest.mark.parametrize("shape", [(3, 8, 20), (2, 20, 8), (1, 16, 16)])
def test_orthogonalise_keeps_directions_and_levels_singular_values(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    matrices = torch.randn(shape) * torch.tensor([100.0, 1e-3, 1.0])[: shape[0], None, None]
    out = orthogonalise(matrices)
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    # In the basis of the matrix itself the result is diagonal, with entries near one.
    diagonal = left.mT @ out @ right.mT
    values = diagonal.diagonal(dim1=1, dim2=2)
    assert (diagonal - torch.diag_embed(values)).abs().max() < 1e-3
    assert values.min() > 0.5
    assert values.max() < 1.3


@pytest.mark.parametrize("shape", [(2, 8, 12), (2, 8, 20), (2, 20, 8)])
def test_orthogonalise_moves_singular_values_by_the_quintic(shape: tuple[int, int, int]) -> None:
    """Either of its two ways: matrices at least twice as long as wide go by their Gram matrices."""
    torch.manual_seed(0)
    matrices = torch.randn(shape, dtype=torch.float64)
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    values = values / values.norm(dim=1, keepdim=True)
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    assert (orthogonalise(matrices) - left @ torch.diag_embed(values) @ right).abs().max() < 1e-5


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(2, 64, 64), (3, 32, 96), (3, 128, 32)])
def test_orthogonalise_levels_singular_values_in_any_precision(
    shape: tuple[int, ...], precision: torch.dtype, device: torch.device
) -> None:
    torch.manual_seed(1)
    out = orthogonalise(torch.randn(shape).to(device, precision))
    assert out.dtype == precision
    values = torch.linalg.svdvals(out.float()).cpu()
    assert values.min() > 0.3
    assert values.max() < 1.4


class OneOfRanks:
    """torch.distributed as one of several ranks sees it, whose messages nobody else sends: it notes who would."""

    is_initialized = staticmethod(lambda: True)
    wait = staticmethod(lambda: None)

    def __init__(self, rank: int, world_size: int):
        self.get_rank, self.get_world_size = lambda: rank, lambda: world_size
        self.senders: list[int] = []

    def broadcast(self, matrix: torch.Tensor, src: int, async_op: bool) -> "OneOfRanks":
        self.senders.append(src)
        if src != self.get_rank():
            matrix.fill_(torch.nan)
        return self


@pytest.mark.parametrize("world_size", [2, 3, 8])
def test_ranks_share_out_matrices_and_get_all_of_them(world_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    stacks, senders, done = [torch.randn(3, 4, 9), torch.randn(1, 5, 5), torch.randn(2, 9, 4)], [], []
    expected = [matrix for stack in stacks for matrix in orthogonalise(stack)]
    for rank in range(world_size):
        ranks = OneOfRanks(rank, world_size)
        monkeypatch.setattr("train.optim.dist", ranks)
        parts = [orthogonalise_together(stack, before)[0] for stack, before in zip(stacks, [0, 3, 4], strict=True)]
        mine = [number for number, matrix in enumerate(m for part in parts for m in part) if not matrix.isnan().any()]
        assert mine == [number for number, sender in enumerate(ranks.senders) if sender == rank]
        for number in mine:
            found = [matrix for part in parts for matrix in part][number]
            assert (found - expected[number]).abs().max() < 1e-5
        senders.append(ranks.senders)
        done.append(len(mine))
    assert senders == [senders[0]] * world_size
    assert sum(done) == 6
    assert max(done) == -(-6 // world_size)


def test_muon_treats_other_roles_as_adam_does() -> None:
    torch.manual_seed(0)
    ours, theirs = torch.nn.Parameter(torch.randn(7)), torch.nn.Parameter(torch.zeros(7))
    theirs.data.copy_(ours.data)
    muon = Muon([{"params": [ours], "role": "vector", "lr": 0.1}], momentum=0.9, beta2=0.95, weight_decay=0.0)
    adam = torch.optim.Adam([theirs], lr=0.1, betas=(0.9, 0.95))
    for _ in range(5):
        ours.grad = torch.randn(7)
        theirs.grad = ours.grad.clone()
        muon.step()
        adam.step()
    assert (ours - theirs).abs().max() < 1e-6


def test_muon_step_by_hand() -> None:
    """At the first step the look-ahead has the gradient's direction: the update is -lr times its polar factor."""
    weight = torch.nn.Parameter(torch.zeros(2, 4))
    muon = Muon([{"params": [weight], "role": "matrix", "lr": 0.5}], momentum=0.9, beta2=0.95, weight_decay=0.0)
    weight.grad = torch.tensor([[3.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]])
    muon.step()
    expected = -0.5 * math.sqrt(4 / 2) * orthogonalise(weight.grad[None])[0]
    assert torch.allclose(weight, expected, atol=1e-6)
    assert weight[0, 0] < -0.35
    assert weight[1, 1] < -0.35


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_every_parameter_is_in_exactly_one_group_with_its_rate(optimizer: str) -> None:
    config = TrainConfig(optimizer=optimizer, matrix_lr=0.02, table_lr=0.03, vector_lr=0.005)  # type: ignore[arg-type]
    model = LanguageModel(ModelConfig(width=128, head_width=32), vocabulary=50)
    built = build_optimizer(model, config, width=128)
    grouped = [id(p) for group in built.param_groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())
    rate = {id(p): group["peak_lr"] for group in built.param_groups for p in group["params"]}
    assert rate[id(model.embedding)] == 0.03
    assert rate[id(model.output)] == 0.03 * 64 / 128
    assert rate[id(model.mixing.gate)] == 0.001
    expected = 0.02 if optimizer == "muon" else 0.02 * 20 / 128
    assert rate[id(model.layers[0].mlp.up.weight)] == pytest.approx(expected)


def test_rate_is_flat_and_then_falls_in_a_line() -> None:
    config = TrainConfig(flat_fraction=0.5, final_fraction=0.2)
    assert [rate_scale(p, config) for p in (0, 0.5, 0.75, 1)] == pytest.approx([1, 1, 0.6, 0.2])


def test_ledger_sums_nats_tokens_and_bytes() -> None:
    ledger = Ledger(2, np.array([1, 3, 0]), PLACE)
    ledger.add(torch.tensor([[1.0, 2.0], [4.0, 0.0]]) * math.log(2), np.array([[0, 1], [2, -1]]))
    ledger.add(torch.tensor([[8.0], [0.0]]) * math.log(2), np.array([[1], [-1]]))
    bits, tokens, coded_bytes = ledger.totals()
    assert bits == pytest.approx(15)
    assert (tokens, coded_bytes) == (4, 7)


def test_ledger_keeps_small_costs_beside_large_sums() -> None:
    ledger = Ledger(1, np.array([1]), PLACE)
    ledger.lane_nats += 1e9
    for _ in range(1000):
        ledger.add(torch.full((1, 1), 1e-3), np.zeros((1, 1), np.int64))
    assert ledger.lane_nats.item() - 1e9 == pytest.approx(1.0, rel=1e-4)


def parse(*arguments: str) -> Config:
    return parse_config("", list(arguments))


def test_file_stands_over_defaults_and_options_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("model: {width: 96, depth: 2}\ntrain: {lanes: 4}\n")
    config = parse("--config", str(path), "--model.depth", "3", "--local_rank=1")
    assert (config.model.width, config.model.depth, config.train.lanes) == (96, 3, 4)
    assert config.model.window == ModelConfig().window


def test_saved_configuration_reads_back_the_same(tmp_path: Path) -> None:
    config = parse("--model.ngram_orders", "[1,5]", "--data.source", "x y.txt", "--run.checkpoint_secs", "1.5")
    save_config(config, tmp_path / "c.yaml")
    assert parse("--config", str(tmp_path / "c.yaml")) == config
    assert read_tree(config.to_dict()) == config


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model.widht", "3"], "--model.widht"),
        (["--model.width", "wide"], "model.width"),
        (["--model.width", "0"], "model.width is 0"),
        (["--engine.zero_stage", "4"], "zero_stage"),
        (["--engine.zero_stage", "1", "--engine.gradient_clipping", "1"], "would clip .* --train.optimizer adamw"),
        (["--train.lanes", "6", "--train.accumulation", "4"], "train.lanes 6"),
        (["--train.flat_fraction", "1"], "train.flat_fraction"),
        (["--train.replay", "65"], "take 0 to 64"),
        (["--train.replay", "1", "--train.segment_tokens", "16385"], "16,384 or fewer, not 16,385"),
        (["--model.ngram_orders", "[2,2]"], r"ngram_orders \[2, 2\]"),
        (["--model.ngram_lags", "[[3],[]]"], r"ngram_lags \[\] must be"),
        (["--model.ngram_lags", "[[1,1]]"], r"ngram_lags \[1, 1\] must be"),
        (["--model.ngram_lags", "[[65537]]"], "from 1 to 65,536"),
        (["--model.ngram_lags", "[[1]]", "--model.ngram_orders", "[]"], "give model.ngram_orders"),
        (["--model.ngram_highest", "[[1]]"], r"ngram_highest \[1\] must be"),
        (["--model.ngram_highest", "[[8,8]]"], r"ngram_highest \[8, 8\] must be two numbers that grow, from 0"),
        (["--model.ngram_highest", "[[7,9]]"], r"ngram_highest \[\[7, 9\]\] begins beyond .* 6"),
        (["--model.ngram_highest", "[[1,2]]", "--model.ngram_orders", "[]"], "give model.ngram_orders"),
        (["--model.ngram_words", "7"], "take 0 to 6"),
        (["--model.ngram_embeddings", "[2,5]"], r"ngram_embeddings \[5\] are none of"),
        (["--run.resume"], "run.dir ''"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
    ],
    ids=str,
)
def test_bad_arguments_are_named_in_one_line(arguments: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        parse(*arguments)
    assert "\n" not in str(caught.value)


def test_unknown_key_of_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("model: {widht: 96}\n")
    with pytest.raises(ValueError, match="widht"):
        parse("--config", str(tmp_path / "c.yaml"))
    with pytest.raises(ValueError, match="'widht'"):
        read_tree({"model": {"widht": 96}})


@pytest.mark.parametrize("key", sorted(OWNED_KEYS))
def test_deepspeed_keys_that_are_ours_are_refused_by_name(key: str, tmp_path: Path) -> None:
    head, _, tail = key.partition(".")
    path = tmp_path / "ds.json"
    path.write_text(json.dumps({head: {tail: 1} if tail else 1}))
    with pytest.raises(ValueError, match=f"{key}.*{OWNED_KEYS[key].split()[0]}"):
        read_deepspeed_config(str(path))


def test_a_users_deepspeed_keys_are_merged(tmp_path: Path) -> None:
    path = tmp_path / "ds.json"
    path.write_text('{"wall_clock_breakdown": true, "zero_optimization": {"reduce_bucket_size": 1000}}')
    config = Config(train=replace(TrainConfig(), accumulation=2))
    merged = deepspeed_config(config, 4, read_deepspeed_config(str(path)))
    assert merged["wall_clock_breakdown"] is True
    ours = {"overlap_comm": False, "reduce_scatter": True, "stage": 0}
    assert merged["zero_optimization"] == ours | {"reduce_bucket_size": 1000}
    assert (merged["train_micro_batch_size_per_gpu"], merged["gradient_accumulation_steps"]) == (2, 2)


@pytest.mark.parametrize("content", [None, "{", "[1]"])
def test_a_deepspeed_file_that_is_none_is_named(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "ds.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=r"ds\.json"):
        read_deepspeed_config(str(path))


@pytest.mark.parametrize(
    ("ranks", "devices", "backend"),
    [(1, 0, "gloo"), (4, 0, "gloo"), (1, 1, "nccl"), (2, 1, "gloo"), (8, 8, "nccl"), (9, 8, "gloo")],
)
def test_ranks_talk_over_nccl_where_each_has_a_gpu_and_over_gloo_otherwise(
    ranks: int, devices: int, backend: str
) -> None:
    assert choose_backend("auto", ranks, devices) == backend
    assert choose_backend("gloo", ranks, devices) == "gloo"
    refuse_backend("auto", ranks, devices)
    refuse_backend("gloo", ranks, devices)
    if backend == "nccl":
        assert choose_backend("nccl", ranks, devices) == "nccl"
        refuse_backend("nccl", ranks, devices)
        return
    with pytest.raises(
        ValueError, match=f"nccl needs a GPU for each rank, and this host has {ranks} ranks and {devices}"
    ):
        refuse_backend("nccl", ranks, devices)
