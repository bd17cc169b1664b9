"""Compressing and decompressing as one process does: same tokens, the cost that the loss told, and no silent drift.

Shapes: `R` lanes, `T` time, `V` vocabulary.
"""

import hashlib
import io
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_up_archive import HEADER
from plain_engine import PlainEngine

from archive.decoding import Decoding
from archive.encoding import EncodingSource, block_file
from archive.format import Archive, end_content, header_content, open_archive, write_archive
from archive.frames import rank_payload
from archive.restoring import RestorableDecoding
from data.errors import RunFailed
from data.lanes import Lanes
from model.registry import BLOCKS
from studies.sampling.command import distribution
from train.config import Config, ModelConfig, TrainConfig
from train.corpus import CorpusSource
from train.engine import Place
from train.ledger import Ledger
from train.loop import Learner, TokenSource, one_epoch

TEXT = np.frombuffer((Path(__file__).parents[1] / "LICENSE").read_bytes(), np.uint8)[1000:]
PLACE = Place(0, 1, torch.device("cpu"))
MODEL = ModelConfig(width=16, head_width=8, depth=1, window=16, ngram_orders=[1, 2, 3], ngram_rows_log2=10)
TRAIN = TrainConfig(lanes=8, segment_tokens=8)


@dataclass(frozen=True)
class Case:
    """A model, a plan, and so many tokens of the licence."""

    tokens: int = 600
    model: ModelConfig = field(default_factory=lambda: MODEL)
    train: TrainConfig = field(default_factory=lambda: TRAIN)
    block_steps: int = 7

    @property
    def corpus(self) -> np.ndarray:
        return TEXT[: self.tokens]

    @property
    def lanes(self) -> Lanes:
        return Lanes(self.tokens, self.train.lanes, self.train.segment_tokens)

    @property
    def blocks(self) -> int:
        return -(-self.lanes.steps // self.block_steps)


CASES = {
    "default": Case(1280),
    "embedded contexts": Case(model=replace(MODEL, ngram_embeddings=[2, 3, 0])),
    "no prior": Case(model=replace(MODEL, ngram_orders=[])),
    "two blocks of attention": Case(model=replace(MODEL, block="attention attention", depth=2, logit_cap=0.0)),
    "accumulation": Case(train=replace(TRAIN, accumulation=2)),
    "counts of each lane": Case(model=replace(MODEL, ngram_local=[0, 2]), train=replace(TRAIN, accumulation=2)),
    "replay": Case(637, replace(MODEL, ngram_embeddings=[3]), train=replace(TRAIN, replay=2, accumulation=2)),
    "no MLP": Case(model=replace(MODEL, expansion=0.0)),
    "adamw": Case(train=replace(TRAIN, optimizer="adamw")),
    "ragged in lanes and segments": Case(1237),
    "models side by side": Case(301, replace(MODEL, block="gru | lstm @24", ngram_local=[1])),
    "one long block": Case(637, block_steps=256),
    "last lanes empty": Case(9),
    "a last lane that ends early": Case(57, train=replace(TRAIN, accumulation=4)),
    "segments of one": Case(300, train=replace(TRAIN, segment_tokens=1)),
    "one token": Case(1, train=replace(TRAIN, lanes=1)),
    "one lane": Case(300, train=replace(TRAIN, lanes=1, segment_tokens=16)),
    "segments longer than the window": Case(637, model=replace(MODEL, window=4), train=replace(TRAIN, lanes=16)),
    "segments longer than a lane": Case(100, train=replace(TRAIN, segment_tokens=64)),
    "growing segments": Case(637, train=replace(TRAIN, segment_tokens="2@0,8@0.2,32@0.6")),
    "growing segments and replay": Case(
        637, train=replace(TRAIN, segment_tokens="2@0,8@0.2,16@0.6", replay="2@0,1@0.3,0@0.7")
    ),
}
BLOCK_CASES = [Case(301, replace(MODEL, block=block, ngram_orders=[])) for block in BLOCKS]
PLAIN = Case(500)
# Eight steps, too: 2, 2, 2, 8, 8, 8, 32 and 1 of the 63 tokens of a lane.
GROWING = Case(500, train=replace(TRAIN, segment_tokens="2@0,8@0.08,32@0.4"))
PLANS = {"equal": replace(PLAIN, block_steps=3), "growing": replace(GROWING, block_steps=3)}


@pytest.fixture(autouse=True)
def plain_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.loop.build_engine", PlainEngine)
    torch.set_num_threads(1)


class Watched:
    """A source of tokens that adds up what the probabilities of its learner's stepwise form make of them."""

    def __init__(self, source: TokenSource, learner: Learner):
        self.source, self.learner, self.bits = source, learner, 0.0

    def segment(self, step: int, learner: Learner) -> np.ndarray:
        predicted: list[torch.Tensor] = []
        see = Learner.see

        def recorded(recent: torch.Tensor, states: list[Any]) -> tuple[list[Any], list[Any]]:
            seen, states = see(learner, recent, states)
            with torch.inference_mode():
                whole = torch.cat([distribution(learner.model, part, len(recent) // len(seen)) for part in seen])
            predicted.append(whole.detach().double())
            return seen, states

        learner.see = recorded  # type: ignore[method-assign]
        targets = self.source.segment(step, learner)
        probabilities = torch.stack(predicted, 1).numpy()  # [R, T, V]
        coded = targets >= 0
        chosen = np.take_along_axis(probabilities, targets.clip(0)[..., None], 2)[..., 0]
        self.bits -= np.log2((chosen / probabilities.sum(-1))[coded]).sum()
        return targets


@dataclass(frozen=True)
class Encoded:
    folder: Path
    payloads: list[bytes]
    stepwise_bits: float
    ledger_bits: float


def new_learner(case: Case) -> Learner:
    return Learner(Config(model=case.model, train=case.train), 257, 256, PLACE)


def new_ledger(case: Case) -> Ledger:
    return Ledger(case.train.lanes, np.array([1] * 256 + [0]), PLACE)


def corpus_source(case: Case) -> CorpusSource:
    return CorpusSource(case.lanes, range(case.train.lanes), lambda a, b: case.corpus[a:b], {"corpus": sha256(case)})


def sha256(case: Case) -> str:
    return hashlib.sha256(case.corpus.data).hexdigest()


def encode(case: Case, folder: Path) -> Encoded:
    learner, ledger = new_learner(case), new_ledger(case)
    source = Watched(EncodingSource(corpus_source(case), folder, PLACE, case.block_steps), learner)
    for _ in one_epoch(learner, case.lanes, source, ledger):
        pass
    bits, tokens, coded_bytes = ledger.totals()
    assert (tokens, coded_bytes) == (case.tokens, case.tokens)
    assert len(list(folder.iterdir())) == case.blocks
    return Encoded(folder, payloads(case, folder), source.bits, bits)


def payloads(case: Case, folder: Path) -> list[bytes]:
    return [rank_payload(block_file(folder, block).read_bytes(), 0) for block in range(case.blocks)]


def decode(case: Case, blocks: list[bytes]) -> Iterator[np.ndarray]:
    """Decode, and give what there is of the tokens after each step; foreign to the vocabulary are those to come."""
    learner, tokens = new_learner(case), np.full(case.tokens, 257, np.uint32)
    source = Decoding(case.lanes, range(case.train.lanes), case.block_steps, iter(blocks), tokens)
    for _ in one_epoch(learner, case.lanes, source, new_ledger(case)):
        yield tokens


@pytest.mark.parametrize("case", [*CASES.values(), *BLOCK_CASES], ids=[*CASES, *BLOCKS])
def test_tokens_come_back_and_cost_what_the_loss_says(case: Case, tmp_path: Path) -> None:
    encoded = encode(case, tmp_path)
    *_, decoded = decode(case, encoded.payloads)
    assert np.array_equal(decoded, case.corpus)
    payload_bits = 8 * sum(map(len, encoded.payloads))
    spare_bits = 8 * 16 * case.blocks
    for told in (encoded.stepwise_bits, encoded.ledger_bits):
        assert told * (1 - 1e-4) - 8 <= payload_bits <= told * (1 + 1e-4) + spare_bits
    assert encoded.stepwise_bits == pytest.approx(encoded.ledger_bits, rel=1e-4)
    if case.tokens > 1000:
        assert encoded.ledger_bits < 7.5 * case.tokens


@pytest.mark.parametrize("orders", [[], [1, 2, 3]])
def test_what_is_all_but_impossible_costs_what_the_coder_takes(orders: list[int], tmp_path: Path) -> None:
    """Free logits and wild rates: many digits have a probability below 2^-48, the coder's least share."""
    wild = replace(TRAIN, matrix_lr=0.5, table_lr=2.0, vector_lr=0.5)
    case = Case(2000, replace(MODEL, ngram_orders=orders, logit_cap=0.0), wild)
    with np.errstate(divide="ignore"):
        encoded = encode(case, tmp_path)
    payload_bits = 8 * sum(map(len, encoded.payloads))
    # The stepwise form's own probabilities, which have no least one, would have cost more.
    assert encoded.stepwise_bits > 1.001 * payload_bits
    assert abs(payload_bits - encoded.ledger_bits) < 1e-4 * payload_bits + 64 * case.blocks


def test_what_is_learned_does_not_depend_on_coding(tmp_path: Path) -> None:
    """Bit for bit: the stepwise form leaves no trace in the learner."""
    learner, ledger = new_learner(PLAIN), new_ledger(PLAIN)
    for _ in one_epoch(learner, PLAIN.lanes, corpus_source(PLAIN), ledger):
        pass
    assert ledger.totals()[0] == encode(PLAIN, tmp_path).ledger_bits


def test_encoding_is_deterministic(tmp_path: Path) -> None:
    assert encode(PLAIN, tmp_path / "a") == replace(encode(PLAIN, tmp_path / "b"), folder=tmp_path / "a")


@pytest.mark.parametrize("block", [0, 2])
def test_a_model_that_drifts_is_found_at_the_end_of_the_block(block: int, tmp_path: Path) -> None:
    case = replace(PLAIN, block_steps=3)
    blocks = encode(case, tmp_path).payloads
    learner, tokens = new_learner(case), np.zeros(case.tokens, np.uint32)
    source = Decoding(case.lanes, range(case.train.lanes), case.block_steps, iter(blocks), tokens)
    # The gains of counts, because an untrained network's other parameters do not move its output, which starts at zero.
    gain, done = learner.model.mixing.scale, 0
    with pytest.raises(ValueError, match=f"block {block} decodes to other tokens than were encoded"):
        for done in one_epoch(learner, case.lanes, source, new_ledger(case)):
            if done == 1 + block * case.block_steps:
                gain.data *= 1 + 1e-3
    # The steps that were learned from: all but the block's last.
    assert done == min((block + 1) * case.block_steps, case.lanes.steps) - 1


def test_a_payload_that_leads_beside_the_trees_leaves_is_found() -> None:
    """257 tokens need 9 bits, whose 512 leaves are more."""
    with pytest.raises(ValueError, match="block 0 decodes to other tokens"):
        list(decode(PLAIN, [b"\xff" * 10_000] * PLAIN.blocks))


def test_payloads_in_another_order_are_found(tmp_path: Path) -> None:
    first, second, *rest = encode(PLAIN, tmp_path).payloads
    with pytest.raises(ValueError, match="block 0 "):
        list(decode(PLAIN, [second, first, *rest]))


def test_a_rank_whose_lanes_are_all_empty_decodes_too(tmp_path: Path) -> None:
    """Lanes 4 to 7 of nine tokens in eight lanes: one token, then none."""
    lanes, share = Lanes(9, 8, 1), range(4, 8)
    case = Case(9, train=replace(TRAIN, lanes=4, segment_tokens=1))
    corpus = CorpusSource(lanes, share, lambda a, b: case.corpus[a:b], {})
    learner, source = new_learner(case), EncodingSource(corpus, tmp_path, PLACE, 1)
    coded = []
    for step in range(lanes.steps):
        coded.append(source.segment(step, learner))
        learner.learn(torch.from_numpy(coded[-1]), lanes, step)
    assert [(targets >= 0).sum() for targets in coded] == [1, 0]
    blocks = [rank_payload(block_file(tmp_path, block).read_bytes(), 0) for block in range(2)]
    learner, decoding = new_learner(case), Decoding(lanes, share, 1, iter(blocks), np.zeros(9, np.uint32))
    for step in range(lanes.steps):
        targets = decoding.segment(step, learner)
        assert np.array_equal(targets, coded[step])
        learner.learn(torch.from_numpy(targets), lanes, step)


@pytest.mark.parametrize("corpus", [TEXT, 0 * TEXT], ids=["text", "zeros"])
def test_probabilities_that_are_no_numbers_fail_at_once(corpus: np.ndarray, tmp_path: Path) -> None:
    learner = new_learner(PLAIN)
    learner.model.mixing.scale.data.fill_(math.nan)
    reader = CorpusSource(PLAIN.lanes, range(PLAIN.train.lanes), lambda a, b: corpus[a:b], {})
    source = EncodingSource(reader, tmp_path, PLACE, PLAIN.block_steps)
    with np.errstate(invalid="ignore"), pytest.raises(RunFailed, match="stopped being numbers at step 0: try lower"):
        source.segment(0, learner)


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint makes of it."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def run_with_a_break(case: Case, step: int, sources: list[Any]) -> None:
    """`step` steps with the first source; then its state goes to the second, for the rest."""
    learner, ledger = new_learner(case), new_ledger(case)
    for done in one_epoch(learner, case.lanes, sources[0], ledger):
        if done == step:
            break
    sources[1].restore(step, through_a_file(sources[0].state()))
    for _ in one_epoch(learner, case.lanes, sources[1], ledger, step):
        pass


def archived(case: Case, folder: Path) -> Archive:
    """A real archive of the case."""
    encoded = encode(case, folder / "blocks")
    plan = {"lanes": case.train.lanes, "segment_tokens": case.train.segment_tokens, "block_steps": case.block_steps}
    corpus = {"name": "licence", "bytes": case.tokens, "documents": 1, "tokens": case.tokens}
    header = HEADER | plan | {"corpus": corpus, "tokenizer": "bytes", "world_size": 1}
    frames = [(b"H", header_content(header)), (b"T", b""), (b"P", b"program")]
    frames += [(b"B", block_file(encoded.folder, block).read_bytes()) for block in range(case.blocks)]
    write_archive(folder / "archive", [*frames, (b"E", end_content(sha256(case), encoded.ledger_bits))])
    return open_archive(folder / "archive")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a plan's archive and of its blocks, encoded once, when a test asks first."""

    @cache
    def folder(plan: str) -> Path:
        folder = tmp_path_factory.mktemp(plan)
        archived(PLANS[plan], folder)
        return folder

    return folder


# Blocks of 3 steps, 8 steps: in the middle, at a boundary, in the last block, at the end.
@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("step", [1, 3, 5, 6, 7, 8])
def test_encoding_goes_on_where_it_stopped(
    step: int, plan: str, uninterrupted: Callable[[str], Path], tmp_path: Path
) -> None:
    case = PLANS[plan]
    broken = [EncodingSource(corpus_source(case), tmp_path, PLACE, 3) for _ in range(2)]
    run_with_a_break(case, step, broken)
    assert case.lanes.steps == 8
    assert payloads(case, tmp_path) == payloads(case, uninterrupted(plan) / "blocks")


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("step", [1, 3, 5, 6, 7, 8])
def test_decoding_goes_on_where_it_stopped(
    step: int, plan: str, uninterrupted: Callable[[str], Path], tmp_path: Path
) -> None:
    case, archive = PLANS[plan], open_archive(uninterrupted(plan) / "archive")
    path = tmp_path / "partial" / "tokens"
    run_with_a_break(case, step, [RestorableDecoding(archive, case.lanes, PLACE, path) for _ in range(2)])
    assert np.array_equal(np.fromfile(path, np.uint32), case.corpus)


def test_sources_refuse_to_go_on_with_another_corpus_or_archive(tmp_path: Path) -> None:
    ours, theirs = PLAIN, replace(PLAIN, tokens=499)
    learner = new_learner(ours)
    encoding = EncodingSource(corpus_source(ours), tmp_path, PLACE)
    encoding.segment(0, learner)
    with pytest.raises(ValueError, match=f"SHA-256 {sha256(ours)} when the run began and has {sha256(theirs)} now"):
        EncodingSource(corpus_source(theirs), tmp_path, PLACE).restore(1, encoding.state())
    sources = []
    for name, case in {"ours": ours, "theirs": theirs}.items():
        archive = archived(case, tmp_path / name)
        sources.append(RestorableDecoding(archive, case.lanes, PLACE, tmp_path / name / "tokens"))
    sources[0].segment(0, new_learner(ours))
    with pytest.raises(ValueError, match=f"{sha256(ours)} when .* and {tmp_path / 'theirs' / 'archive'} has"):
        sources[1].restore(1, sources[0].state())


def taught(learner: Learner) -> Learner:
    """With no parameter that is zero, so that gradients reach all of them."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in learner.model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return learner


def gradients(case: Case, place: Place) -> list[torch.Tensor]:
    """Of one rank's first step, as it goes into the average over ranks."""
    learner, lanes = taught(Learner(Config(model=case.model, train=case.train), 257, 256, place)), case.lanes
    learner.engine.step = lambda: None
    targets = lanes.targets(0, lanes.share(place.rank, place.world_size), lambda a, b: case.corpus[a:b])
    learner.learn(torch.from_numpy(targets), lanes, 0)
    return [p.grad for p in learner.model.parameters() if p.grad is not None]


def test_the_average_of_the_ranks_gradients_is_the_gradient_of_nats_a_token_over_the_global_batch() -> None:
    """Adam and Muon divide a common factor out of their gradients again; clipping, and this test, do not."""
    case = Case(57, replace(MODEL, ngram_orders=[]), replace(TRAIN, accumulation=2))
    learner = taught(new_learner(case))
    targets = torch.from_numpy(case.lanes.targets(0, range(8), lambda a, b: case.corpus[a:b]))
    inputs = torch.cat([torch.full((8, 1), 256), targets[:, :-1]], 1).clamp(min=0)
    nats, _ = learner.model(inputs, learner.model.init_state(8), targets)
    mean = nats.sum() / int((targets >= 0).sum())
    expected = torch.autograd.grad(mean, list(learner.model.parameters()), allow_unused=True)
    alone = gradients(case, Place(0, 1, torch.device("cpu")))
    shares = [gradients(case, Place(rank, 2, torch.device("cpu"))) for rank in range(2)]
    for wanted, one, *parts in zip([g for g in expected if g is not None], alone, *shares, strict=True):
        assert wanted.abs().max() > 0
        torch.testing.assert_close(one, wanted, rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(sum(parts) / 2, wanted, rtol=1e-4, atol=1e-7)
