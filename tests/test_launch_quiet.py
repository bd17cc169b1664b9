"""What a run prints: itself, not what other libraries say, and numbers of one meaning."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from dist import ROOT, run
from small_run import TRAIN, arguments, report

from model.registry import BLOCKS
from train.help import help_text

pytestmark = pytest.mark.starts
NOISY = """
import logging
import warnings

from model.blocks.gru import GRU as Noisy

logging.getLogger("somebody").warning("this library has news")
warnings.warn("this library is old")
"""


@pytest.mark.parametrize("verbose", [False, True])
def test_notices_of_other_libraries_go_to_a_file_of_the_run(
    verbose: bool, corpus: Path, cache: Path, tmp_path: Path
) -> None:
    (tmp_path / "noisy.py").write_text(NOISY)
    given = arguments(corpus, cache, tmp_path / "run", f"--model.block={tmp_path}/noisy.py:Noisy")
    done = run(TRAIN, *given, f"--run.verbose={verbose}")
    assert done.returncode == 0, done.stderr
    found = (tmp_path / "run/notices.log").read_text()
    for notice in ("WARNING somebody: this library has news", "UserWarning: this library is old"):
        assert found.count(notice) == 1
        assert (notice in done.stderr) == verbose
        assert notice not in done.stdout


@pytest.mark.parametrize("path", sorted((ROOT / "launch").glob("*.py")), ids=lambda path: path.stem)
def test_help_comes_before_pytorch_is_imported(path: Path) -> None:
    if path.stem in ("__init__", "entry", "cells"):
        return
    command = [sys.executable, "-X", "importtime", str(path), "--help"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    imported = {line.split("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "launch.entry" in imported
    assert not imported & {"torch", "deepspeed", "matplotlib", "scipy"}
    # The examples of its docstring, line by line.
    begins = ("python ", "deepspeed ")
    examples = [line for line in path.read_text().splitlines()[1:12] if line.lstrip().startswith(begins)]
    assert examples
    for line in examples:
        assert line in done.stdout.splitlines()


def test_help_lists_the_blocks() -> None:
    text = " ".join(help_text("", {}).split())
    assert f"There are {', '.join(BLOCKS)}." in text


def test_an_error_stands_last_and_a_typing_mistake_alone(corpus: Path, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "noisy.py").write_text(NOISY)
    given = arguments(corpus, cache, tmp_path / "run", f"--model.block={tmp_path}/noisy.py:Noisy")
    refused = run(TRAIN, *given, "--model.widht=3")
    assert (refused.returncode, refused.stderr) == (
        2,
        "onepass: unknown option --model.widht. Did you mean --model.width?\n",
    )
    # It fails before there is a file for notices.
    (tmp_path / "file").touch()
    failed = run(TRAIN, *given, f"--run.dir={tmp_path}/file/run")
    assert failed.returncode == 1, failed.stderr
    assert "this library has news" in failed.stderr
    assert failed.stderr.splitlines()[-1].startswith("onepass: ")


def test_the_numbers_of_the_bar_are_those_of_the_table(corpus: Path, cache: Path, tmp_path: Path) -> None:
    done = run(TRAIN, *arguments(corpus, cache, tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    length = report(tmp_path / "run")["description_length"]
    bar = re.split(r"[\r\n]", done.stderr.strip())
    last = [line for line in bar if "total so far" in line][-1]
    total_bytes, bits_per_byte, ratio = length["total_bits"] / 8, length["bits_per_byte"], length["compression_ratio"]
    assert f"total so far {total_bytes:,.0f} bytes, {bits_per_byte:.4f} bits/byte, ratio {ratio:.2f}" in last
    assert f"{bits_per_byte:.4f}" in next(line for line in done.stdout.splitlines() if line.startswith("total "))
