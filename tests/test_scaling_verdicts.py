"""Which of two is shorter, and whether the runs show it: made-up curves whose differences are known."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from finished_run import finished_cell
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from eval.curve import Curve
from studies.scaling.lines import lines_of
from studies.scaling.pages import write_comparison
from studies.scaling.runs import load_runs
from studies.scaling.tables import Comparison, compare_runs, comparison_text, scaling_text
from studies.scaling.verdicts import (
    LEAST_CHUNKS,
    MOST_CHUNKS,
    NOT_DISTINGUISHABLE,
    Verdict,
    bootstrap_half_width,
    chunk_differences,
    compare,
    list_names,
    standing_of,
    verdicts,
)

# What was seen: attention's data term is shorter, and the code of gated_conv by more. Three seeds each, in bits.
ATTENTION = (770_340.0, 773_117.0, 772_303.0)
GATED_CONV = (771_431.0, 774_185.0, 772_721.0)
CODE_BYTES = {"attention": 1528.0, "gated_conv": 1528.0 - 448}


def cell(runs: Path, block: str, data_bits: float, width: int = 64, seed: int = 0, noise: int | None = None) -> None:
    """A run of one of the two, whose curve has, with `noise`, chunks that are longer or shorter by chance."""
    finished_cell(
        runs / f"{block}-{width}-{seed}",
        data_bits / 8,
        width,
        36 * width**2,
        block,
        seed=seed,
        code_bytes=CODE_BYTES[block],
        noise=noise,
    )


def sections(tmp_path: Path) -> Comparison:
    return compare_runs(load_runs(tmp_path))


@pytest.mark.parametrize("seeds", [1, 3])
def test_what_only_the_code_decides_is_said_to_be(tmp_path: Path, seeds: int) -> None:
    """The page declared gated_conv the shortest, whose data term was the longer one and no different from the other."""
    for block, lengths in (("attention", ATTENTION), ("gated_conv", GATED_CONV)):
        for seed, data_bits in enumerate(lengths[:seeds]):
            cell(tmp_path, block, data_bits, seed=seed, noise=len(block))
    section = sections(tmp_path)
    ((other, data, total),) = section.standing.others
    assert other.runs[0].block == "attention"
    assert section.standing.shortest.runs[0].block == "gated_conv"
    assert (data.word, data.shorter) == (NOT_DISTINGUISHABLE, "")
    assert total.decider == "code"
    assert "code decides" in total.text
    low, high = data.interval_bits or (0.0, 0.0)
    assert low < data.difference_bits < 0 < high
    assert total.difference_bits - data.difference_bits == 8 * 448
    assert total.interval_bits == pytest.approx((low + 8 * 448, high + 8 * 448))
    assert data.interval_from == ("3 and 3 seeds" if seeds == 3 else "20 chunks of the corpus, one seed each")
    text = " ".join(comparison_text(section).split())
    assert f"Its data term is {NOT_DISTINGUISHABLE} from {other.name}." in text
    assert f"Beside {other.name}, code decides." in text
    assert ("another seed may move" in text) == (seeds == 1)
    write_comparison([section], tmp_path / "out")
    headline = (tmp_path / "out/comparison.html").read_text().split("<h1>")[1].split("</h1>")[0]
    assert f"bytes, by gated_conv-64-0, {NOT_DISTINGUISHABLE} from {other.name}" in headline


def test_every_file_has_the_same_verdict(tmp_path: Path) -> None:
    for width, scale in ((32, 1.1), (64, 1.0), (128, 0.95)):
        for block, lengths in (("attention", ATTENTION), ("gated_conv", GATED_CONV)):
            for seed, data_bits in enumerate(lengths):
                cell(tmp_path, block, data_bits * scale, width, seed)
    section = sections(tmp_path)
    out = tmp_path / "out"
    write_comparison([section], out)
    beside = {cell.name: (data, total) for cell, data, total in section.standing.others}
    data, total = beside["attention, width 128, 3 seeds"]
    assert data.word == NOT_DISTINGUISHABLE
    with (out / "comparison.csv").open() as stream:
        rows = {row["run"]: row for row in csv.DictReader(stream)}
    row = rows["attention-128-0"]
    assert row["beside"] == "gated_conv, width 128, 3 seeds"
    assert (row["data_verdict"], row["total_verdict"], row["total_decider"]) == (data.word, total.word, "code")
    assert float(row["data_low_bits"]) == pytest.approx(data.interval_bits[0] if data.interval_bits else None)
    assert rows["attention-32-0"]["data_verdict"] == "longer"
    document = json.loads((out / "scaling.json").read_text())
    written = {entry["cell"]: entry for entry in document["beside_shortest"]["cells"]}["attention, width 128, 3 seeds"]
    assert (written["data"]["verdict"], written["total"]["verdict"]) == (data.word, total.word)
    for pair in document["architectures"]:
        assert pair["data_verdict"].startswith(f"{NOT_DISTINGUISHABLE} from ")
        assert len(pair["nodes"]) == 3
    page = (out / "comparison.html").read_text()
    terminal = scaling_text(section.scaling) if section.scaling else ""
    for text in (page, terminal):
        assert f"{NOT_DISTINGUISHABLE} from 32 to 128" in text
        assert "attention from 32" not in text
        assert "gated_conv from 32" not in text
    events = EventAccumulator(str(out / "tensorboard"), {"tensors": 0}).Reload()
    texts = {
        name: events.Tensors(f"{name}/text_summary")[0].tensor_proto.string_val[0].decode()
        for name in ("verdicts/beside_shortest", "verdicts/architectures", "verdicts/power_laws")
    }
    assert data.text in texts["verdicts/beside_shortest"]
    assert f"{NOT_DISTINGUISHABLE} from 32 to 128" in texts["verdicts/architectures"]


def test_a_best_width_that_is_none_is_not_declared(tmp_path: Path) -> None:
    """48 and 64 are alike, so neither is the best, and no parabola through them has a minimum."""
    for width, data_bits in ((32, 790_000.0), (48, 771_500.0), (64, 771_000.0), (96, 800_000.0)):
        for seed, noise in enumerate((-1500.0, 0.0, 1500.0)):
            cell(tmp_path, "attention", data_bits + noise, width, seed)
    section = sections(tmp_path)
    assert section.scaling is not None
    (result,) = section.scaling.results
    assert (result.shortest.size, result.tied) == (64, [48])
    assert result.shortest.parabola_size is None
    assert f"width 64 is {NOT_DISTINGUISHABLE} from 48." in scaling_text(section.scaling)
    write_comparison([section], tmp_path / "out")
    assert "not identified" in (tmp_path / "out/comparison.html").read_text().split("Best width")[1].split("<h2>")[0]


def test_a_crossing_takes_two_sizes_that_tell_opposite(tmp_path: Path) -> None:
    wanted = {32: (-9000.0, "attention"), 64: (-300.0, ""), 96: (300.0, ""), 128: (9000.0, "gated_conv")}
    for width, (difference, _) in wanted.items():
        for seed, noise in enumerate((-1500.0, 0.0, 1500.0)):
            cell(tmp_path, "attention", 770_000 + noise + difference, width, seed)
            cell(tmp_path, "gated_conv", 770_000 + 8 * 448 + noise, width, seed)
    scaling = sections(tmp_path).scaling
    assert scaling is not None
    pair = next(pair for pair in scaling.pairs if pair.axis == "width")
    assert [node.total.shorter for node in pair.nodes] == [shorter for _, shorter in wanted.values()]
    assert pair.verdict == f"attention to 32, {NOT_DISTINGUISHABLE} to 128, gated_conv above"
    assert len(pair.crossings) == 1
    assert pair.identified == []
    assert "Crossings of architectures: not identified." in scaling_text(scaling)


def test_what_one_size_alone_tells_is_said_of_it_alone(tmp_path: Path) -> None:
    for width, difference in ((32, -300.0), (64, -9000.0), (96, -300.0)):
        for seed, noise in enumerate((-1500.0, 0.0, 1500.0)):
            cell(tmp_path, "attention", 770_000 + noise + difference, width, seed)
            cell(tmp_path, "gated_conv", 770_000 + noise, width, seed)
    scaling = sections(tmp_path).scaling
    assert scaling is not None
    verdict = next(pair for pair in scaling.pairs if pair.axis == "width").data_verdict
    assert verdict == f"{NOT_DISTINGUISHABLE} to 64, attention at 64, {NOT_DISTINGUISHABLE} above"


def test_runs_of_one_seed_and_configuration_are_cells_of_their_own(tmp_path: Path) -> None:
    """Two versions of the code, say: they differ in more than the seed."""
    for name, data_bytes in (("before", 100_000.0), ("after", 99_000.0)):
        finished_cell(tmp_path / name, data_bytes, 64, 1000)
    ((other, data, _),) = sections(tmp_path).standing.others
    assert (other.name, data.first, data.second, data.word) == ("before", "before", "after", "longer")


def test_several_seeds_on_one_side_are_enough(tmp_path: Path) -> None:
    for seed, data_bits in enumerate(ATTENTION):
        cell(tmp_path, "attention", data_bits, seed=seed)
    cell(tmp_path, "gated_conv", GATED_CONV[0])
    ((_, data, _),) = sections(tmp_path).standing.others
    assert sorted(data.interval_from.split(" seeds")[0].split(" and ")) == ["1", "3"]
    low, high = data.interval_bits or (0.0, 0.0)
    # Student's t of 2 degrees of freedom, and the spread of attention's seeds over 3 and 1 of them.
    assert (high - low) / 2 == pytest.approx(4.302653 * np.std(ATTENTION, ddof=1) * np.sqrt(1 + 1 / 3), rel=1e-6)


def curve(coded_bytes: np.ndarray, bits_of_chunks: np.ndarray) -> Curve:
    data_bits = np.cumsum(bits_of_chunks)
    return Curve(coded_bytes, data_bits, data_bits + 80)


def test_chunks_are_cut_where_both_curves_have_a_point() -> None:
    fine, coarse = np.arange(10.0, 1001, 10), np.arange(20.0, 1001, 20)
    generator = np.random.default_rng(0)
    chunk_bits = generator.uniform(10, 20, 100)
    one, other = curve(fine, chunk_bits), curve(coarse, chunk_bits.reshape(50, 2).sum(1) - 1)
    found = chunk_differences(one, other, paired=True)
    assert found == pytest.approx(np.ones(50))
    assert chunk_differences(one, other, paired=False).sum() == pytest.approx(50)
    long = curve(np.arange(1.0, 1001), np.ones(1000))
    assert len(chunk_differences(long, long, paired=True)) == MOST_CHUNKS
    # No place in common but the end.
    odd = curve(np.array([*np.arange(7.5, 990, 10), 1000.0]), np.ones(100))
    assert len(chunk_differences(one, odd, paired=True)) == 1


def test_the_interval_covers_the_truth() -> None:
    """Of 200 corpora whose chunks differ by chance, each chunk like its neighbors: 0 lies within 95 % intervals."""
    covered = 0
    for seed in range(200):
        noise = np.random.default_rng(seed).normal(size=65)
        differences = noise[1:] + 0.3 * noise[:-1]
        covered += abs(differences.sum()) <= bootstrap_half_width(differences)
    assert 180 <= covered <= 198
    steady = 5 + np.random.default_rng(0).normal(size=LEAST_CHUNKS)
    assert bootstrap_half_width(steady) < steady.sum()
    assert bootstrap_half_width(steady) == bootstrap_half_width(steady)


def test_too_few_points_and_one_seed_show_nothing(tmp_path: Path) -> None:
    for block, bits in (("attention", ATTENTION[0]), ("gated_conv", GATED_CONV[0])):
        cell(tmp_path, block, bits)
        path = tmp_path / f"{block}-64-0/curve.csv"
        lines = path.read_text().splitlines()
        path.write_text("\n".join([lines[0], *lines[-3:]]) + "\n")
    ((_, data, total),) = sections(tmp_path).standing.others
    assert data.interval_bits is None
    assert data.word == total.word == NOT_DISTINGUISHABLE
    assert "one seed each" in data.interval_from
    assert data.span == "−136"


def test_runs_that_cut_the_corpus_otherwise_are_said_not_to_share_bytes(tmp_path: Path) -> None:
    finished_cell(tmp_path / "one", 100_000.0, 64, 1000)
    finished_cell(tmp_path / "two", 99_000.0, 64, 1000, train={"lanes": 8})
    ((_, data, _),) = sections(tmp_path).standing.others
    assert data.interval_from == "20 chunks of the corpus that are not the same bytes, one seed each"


@pytest.mark.parametrize(
    ("data_bits", "code_bits", "half_width", "word", "decider"),
    [
        (-1000.0, 0.0, 500.0, "shorter", "data"),
        (1000.0, -3000.0, 500.0, "shorter", "code"),
        (100.0, -3000.0, 500.0, "shorter", "code"),
        (-100.0, -3000.0, 500.0, "shorter", "code"),
        (100.0, -300.0, 500.0, NOT_DISTINGUISHABLE, "code"),
        (-400.0, -3.0, 500.0, NOT_DISTINGUISHABLE, ""),
        (-400.0, 300.0, 500.0, NOT_DISTINGUISHABLE, ""),
        (0.0, 0.0, 0.0, NOT_DISTINGUISHABLE, ""),
        (0.0, 8.0, 0.0, "longer", "code"),
    ],
)
def test_who_decides(data_bits: float, code_bits: float, half_width: float, word: str, decider: str) -> None:
    exact = {"code": code_bits, "tokenizer": 0.0, "side": 0.0}
    _, total = verdicts("one", "two", data_bits, exact, half_width, "seeds")
    assert (total.word, total.decider) == (word, decider)


def test_words() -> None:
    found = Verdict("total", "one", "two", -8000.0, (-9600.0, -6400.0), "seeds", "side")
    assert (found.text, found.span) == ("shorter: side decides", "−1,000 (−1,200 to −800)")
    assert list_names(["a"]) == "a"
    assert list_names(["a", "b"]) == "a and b"
    assert list_names([*"abcdef"]) == "a, b, c, d and 2 others"


def test_the_two_sides_are_mirrors(tmp_path: Path) -> None:
    cell(tmp_path, "attention", ATTENTION[0], noise=1)
    cell(tmp_path, "gated_conv", GATED_CONV[0], noise=2)
    standing = standing_of(lines_of(load_runs(tmp_path)))
    (cell_of, data, _) = standing.others[0]
    mirrored, _ = compare(standing.shortest, cell_of)
    assert mirrored.difference_bits == -data.difference_bits
    assert mirrored.shorter == data.shorter
