"""Vocabularies of up to 262,144 tokens: shards, cost in parts, and an archive with the first and the last token.

Shapes: `B` rows, `T` time, `D` width, `V` vocabulary, `K` contexts.
"""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from archive_commands import DECOMPRESS, succeeded
from dist import run
from plain_engine import PlainEngine
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from archive.coder import Decoder, cumulative, encode
from archive.encoding import EncodingSource, coded_frames, coded_header
from archive.format import end_content, write_archive
from data.describe import describe_pieces
from data.lanes import WHOLE_LOGITS, Lanes, step_logits
from data.shards import FORMAT, Manifest, Shard, TokenShards
from data.tokenizer import Tokenizer, load_tokenizer
from eval.code_size import code_identity, decoder_values, measure_code, unpack
from model.build import build_model
from model.lm import LanguageModel
from model.parts import LanguageModelInParts, compute_in_parts
from train.config import Config, DataConfig, EngineConfig, ModelConfig, TrainConfig
from train.corpus import CorpusSource
from train.engine import Place
from train.frozen import FrozenLearner
from train.ledger import Ledger
from train.loop import Learner, one_epoch
from train.networks import resolve_network

LARGEST = 262_144
PLACE = Place(0, 1, torch.device("cpu"))
MODEL = ModelConfig(block="gru", width=16, head_width=8, depth=1, window=16, ngram_orders=[], ngram_rows_log2=10)


@pytest.mark.parametrize("vocabulary", [65_536, 65_537, LARGEST])
def test_shards_hold_the_first_and_the_last_token(tmp_path: Path, vocabulary: int) -> None:
    tokens = [0, vocabulary - 1, 65_535, 1]
    content = np.array(tokens, "<u2" if vocabulary <= 1 << 16 else "<u4").tobytes()
    (tmp_path / "tokens-00000.bin").write_bytes(content)
    shard = Shard("tokens-00000.bin", len(tokens), hashlib.sha256(content).hexdigest())
    manifest = Manifest(FORMAT, "text", 4, 4, 1, "", "", 1, {"vocabulary": vocabulary}, [shard])
    assert TokenShards(tmp_path, manifest).read(0, 4).tolist() == tokens


def test_every_symbol_can_be_coded_however_rare() -> None:
    """Of 262,144 symbols all except one have probability 0 in fp32; some have the smallest that there is."""
    shares = np.zeros((3, LARGEST), np.float32)
    shares[0, 7] = shares[1, LARGEST - 1] = 1
    shares[2] = np.finfo(np.float32).tiny
    bounds = cumulative(shares)
    assert bounds[:, 0].tolist() == [0, 0, 0] and bounds[:, -1].tolist() == [1 << 48] * 3
    widths = np.diff(bounds)
    assert widths.min() >= 1
    symbols = np.array([LARGEST - 1, 0, LARGEST // 2])
    row = np.arange(3)
    taken = np.stack([bounds[row, symbols], widths[row, symbols]], 1).tolist()
    payload = encode(taken[::-1], 5)
    decoder = Decoder(payload)
    assert decoder.decode(bounds).tolist() == symbols.tolist() and decoder.state == 5
    # 48 bits for what the model excluded, and 18 where all are equal.
    assert len(payload) <= 6 + (48 + 48 + 18) / 8 + 8


@pytest.mark.parametrize("orders", [[], [1, 2, 3]])
def test_parts_cost_and_teach_what_the_whole_does(orders: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LanguageModelInParts, "part_logits", 5 * 300)
    config = ModelConfig(block="gru attention", width=16, head_width=8, depth=2, ngram_orders=orders, ngram_rows_log2=8)
    torch.manual_seed(0)
    whole, parts = LanguageModel(config, 300).double(), LanguageModelInParts(config, 300).double()
    with torch.no_grad():
        for tensor in whole.parameters():
            tensor.add_(0.1 * torch.randn_like(tensor))
    parts.load_state_dict(whole.state_dict())
    history = torch.randint(300, (3, whole.context - 1 + 7))
    targets = torch.randint(300, (3, 7))
    targets[2, 4:] = -1
    nats = []
    for one in whole, parts:
        cost, _ = one(history, one.init_state(3), targets)
        cost.sum().backward()
        nats.append(cost.detach())
    assert torch.allclose(*nats, rtol=1e-12, atol=1e-12)
    for mine, theirs in zip(parts.parameters(), whole.parameters(), strict=True):
        assert (mine.grad is None) == (theirs.grad is None)
        if mine.grad is not None and theirs.grad is not None:
            assert torch.allclose(mine.grad, theirs.grad, rtol=1e-9, atol=1e-12)


class Largest(TorchDispatchMode):
    """Notes the most numbers that any tensor has."""

    numbers = 0

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = operator(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        self.numbers = max([self.numbers, *sizes])
        return out


@pytest.mark.parametrize(
    ("kind", "most"), [(LanguageModel, 512 * LARGEST), (LanguageModelInParts, LanguageModelInParts.part_logits)]
)
def test_no_tensor_has_the_logits_of_all_tokens(kind: type[LanguageModel], most: int) -> None:
    with torch.device("meta"):
        made = kind(MODEL, LARGEST)
        x, targets = torch.zeros(16, 32, MODEL.width, requires_grad=True), torch.zeros(16, 32, dtype=torch.long)
        with Largest() as largest:
            made.cost(x, targets, None).sum().backward()
    assert max(tensor.numel() for tensor in made.parameters()) < LanguageModelInParts.part_logits
    assert largest.numbers == most


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("orders", [[], [1, 2]])
def test_rows_of_a_network_cost_and_teach_what_the_whole_does(
    name: str, orders: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = replace(MODEL, block=ModelConfig.block, network=f"transformers:{name}", ngram_orders=orders)
    made = [build_model(resolve_network(network), 3000).double() for _ in range(2)]
    compute_in_parts(made[1])
    made[1].load_state_dict(made[0].state_dict())
    # Two rows of five.
    monkeypatch.setattr(type(made[1]), "part_logits", 2 * 7 * 3000)
    history, targets = torch.randint(3000, (5, made[0].context - 1 + 7)), torch.randint(3000, (5, 7))
    targets[2, 4:] = -1
    nats, sizes = [], []
    for one in made:
        with Largest() as largest:
            cost, _ = one(history, one.init_state(5), targets)
            cost.sum().backward()
        nats.append(cost.detach())
        sizes.append(largest.numbers)
    assert torch.allclose(*nats, rtol=1e-12, atol=1e-12)
    for mine, theirs in zip(made[1].parameters(), made[0].parameters(), strict=True):
        assert (mine.grad is None) == (theirs.grad is None)
        if mine.grad is not None and theirs.grad is not None:
            assert torch.allclose(mine.grad, theirs.grad, rtol=1e-9, atol=1e-12)
    assert sizes[0] >= 5 * 7 * 3000 and (orders or sizes[1] < sizes[0] / 2)


def test_members_of_a_mixture_are_in_parts() -> None:
    mixture = build_model(replace(MODEL, block="gru | attention"), 300)
    compute_in_parts(mixture)
    assert {type(member) for member in mixture.members} == {LanguageModelInParts}


def test_a_frozen_model_computes_large_steps_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(LanguageModelInParts, "part_logits", 1 << 12)
    nats = []
    for limit in 1 << 20, 3 * 7 * 300 - 1:
        monkeypatch.setattr("train.frozen.WHOLE_LOGITS", limit)
        torch.manual_seed(0)
        learner: Any = FrozenLearner(Config(model=MODEL), LanguageModel(MODEL, 300), 299, 3, PLACE)
        with torch.no_grad():
            learner.model.output.normal_()
        lanes = Lanes(21, 3, 7)
        with Largest() as largest:
            nats.append(learner.learn(torch.arange(21).view(3, 7), lanes, 0))
        assert (largest.numbers >= 3 * 7 * 300) == (limit == 1 << 20)
    assert torch.allclose(*nats, rtol=1e-5, atol=1e-5) and nats[0].std() > 0


def test_only_large_steps_are_in_parts_and_charged_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.loop.build_engine", PlainEngine)
    config = Config(model=MODEL)
    assert step_logits(config.train, 131_072) == WHOLE_LOGITS
    modules = {}
    for vocabulary in 131_072, 131_073:
        with torch.device("meta"):
            place = Place(0, 1, torch.device("meta"))
            monkeypatch.setattr("train.loop.build_optimizer", lambda *_: None)
            made = Learner(config, vocabulary, 0, place).model
        assert isinstance(made, LanguageModelInParts) == (vocabulary > 131_072)
        values = decoder_values(config, Tokenizer("bpe", b"", [b""] * vocabulary), {})
        code = measure_code(values)
        modules[vocabulary] = set(code.modules)
        recorded = unpack(code.packed)[0]
        # An archive's decoder is measured again by what the archive holds.
        assert measure_code(recorded).packed == code.packed
        assert ("vocabulary" in recorded["data"]) == (vocabulary > 131_072)
    assert modules[131_073] - modules[131_072] == {"model/parts.py"}


def largest_tokenizer() -> Tokenizer:
    """262,144 tokens, whose pieces are too long to be joins, so that they are described fast."""
    pieces = {b"x" * 124 + number.to_bytes(3, "big") for number in range(LARGEST - 257)}
    return load_tokenizer("file", describe_pieces(pieces))


def test_an_archive_with_the_largest_vocabulary_decodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = largest_tokenizer()
    assert tokenizer.vocabulary == LARGEST and tokenizer.end_of_document == LARGEST - 1
    tokens = np.array([0, LARGEST - 2, 256, 65_535, 65_536, 131_072, *b"text " * 4, LARGEST - 1], np.uint32)
    text = tokenizer.decode(tokens.tolist())
    engine, train = EngineConfig(precision="fp32", threads=1), TrainConfig(lanes=16, segment_tokens=32)
    config = Config(DataConfig(tokenizer="file"), MODEL, train, engine)
    program = measure_code(decoder_values(config, tokenizer, {})).packed
    monkeypatch.setattr("train.loop.build_engine", PlainEngine)
    lanes, threads = Lanes(len(tokens), train.lanes, train.segment_tokens), torch.get_num_threads()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    torch.use_deterministic_algorithms(True)
    try:
        learner = Learner(config, LARGEST, tokenizer.end_of_document, PLACE)
        assert isinstance(learner.model, LanguageModelInParts)
        corpus = CorpusSource(lanes, range(lanes.lanes), lambda start, stop: tokens[start:stop], {"corpus": ""})
        ledger = Ledger(lanes.lanes, np.array([len(piece) for piece in tokenizer.pieces]), PLACE)
        for _ in one_epoch(learner, lanes, EncodingSource(corpus, tmp_path / "blocks", PLACE), ledger):
            pass
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_flush_denormal(False)
        torch.set_num_threads(threads)
    bits, coded_tokens, coded_bytes = ledger.totals()
    assert (coded_tokens, coded_bytes) == (len(tokens), len(text))
    # Untrained, each token costs 18 bits: the learner has one step, and the coder loses nothing on rare symbols.
    assert bits == pytest.approx(18 * len(tokens), rel=1e-6)
    assert (tmp_path / "blocks" / "block-00000000").stat().st_size < bits / 8 + 16
    about = {
        "method": "model",
        "corpus": {"name": "text", "bytes": len(text), "documents": 1, "tokens": len(tokens)},
        "code": code_identity(program),
    }
    header = coded_header(about, lanes, tokenizer, 1, 1, {})
    end = end_content(hashlib.sha256(text).hexdigest(), bits)
    write_archive(tmp_path / "archive", coded_frames(header, tokenizer, program, tmp_path / "blocks", b"", end))
    for name, more in ("back", []), ("by its own code", ["--embedded"]):
        succeeded(run(DECOMPRESS, str(tmp_path / "archive"), str(tmp_path / name), *more))
        assert (tmp_path / name).read_bytes() == text
