"""A sweep over widths as launch/report.py shows it: figures, tables and files, of runs made from known laws."""

import csv
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from finished_run import finished_cell, run_report
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from eval.plots import DARK, LIGHT, png, use_style
from studies.scaling.analysis import Scaling, analyse
from studies.scaling.laws import PowerLaw
from studies.scaling.lines import lines_of
from studies.scaling.pages import write_comparison, write_tensorboard
from studies.scaling.plots import scaling_figure, vocabulary_figure
from studies.scaling.runs import load_runs, refuse_mixed
from studies.scaling.tables import compare_runs, scaling_csv, scaling_text
from studies.scaling.verdicts import standing_of

WIDTHS = (64, 96, 128, 192, 256)
FIXED_BYTES = 80 + 15 + 5
# In bytes. Steep is shorter beyond 300,000 parameters.
FLAT = PowerLaw(450e3, 100e3 * 3e5**0.2, 0.2)
STEEP = PowerLaw(400e3, 150e3 * 3e5**0.5, 0.5)


def sweep(runs: Path, widths: tuple[int, ...] = WIDTHS, vocabularies: tuple[int, ...] = (2048,)) -> None:
    """Two blocks of equal parameters; a larger vocabulary shortens what wide models code and lengthens the rest."""
    for block, law in (("attention", FLAT), ("ssd", STEEP)):
        for vocabulary in vocabularies:
            for width in widths:
                parameters = 36 * width**2
                data_bytes = float(law.bits(parameters)) * (
                    1 - 0.01 * np.log2(vocabulary / 2048) * np.log2(width / 128)
                )
                name = f"{block}-{width}-vocabulary{vocabulary}"
                finished_cell(runs / name, data_bytes, width, parameters, block, vocabulary)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The directory of a sweep over which launch/report.py was run, and what it printed."""
    runs = tmp_path_factory.mktemp("work") / "sweep"
    sweep(runs, vocabularies=(1024, 2048))
    (runs / "sweep.json").write_text(json.dumps({"format": 1, "cells": 20, "names": []}))
    done = run_report(runs)
    assert done.returncode == 0, done.stderr
    assert f"wrote {runs}/scaling.json" in done.stderr
    return runs, done.stdout


def analysed(runs: Path) -> Scaling:
    found = analyse(lines_of(load_runs(runs)))
    assert found is not None
    return found


def test_laws_crossings_and_best_widths_are_those_that_were_made(tmp_path: Path) -> None:
    sweep(tmp_path)
    scaling = analysed(tmp_path)
    by_label = {result.line.label: result for result in scaling.results}
    assert set(by_label) == {"attention", "ssd"}
    for label, law in (("attention", FLAT), ("ssd", STEEP)):
        result = by_label[label]
        for trend, fixed_bytes in ((result.data, 0), (result.total, FIXED_BYTES)):
            assert trend.fit is not None
            assert trend.fit.law.floor_bits / 8 == pytest.approx(law.floor_bits + fixed_bytes, rel=1e-4)
            assert trend.fit.law.exponent == pytest.approx(law.exponent, rel=1e-3)
            assert trend.prediction is not None
            assert trend.prediction.predicted_bits == pytest.approx(trend.prediction.measured_bits, rel=1e-4)
            assert trend.prediction.size == 36 * 256**2
        assert (result.shortest.size, result.shortest.edge) == (256, "largest")
    by_axis = {pair.axis: pair for pair in scaling.pairs}
    # Where the laws cross, up to the straight lines between measurements.
    assert by_axis["parameters"].crossings[0].size == pytest.approx(3e5, rel=0.03)
    assert by_axis["width"].crossings[0].size == pytest.approx((3e5 / 36) ** 0.5, rel=0.03)
    assert by_axis["width"].verdict == "attention to 92, ssd above"


def test_three_widths_give_no_fit_and_the_reason(tmp_path: Path) -> None:
    sweep(tmp_path, WIDTHS[:3])
    scaling = analysed(tmp_path)
    for result in scaling.results:
        assert result.data.fit is None
        assert result.data.why_no_fit == "a power law needs 4 widths or more, and there are 3"
        assert result.data.prediction is None
    assert "no power law: a power law needs 4 widths" in scaling_text(scaling)
    write_comparison([compare_runs(load_runs(tmp_path))], tmp_path / "out")
    assert "none: a power law needs 4 widths or more, and there are 3" in (tmp_path / "out/comparison.html").read_text()
    (line, _) = json.loads((tmp_path / "out/scaling.json").read_text())["lines"]
    assert line["data"]["fit"] is None
    assert line["data"]["why_no_fit"].startswith("a power law needs 4 widths")


def test_without_two_widths_there_is_no_scaling(tmp_path: Path) -> None:
    sweep(tmp_path, (64,))
    assert analyse(lines_of(load_runs(tmp_path))) is None


def test_no_crossing_is_a_result_too(tmp_path: Path) -> None:
    sweep(tmp_path, WIDTHS[2:])
    scaling = analysed(tmp_path)
    assert [pair.crossings for pair in scaling.pairs] == [[], []]
    assert {pair.axis: pair.verdict for pair in scaling.pairs} == {
        "width": "ssd from 128 to 256",
        "parameters": "ssd from 590,000 to 2,360,000",
    }
    assert "No two architectures cross." in scaling_text(scaling)


def test_the_terminal_says_it(made: tuple[Path, str]) -> None:
    _, text = made
    assert "is the best of 20 cells of a sweep: log2(20) = 4.32 bits" in " ".join(text.split())
    assert "Runs that differ in data.vocabulary are never on one line" in text
    pair = text.split("ssd, vocabulary 2048 and attention, vocabulary 2048, by width\n")[1].splitlines()
    assert pair[1] == "  total  attention, vocabulary 2048 to 92, ssd, vocabulary 2048 above"


def test_scaling_csv_has_a_row_a_cell(made: tuple[Path, str]) -> None:
    with (made[0] / "scaling.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0])[:5] == ["name", "block", "width", "seed", "vocabulary"]
    assert {"parameters", "flops", "data_bits", "code_bits", "total_bits", "bits_per_byte"} < set(rows[0])
    settings = {"seed": "0", "vocabulary": rows[0]["vocabulary"], "optimizer": "muon", "matrix_lr": "0.02"}
    settings |= {"table_lr": "0.02", "vector_lr": "0.01", "commit": "0123456789ab"}
    assert {name: rows[0][name] for name in settings} == settings
    assert len({row["name"] for row in rows}) == len(rows) == 20
    for row in rows:
        assert float(row["total_bits"]) - float(row["data_bits"]) == pytest.approx(8 * FIXED_BYTES)
        assert float(row["bits_per_byte"]) == pytest.approx(float(row["total_bits"]) / 1e7)
        assert int(row["parameters"]) == int(row["parameters_non_embedding"]) + int(row["vocabulary"]) * int(
            row["width"]
        )


def test_scaling_json_has_fits_crossings_and_best_widths(made: tuple[Path, str]) -> None:
    document = json.loads((made[0] / "scaling.json").read_text())
    assert document["format"] == 1
    assert document["corpus"] == {"name": "text", "bytes": 10_000_000, "sha256": "a" * 64}
    lines = {line["label"]: line for line in document["lines"]}
    steep = lines["ssd, vocabulary 2048"]
    assert steep["data"]["fit"]["law"]["exponent"] == pytest.approx(0.5, rel=1e-3)
    low, high = steep["data"]["fit"]["exponent_interval"]
    assert low <= 0.5 + 1e-6
    assert high >= 0.5 - 1e-6
    assert steep["shortest"]["size"] == 256
    assert {(pair["first"], pair["second"]) for pair in document["architectures"]} == {
        ("ssd, vocabulary 1024", "attention, vocabulary 1024"),
        ("ssd, vocabulary 2048", "attention, vocabulary 2048"),
    }
    assert [one["vocabulary"] for one in document["vocabularies"]["ssd"]] == [1024, 2048]
    assert document["best"]["cells"] == 20


def test_tensorboard_has_figures_and_lengths_by_width(made: tuple[Path, str]) -> None:
    events = EventAccumulator(str(made[0] / "tensorboard"), {"scalars": 0, "images": 0})
    events.Reload()
    line = EventAccumulator(str(made[0] / "tensorboard/ssd, vocabulary 2048")).Reload()
    points = line.Scalars("scaling/total_bytes_by_width")
    assert [point.step for point in points] == list(WIDTHS)
    assert points[0].value == pytest.approx(float(STEEP.bits(36 * 64**2)) + FIXED_BYTES)
    assert set(events.Tags()["images"]) == {
        "figures/curves",
        "figures/behind",
        "figures/scaling",
        "figures/scaling-frontier",
        "figures/scaling-vocabulary",
        "figures/tokenizers",
    }


def test_tensorboard_events_take_the_place_of_earlier_ones(tmp_path: Path) -> None:
    sweep(tmp_path, (64, 128))
    scaling = analysed(tmp_path)
    (tmp_path / "tensorboard").mkdir()
    (tmp_path / "tensorboard/events.out.tfevents.1.host.2.0").write_bytes(b"")
    (tmp_path / "tensorboard/an earlier line").mkdir()
    (tmp_path / "tensorboard/an earlier line/events.out.tfevents.1.host.2.0.scaling").touch()
    for _ in range(2):
        write_tensorboard(tmp_path / "tensorboard", scaling, standing_of(scaling.lines), {})
    written = sorted(path.parent.name for path in (tmp_path / "tensorboard").rglob("events.*"))
    assert written == sorted(["tensorboard", "tensorboard", *(line.label for line in scaling.lines)])
    assert not (tmp_path / "tensorboard/an earlier line").exists()


class Tables(HTMLParser):
    """The rows of a page's tables: how many columns each has, and the words of the page."""

    def __init__(self, text: str):
        super().__init__()
        self.tables: list[list[int]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "link", "iframe")
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append(0)
        elif tag in ("td", "th"):
            self.tables[-1][-1] += int(dict(attrs).get("colspan") or 1)
        if tag in ("table", "tr", "td", "th", "section", "div", "p", "figure", "picture", "h2"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("table", "tr", "td", "th", "section", "div", "p", "figure", "picture", "h2"):
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data.split()


def test_the_page_is_well_formed_and_says_it(made: tuple[Path, str]) -> None:
    page = Tables((made[0] / "comparison.html").read_text())
    assert page.open == []
    assert len(page.tables) == 8
    for table in page.tables:
        assert len(set(table)) == 1, page.tables
    text = " ".join(page.words)
    for words in ("Best width", "Power laws", "predicted by the others", "beside each other", "Vocabulary"):
        assert words in text, words
    assert "log2(20) = 4.32 bits are charged to its side information" in text
    assert "the largest measured: it may lie beyond" in text


def test_runs_over_another_corpus_are_refused_by_name(tmp_path: Path) -> None:
    sweep(tmp_path, (64, 128))
    finished_cell(tmp_path / "stranger", 5e5, 64, 5000)
    report: dict[str, Any] = json.loads((tmp_path / "stranger/report.json").read_text())
    report["corpus"]["sha256"] = "c" * 64
    (tmp_path / "stranger/report.json").write_text(json.dumps(report))
    with pytest.raises(
        ValueError, match=r"attention-128-vocabulary2048 codes text .*aaaaaaaa.*stranger codes.*cccccccc"
    ):
        refuse_mixed(load_runs(tmp_path))


def test_figures_can_be_drawn_of_any_sweep(tmp_path: Path) -> None:
    sweep(tmp_path, vocabularies=(512, 1024, 2048, 4096))
    for seed in (1, 2):
        finished_cell(tmp_path / f"seed{seed}", 5e5 + seed, 64, 36 * 64**2, seed=seed)
    finished_cell(tmp_path / "lone", 5e5, 333, 10**6, "gru")
    for count in range(12):
        finished_cell(tmp_path / f"many-{count}", 5e5, 64, 200_000, f"block{count}")
    scaling = analysed(tmp_path)
    families = {family: [result.line for result, _ in group] for family, group in scaling.families.items()}
    assert set(families) == {"attention", "ssd"}
    laws = {result.line.label: result.data.fit.law for result in scaling.results if result.data.fit}
    predictions = {one.line.label: one.data.prediction for one in scaling.results if one.data.prediction}
    figures = [
        scaling_figure(scaling.lines, laws, predictions, DARK),
        scaling_figure(scaling.lines[:2], {}, {}, LIGHT),
        vocabulary_figure(families, LIGHT),
    ]
    with use_style(LIGHT):
        assert all(png(figure).startswith(b"\x89PNG") for figure in figures)
    # Lines of a single width are in the figures and in the CSV.
    assert "lone,gru,333" in scaling_csv(lines_of([run for line in scaling.lines for run in line.runs]))
