"""Several runs side by side: the curves, their figures, the comparison, and launch/report.py as a person calls it."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from finished_run import SIZES, finished_cell, finished_run, run_report

from data.errors import UsageError
from eval.curve import Curve, load_curve
from eval.plots import DARK, LIGHT, description_length_figure, png, rate_figure, spread, svg, use_style
from studies.scaling.lines import lines_of
from studies.scaling.pages import write_comparison
from studies.scaling.plots import behind_figure, overlay_figure
from studies.scaling.runs import charge_selection, group_by_corpus, load_runs, refuse_mixed
from studies.scaling.tables import compare_runs, comparison_text


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs over one corpus, at different depths, and one that is not finished."""
    runs = tmp_path_factory.mktemp("work") / "runs"
    finished_run(runs / "large", data_bytes=600.0)
    finished_run(runs / "sweep/small", data_bytes=400.0)
    finished_run(runs / "sweep/middle", data_bytes=500.0)
    (runs / "unfinished").mkdir()
    return runs


def test_runs_are_found_at_any_depth_and_sorted(runs_dir: Path) -> None:
    runs = load_runs(runs_dir)
    assert [(run.name, run.total_bits / 8) for run in runs] == [
        ("sweep/small", 500),
        ("sweep/middle", 600),
        ("large", 700),
    ]
    assert [run.name for run in load_runs(runs_dir / "large")] == ["large"]


def test_the_table_compares_runs_and_baselines(runs_dir: Path) -> None:
    lines = comparison_text(compare_runs(load_runs(runs_dir))).splitlines()
    table, verdicts, *_ = "\n".join(lines[3:]).split("\n\n")
    rows = {line.split()[0]: line.split() for line in table.splitlines()}
    assert rows["sweep/middle"][1:7] == ["600", "500", "80", "4.8000", "1.67", "12,345"]
    words = " ".join(verdicts.split())
    assert "bytes beside sweep/small sweep/middle data +100 (+100 to +100) longer" in words
    rows = {line.split()[0]: line.split() for line in lines if line}
    assert rows["ppmd"] == ["ppmd", "400", "3.2000", "2.50", "25.0", "%", "larger"]
    assert max(map(len, lines)) <= 100


def test_different_corpora_are_not_compared(runs_dir: Path, tmp_path: Path) -> None:
    finished_run(tmp_path / "one")
    finished_run(tmp_path / "other", name="code", sha256="b" * 64)
    found = load_runs(tmp_path)
    assert [[run.name for run in group] for group in group_by_corpus(found)] == [["other"], ["one"]]
    with pytest.raises(UsageError, match=r"one codes text .* and other codes code .* cannot be compared"):
        refuse_mixed(found)


def test_every_corpus_has_a_section_and_one_can_be_chosen(tmp_path: Path) -> None:
    """The README's own command, where runs over several corpora are in one folder."""
    for folder in ("one", "two"):
        finished_run(tmp_path / folder, data_bytes=400.0 if folder == "one" else 500.0)
    finished_run(tmp_path / "other", name="code", sha256="b" * 64)
    finished_run(tmp_path / "third", name="code", sha256="c" * 64)
    done = run_report(tmp_path, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    for words in ("text: 1,000 bytes, 2 finished runs", "code: 1,000 bytes, 1 finished runs"):
        assert words in done.stdout
    page = (tmp_path / "out/comparison.html").read_text()
    assert page.count("<header") == 3
    assert page.count("<html") == 1
    folders = {"comparison-text", "comparison-code-bbbbbbbb", "comparison-code-cccccccc"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"comparison.html", *folders}
    assert (tmp_path / "out/comparison-text/comparison.csv").read_text().count("\n") == 3
    for wanted, count in (("text", 1), ("code", 2), ("c" * 64, 1), ("cccccccc", 1)):
        assert len(group_by_corpus(load_runs(tmp_path), wanted)) == count
    for wanted in ("cod", "ccc", "x"):
        with pytest.raises(UsageError, match=r"no run codes a corpus '.*'; there are code \(1,000 bytes"):
            group_by_corpus(load_runs(tmp_path), wanted)


def test_a_section_pays_for_the_cells_of_its_own_corpus(tmp_path: Path) -> None:
    for name in "abc":
        finished_cell(tmp_path / name, 400.0 + ord(name), 64, 1000)
    stranger: dict[str, Any] = json.loads((tmp_path / "c/report.json").read_text())
    stranger["corpus"]["sha256"] = "c" * 64
    (tmp_path / "c/report.json").write_text(json.dumps(stranger))
    (tmp_path / "sweep.json").write_text(json.dumps({"format": 1, "cells": 5, "side_bits": 2.3, "names": [*"abcde"]}))
    (other,), runs = (
        group_by_corpus(load_runs(tmp_path), "c" * 64)[0],
        group_by_corpus(load_runs(tmp_path), "a" * 64)[0],
    )
    found = charge_selection(tmp_path, runs, [other])
    assert found is not None
    assert found.cells == 4


def test_the_command_writes_page_picture_and_table(runs_dir: Path, tmp_path: Path) -> None:
    done = run_report(runs_dir, "--out", tmp_path / "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "sweep/small" in done.stdout
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "comparison-behind-dark.png",
        "comparison-behind.pdf",
        "comparison-behind.png",
        "comparison-dark.png",
        "comparison.csv",
        "comparison.html",
        "comparison.pdf",
        "comparison.png",
    ]
    with (tmp_path / "out/comparison.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["run"], float(row["total_bits"])) for row in rows] == [
        ("sweep/small", 4000),
        ("sweep/middle", 4800),
        ("large", 5600),
    ]
    settings = {"seed": "0", "vocabulary": "2048", "optimizer": "muon", "matrix_lr": "0.02", "table_lr": "0.02"}
    settings |= {"vector_lr": "0.01", "commit": "0123456789ab"}
    assert {name: rows[0][name] for name in settings} == settings
    page = (tmp_path / "out/comparison.html").read_text()
    assert "http" not in page.replace("http-equiv", "")
    link = page.split('<a href="')[1].split('"')[0]
    assert (tmp_path / "out" / link).resolve() == (runs_dir / "sweep/small/report.html").resolve()


@pytest.mark.parametrize("arguments", [(), ("nowhere",), ("runs", "--what"), ("runs", "extra"), (".",)])
def test_bad_arguments_are_one_line_and_status_2(arguments: tuple[str, ...], tmp_path: Path) -> None:
    done = run_report(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("onepass: ")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_help_teaches(tmp_path: Path) -> None:
    done = run_report("--help", cwd=tmp_path)
    assert done.returncode == 0
    for word in ("RUNS_DIR", "--out", "python launch/report.py runs", "status 2"):
        assert word in done.stdout


def test_a_damaged_run_is_named(runs_dir: Path, tmp_path: Path) -> None:
    finished_run(tmp_path / "run")
    (tmp_path / "run/curve.csv").write_text("step,coded_bytes\n1,x\n")
    done = run_report(tmp_path)
    assert done.returncode == 2
    assert "run/curve.csv is no curve of a run" in done.stderr


def test_the_rate_is_the_slope_of_the_data_term(tmp_path: Path) -> None:
    coded_bytes = np.array([100.0, 200, 400, 1000])
    data_bits = np.array([800.0, 1200, 1600, 2200])
    middle, now = Curve(coded_bytes, data_bits, data_bits + 50).rate()
    assert middle.tolist() == [50, 150, 300, 700]
    assert now.tolist() == [8, 4, 2, 1]
    even = np.arange(1, 1001, dtype=float)
    middle, now = Curve(even, 2 * even, 2 * even).rate(windows=10)
    assert len(middle) == 10
    assert now.tolist() == [2] * 10


@pytest.mark.parametrize(
    "content",
    [
        "",
        "coded_bytes,data_bits,total_bits\n",
        "coded_bytes,data_bits\n1,2\n",
        "coded_bytes,data_bits,total_bits\n1,2,x\n",
        "coded_bytes,data_bits,total_bits\n1,2,3\n1,4,5\n",
        "coded_bytes,data_bits,total_bits\n1,2,3\n2,4\n",
    ],
)
def test_what_is_no_curve_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "curve.csv").write_text(content)
    with pytest.raises(ValueError, match=r"curve\.csv is no curve of a run") as caught:
        load_curve(tmp_path / "curve.csv")
    assert "\n" not in str(caught.value)


def test_labels_are_moved_apart_and_no_further() -> None:
    assert spread(np.array([0.1, 0.5, 0.9]), 0.1).tolist() == [0.1, 0.5, 0.9]
    assert spread(np.array([0.5, 0.5, 0.5]), 0.1) == pytest.approx([0.4, 0.5, 0.6])
    assert spread(np.array([0.98, 0.99, 1.0]), 0.1) == pytest.approx([0.8, 0.9, 1.0])
    assert spread(np.array([0.0, 0.01]), 0.1) == pytest.approx([0.0, 0.1])
    crowded = spread(np.sort(np.random.default_rng(0).random(19)), 0.05)
    assert np.diff(crowded).min() >= 0.05 - 1e-12
    assert 0 <= crowded[0] < crowded[-1] <= 1


@pytest.mark.parametrize("points", [1, 2, 500])
def test_figures_can_be_drawn_of_any_curve(points: int, runs_dir: Path) -> None:
    coded_bytes = np.linspace(10, 5e9, points)
    curve = Curve(coded_bytes, 2 * coded_bytes, 2 * coded_bytes + 100)
    point = load_runs(runs_dir)[0]
    alike = [replace(point, name=f"run-{number}") for number in range(30)]
    alike[0] = replace(alike[0], name="$\\not$ mathematics")
    grid = [replace(one, block=f"b{i % 6}", width=2 ** (i // 6)) for i, one in enumerate(alike)]
    curves = {one.name: curve for one in alike}
    with use_style(DARK):
        for figure in (
            description_length_figure(curve, SIZES, DARK),
            overlay_figure(curves, SIZES, lines_of(grid), DARK),
        ):
            assert png(figure).startswith(b"\x89PNG")
    with use_style(LIGHT):
        figures = [
            rate_figure(curve, LIGHT),
            overlay_figure(curves, {}, lines_of(alike), LIGHT),
            behind_figure(curves, lines_of(grid), LIGHT),
        ]
        elements = [svg(figure) for figure in figures]
    assert all(element.startswith("<svg") for element in elements)
    assert ">$\\not$ mathematics" in elements[1]
    # What points say while the mouse is over them.
    assert elements[0].count("<title>mean so far") == min(points, 60)
    end = f"at {coded_bytes[-1]:,.0f} bytes</title></use>"
    assert f"<title>mean so far: 2.0000 {end}" in elements[0]
    assert elements[1].count("<title>run-") == 30 * min(points, 20) - min(points, 20)
    assert f"<title>run-1: +0 {end}" in elements[2]


def test_write_comparison_names_its_files(runs_dir: Path, tmp_path: Path) -> None:
    paths = write_comparison([compare_runs(load_runs(runs_dir))], tmp_path)
    assert [path.name for path in paths][:2] == ["comparison.html", "comparison.csv"]
    pictures = {name: (tmp_path / name).read_bytes() for name in [path.name for path in paths][2:]}
    assert {name.split(".")[0] for name in pictures} == {
        f"comparison{behind}{dark}" for behind in ("", "-behind") for dark in ("", "-dark")
    }
    assert all(content.startswith(b"%PDF" if ".pdf" in name else b"\x89PNG") for name, content in pictures.items())
    page = (tmp_path / "comparison.html").read_text()
    assert page.count("<svg") == 2
    assert "<img" not in page


def test_the_best_of_a_sweep_pays_for_being_chosen(tmp_path: Path) -> None:
    for name, data_bytes in (("a", 400.0), ("b", 500.0), ("earlier", 600.0)):
        finished_cell(tmp_path / name, data_bytes, 64, 1000)
    runs = load_runs(tmp_path)
    assert charge_selection(tmp_path, runs) is None
    names = [*"abcdefg"]
    (tmp_path / "sweep.json").write_text(json.dumps({"format": 1, "cells": 7, "side_bits": 2.8, "names": names}))
    chosen = charge_selection(tmp_path, runs)
    assert chosen is not None
    # The 7 of sweep.json, and the one that was there before.
    assert (chosen.run, chosen.cells, chosen.selection_bits) == ("a", 8, 3.0)
    assert (chosen.side_bits, chosen.total_bits) == (43.0, 4003.0)
    section = compare_runs(runs, chosen)
    text = " ".join(comparison_text(section).split())
    assert "a is the best of 8 cells of a sweep: log2(8) = 3.00 bits are charged to its side information" in text
    assert "its total with them is 500.38 bytes" in text
    write_comparison([section], tmp_path / "out")
    assert "log2(8) = 3.00 bits" in (tmp_path / "out/comparison.html").read_text()


@pytest.mark.parametrize("content", ["", "[]", '{"format": 2, "cells": 3}', '{"format": 1, "cells": 0}'])
def test_a_damaged_sweep_is_refused(tmp_path: Path, content: str) -> None:
    finished_cell(tmp_path / "a", 400.0, 64, 1000)
    (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(ValueError, match=r"sweep\.json"):
        charge_selection(tmp_path, load_runs(tmp_path))
