"""What equal FLOPs buy, where architectures will cross, and colors that stay: made-up runs whose answers are known."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from finished_run import finished_cell

from data.errors import UsageError
from eval.plots import DARK, LIGHT, Theme
from studies.scaling.frontier import Frontier, frontier_of, matched_flops, power
from studies.scaling.lines import Line, lines_of
from studies.scaling.plots import block_hue, frontier_figure, strokes
from studies.scaling.predicted import predict_crossing
from studies.scaling.runs import load_runs
from studies.scaling.tables import (
    compare_runs,
    frontier_csv,
    frontier_rows,
    powers_text,
    predicted_text,
    scaling_json,
    scaling_text,
)

CORPUS_BYTES = 10_000_000
# Bits a byte of N parameters after D bytes: 1 + (N / MIDDLE)^-FALL + (D / LEARNED)^-FALL. At equal N times D, the least
# is where both falls are equal.
MIDDLE, LEARNED, FALL = 20_000, 1e6, 0.5


def law_cell(runs: Path, block: str, width: int, parameters: int, worse: float = 0.0, seed: int = 0) -> None:
    coded = np.geomspace(CORPUS_BYTES / 1000, CORPUS_BYTES, 400).round()
    bits = coded * (1 + worse + (parameters / MIDDLE) ** -FALL + (coded / LEARNED) ** -FALL)
    run = runs / f"{block}-{width}-{seed}"
    finished_cell(run, bits[-1] / 8, width, parameters, block, seed=seed)
    rows = [f"{x:.0f},{y!r},{y + 800!r}" for x, y in zip(coded, bits.tolist(), strict=True)]
    (run / "curve.csv").write_text("\n".join(["coded_bytes,data_bits,total_bits", *rows]) + "\n")


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Line:
    runs = tmp_path_factory.mktemp("law")
    for number in range(6):
        law_cell(runs, "ssd", 16 * 2**number, MIDDLE // 4 * 2**number)
    (found,) = lines_of(load_runs(runs))
    return found


def test_the_best_width_and_corpus_grow_as_the_law_says(line: Line) -> None:
    found = frontier_of(line)
    assert len(found.changes) == 5
    for flops, parameters, coded in found.changes:
        # Where two widths are as good, what is best for these FLOPs is between them.
        assert flops == pytest.approx(6 * 300 * parameters * coded / CORPUS_BYTES, rel=0.45)
        assert coded / LEARNED == pytest.approx(parameters / MIDDLE, rel=0.6)
    assert found.powers is not None
    for one in found.powers.values():
        assert one.interval[0] < one.exponent < one.interval[1]
        assert one.exponent == pytest.approx(0.5, abs=0.05)
    assert powers_text(found).startswith("N ~ C^0.")


def test_a_frontier_never_rises_and_is_what_some_width_has(line: Line) -> None:
    found = frontier_of(line)
    assert (np.diff(found.bits_per_byte) <= 0).all()
    assert (np.diff(found.width) >= 0).all()
    sizes = {run.width: run.parameters_non_embedding for run in line.runs}
    expected = [
        1 + (sizes[width] / MIDDLE) ** -FALL + (coded / LEARNED) ** -FALL
        for width, coded in zip(found.width.tolist(), found.coded_bytes.tolist(), strict=True)
    ]
    assert found.bits_per_byte == pytest.approx(expected, rel=2e-3)
    # The widest and all of the corpus.
    assert (found.width[-1], round(found.coded_bytes[-1])) == (512, CORPUS_BYTES)


def test_a_width_whose_corpus_ended_was_not_overtaken(tmp_path: Path) -> None:
    """Larger networks are of no use here: the frontier stays with the smallest until it has coded all."""
    for number in range(4):
        law_cell(tmp_path, "ssd", 16 * 2**number, MIDDLE * 1000 * 2**number)
    (found,) = map(frontier_of, lines_of(load_runs(tmp_path)))
    assert found.changes == []
    assert found.powers is None
    assert found.why_none.startswith("not identified: the best width changes 0 times")


def test_what_changes_do_not_say_is_not_identified() -> None:
    changes = [(10.0**k, 10 ** (0.5 * k), 10 ** (0.5 * k)) for k in range(5)]
    assert power(changes, 1).exponent == pytest.approx(0.5)
    with pytest.raises(UsageError, match="not identified: the best width changes 2 times"):
        power(changes[:2], 1)
    scattered = [(10.0**k, y, 1.0) for k, y in enumerate((1.0, 50.0, 2.0, 300.0))]
    with pytest.raises(UsageError, match=r"not identified: the 95 % interval of the exponent is \d\.\d wide"):
        power(scattered, 1)


def test_architectures_are_compared_at_equal_flops(tmp_path: Path) -> None:
    for number in range(5):
        law_cell(tmp_path, "ssd", 16 * 2**number, MIDDLE // 4 * 2**number)
        law_cell(tmp_path, "attention", 16 * 2**number, MIDDLE // 4 * 2**number, worse=0.2)
    comparison = compare_runs(load_runs(tmp_path))
    assert comparison.scaling is not None
    frontiers = {one.label: one for one in comparison.scaling.frontiers}
    at = matched_flops(list(frontiers.values()))
    assert len(at) == 2 and at[1] == pytest.approx(10 * at[0])
    for flops in at:
        apart = frontiers["attention"].at(flops)[0] - frontiers["ssd"].at(flops)[0]
        assert apart == pytest.approx(0.2, abs=1e-6)
    head, *rows = frontier_rows(comparison.scaling.frontiers)
    assert head[0] == "at equal FLOPs" and len(rows) == 2
    text = scaling_text(comparison.scaling)
    assert all(row[1] in text for row in rows)
    table = list(csv.DictReader(io.StringIO(frontier_csv(comparison.scaling.frontiers))))
    assert {row["line"] for row in table} == {"ssd", "attention"}
    document = json.loads(scaling_json(comparison, comparison.scaling))
    assert [one["label"] for one in document["frontiers"]] == [*frontiers]
    assert document["frontiers"][0]["powers"]["bytes"]["exponent"] == pytest.approx(0.5, abs=0.1)
    axes = frontier_figure(comparison.scaling.lines, comparison.scaling.frontiers, LIGHT).axes[0]
    assert {text.get_text().split("  ")[0] for text in axes.texts} >= {"ssd", "attention"}


WIDTHS = (16, 24, 32, 48, 64, 96, 128)
CROSSING = 100_000.0


def crossing_lines(runs: Path, last: float = 1.0, noise: float = 1e-4) -> tuple[Line, Line]:
    """Two lines whose laws cross at CROSSING; the widest of the second is `last` times as long as its law."""
    generator = np.random.default_rng(3)
    for width in WIDTHS:
        size = 36 * width**2
        for block, exponent in (("ssd", 0.3), ("attention", 0.6)):
            bits = 1e7 * (1 + (size / CROSSING) ** -exponent) * np.exp(generator.normal(0, noise))
            bits *= last if (block, width) == ("attention", WIDTHS[-1]) else 1.0
            finished_cell(runs / f"{block}-{width}", bits / 8, width, size, block)
    first, second = sorted(lines_of(load_runs(runs)), key=lambda line: line.block, reverse=True)
    return first, second


def test_a_crossing_is_foretold_and_checked(tmp_path: Path) -> None:
    found = predict_crossing(*crossing_lines(tmp_path), "attention")
    assert found.size is not None and found.interval is not None
    assert found.size == pytest.approx(CROSSING, rel=0.05)
    assert found.interval[0] < CROSSING < found.interval[1]
    assert found.held_out == 36 * 128**2
    assert (found.foretold, found.verdict) == ("attention", "right")
    assert "data terms cross at " in predicted_text(found) and predicted_text(found).endswith("shorter: right")


def test_what_the_widest_contradicts_is_said_to_be_wrong(tmp_path: Path) -> None:
    found = predict_crossing(*crossing_lines(tmp_path, last=1.5), "ssd")
    # The widest is not among what the laws are from.
    assert found.size == pytest.approx(CROSSING, rel=0.05)
    assert (found.foretold, found.verdict) == ("attention", "wrong")


def test_a_crossing_that_could_be_anywhere_is_not_identified(tmp_path: Path) -> None:
    found = predict_crossing(*crossing_lines(tmp_path, noise=0.1), "")
    assert found.size is None and found.interval is None
    assert "not identified" in found.why_none or "do not cross" in found.why_none
    assert found.verdict == "not distinguishable there"


def test_too_few_widths_foretell_nothing(line: Line) -> None:
    few = Line("few", "few", line.runs[:4])
    with pytest.raises(UsageError, match="it takes 4 widths, and one more to check"):
        predict_crossing(few, line, "")


def luminance(color: str) -> float:
    parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_labels_in_the_colors_of_lines_can_be_read(theme: Theme) -> None:
    """WCAG 2.1, 1.4.3: a contrast of 4.5."""
    for color in (*theme.series, theme.faint, theme.ink):
        for ground in (theme.page, theme.panel):
            dark, light = sorted((luminance(color), luminance(ground)))
            assert (light + 0.05) / (dark + 0.05) >= 4.5, color


def test_an_architecture_has_one_color_whatever_it_is_drawn_with(tmp_path: Path) -> None:
    for block in ("attention", "ssd", "lstm", "ssd ssd attention"):
        finished_cell(tmp_path / block.replace(" ", "-"), 1000, 32, 5000, block)
    lines = lines_of(load_runs(tmp_path))
    every = strokes(lines, LIGHT)
    for pair in (lines[:2], lines[2:], lines[::-1], lines[1:]):
        some = strokes(pair, LIGHT)
        assert {label: some[label] for label in some} == {label: every[label] for label in some}
    assert len({(one.color, one.marker, str(one.dash)) for one in every.values()}) == 4
    assert block_hue("ssd ssd attention") == block_hue("ssd ssd attention") > block_hue("ssd")


def test_a_frontier_is_written_as_json(line: Line) -> None:
    found: Frontier = frontier_of(line)
    values = json.loads(json.dumps(found.json_values(), default=vars))
    assert values["label"] == found.label
    assert len(values["flops"]) == len(values["width"]) == len(found.flops)
