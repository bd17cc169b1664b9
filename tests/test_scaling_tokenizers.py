"""Sweeps over tokenizers: bytes, pieces of several sizes, and files, compared in bytes."""

import csv
import json
import math
from pathlib import Path

import pytest
from archive_commands import complaint, succeeded
from dist import run
from small_run import SMALL
from test_data_own_tokenizer import byte_level, metaspace

from data.errors import UsageError
from data.files import file_sha256
from eval.plots import LIGHT
from studies.scaling.cells import Cell, Grid, make_cells
from studies.scaling.runs import load_runs
from studies.scaling.tokenizers import best_by_tokenizer, tokenizer_figure
from train.command_line import parse_config

SWEEP = "launch/sweep.py"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "mine.json"
    path.write_text(byte_level().to_str())
    return path


def cells(folder: Path, *tokenizers: str, given: tuple[str, ...] = (), widths: tuple[int, ...] = (32,)) -> list[Cell]:
    options = ["--model.head_width=16", *given]
    return make_cells(Grid(folder, options, ["attention"], widths, [0], [], "parameters", tokenizers))


def test_each_tokenizer_has_cells_whose_names_do_not_depend_on_the_others(tmp_path: Path, file: Path) -> None:
    found = cells(tmp_path, "bytes", "bpe:512", str(file))
    own = f"mine.json-{file_sha256(file)[:8]}"
    assert [cell.name for cell in found] == ["attention-32-bytes", "attention-32-512", f"attention-32-{own}"]
    data = [parse_config("", cell.arguments).data for cell in found]
    assert [one.tokenizer for one in data] == ["bytes", "bpe", str(file)]
    assert data[1].vocabulary == 512
    assert cells(tmp_path, str(file))[0] == found[2]
    by_vocabulary = Grid(tmp_path, ["--model.head_width=16"], ["attention"], [32], [0], ["bytes", 512], "parameters")
    assert make_cells(by_vocabulary) == found[:2]


def test_the_one_tokenizer_of_all_cells_may_be_a_file(tmp_path: Path, file: Path) -> None:
    (cell,) = cells(tmp_path, given=(f"--data.tokenizer={file}",))
    assert cell.name == "attention-32"
    assert parse_config("", cell.arguments).data.tokenizer == str(file)


def test_what_is_learned_from_the_corpus_is_charged_beside_files_that_are_declared(tmp_path: Path, file: Path) -> None:
    given = ("--run.reference_tokenizer", "--data.tokenizer_sample_bytes=5000", f"--data.tokenizer={file}")
    learned, declared = cells(tmp_path, "bpe:512", str(file), given=("--data.tokenizer_sample_bytes=5000",))
    assert parse_config("", learned.arguments).data.tokenizer_sample_bytes == 5000
    assert parse_config("", declared.arguments).data.tokenizer_sample_bytes == 100_000_000
    learned, declared = cells(tmp_path, "bpe:512", str(file), given=(given[0], given[2]))
    runs = [parse_config("", cell.arguments).run for cell in (learned, declared)]
    assert [one.reference_tokenizer for one in runs] == [False, True]


def test_what_is_there_twice_or_cannot_be_read_is_refused_with_the_file(tmp_path: Path, file: Path) -> None:
    (tmp_path / "copy.json").write_bytes(file.read_bytes())
    with pytest.raises(UsageError, match=r"mine.json and .*copy.json are the same tokenizer: leave one out"):
        cells(tmp_path / "sweep", str(file), "bytes", str(tmp_path / "copy.json"))
    with pytest.raises(UsageError, match="bpe and bpe:2048 are the same tokenizer"):
        cells(tmp_path / "sweep", "bpe", "bpe:2048")
    with pytest.raises(UsageError, match=r"--tokenizers gone.json cannot be read"):
        cells(tmp_path / "sweep", "bytes", "gone.json")
    (tmp_path / "torn.json").write_bytes(file.read_bytes()[:500])
    with pytest.raises(UsageError, match=r"--tokenizers .*torn.json: this JSON is no tokenizer"):
        cells(tmp_path / "sweep", "bytes", str(tmp_path / "torn.json"))
    with pytest.raises(UsageError, match=r"data.vocabulary is 100: take 258"):
        cells(tmp_path / "sweep", "bpe:100")


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, file: Path) -> tuple[Path, str]:
    """A sweep over two files of one name, pieces and bytes, and what it printed."""
    folder = tmp_path_factory.mktemp("sweep")
    corpus, other = folder / "corpus.txt", folder / "mine.json"
    corpus.write_bytes(Path("LICENSE").read_bytes()[:4096])
    other.write_text(metaspace().to_str())
    shared = [option for option in SMALL if "model.width" not in option and "data.tokenizer" not in option]
    given = [f"--dir={folder / 'sweep'}", "--blocks=attention", "--widths=16", *shared, f"--data.source={corpus}"]
    tokenizers = f"--tokenizers=bytes,bpe:300,{file},{other}"
    done = run(SWEEP, *given, f"--data.cache_dir={folder / 'cache'}", tokenizers)
    succeeded(done)
    return folder / "sweep", done.stdout


def test_the_comparison_names_each_tokenizer_and_is_in_bytes(swept: tuple[Path, str], file: Path) -> None:
    folder, text = swept
    runs = load_runs(folder)
    named = {one.tokenizer for one in runs}
    assert len(named) == 4 and {"bytes", "bpe", f"mine.json {file_sha256(file)[:8]}"} < named
    page = (folder / "comparison.html").read_text()
    for shown in text, page:
        for one in runs:
            assert one.symbols in shown and f"{one.tokenizer_bits / 8:,.0f}" in shown
        assert "bytes/s" in shown and "tokens/s" not in shown
    assert (folder / "comparison-tokenizers.png").exists()
    with (folder / "comparison.csv").open() as stream:
        assert {row["tokenizer"] for row in csv.DictReader(stream)} == named
    assert {run.report.coded.bytes for run in runs} == {4096}
    assert json.loads((folder / "sweep.json").read_text())["side_bits"] == math.log2(4)
    assert "log2(4) = 2.00 bits are charged" in " ".join(text.split())


def test_the_figure_has_a_bar_for_each_tokenizer_with_all_terms(swept: tuple[Path, str]) -> None:
    runs = load_runs(swept[0])
    best = best_by_tokenizer(runs)
    assert [one.name for one in best] == [one.name for one in sorted(runs, key=lambda one: one.total_bits)]
    (axes,) = tokenizer_figure(runs, LIGHT).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [one.symbols for one in best]
    written = {text.get_text() for text in axes.texts}
    assert {f"{one.total_bits / 8:,.0f}" for one in best} <= written
    widths = [sum(bars[place].get_width() for bars in axes.containers) for place in range(4)]
    assert widths == pytest.approx([one.total_bits / 8 for one in best])


def test_a_corpus_that_is_cut_already_has_no_axis_of_tokenizers(tmp_path: Path) -> None:
    given = ("--data.source=tokens:ids.npy",)
    with pytest.raises(UsageError, match=r"--tokenizers and .* data.source tokens:ids.npy is cut already: leave them"):
        cells(tmp_path, "bytes", "bpe:512", given=given)
    assert len(cells(tmp_path, given=given)) == 1


def test_two_axes_of_tokenizers_are_refused(tmp_path: Path) -> None:
    given = [f"--dir={tmp_path / 'sweep'}", "--blocks=attention", "--widths=16", "--tokenizers=bytes"]
    assert "--vocabularies has no effect beside it" in complaint(run(SWEEP, *given, "--vocabularies=512"), 2)
    assert "--tokenizers sets it" in complaint(run(SWEEP, *given, "--data.tokenizer=bpe"), 2)
    assert not (tmp_path / "sweep").exists()
