"""Steps as CUDA graphs: nothing in them waits for the host, and a replay is a step like any other."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from plain_engine import PlainEngine
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_unflatten

from archive.decoding import Decoding
from archive.encoding import EncodingSource, block_file
from archive.frames import rank_payload
from benchmarks.operators import Operators
from data.errors import UsageError
from data.lanes import Lanes
from model.contexts import BYTE_SYMBOLS
from model.cuda import use_kernels
from model.mixing import ContextMixing
from train.config import Config, EngineConfig, ModelConfig, TrainConfig
from train.corpus import CorpusSource
from train.engine import Place
from train.graphs import WARM_UPS, Graph, choose_graphs
from train.loop import Learner

TEXT = np.frombuffer((Path(__file__).parents[1] / "LICENSE").read_bytes(), np.uint8)[1000:]
CPU, CUDA = (Place(0, 1, torch.device(kind)) for kind in ("cpu", "cuda"))
MODEL = ModelConfig(
    block="gru attention", width=16, head_width=8, depth=2, window=8, ngram_orders=[1, 2, 4], ngram_lags=[[2, 3]],
    ngram_highest=[[1, 3]], ngram_local=[0, 3], ngram_words=6, ngram_embeddings=[2, 0], ngram_rows_log2=8,
)  # fmt: skip
TRAIN = TrainConfig(lanes=4, segment_tokens=8, weight_decay=0.1)
# At small rates, what is rounded differently grows slowly.
SLOWLY = replace(TRAIN, replay="1@0,0@0.6", matrix_lr=0.004, table_lr=0.004, vector_lr=0.002)
LANES = Lanes(4 * 8 * 9 + 13, 4, 8)
# What waits for the host, has a shape that depends on numbers, or copies from the host's memory: none can be recorded.
# Sums by index are slow on CUDA where they are to be deterministic, and in several dimensions copy from the host, too.
UNFIT = {
    "_local_scalar_dense", "_unique2", "bincount", "equal", "index_add_", "is_nonzero", "item", "lift_fresh",
    "masked_select", "nonzero", "repeat_interleave", "scatter_add", "scatter_add_", "unique_consecutive", "unique_dim",
}  # fmt: skip


class Recorded(Operators):
    """Notes the operators that run within it, and those among them that cannot be recorded."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.unfit: set[str] = set()

    def note(self, operator: Any, args: Any) -> None:
        name = operator._overloadpacket.__name__
        self.names.add(name)
        masks = name.startswith(("index", "_index")) and any(
            leaf.dtype == torch.bool for leaf in tree_leaves(args[1]) if isinstance(leaf, Tensor)
        )
        if name in UNFIT or masks or operator is torch.ops.aten.repeat_interleave.Tensor:
            self.unfit.add(str(operator))


@contextmanager
def forms_of_cuda() -> Iterator[None]:
    """Within it, tensors on the CPU say that they are on CUDA."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tensor, "is_cuda", property(lambda tensor: True), raising=False)
        yield


def new_learner(
    model: ModelConfig = MODEL, train: TrainConfig = TRAIN, graphs: Any = "off", place: Place = CPU
) -> Learner:
    def build(module: torch.nn.Module, *rest: Any) -> PlainEngine:
        return PlainEngine(module.to(place.device), *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("train.loop.build_engine", build)
        engine = EngineConfig(graphs=graphs, kernels="on")
        return Learner(Config(model=model, train=train, engine=engine), 257, 256, place)


def tokens(seed: int = 0, time: int = 8) -> Tensor:
    return torch.randint(65, 75, (4, time), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("replay", [0, 2])
@pytest.mark.parametrize("model", [MODEL, replace(MODEL, ngram_orders=[])], ids=["mixing", "alone"])
def test_a_step_of_learning_never_waits(model: ModelConfig, replay: int, optimizer: Any) -> None:
    learner = new_learner(model, replace(TRAIN, optimizer=optimizer, replay=replay))
    rate, scale = torch.tensor(0.5), torch.tensor(1 / 32)
    with forms_of_cuda():
        for step in range(5):
            again = learner.replay.segments(learner, LANES, step) if learner.replay else []
            with Recorded() as seen:
                _, learner.recent, learner.states = learner.update(
                    tokens(step), learner.recent, learner.states, rate, scale, again, []
                )
    assert bool(again) == bool(replay)
    assert not seen.unfit
    assert {"_fused_adam_" if optimizer == "muon" else "_fused_adamw_"} <= seen.names
    assert ("searchsorted" in seen.names) == bool(model.ngram_orders)


@pytest.mark.parametrize("model", [MODEL, replace(MODEL, ngram_orders=[])], ids=["mixing", "alone"])
def test_a_step_of_coding_never_waits(model: ModelConfig) -> None:
    learner = new_learner(model)
    recent, node = tokens(time=learner.model.context), torch.ones(4, 1, dtype=torch.int64)
    with forms_of_cuda(), Recorded() as seen:
        found, _ = learner.see(recent, learner.states)
        for digit, radix in enumerate(learner.model.radices):
            learner.following(found, node, digit)
            node = node * radix + 1
    assert not seen.unfit
    assert "bmm" in seen.names or "mm" in seen.names


@pytest.mark.parametrize("vocabulary", [2, 3, 8, 20, 100, BYTE_SYMBOLS, 300])
def test_both_forms_of_counting_give_the_same_tables(vocabulary: int) -> None:
    """Rows that many contexts want, tokens that are missing, counts that end at 255."""
    torch.manual_seed(vocabulary)
    for rows_log2 in (2, 3, 12):
        config = ModelConfig(ngram_orders=[1, 3], ngram_lags=[[2]], ngram_rows_log2=rows_log2)
        ours, cudas = (ContextMixing(config, vocabulary, 4) for _ in range(2))
        use_kernels(cudas)
        for symbols in (vocabulary, 2, vocabulary, 1):
            history, targets = (torch.randint(symbols, (4, size)) for size in (ours.contexts.length + 99, 100))
            targets[torch.rand(4, 100) < 0.2] = -1
            hashes = ours.contexts.hashes(history, torch.arange(len(history)))
            ours.learn(hashes, targets)
            with forms_of_cuda():
                cudas.learn(hashes, targets)
            assert torch.equal(ours.counts, cudas.counts)
            assert torch.equal(ours.latest[:-1], cudas.latest[:-1])
        assert ours.counts.view(torch.uint8).amax() > 100
        # A chunk of padding: nothing is counted.
        before, latest = ours.counts.clone(), ours.latest.clone()
        ours.learn(hashes, torch.full_like(targets, -1))
        with forms_of_cuda():
            cudas.learn(hashes, torch.full_like(targets, -1))
        assert torch.equal(ours.counts, before) and torch.equal(ours.latest[:-1], latest[:-1])
        assert (cudas.counts != before).any(1).sum() <= 1


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_rates_may_be_tensors(optimizer: Any) -> None:
    nats = []
    for kind in (float, torch.tensor):
        learner = new_learner(train=replace(TRAIN, optimizer=optimizer))
        made: list[Tensor] = []
        for step in range(4):
            rate, scale = kind(1 - step / 8), kind(1 / 32)
            now, learner.recent, learner.states = learner.update(
                tokens(step % 2), learner.recent, learner.states, rate, scale, [], []
            )
            made.append(now)
        nats.append(torch.stack(made))
    assert nats[0][3].sum() < 0.9 * nats[0][0].sum()
    torch.testing.assert_close(*nats, rtol=1e-4, atol=1e-4)


class Replays:
    """A recorded function, on the CPU: it runs when it is replayed, on the inputs that were kept, and overwrites what
    it returned before."""

    def __init__(self, function: Any, kept: list[Any], tree: Any):
        self.function, self.kept, self.tree = function, kept, tree
        self.made: Any = [None] * 3

    def replay(self) -> None:
        self.made[:] = self.function(*tree_unflatten(self.kept, self.tree))


@pytest.fixture(autouse=True)
def counters(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("micro_steps", "global_steps", "global_samples"):
        monkeypatch.setattr(PlainEngine, name, 0, raising=False)
    monkeypatch.setattr(PlainEngine, "train_batch_size", lambda engine: 4, raising=False)


@pytest.fixture
def replayed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Replays]]:
    """The list of all graphs that are recorded: as Replays, in place of CUDA's graphs, and without streams."""
    recorded = []

    def record(self: Graph, leaves: list[Any], tree: Any) -> Any:
        kept = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        recorded.append(Replays(self.function, kept, tree))
        if self.function.__name__ == "following":
            recorded[-1].made = torch.empty_like(self.function(*tree_unflatten(kept, tree)))
        return recorded[-1], kept, recorded[-1].made

    stream = SimpleNamespace(wait_stream=lambda other: None)
    monkeypatch.setattr(Graph, "record", record)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    with forms_of_cuda():
        yield recorded


@pytest.mark.parametrize(
    ("train", "lanes", "tokens_each", "steps", "graphs_of_steps", "counted"),
    [
        # The first step has another state, and the last one is shorter.
        (TRAIN, LANES, 76, 10, 1, 9 - 1 - WARM_UPS - 1),
        # Nothing is replayed in steps 0 to 2, nor from step 9 on.
        (SLOWLY, Lanes(4 * 8 * 13 + 13, 4, 8), 108, 14, 2, 13 - 1 - 2 * (WARM_UPS + 1)),
    ],
    ids=["coded", "coded and replayed"],
)
def test_replays_learn_as_steps_do(
    replayed: list[Replays],
    train: TrainConfig,
    lanes: Lanes,
    tokens_each: int,
    steps: int,
    graphs_of_steps: int,
    counted: int,
) -> None:
    """Each token once: a first step with another state, steps that are not recorded, replays, and a shorter last."""
    nats = []
    for graphs in ("off", "on"):
        learner = new_learner(graphs=graphs, train=train)
        made = []
        for step in range(lanes.steps):
            targets = torch.from_numpy(lanes.targets(step, range(4), lambda a, b: TEXT[a:b]))
            made.append(learner.learn(targets, lanes, step).clone())
        nats.append(torch.cat(made, 1))
    assert nats[0].shape == (4, tokens_each)
    # Rates are rounded to fp32, and matrices move in bf16.
    torch.testing.assert_close(*nats, rtol=2e-3, atol=2e-3)
    assert len(replayed) == graphs_of_steps
    engine = learner.engine
    assert engine.micro_batches == lanes.steps == steps
    # CUDA's recording runs Python's part of a step once, and with it the engine's own counting.
    assert engine.micro_steps == engine.global_steps == engine.global_samples / 4 == counted


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("replay", [0, 1])
def test_a_replay_has_the_bits_of_the_step(
    device: torch.device, replay: int, optimizer: Any, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parallel and stepwise form, against functions that are never recorded."""
    if device.type == "cpu":
        request.getfixturevalue("replayed")
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    nats, seen = [], []
    try:
        for warm_ups in (99, WARM_UPS):
            monkeypatch.setattr("train.graphs.WARM_UPS", warm_ups)
            place = Place(0, 1, device)
            train = replace(TRAIN, optimizer=optimizer, replay=replay)
            learner, made = new_learner(train=train, graphs="on", place=place), []
            for step in range(11):
                latest = learner.recent[:, -learner.model.context :].clamp(min=0)
                found, states = learner.see(latest, learner.states)
                found, _ = learner.see(latest, states)
                node = torch.ones_like(learner.recent[:, :1])
                made.append(learner.following(found, node, 0).clone().cpu())
                made.append(learner.learn(tokens(step).to(device), Lanes(32 * 11, 4, 8), step).clone().cpu())
            nats.append(torch.cat([part.flatten() for part in made]))
            seen.append([value.cpu() for value in learner.model.state_dict().values()])
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(*nats)
    assert all(map(torch.equal, *seen))


@pytest.mark.parametrize(("replay", "count"), [(0, 200), (1, 400)])
def test_an_archive_comes_back_by_replays(replayed: list[Replays], tmp_path: Path, replay: int, count: int) -> None:
    train = replace(TRAIN, replay=replay)
    lanes = Lanes(count, 4, 8)
    source = EncodingSource(CorpusSource(lanes, range(4), lambda a, b: TEXT[a:b], {}), tmp_path, CPU, 3)
    learner = new_learner(train=train, graphs="on")
    for step in range(lanes.steps):
        targets = torch.from_numpy(source.segment(step, learner))
        learner.learn(targets, lanes, step)
    # One for steps, one for the first token of a segment, one for other tokens, one for each digit.
    assert len(replayed) == 3 + len(learner.model.radices)
    blocks = [rank_payload(block_file(tmp_path, block).read_bytes(), 0) for block in range(-(-lanes.steps // 3))]
    found = np.zeros(count, np.uint32)
    learner, decoding = new_learner(train=train, graphs="on"), Decoding(lanes, range(4), 3, iter(blocks), found)
    for step in range(lanes.steps):
        targets = torch.from_numpy(decoding.segment(step, learner))
        learner.learn(targets, lanes, step)
    assert np.array_equal(found, TEXT[:count])


@pytest.mark.parametrize(
    ("place", "change", "said"),
    [
        (CPU, {}, "there is no CUDA device"),
        (Place(0, 2, CUDA.device), {}, "there are several ranks"),
        (CUDA, {"engine": {"kernels": "off"}}, "engine.kernels is off"),
        (CUDA, {"engine": {"zero_stage": 1}}, "engine.zero_stage is 1"),
        (CUDA, {"engine": {"gradient_clipping": 0.5}}, "engine.gradient_clipping is 0.5"),
        (CUDA, {"extra": {"wall_clock_breakdown": True}}, "engine.deepspeed_config is given"),
        (CUDA, {"train": {"accumulation": 2}}, "train.accumulation is 2"),
    ],
)
def test_graphs_are_refused_where_they_are_impossible(place: Place, change: dict[str, Any], said: str) -> None:
    def choose(asked: Any) -> str:
        engine = EngineConfig(**{"graphs": asked, "kernels": "on", **change.get("engine", {})})
        model = ModelConfig(block="gru")
        config = Config(model=model, engine=engine, train=TrainConfig(**change.get("train", {})))
        return choose_graphs(config, place, change.get("extra"))

    with pytest.raises(UsageError, match=f"engine.graphs is on, but {said}: take auto or off"):
        choose("on")
    assert choose("auto") == choose("off") == "off"


def test_graphs_are_chosen_for_small_steps() -> None:
    cases: list[tuple[dict[str, Any], Any, str]] = [
        ({"lanes": 512}, "auto", "on"), ({"lanes": 513}, "auto", "off"), ({"lanes": 1}, "off", "off"),
        ({"lanes": 513}, "on", "on"), ({"replay": 1}, "auto", "off"), ({"replay": 1}, "on", "on"),
    ]  # fmt: skip
    for train, asked, expected in cases:
        engine = EngineConfig(graphs=asked, kernels="on")
        config = Config(model=ModelConfig(block="gru"), train=TrainConfig(**train), engine=engine)
        assert choose_graphs(config, CUDA) == expected
