"""What a report says of what was run: command, commit, configuration, and what differs from the defaults."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from finished_run import RUN_SECTIONS, finished_run, made_report, sections

from eval.provenance import (
    commit_text,
    describe_run,
    escape_text,
    not_default,
    read_commit,
    schedule_words,
    settings_rows,
)
from eval.schema import Commit, load_report
from eval.tables import markdown, terminal_table
from train.config import Config, DataConfig, ModelConfig, TrainConfig

ROOT = Path(__file__).parents[1]


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=someone", "-c", "user.email=someone@example.org"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The one module with what it needs, in a folder without git."""
    folder = tmp_path / "with a space/site-packages"
    for room in ("eval", "train", "data"):
        shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def commit_from(folder: Path) -> str:
    program = "from eval.provenance import read_commit; print(read_commit())"
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.skipif(not shutil.which("git"), reason="there is no git here")
def test_the_commit_is_that_of_the_code_and_of_nothing_else(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installed from a wheel, below somebody else's checkout or not, there is none."""
    assert commit_from(copied) == "None"
    git(copied.parent, "init", "-q")
    (copied.parent / ".gitignore").write_text("site-packages\n")
    git(copied.parent, "add", ".gitignore")
    git(copied.parent, "commit", "-qm", "somebody else's")
    assert commit_from(copied) == "None"
    git(copied, "init", "-q")
    git(copied, "add", ".")
    git(copied, "commit", "-qm", "ours")
    monkeypatch.setenv("GIT_DIR", str(copied.parent / ".git"))
    assert commit_from(copied).endswith("changed=False")
    (copied / "notes.txt").write_text("not tracked")
    assert commit_from(copied).endswith("changed=False")
    (copied / "eval/tables.py").write_text("")
    assert commit_from(copied).endswith("changed=True")


def test_without_git_there_is_no_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert read_commit() is None
    assert commit_text(None) == ""
    assert commit_text(Commit(hash="0123456789" * 4, changed=True)) == "012345678901, changed"


def test_a_report_holds_the_whole_configuration_and_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["launch/train.py", "--data.source", "two words.txt", "--run.dir=x"])
    found = describe_run(Config(), {"communication_data_type": "fp32"}, "cpu", 2)
    assert found["command"] == "launch/train.py --data.source 'two words.txt' --run.dir=x"
    assert found["config"] == Config().to_dict()
    assert found["deepspeed"] == {"communication_data_type": "fp32"}
    assert found["device"]["name"]
    assert (found["device"]["kind"], found["device"]["world_size"]) == ("cpu", 2)
    assert made_report(**found).deepspeed == {"communication_data_type": "fp32"}


def test_a_schedule_is_said_in_words() -> None:
    assert schedule_words(1024, " tokens") == "1,024 tokens"
    assert schedule_words("16@0,1024@0.125", " tokens") == "16 tokens, 1,024 from 12.5 % of the epoch"
    assert schedule_words("16@0,32@0.1,64@0.5", " tokens") == "16 tokens, 32 from 10 %, 64 from 50 % of the epoch"
    config = Config(train=TrainConfig(segment_tokens="16@0,64@0.5"))
    rows = dict(settings_rows(made_report(**describe_run(config, {}, "cpu", 1))))
    assert rows["batch and seed"] == "16 lanes x 16 tokens, 64 from 50 % of the epoch, seed 0"
    assert "train.segment_tokens 16@0,64@0.5, not 32" in rows["differs from defaults"]


def test_names_that_utf8_cannot_hold_are_escaped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = b"caf\xe9.txt".decode("utf-8", "surrogateescape")
    monkeypatch.setattr(sys, "argv", ["launch/train.py", "--data.source", name])
    run = describe_run(Config(data=DataConfig(source=name)), {}, "cpu", 1)
    finished_run(tmp_path / "run", run=run)
    report = load_report(tmp_path / "run/report.json")
    assert report.config is not None
    assert report.config["data"]["source"] == "caf\\udce9.txt"
    assert "caf\\udce9.txt" in (tmp_path / "run/report.html").read_text()
    assert escape_text([{"a": name}]) == [{"a": "caf\\udce9.txt"}]


def test_what_is_not_a_default_is_listed() -> None:
    assert not_default(Config().to_dict()) == {}
    config = Config(model=ModelConfig(width=32, ngram_orders=[]), data=DataConfig(tokenizer="bytes"))
    config = replace(config, run=replace(config.run, dir="runs/x"), train=replace(config.train, matrix_lr=0.005))
    assert not_default(config.to_dict()) == {
        "data.tokenizer": ("bytes", "bpe"),
        "model.width": ("32", "128"),
        "model.ngram_orders": ("none", "1 2 3 4 6"),
        "train.matrix_lr": ("0.005", "0.02"),
    }


def test_the_default_run_says_that_it_mixes_contexts(tmp_path: Path) -> None:
    """ "gru attention, 1,056,784 parameters" did not say what shortens the code by a third."""
    report = finished_run(tmp_path / "run")
    page = " ".join((tmp_path / "run/report.html").read_text().split("<h2>")[0].split())
    for text in (terminal_table(report), markdown(report, ""), page):
        for words in ("of orders 1 2 3 4 6", "muon, learning rates 0.02 0.02 0.01", "vocabulary 2,048", "seed 0"):
            assert words in text, words
        assert "nothing" in text
    lines = terminal_table(report).splitlines()
    assert max(map(len, lines)) <= 100
    assert "0123456789abcdef" in (tmp_path / "run/report.html").read_text()


def test_what_differs_from_the_defaults_is_on_the_first_screen(tmp_path: Path) -> None:
    run = {name: sections()[name] for name in RUN_SECTIONS}
    run["config"]["model"] |= {"width": 32, "ngram_orders": []}
    run["config"]["data"] |= {"source": "a-long-name/" * 20, "tokenizer": "bytes"}
    report = finished_run(tmp_path / "run", run=run)
    rows = dict(settings_rows(report))
    assert rows["context mixing"] == "none"
    assert rows["symbols"] == "bytes, 257"
    assert "model.width 32, not 128; model.ngram_orders none, not 1 2 3 4 6" in rows["differs from defaults"]
    page = (tmp_path / "run/report.html").read_text().split("<h2>")[0]
    assert "model.width 32, not 128" in page
    lines = terminal_table(report).splitlines()
    assert max(map(len, lines)) <= 100


def test_a_report_of_before_that_was_said_still_reads(tmp_path: Path) -> None:
    report = finished_run(tmp_path / "run", run={})
    assert load_report(tmp_path / "run/report.json") == report
    assert settings_rows(report) == []
    assert "What was run" not in (tmp_path / "run/report.html").read_text()
    assert "context mixing" not in terminal_table(report)
