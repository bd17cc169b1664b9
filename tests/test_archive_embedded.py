"""The code that is charged is code that runs: archives decode by what they carry, with nothing of ours installed."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from plain_engine import PlainEngine
from trained_run import project_text

from archive.encoding import EncodingSource, coded_frames, coded_header
from archive.format import end_content, write_archive
from data.bpe import Encoder, train_tokenizer
from data.lanes import Lanes
from data.tokenizer import Tokenizer
from eval.code_size import code_identity, decoder_values, measure_code, unpack
from model.registry import BLOCKS
from train.config import Config, DataConfig, EngineConfig, ModelConfig, TrainConfig
from train.corpus import CorpusSource
from train.engine import Place
from train.ledger import Ledger
from train.loop import Learner, one_epoch

TEXT = project_text()[:300]
SHA256 = hashlib.sha256(TEXT).hexdigest()
ALONE = Place(0, 1, torch.device("cpu"))
MODEL = ModelConfig(width=16, head_width=8, depth=1, window=16, ngram_orders=[], ngram_rows_log2=8)
TRAIN = TrainConfig(lanes=4, segment_tokens=8)
# Decodes one archive after another, each by the modules in a folder of its own.
DECODE = """
import importlib, json, os, sys
for folder, archive, output in json.loads(sys.argv[1]):
    sys.path.insert(0, folder)
    for name in list(sys.modules):
        if os.path.exists(os.path.join(folder, name.split(".")[0])):
            del sys.modules[name]
    importlib.invalidate_caches()
    decoding = importlib.import_module("archive.decoding")
    assert decoding.__file__.startswith(folder)
    decoding.main(archive, output)
    sys.path.remove(folder)
"""


@dataclass(frozen=True)
class Case:
    model: ModelConfig = field(default_factory=lambda: MODEL)
    train: TrainConfig = field(default_factory=lambda: TRAIN)
    tokenizer: str = "bytes"

    @property
    def config(self) -> Config:
        engine = EngineConfig(precision="fp32", threads=1)
        return Config(DataConfig(tokenizer=self.tokenizer), self.model, self.train, engine)


CASES = {
    **{block: Case(replace(MODEL, block=block)) for block in sorted(BLOCKS)},
    "all blocks": Case(replace(MODEL, block=" ".join(BLOCKS), depth=len(BLOCKS))),
    "mixing of words": Case(
        replace(MODEL, ngram_orders=[1, 2], ngram_words=4, ngram_lags=[[2]], ngram_local=[0], ngram_embeddings=[2, 0])
    ),
    "pieces": Case(replace(MODEL, ngram_orders=[1, 2]), tokenizer="bpe"),
    "growing segments": Case(train=replace(TRAIN, segment_tokens="2@0,16@0.3")),
    "replay": Case(train=replace(TRAIN, replay=1, optimizer="adamw", accumulation=2)),
}


def tokenizer_of(case: Case) -> Tokenizer:
    return train_tokenizer(case.tokenizer, [TEXT], 300, len(TEXT))


def archived(case: Case, program: bytes, folder: Path) -> Path:
    """An archive of TEXT, encoded by this process."""
    tokenizer, config = tokenizer_of(case), case.config
    tokens = np.array([*Encoder(tokenizer).encode(TEXT), tokenizer.end_of_document], np.uint32)
    lanes = Lanes(len(tokens), config.train.lanes, config.train.segment_tokens)
    learner = Learner(config, tokenizer.vocabulary, tokenizer.end_of_document, ALONE)
    corpus = CorpusSource(lanes, range(lanes.lanes), lambda start, stop: tokens[start:stop], {"corpus": ""})
    ledger = Ledger(lanes.lanes, np.array([len(piece) for piece in tokenizer.pieces]), ALONE)
    for _ in one_epoch(learner, lanes, EncodingSource(corpus, folder / "blocks", ALONE), ledger):
        pass
    about = {
        "method": "model",
        "corpus": {"name": "text", "bytes": len(TEXT), "documents": 1, "tokens": len(tokens)},
        "code": code_identity(program),
    }
    header = coded_header(about, lanes, tokenizer, 1, 1, {})
    end = end_content(SHA256, ledger.totals()[0])
    frames = coded_frames(header, tokenizer, program, folder / "blocks", b"", end)
    write_archive(folder / "archive", frames)
    return folder / "archive"


@pytest.fixture
def one_engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Encoding happens here, without processes; numbers as train.engine.connect would have them."""
    monkeypatch.setattr("train.loop.build_engine", PlainEngine)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_flush_denormal(False)
    torch.set_num_threads(threads)


def test_every_block_tokenizer_and_way_to_learn_decodes_by_the_code_that_is_charged(
    one_engine: None, tmp_path: Path
) -> None:
    jobs: list[list[Any]] = []
    # One after the other: Python 3.11 cannot parse in two threads.
    charged = {name: measure_code(decoder_values(case.config, tokenizer_of(case), {})) for name, case in CASES.items()}
    for name, case in CASES.items():
        folder = tmp_path / name.replace(" ", "-")
        archive = archived(case, charged[name].packed, folder)
        sources = unpack(charged[name].packed)[1]
        for path, source in sources.items():
            (folder / "code" / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / "code" / path).write_text(source)
        jobs.append([str(folder / "code"), str(archive), str(folder / "back")])
    empty = tmp_path / "empty"
    empty.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-P", "-c", DECODE, json.dumps(jobs)]
    done = subprocess.run(command, cwd=empty, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for _, _, back in jobs:
        assert Path(back).read_bytes() == TEXT, back
