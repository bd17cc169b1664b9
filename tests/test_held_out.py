"""Held-out files are scored, files that a run has seen are refused, and no corpus is read twice by accident."""

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from dist import ROOT, run
from small_run import SMALL
from trained_run import project_text, trained_run

from data.prepare import prepare
from eval.schema import load_report
from model.lm import LanguageModel
from studies.held_out import command
from studies.held_out.command import Windows, read_prepared
from studies.held_out.options import Search
from train.command_line import parse_config
from train.config import Config, DataConfig, ModelConfig
from train.engine import Place
from train.frozen import FrozenLearner, load_frozen

EVALUATE = "launch/evaluate.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run over two documents of this project's tests, and other tests as a file that it has not seen."""
    folder = tmp_path_factory.mktemp("held-out")
    text = project_text()
    (folder / "seen").mkdir()
    (folder / "seen" / "a.txt").write_bytes(text[:9_000])
    (folder / "seen" / "b.txt").write_bytes(text[9_000:20_000])
    (folder / "new.txt").write_bytes((ROOT / "tests/test_scaling_slurm.py").read_bytes()[:3000] + b"\xff\x00\r\n")
    (folder / "partly.txt").write_bytes((folder / "new.txt").read_bytes() + text[5_000:5_400])
    trained_run(folder, folder / "seen", *SMALL)
    return folder


def rates(text: str) -> dict[str, float]:
    """Bits per byte by the name of the row."""
    rows = re.findall(r"^(\S.*?|  \S.*?) +(?:[\d,]+ +)?(\d+\.\d{4})\b", text, re.MULTILINE)
    return {name.strip(): float(rate) for name, rate in rows}


def test_unseen_files_are_scored_beside_the_training(folder: Path) -> None:
    files = [str(folder / "new.txt"), str(folder / "partly.txt")]
    done = run(EVALUATE, "held-out", str(folder / "run"), *files, "--threshold=0.2")
    assert done.returncode == 0, done.stderr
    found, report = rates(done.stdout), load_report(folder / "run" / "report.json")
    length = report.description_length
    assert found["in training, its corpus"] == pytest.approx(length.data_bits_per_byte, abs=1e-4)
    assert found["and with code and all"] == pytest.approx(length.bits_per_byte, abs=1e-4)
    assert found["the last tenth of that"] < found["in training, its corpus"]
    assert found["the last tenth of that"] < found[files[0]] < 8
    sizes = [Path(file).stat().st_size for file in files]
    mean = sum(size * found[file] for size, file in zip(sizes, files, strict=True)) / sum(sizes)
    assert found["all"] == pytest.approx(mean, abs=1e-4)
    assert "CONTAMINATED" not in done.stdout

    # The same by one forward pass over all of the file, which the end of a document stands before.
    _, model, tokenizer = load_frozen(folder / "run")
    end = [tokenizer.end_of_document]
    targets = torch.tensor([[*Path(files[0]).read_bytes(), *end]])
    history = torch.cat([torch.tensor([end * model.context]), targets[:, :-1]], 1)
    with torch.no_grad():
        nats, _ = model(history, model.init_state(1), targets)
    assert found[files[0]] == pytest.approx(nats.sum().item() / math.log(2) / sizes[0], abs=1e-4)


def test_other_text_gets_lanes_that_have_no_counts() -> None:
    torch.manual_seed(0)
    config = Config(model=ModelConfig(width=16, head_width=8, ngram_local=[1], ngram_rows_log2=16))
    model, place = LanguageModel(config.model, 20), Place(0, 1, torch.device("cpu"))
    assert model.mixing is not None
    tokens = torch.randint(20, (config.train.lanes, model.context + 100))
    model.mixing.take_in(tokens, [])
    for own in (True, False):
        learner = FrozenLearner(config, model, 19, config.train.lanes, place, own)
        hashes = model.mixing.contexts.hashes(tokens[:, :-1], learner.states[0][-1])
        known = model.mixing.pairs(hashes, tokens[:, model.context :]) != 0
        # Some contexts find no room in the tables.
        shares = known.double().mean((0, 1, 2))
        assert shares[:-1].min() > 0.9 and (shares[-1] > 0.9 if own else shares[-1] == 0)


def test_a_file_that_was_seen_is_refused_unless_it_may_be_contaminated(folder: Path) -> None:
    partly = str(folder / "partly.txt")
    done = run(EVALUATE, "held-out", str(folder / "run"), partly)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("onepass:")]
    assert "11.75% of" in line
    assert "at byte 3,004 (byte 5,000 of the corpus)" in line
    assert "--contaminated" in line
    assert "bits/byte" not in done.stdout
    done = run(EVALUATE, "held-out", str(folder / "run"), partly, "--contaminated")
    assert done.returncode == 0, done.stderr
    (row,) = [row for row in done.stdout.splitlines() if row.startswith(partly)]
    assert "CONTAMINATED" in row


def search(folder: Path, given: str | None = None, **changes: str) -> float:
    trained = load_report(folder / "run" / "report.json").corpus
    data = load_frozen(folder / "run")[0].data
    for name, value in changes.items():
        setattr(data, name, value)
    (overlap,) = command.search(Search(threshold=1.0), trained, data, given, [folder / "partly.txt"])
    return overlap.share


def test_the_corpus_is_found_prepared_or_at_its_source_or_as_given(folder: Path, tmp_path: Path) -> None:
    share = search(folder)
    assert share == pytest.approx(400 / 3404)
    empty = str(tmp_path)
    assert search(folder, cache_dir=empty) == share
    assert search(folder, given=str(folder / "seen"), cache_dir=empty, source="gone") == share
    # The prepared tokens alone will do.
    assert search(folder, source="gone") == share
    with pytest.raises(ValueError, match=r"name it with --corpus SOURCE"):
        search(folder, cache_dir=empty, source="gone")
    with pytest.raises(ValueError, match="not what the run was trained on"):
        search(folder, given=str(folder / "new.txt"))
    # A source that has changed since is not what the run was trained on either.
    shutil.copytree(folder / "seen", tmp_path / "seen")
    (tmp_path / "seen" / "a.txt").write_bytes(b"something else")
    with pytest.raises(ValueError, match="not what the run was trained on"):
        search(folder, cache_dir=empty, source=str(tmp_path / "seen"))


def test_prepared_tokens_are_the_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("studies.held_out.command.CHUNK_TOKENS", 7)
    documents = ["a document ends", "", "here, where a chunk of seven tokens may end", "too, or not"]
    lines = "\n".join(json.dumps({"text": text}) for text in documents)
    (tmp_path / "d.jsonl").write_text(lines)
    kinds: dict[str, dict[str, Any]] = {"bytes": {}, "bpe": {"vocabulary": 270}}
    for kind, more in kinds.items():
        corpus = prepare(str(tmp_path / "d.jsonl"), tokenizer=kind, cache_dir=tmp_path / kind, **more)
        chunks = list(read_prepared(corpus.directory))
        found = b"".join(chunk + b"|" * ends for chunk, ends in chunks)
        # Where a chunk ends with its document, an end of nothing may follow, which no window reaches over.
        assert re.sub(rb"\|+", b"|", found).decode() == "|".join(filter(None, documents)) + "|"
        assert max(len(chunk) for chunk, _ in chunks) <= 7 * 16


def test_what_cannot_be_told_is_refused(folder: Path, tmp_path: Path) -> None:
    trained, data = load_report(folder / "run" / "report.json").corpus, DataConfig()
    (tmp_path / "short").write_bytes(b"x" * 63)
    for files, window, threshold, message in [
        ([tmp_path / "short"], 64, 0.01, "too short to tell"),
        ([tmp_path / "none"], 64, 0.01, "too short to tell"),
        ([folder / "new.txt"], 7, 0.01, "--window 7"),
        ([folder / "new.txt"], 64, 1.5, "--threshold 1.5"),
    ]:
        with pytest.raises(ValueError, match=message):
            command.search(Search(window=window, threshold=threshold), trained, data, None, files)


@pytest.mark.parametrize("name", ["train.epochs", "train.passes", "data.repeat"])
def test_there_is_no_second_epoch_to_ask_for(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=name.split(".")[1]):
        parse_config("", [f"--{name}=2"])
    section, field = name.split(".")
    (tmp_path / "more.yaml").write_text(f"{section}:\n  {field}: 2\n")
    with pytest.raises(ValueError, match=field):
        parse_config("", [f"--config={tmp_path / 'more.yaml'}"])


def test_a_document_given_twice_is_coded_twice_and_searched_twice(tmp_path: Path) -> None:
    text = (ROOT / "LICENSE").read_bytes()[:2000]
    (tmp_path / "twice").mkdir()
    for name in "ab":
        (tmp_path / "twice" / name).write_bytes(text)
    corpus = prepare(str(tmp_path / "twice"), cache_dir=tmp_path / "cache")
    assert (corpus.manifest.bytes, corpus.manifest.documents, corpus.manifest.tokens) == (4000, 2, 4002)
    windows = Windows(text, 64)
    for chunk, ends in read_prepared(corpus.directory):
        windows.look(chunk, ends)
    assert (windows.corpus_bytes, windows.overlap().seen_bytes) == (4000, 2000)
