"""Which runs lie on one scaling line, and which must not."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from finished_run import finished_cell

from studies.scaling.lines import Line, lines_of, notes_of
from studies.scaling.runs import load_runs, load_settings
from train.config import Config


def lines_through(runs: Path) -> list[Line]:
    return lines_of(load_runs(runs))


def cells(runs: Path, block: str = "attention", **changes: Any) -> None:
    """Two widths of a block."""
    for width in (64, 128):
        name = f"{block}-{width}-{len(list(runs.iterdir()))}"
        finished_cell(runs / name, 5e5 - width, width, 1000 * width, block, **changes)


def test_blocks_have_a_line_each_and_seeds_share_it(tmp_path: Path) -> None:
    cells(tmp_path, "ssd")
    cells(tmp_path, "attention", seed=0)
    cells(tmp_path, "attention", seed=1)
    finished_cell(tmp_path / "best", 1e5, 256, 256_000, "ssd")
    lines = lines_through(tmp_path)
    assert [(line.label, line.widths, len(line.runs)) for line in lines] == [
        ("ssd", [64, 128, 256], 3),
        ("attention", [64, 128], 4),
    ]
    assert notes_of(lines) == []


@pytest.mark.parametrize(
    ("changes", "label"),
    [
        ({"model": {"depth": 3}}, "attention, depth 3"),
        ({"model": {"ngram_orders": []}}, "attention, ngram_orders []"),
        ({"train": {"lanes": 8}}, "attention, lanes 8"),
        ({"train": {"segment_tokens": 64}}, "attention, segment_tokens 64"),
        ({"train": {"optimizer": "adamw"}}, "attention, optimizer adamw"),
        ({"train": {"matrix_lr": 0.005}}, "attention, matrix_lr 0.005"),
        ({"train": {"of_a_later_version": 1}}, "attention, of_a_later_version 1"),
        ({"vocabulary": 1024}, "attention, vocabulary 1024"),
        ({"run": {"warm_start": "runs/other"}}, "attention, warm_start runs/other"),
    ],
)
def test_whatever_else_differs_makes_another_line(tmp_path: Path, changes: dict[str, Any], label: str) -> None:
    cells(tmp_path)
    cells(tmp_path, **changes)
    lines = lines_through(tmp_path)
    assert label in [line.label for line in lines]
    assert sorted(len(line.runs) for line in lines) == [2, 2]
    (note,) = notes_of(lines)
    assert "never on one line" in note


def test_what_does_not_change_a_run_does_not_part_it(tmp_path: Path) -> None:
    cells(tmp_path)
    finished_cell(
        tmp_path / "elsewhere",
        4e5,
        256,
        256_000,
        data={"source": "/mnt/kjv.txt", "cache_dir": "/tmp", "workers": 3},
        train={"accumulation": 4},
        engine={"threads": 8, "timeout_secs": 5},
        run={"dir": "elsewhere", "log_steps": 1},
    )
    assert [line.widths for line in lines_through(tmp_path)] == [[64, 128, 256]]


def test_bytes_ignore_the_vocabulary(tmp_path: Path) -> None:
    for width, vocabulary in ((64, 2048), (128, 512)):
        finished_cell(tmp_path / str(width), 5e5, width, 1000, vocabulary=vocabulary, data={"tokenizer": "bytes"})
    (line,) = lines_through(tmp_path)
    assert (line.label, line.vocabulary) == ("attention", 257)
    finished_cell(tmp_path / "pieces", 5e5, 32, 1000, vocabulary=1024)
    lines = lines_through(tmp_path)
    assert {line.label for line in lines} == {"attention, vocabulary bytes", "attention, vocabulary 1024"}
    assert {line.family for line in lines} == {"attention"}


def test_an_expansion_that_follows_the_width_stays_on_the_line(tmp_path: Path) -> None:
    for width, expansion in ((64, 3.5), (128, 3.25)):
        finished_cell(tmp_path / f"ssd-{width}", 5e5, width, 1000 * width, "ssd", model={"expansion": expansion})
    cells(tmp_path)
    lines = lines_through(tmp_path)
    assert {line.label: line.widths for line in lines} == {"ssd": [64, 128], "attention": [64, 128]}
    assert notes_of(lines) == ["model.expansion differs from cell to cell, from 3.25 to 4."]


def test_two_expansions_at_one_width_are_two_lines(tmp_path: Path) -> None:
    cells(tmp_path)
    cells(tmp_path, model={"expansion": 2.0})
    assert {line.label for line in lines_through(tmp_path)} == {"attention, expansion 4", "attention, expansion 2"}


def test_families_differ_in_the_vocabulary_alone(tmp_path: Path) -> None:
    cells(tmp_path, vocabulary=512)
    cells(tmp_path, vocabulary=1024)
    cells(tmp_path, vocabulary=1024, model={"depth": 5})
    families = [(line.family, line.vocabulary) for line in lines_through(tmp_path)]
    assert sorted(families) == [("attention, depth 2", 512), ("attention, depth 2", 1024), ("attention, depth 5", 1024)]


def test_seeds_of_a_width_become_mean_and_range(tmp_path: Path) -> None:
    for seed, data_bytes in enumerate((1000.0, 2000.0, 6000.0)):
        finished_cell(tmp_path / str(seed), data_bytes, 64, 5000, seed=seed)
    finished_cell(tmp_path / "wide", 500.0, 128, 20_000)
    (line,) = lines_through(tmp_path)
    mean, (least, greatest) = line.means("data_bits"), line.range("data_bits")
    assert (mean.tolist(), least.tolist(), greatest.tolist()) == ([24_000, 4000], [8000, 4000], [48_000, 4000])
    assert line.means("width").tolist() == [64, 128]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("a: [", "no YAML"),
        ("- 1", "sections of fields"),
        ("model: 3", "sections of fields"),
        ("train: {seed: x}", "train.seed is 'x'"),
        ("model: {expansion: null}", "model.expansion is None"),
        ("x" * (2 << 20), "larger than"),
    ],
)
def test_what_is_no_configuration_is_refused_on_one_line(tmp_path: Path, content: str, complaint: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"config\.yaml") as caught:
        load_settings(path)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_configuration_is_refused_and_a_partial_one_has_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    with pytest.raises(ValueError, match="is missing"):
        load_settings(path)
    path.write_text(yaml.safe_dump({"model": {"width": 7}}))
    assert load_settings(path)["model.width"] == 7
    assert load_settings(path)["model.depth"] == Config().model.depth
