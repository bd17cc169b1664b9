"""A run that takes a second, over a corpus that repeats itself: options and fixtures for the tests of the trainer.

Twenty steps of 8 lanes x 32 tokens, of which the last is ragged.
"""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from dist import ROOT, run

TRAIN = "launch/train.py"
SMALL = [
    "--model.width=32", "--model.head_width=16", "--model.depth=2", "--model.window=32", "--model.ngram_orders=[1,2,3]",
    "--model.ngram_rows_log2=12", "--train.segment_tokens=32", "--train.lanes=8", "--engine.threads=1",
    "--data.tokenizer=bytes", "--run.log_steps=1", "--run.baselines=false",
]  # fmt: skip
# For archives: the coder takes lanes in parallel.
MANY_LANES = ["--train.lanes=128", "--train.segment_tokens=16"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """5,003 bytes of this project's prose, of a length that no lane or segment divides."""
    path = tmp_path_factory.mktemp("corpus") / "source.txt"
    path.write_bytes((b"\xff\x00\xe2\x96\x81" + 2 * (ROOT / "LICENSE").read_bytes()[3_000:5_600])[:5_003])
    return path


def arguments(corpus: Path, cache: Path, run_dir: Path, *more: str) -> list[str]:
    return [f"--data.source={corpus}", f"--data.cache_dir={cache}", f"--run.dir={run_dir}", *SMALL, *more]


def report(run_dir: Path) -> dict[str, Any]:
    return json.loads((run_dir / "report.json").read_text())


def curve(run_dir: Path) -> list[tuple[str, ...]]:
    """The live curve without its two columns of times."""
    with (run_dir / "curve.csv").open() as file:
        return [(*row[:5], row[7]) for row in csv.reader(file)]


@pytest.fixture(scope="module")
def undisturbed(corpus: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("runs") / "undisturbed"
    done = run(TRAIN, *arguments(corpus, cache, run_dir, "--run.baselines=true"))
    assert done.returncode == 0, done.stderr
    assert "description length" in done.stdout
    assert "ppmd" in done.stdout
    return run_dir
