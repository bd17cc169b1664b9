"""Whole networks of the transformers library: from what a user gives to bits, reports and archives."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from dist import run
from plain_engine import PlainEngine
from test_archive_coding import Case, corpus_source, decode, encode, new_learner, new_ledger
from trained_run import project_text

from data.errors import UsageError
from eval.code_size import decoder_values, measure_code, unpack
from eval.network_code import measure_network
from launch.sweep import read_blocks
from model.build import build_model
from model.network_parts import NetworkInParts
from model.registry import display_names
from studies.scaling.cells import Grid, make_cells
from train.command_line import parse_config
from train.config import Config, DataConfig, ModelConfig, TrainConfig
from train.cost import Cost
from train.loop import one_epoch
from train.networks import describe_network, resolve_network
from train.optim import build_optimizer
from train.own_blocks import refuse_own_blocks

SMALL = ModelConfig(width=16, head_width=8, depth=1, window=16, ngram_orders=[])
# Each of two layers sees three tokens back, so nothing is lost beyond a window of 16.
LOCAL = "transformers:mistral,sliding_window=4"
SAMPLES = {
    "llama": "transformers:llama",
    "gpt2": "transformers:gpt2",
    "mamba2": "transformers:mamba2,n_groups=1,state_size=8,chunk_size=8",
    "bamba": "transformers:bamba,attn_layer_indices=[1],mamba_chunk_size=8,mamba_d_state=8",
}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def resolved(network: str, **fields: Any) -> ModelConfig:
    return resolve_network(replace(SMALL, network=network, **fields))


def build(network: str, vocabulary: int = 257, **fields: Any) -> Any:
    torch.manual_seed(0)
    return build_model(resolved(network, **fields), vocabulary)


def test_a_type_takes_its_sizes_from_our_fields() -> None:
    model = resolved("transformers:llama,num_key_value_heads=1", depth=3, expansion=2.0)
    assert json.loads(model.network.removeprefix("transformers:")) == {
        "model_type": "llama",
        "hidden_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "intermediate_size": 32,
    }
    assert model.block == "transformers:llama"
    assert resolve_network(model) == model
    assert describe_network(resolved("transformers:llama,hidden_act=relu").network) == 'hidden_act "relu"'
    assert describe_network("") == describe_network(model.network) == ""
    # Widths are no settings of their own.
    for text in SAMPLES.values():
        one, two = (resolved(text, width=width) for width in (16, 32))
        assert describe_network(one.network) == describe_network(two.network)


def test_a_file_says_the_sizes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.json"
    values = {
        "model_type": "llama",
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 30,
        "torch_dtype": "bfloat16",
        "vocab_size": 9,
        "rope_theta": 100.0,
        "newer": 1,
        "architectures": ["LlamaForCausalLM"],
        "attention_dropout": 0.25,
        "pad_token_id": 0,
    }
    path.write_text(json.dumps(values))
    default = ModelConfig(ngram_orders=[])
    model = resolve_network(replace(default, network=f"transformers:{path},num_key_value_heads=1"))
    assert (model.width, model.depth, model.head_width, model.expansion) == (24, 2, 8, 1.25)
    assert resolve_network(model) == model
    said = capsys.readouterr().err
    assert "llama has no newer; left out" in said
    assert "no dropout: attention_dropout was 0.25" in said
    network = build_model(model, 257).network
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert network.config.rope_parameters["rope_theta"] == 100.0
    assert network.config.attention_dropout == 0.0
    assert network.get_input_embeddings().weight.shape == (257, 24)
    # Every symbol has an embedding that learns.
    assert network.get_input_embeddings().padding_idx is None
    path.write_text(json.dumps({"model_type": "mamba2", "time_step_limit": [0.0, {"__float__": "Infinity"}]}))
    assert resolved(f"transformers:{path}").width == 16


def test_roles_follow_from_what_a_parameter_is_in() -> None:
    for text in SAMPLES.values():
        model = build(text, depth=2)
        kinds = {name: type(part).__name__ for name, part in model.named_modules()}
        for name, p in model.named_parameters():
            kind = kinds[name.rpartition(".")[0]]
            head = p is model.network.get_output_embeddings().weight
            expected = (
                ("table", 64 / 16, 1) if head else ("table", 1.0, 1) if kind == "Embedding"
                else ("matrix", 1.0, -1) if kind == "Linear" and p.ndim == 2
                else ("matrix", 1.0, 1) if kind == "Conv1D" and p.ndim == 2 else ("vector", 1.0, 1)
            )  # fmt: skip
            assert (p.role, p.lr, getattr(p, "order", 1)) == expected, name
        groups = build_optimizer(model, TrainConfig(), 16).param_groups
        assert sum(len(group["params"]) for group in groups) == len({*model.parameters()})


def test_parameters_that_are_tied_count_once() -> None:
    lanes = Case(9).lanes
    costs = []
    for tied in ("true", "false"):
        learner: Any = type("Learner", (), {"model": build(f"transformers:llama,tie_word_embeddings={tied}")})
        costs.append(Cost(learner, lanes, 0.0))
    tied, free = costs
    assert free.parameters - tied.parameters == free.parameters - free.parameters_non_embedding == 257 * 16
    # The table that is the output layer, too, is multiplied with every token.
    assert tied.matrix_parameters == free.matrix_parameters


def test_any_segments_within_the_window_give_the_same_bits() -> None:
    """A network that looks no further back than the window, in double precision: nats and single tokens."""
    model = build(LOCAL, depth=2).double()
    tokens = torch.randint(257, (3, 41), generator=torch.Generator().manual_seed(1))
    before = torch.full((3, model.context), 256)
    whole = torch.cat([before, tokens], 1)

    def nats(lengths: list[int]) -> torch.Tensor:
        found, state, start = [], model.init_state(3), 0
        for length in lengths:
            history = whole[:, start : start + model.context - 1 + length]
            cost, state = model(history, state, tokens[:, start : start + length])
            assert state[0].shape == (3, 0)
            found.append(cost)
            start += length
        return torch.cat(found, 1)

    at_once = nats([41])
    for lengths in ([1] * 41, [20, 21], [7, 13, 1, 20]):
        # The library rotates queries and keys by numbers in single precision.
        torch.testing.assert_close(nats(lengths), at_once, rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", SAMPLES)
def test_single_tokens_have_the_probabilities_of_the_segment(name: str) -> None:
    """Whatever the network looks back at, since a segment so far is read again."""
    model = build(SAMPLES[name], depth=2)
    history = torch.randint(257, (2, model.context + 18), generator=torch.Generator().manual_seed(2))
    at_once, _ = model(history, model.init_state(2))
    state, steps = model.init_state(2), []
    for time in range(19):
        seen, state = model(history[:, time : time + model.context], state)
        steps.append(seen)
    torch.testing.assert_close(torch.cat(steps, 1), at_once, rtol=0, atol=1e-5)


def test_gradients_of_a_segment_go_through_the_tokens_before_it() -> None:
    model = build("transformers:llama")
    history = torch.tensor([[5] * 16 + [7]])
    nats, _ = model(history, model.init_state(1), torch.tensor([[9]]))
    nats.sum().backward()
    rows = model.network.get_input_embeddings().weight.grad.abs().sum(1)
    assert rows[5] > 0 and rows[7] > 0 and rows[9] == 0


CASES = {
    **{name: Case(301, resolved(text)) for name, text in SAMPLES.items()},
    "context mixing": Case(
        301, resolved("transformers:llama", ngram_orders=[1, 2, 20], ngram_local=[0, 3], ngram_rows_log2=8)
    ),
    "a window longer than a lane": Case(57, resolved("transformers:llama", window=64)),
    "replay": Case(301, resolved("transformers:llama"), train=TrainConfig(lanes=4, segment_tokens=8, replay=1)),
    "accumulation": Case(301, resolved("transformers:llama"), train=TrainConfig(lanes=4, accumulation=2)),
    "one token": Case(1, resolved("transformers:llama"), train=TrainConfig(lanes=1)),
    "growing": Case(301, resolved("transformers:llama"), train=TrainConfig(lanes=4, segment_tokens="2@0,8@0.2")),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_each_token_is_coded_once_and_comes_back(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """First tokens and the ragged tail, too; the ledger's bits are those of the archive."""
    monkeypatch.setattr("train.loop.build_engine", PlainEngine)
    encoded = encode(case, tmp_path)
    *_, decoded = decode(case, encoded.payloads)
    assert (decoded == case.corpus).all()
    assert encoded.stepwise_bits == pytest.approx(encoded.ledger_bits, rel=1e-4)
    assert 8 * sum(map(len, encoded.payloads)) <= encoded.ledger_bits * (1 + 1e-4) + 128 * case.blocks


def test_rows_in_parts_come_back_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.loop.build_engine", PlainEngine)
    monkeypatch.setattr("train.loop.WHOLE_LOGITS", 0)
    monkeypatch.setattr("model.network_parts.NetworkInParts.part_logits", 1)
    case = CASES["context mixing"]
    assert isinstance(new_learner(case).model, NetworkInParts)
    *_, decoded = decode(case, encode(case, tmp_path).payloads)
    assert (decoded == case.corpus).all()


def test_before_a_lane_there_are_ends_of_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.loop.build_engine", PlainEngine)
    case = Case(1, resolved("transformers:llama"), train=TrainConfig(lanes=1))
    learner, ledger = new_learner(case), new_ledger(case)
    start = torch.full((1, 17), 256)
    expected = learner.model(start, learner.model.init_state(1))[0].log_softmax(-1)[0, 0, int(case.corpus[0])]
    for _ in one_epoch(learner, case.lanes, corpus_source(case), ledger):
        pass
    assert ledger.totals()[0] == pytest.approx(-expected.item() / math.log(2), rel=1e-6)


def test_parameters_follow_from_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.loop.build_engine", PlainEngine)
    weights = []
    for seed in (0, 0, 1):
        learner = new_learner(Case(9, resolved("transformers:llama"), train=TrainConfig(lanes=1, seed=seed)))
        weights.append(torch.cat([p.detach().flatten() for p in learner.model.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_network_is_charged_for_our_code_and_its_configuration() -> None:
    config = Config(DataConfig(tokenizer="bytes"), replace(SMALL, block="gru"))
    plain = measure_code(config.to_dict())
    values, sources = unpack(plain.packed)
    assert "network" not in values["model"] and "model/network.py" not in sources
    assert "network" not in sources["train/loop.py"]
    assert "network" not in decoder_values(config, None, {})["model"]
    config.model = resolved("transformers:llama")
    code = measure_code(config.to_dict())
    values, sources = unpack(code.packed)
    assert values["model"]["network"] == config.model.network
    assert "model/network.py" in sources and "model/lm.py" not in sources and "model/registry.py" not in sources
    assert {name.split("/")[0] for name in sources} == {"archive", "data", "model", "train"}
    assert "LanguageModel" not in sources["train/loop.py"]
    assert [*code.uncharged] == ["transformers"]


def test_the_library_s_code_is_measured_beside_the_total() -> None:
    found = measure_network(build("transformers:llama").network)
    own = [name for name in found.modules if name.startswith("transformers.models.")]
    assert own == [f"transformers.models.llama.{part}_llama" for part in ("configuration", "modeling")]
    assert "transformers.masking_utils" in found.modules
    assert 1000 < found.own_xz_bytes < found.xz_bytes


def test_an_archive_may_choose_among_the_library_s_types_only() -> None:
    model = vars(resolved("transformers:llama"))
    refuse_own_blocks({"model": model}, Path("an.archive"))
    evil = model["network"].replace('"head_dim"', '"auto_map": {"AutoModelForCausalLM": "a.B"}, "head_dim"')
    for damaged in (
        {"network": evil}, {"network": 3}, {"network": "transformers:meta/llama"}, {"block": "os:Evil"}, {"width": 8},
        {"network": model["network"] + " "}, {"network": "transformers:llama"},
    ):  # fmt: skip
        with pytest.raises(UsageError, match=r"^an.archive: "):
            refuse_own_blocks({"model": model | damaged}, Path("an.archive"))


def test_networks_are_an_axis_of_a_sweep(tmp_path: Path) -> None:
    given = ["--model.ngram_orders=[]", "--data.tokenizer=bytes", "--model.head_width=8"]
    blocks = ["attention", "transformers:llama,hidden_act=relu", "transformers:gpt2"]
    cells = make_cells(Grid(tmp_path, given, blocks, [16, 32], [0], [], "parameters"))
    assert [cell.name for cell in cells[:3]] == ["attention-16", "llama-16", "gpt2-16"]
    sizes = []
    for cell in cells[:3]:
        model = parse_config("", cell.arguments).model
        sizes.append(sum(p.numel() for p in build_model(model, 257).parameters() if p.role != "table"))
    assert max(sizes) < 1.02 * min(sizes)
    assert display_names(["transformers:mamba", "mamba"])["transformers:mamba"] == "transformers:mamba"
    with pytest.raises(UsageError, match=r"take --match none"):
        make_cells(Grid(tmp_path, given, ["attention", SAMPLES["mamba2"]], [16], [0], [], "parameters"))
    named = "attention, ssd  gru,transformers:bamba,attn_layer_indices=[0,2],a=b,transformers:llama"
    assert read_blocks(named) == [
        "attention", "ssd gru", "transformers:bamba,attn_layer_indices=[0,2],a=b", "transformers:llama",
    ]  # fmt: skip
    twice = ["transformers:llama", "transformers:llama,hidden_act=relu"]
    with pytest.raises(UsageError, match=r"two networks of one type"):
        make_cells(Grid(tmp_path, given, twice, [16], [0], [], "none"))


def test_a_network_trains_resumes_and_decodes(tmp_path: Path) -> None:
    # Enough that an archive is shorter than the text, or it would be stored as it is.
    text = project_text()[:8_000] * 5
    (tmp_path / "text").write_bytes(text)
    small = [f"--data.cache_dir={tmp_path / 'cache'}", "--data.tokenizer=bytes", "--model.width=16", "--model.window=9",
             "--model.head_width=8", "--model.depth=1", "--train.lanes=256", "--train.segment_tokens=8",
             "--model.ngram_rows_log2=12", "--run.baselines=false", "--engine.threads=1",
             "--engine.timeout_secs=120"]  # fmt: skip
    llama = "--model.network=transformers:llama"

    def work(program: str, *arguments: str, ranks: int = 1) -> str:
        done = run(program, *arguments, ranks=ranks, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    source = f"--data.source={tmp_path / 'text'}"
    table = work("launch/train.py", source, *small, llama, "--run.dir=runs/one")
    assert "by llama, depth 1, width 16" in table and "code of the network" in table
    work("launch/train.py", source, *small, llama, "--run.dir=runs/again", "--run.stop_after_steps=3")
    work("launch/train.py", "--run.dir=runs/again", "--run.resume", "--run.stop_after_steps=0")
    work("launch/train.py", source, *small, llama, "--run.dir=runs/two", ranks=2)
    work("launch/train.py", source, *small, "--model.block=gru", "--run.dir=runs/gru")
    reports = [json.loads((tmp_path / "runs" / name / "report.json").read_text()) for name in ("one", "again", "two")]
    bits = [report["description_length"]["data_bits"] for report in reports]
    assert bits[0] == bits[1] == pytest.approx(bits[2], rel=1e-6)
    one = reports[0]
    assert one["model"]["block"] == "transformers:llama"
    assert [*one["reference_packages"]] == ["transformers"]
    assert one["coded"] == {"tokens": 40_001, "bytes": 40_000} or one["coded"]["bytes"] == 40_000
    assert one["network_code"]["own_xz_bytes"] > 1000 and "mfu" in one["cost"]
    work("launch/report.py", "runs")
    compared = (tmp_path / "runs/comparison.csv").read_text()
    assert ",llama," in compared and "transformers:" not in compared
    work("launch/compress.py", "text", "an.archive", *small, llama)
    report = json.loads((tmp_path / "an.archive.run/report.json").read_text())
    total = report["description_length"]["total_bits"] / 8
    assert (tmp_path / "an.archive").stat().st_size == pytest.approx(total, rel=5e-4, abs=1024)
    work("launch/decompress.py", "an.archive", "back")
    work("launch/decompress.py", "an.archive", "embedded", "--embedded")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "embedded").read_bytes() == text
