"""Sweeps: which cells a grid has, and architectures of equal size."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from model.lm import LanguageModel
from model.registry import BLOCKS
from studies.scaling.axes import multiply
from studies.scaling.cells import Cell, Grid, count_flops, count_parameters, make_cells, match
from train.command_line import parse_config, save_config
from train.config import ModelConfig
from train.flops import forward_flops

SMALL = ModelConfig(block="attention", width=64, head_width=16, window=32, depth=2, ngram_orders=[])


def test_sizes_are_those_worked_out_by_hand() -> None:
    # A layer: queries, keys, values and output 4 D^2, MLP 8 D^2, a temperature a head. Beside tables nothing else.
    assert count_parameters(SMALL, 300) == 2 * (12 * 64 * 64 + 4)
    time = 16
    products = 2 * time * (2 * 12 * 64 * 64 + 64 * 300)
    scores = 2 * 2 * 2 * time * (time + 31) * 64
    assert forward_flops(LanguageModel(SMALL, 300), time) == products + scores
    # An LSTM's gates 8 D^2, output D^2, MLP 8 D^2.
    products = 2 * time * (2 * 17 * 64 * 64 + 64 * 300)
    assert forward_flops(LanguageModel(replace(SMALL, block="lstm"), 300), time) == products


@pytest.mark.parametrize("measure", ["parameters", "flops"])
@pytest.mark.parametrize("block", sorted(BLOCKS))
def test_every_block_can_be_matched_within_2_percent(block: str, measure: str) -> None:
    found = match(replace(SMALL, block=block), SMALL, 300, measure)
    size = {"parameters": count_parameters, "flops": count_flops}[measure]
    assert size(found, 300) == pytest.approx(size(SMALL, 300), rel=0.02)
    assert replace(found, expansion=4.0) == replace(SMALL, block=block)


def test_what_cannot_be_matched_is_refused_with_both_numbers() -> None:
    giant = replace(SMALL, expansion=100.0)
    with pytest.raises(ValueError, match=rf"{count_parameters(giant, 300):,} parameters.*nearest is .*model\.expand"):
        match(SMALL, giant, 300, "parameters")


def cells(folder: Path, **changes: object) -> list[Cell]:
    given = ["--model.head_width=16"]
    plan: dict[str, object] = {
        "given": given, "blocks": ["attention"], "widths": [32, 64], "seeds": [0], "vocabularies": [],
        "measure": "parameters", "folder": folder,
    }  # fmt: skip
    return make_cells(Grid(**{**plan, **changes}))  # type: ignore[arg-type]


def test_a_grid_has_a_cell_for_each_combination_with_a_name_of_its_own(tmp_path: Path) -> None:
    found = cells(tmp_path, seeds=[0, 1], vocabularies=[512, 1024])
    assert len(found) == len({cell.name for cell in found}) == len({cell.run_dir for cell in found}) == 8
    assert [found[0].name, found[1].name] == ["attention-32-512", "attention-32-512-seed1"]
    config = parse_config("", found[-1].arguments)
    assert (config.model.width, config.train.seed, config.data.vocabulary) == (64, 1, 1024)
    assert (config.model.head_width, config.model.expansion) == (16, 4.0)
    assert Path(config.run.dir) == found[-1].run_dir
    assert [cell.name for cell in cells(tmp_path)] == ["attention-32", "attention-64"]


def test_bytes_are_a_vocabulary_of_their_own(tmp_path: Path) -> None:
    bare, pieces = cells(tmp_path, widths=[32], vocabularies=["bytes", 512])
    assert (bare.name, pieces.name) == ("attention-32-bytes", "attention-32-512")
    assert parse_config("", bare.arguments).data.tokenizer == "bytes"
    (given,) = cells(tmp_path, widths=[32], given=["--model.head_width=16", "--data.tokenizer=bytes"])
    assert parse_config("", given.arguments).data.tokenizer == "bytes"


def test_a_grid_can_grow(tmp_path: Path) -> None:
    small = cells(tmp_path, widths=[32], vocabularies=[512])
    large = cells(tmp_path, widths=[32, 64], seeds=[0, 1], vocabularies=[512, "bytes"])
    assert small[0] in large


def test_a_directory_of_another_run_is_not_taken_for_the_cells(tmp_path: Path) -> None:
    cell = cells(tmp_path)[0]
    cell.run_dir.mkdir(parents=True)
    config = parse_config("", cell.arguments)
    config.engine.threads, config.engine.precision = 2, "fp32"
    save_config(config, cell.run_dir / "config.yaml")
    assert cells(tmp_path)[0] == cell
    with pytest.raises(ValueError, match=r"model\.depth was 2 in .*attention-32/config\.yaml and is now 3"):
        cells(tmp_path, given=["--model.head_width=16", "--model.depth=3"])


def test_a_pattern_of_blocks_is_one_cell(tmp_path: Path) -> None:
    pattern = "attention attention"
    (cell,) = cells(tmp_path, blocks=[pattern], widths=[32])
    assert cell.name == "attention+attention-32"
    assert parse_config("", cell.arguments).model.block == pattern


def test_a_cell_goes_on_where_it_was_and_is_finished_by_its_report(tmp_path: Path) -> None:
    cell = cells(tmp_path)[0]
    assert "--run.resume" not in cell.arguments
    assert not cell.finished
    cell.run_dir.mkdir(parents=True)
    (cell.run_dir / "config.yaml").touch()
    assert cell.arguments == [f"--run.dir={cell.run_dir}", "--run.resume"]
    assert not cell.finished
    cell.log.parent.mkdir()
    cell.log.write_text(
        "onepass: the loss stopped being a number in the 50 steps before step 100, after 9 coded bytes."
    )
    assert cell.diverged
    (cell.run_dir / "report.json").touch()
    assert not cell.diverged
    assert cell.finished


def test_widths_that_heads_do_not_divide_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.width 40"):
        cells(tmp_path, widths=[40], blocks=["attention", "attention attention"])


def test_the_charge_for_the_best_of_k_cells_is_its_index() -> None:
    from eval.description_length import side_bits

    assert side_bits(1000, 1, sweep_cells=8) - side_bits(1000) == math.log2(8)


def test_depths_and_factors_on_rates_multiply_a_grid(tmp_path: Path) -> None:
    given = ["--model.depth=2", "--train.matrix_lr=0.1", "--model.ngram_orders=[]", "--model.head_width=16"]
    grid = Grid(tmp_path, given, ["attention", "gru"], [32], [0], [], "parameters")
    plain, found = make_cells(grid), multiply(grid, [2, 4], [0.5, 1])
    names = [cell.name for cell in found]
    assert names[:4] == ["attention-32-rates0.5", "gru-32-rates0.5", "attention-32", "gru-32"]
    assert names[4:6] == ["attention-32-depth4-rates0.5", "gru-32-depth4-rates0.5"]
    assert [(cell.place.line, cell.place.row, cell.place.factor) for cell in found[3:5]] == [
        ("gru", "gru", 1.0),
        ("attention, depth4", "attention, depth4, rates0.5", 0.5),
    ]
    # Cells of the grid itself keep their names and settings, so an axis can be added to a sweep that has run.
    assert [parse_config("", list(cell.options)) for cell in found[2:4]] == [
        parse_config("", list(cell.options)) for cell in plain
    ]
    config = parse_config("", list(found[4].options))
    assert (config.model.depth, config.train.matrix_lr, config.train.table_lr) == (4, 0.05, 0.01)
    assert multiply(grid, [], []) == plain
