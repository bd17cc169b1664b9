"""Training curves of a real run, logged as others would log them: the ledger's bits lie inside the bounds."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from dist import run
from small_run import SMALL
from trained_run import project_text, trained_run

from eval.schema import load_report
from studies.loss_curve.command import Integral, integrate
from studies.loss_curve.points import BITS, Kind, convert_points, parse_smoothing, read_points

EVALUATE = "launch/evaluate.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("curves")
    (folder / "corpus.txt").write_bytes(project_text()[:30_000])
    trained_run(folder, folder / "corpus.txt", *SMALL, "--run.log_steps=1")
    return folder


def of(path: Path, y: list[str], tag: str | None, unit: str, kind: Kind, tokens_per_step: float | None) -> Integral:
    [found] = read_points(path, None, y, tag, None)
    return integrate(convert_points(found, tokens_per_step, unit, kind, parse_smoothing("none")), None, 257)


def test_the_files_of_a_run_give_its_ledger_to_the_bit(folder: Path) -> None:
    truth_bits = load_report(folder / "run/report.json").description_length.data_bits
    sums = of(folder / "run/curve.csv", ["data_bits"], None, "bits", "total", None)
    assert (sums.low_bits, sums.high_bits) == pytest.approx((truth_bits, truth_bits), rel=1e-9)
    # TensorBoard's numbers have seven digits.
    rates = of(folder / "run", [], "rate/bits_per_byte_now", "bits", "mean", 1)
    assert (rates.low_bits, rates.high_bits) == pytest.approx((truth_bits, truth_bits), rel=1e-5)


def test_a_loss_logged_now_and_then_has_the_ledger_inside_its_bounds(folder: Path) -> None:
    report = load_report(folder / "run/report.json")
    with (folder / "run/curve.csv").open() as file:
        rows = [(float(row["coded_tokens"]), float(row["data_bits"])) for row in csv.DictReader(file)]
    x, sums = np.array(rows).T
    nats = np.diff(sums, prepend=0.0) / np.diff(x, prepend=0.0) / BITS["nats"]
    widths = []
    for every in (1, 2, 5, 10, 25):
        kept = np.arange(len(x) - 1, -1, -every)[::-1]
        path = folder / f"every-{every}.csv"
        lines = [f"{x[place]:.0f},{nats[place]:.5f}" for place in kept]
        path.write_text("\n".join(["tokens,loss", *lines]) + "\n")
        integral = of(path, [], None, "nats", "instant", None)
        assert integral.low_bits <= report.description_length.data_bits <= integral.high_bits, every
        assert integral.tokens == report.coded.tokens
        widths.append(integral.high_bits - integral.low_bits)
    assert widths[0] < 0.6 * widths[-1]

    # The same as a user asks for it, in steps of tokens and with all that there is to tell.
    arguments = [
        str(folder / "every-5.csv"), "--tokens_per_step=1", "--vocabulary=257", "--corpus_bytes=30000",
        f"--png={folder / 'picture'}",
    ]  # fmt: skip
    done = run(EVALUATE, "curve", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    [told] = json.loads(done.stdout)
    expected = of(folder / "every-5.csv", [], None, "nats", "instant", None)
    assert (told["low_bits"], told["high_bits"]) == (expected.low_bits, expected.high_bits)
    assert told["bits_per_byte"] == expected.bits / 30_000
    for theme in ("light", "dark"):
        assert (folder / f"picture-{theme}.png").read_bytes()[:4] == b"\x89PNG"


def test_what_is_wrong_is_said_on_one_line(folder: Path) -> None:
    refused = run(EVALUATE, "curve", str(folder / "run/curve.csv"))
    assert refused.returncode == 2
    lines = [line for line in refused.stderr.splitlines() if line.startswith("onepass: ")]
    assert len(lines) == 1
    assert "--y NAME" in lines[0]
    assert "coded_bytes" in lines[0]
