"""Loss curves with integrals that are known, in every form that they are read in, and what is refused."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.tensorboard import SummaryWriter

from studies.common import write_figures
from studies.loss_curve.command import Integral, bound_steps, draw, format_bytes, format_table, integrate, to_json
from studies.loss_curve.points import Kind, Points, convert_points, parse_smoothing, read_points

ROOT = Path(__file__).parents[1]
TOKENS = 1e6


def law(x: np.ndarray) -> np.ndarray:
    """Bits per token of a model that learns by a power law from 8 bits on."""
    return 2 + 6 * (1 + x / 1e3) ** -0.5


def law_bits(x: float) -> float:
    """Its integral from 0 on."""
    return 2 * x + 12e3 * ((1 + x / 1e3) ** 0.5 - 1)


def points(x: np.ndarray, y: np.ndarray, error: float = 0.0) -> Points:
    return Points("loss", x, y, y - error, y + error, "tokens")


def of(
    found: Points, kind: Kind = "instant", smoothing: str = "none", tokens: float | None = TOKENS,
    vocabulary: int | None = 256, unit: str = "bits",
) -> Integral:  # fmt: skip
    return integrate(convert_points(found, None, unit, kind, parse_smoothing(smoothing)), tokens, vocabulary)


def holds(integral: Integral, bits: float) -> bool:
    return integral.low_bits <= bits * (1 + 1e-9) and bits <= integral.high_bits * (1 + 1e-9)


@pytest.mark.parametrize("count", [4, 10, 100, 3000])
@pytest.mark.parametrize("spacing", ["even", "logarithmic", "irregular"])
def test_the_truth_is_inside_and_bounds_close_as_points_come_closer(count: int, spacing: str) -> None:
    x = {
        "even": np.linspace(0, TOKENS, count + 1)[1:],
        "logarithmic": np.geomspace(1e3, TOKENS, count),
        "irregular": np.append(np.sort(np.random.default_rng(0).uniform(0, TOKENS, count - 1)), TOKENS),
    }[spacing]
    integral, finer = of(points(x, law(x))), of(points(x2 := np.union1d(x, x - np.diff(x, prepend=0) / 2), law(x2)))
    assert holds(integral, law_bits(TOKENS))
    assert integral.low_bits <= integral.bits <= integral.high_bits
    assert finer.high_bits - finer.low_bits < 0.8 * (integral.high_bits - integral.low_bits)
    assert integral.tokens == pytest.approx(TOKENS)
    if count > 9:
        assert integral.bits == pytest.approx(law_bits(TOKENS), rel=0.02)


def test_power_laws_are_followed_across_gaps() -> None:
    x = np.array([1e2, 1e3, 1e6])
    for power in (0.3, 1.0, 1.5):
        between = of(points(x, 1e4 * x**-power), vocabulary=None).parts[1]
        exact = math.log(1e4) if power == 1 else (x[-1] ** (1 - power) - x[0] ** (1 - power)) / (1 - power)
        assert between.bits == pytest.approx(1e4 * exact, rel=1e-9)


def test_what_lies_before_and_after_is_bounded() -> None:
    x = np.linspace(5e4, 6e5, 200)
    integral = of(points(x, law(x)))
    names = [part.name for part in integral.parts]
    assert names == ["before the first point", "between points", "after the last point"]
    edges = [0.0, 5e4, 6e5, TOKENS]
    for part, start, stop in zip(integral.parts, edges, edges[1:], strict=False):
        assert part.low_bits <= law_bits(stop) - law_bits(start) <= part.high_bits, part.name
        assert part.tokens == pytest.approx(stop - start)
    assert integral.parts[0].high_bits == pytest.approx(8 * 5e4)
    endless = of(points(x, law(x)), vocabulary=None)
    assert endless.high_bits == math.inf
    assert endless.low_bits == integral.low_bits
    assert any("--vocabulary" in sentence for sentence in endless.assumptions)


def test_two_points_are_enough_and_the_rest_is_bounded_by_them() -> None:
    integral = of(points(np.array([4e5, 8e5]), np.array([2.5, 2.3])), vocabulary=None)
    after = integral.parts[-1]
    # From 2.3 down by the slope of the curve, or staying there.
    assert after.tokens == pytest.approx(2e5)
    assert (after.low_bits, after.high_bits) == pytest.approx((2e5 * 2.25, 2e5 * 2.3))
    falling = of(points(np.array([4e5, 8e5]), np.array([6.0, 0.5])), vocabulary=None).parts[-1]
    assert falling.low_bits == pytest.approx(0.5 * 0.5 / (5.5 / 4e5) / 2)


def test_a_window_over_more_points_than_there_are_is_their_mean() -> None:
    x = np.array([1e3, 2e3, 3e3])
    integral = of(points(x, np.array([3.0, 2.5, 2.0])), smoothing="window:9", tokens=3e3)
    assert (integral.tokens, integral.bits) == (3e3, 3e3 * 2.0)


def test_noise_widens_the_bounds_and_leaves_the_truth_inside() -> None:
    x = np.linspace(0, TOKENS, 41)[1:]
    noise = np.random.default_rng(0).normal(0, 0.2, (200, len(x)))
    integrals = [of(points(x, law(x) + off)) for off in noise]
    assert all(holds(integral, law_bits(TOKENS)) for integral in integrals)
    # Of the estimates, the standard error is what the scatter makes it.
    told = np.mean([integral.noise_bits for integral in integrals]) / 3
    assert told == pytest.approx(np.std([integral.bits for integral in integrals]), rel=0.25)


@pytest.mark.parametrize("count", [7, 100, 1001])
def test_means_and_sums_are_exact(count: int) -> None:
    x = np.append(np.sort(np.random.default_rng(1).uniform(0, TOKENS, count)), TOKENS)
    sums = np.array([law_bits(place) for place in x])
    means = np.diff(sums, prepend=0.0) / np.diff(x, prepend=0.0)
    for integral in (of(points(x, means), "mean"), of(points(x, sums), "total")):
        assert (integral.low_bits, integral.high_bits) == pytest.approx((sums[-1], sums[-1]), rel=1e-9)
    nats = of(points(x, sums * math.log(2)), "total", unit="nats")
    assert nats.bits == pytest.approx(sums[-1], rel=1e-9)
    begun_at_zero = of(points(np.append(0, x), np.append(0, sums)), "total")
    assert begun_at_zero.bits == pytest.approx(sums[-1], rel=1e-9)


def test_errors_of_y_go_into_the_bounds_whole() -> None:
    x = np.linspace(0, TOKENS, 101)
    plain, wide = of(points(x, law(x))), of(points(x, law(x), error=0.1))
    assert wide.bits == plain.bits
    assert wide.high_bits - plain.high_bits == pytest.approx(0.1 * TOKENS)
    assert plain.low_bits - wide.low_bits == pytest.approx(0.1 * TOKENS)


def test_exponential_means_are_taken_back() -> None:
    x = np.linspace(0, TOKENS, 501)[1:]
    y = law(x) + np.random.default_rng(2).normal(0, 0.1, len(x))
    plain = of(points(x, y))
    slider, first, last = [], [], 0.0
    for place, value in enumerate(y, 1):
        last = 0.95 * last + 0.05 * value
        slider.append(last / (1 - 0.95**place))
        first.append(value if not first else 0.95 * first[-1] + 0.05 * value)
    for text, smoothed in (("ema:0.95", slider), ("ema-first:0.95", first)):
        again = of(points(x, np.array(smoothed)), smoothing=text)
        assert (again.bits, again.low_bits) == pytest.approx((plain.bits, plain.low_bits), rel=1e-9)
    # Left alone, a smoothed curve lags behind, and is too high.
    assert of(points(x, np.array(slider))).bits > 1.005 * plain.bits


@pytest.mark.parametrize("width", [2, 7, 50, 499, 600])
@pytest.mark.parametrize("partial", [True, False])
def test_moving_means_are_taken_back(width: int, partial: bool) -> None:
    x = np.linspace(0, TOKENS, 501)[1:]
    sums = np.append(0, np.cumsum(law(x)))
    starts = np.maximum(np.arange(1, 501) - width, 0)
    means = (sums[1:] - sums[starts]) / (np.arange(1, 501) - starts)
    kept = slice(0 if partial else min(width, 490) - 1, None)
    integral = of(points(x[kept], means[kept]), smoothing=f"window:{width}")
    assert integral.tokens == pytest.approx(TOKENS)
    assert holds(integral, law_bits(TOKENS))
    if partial:
        assert integral.bits == pytest.approx(law_bits(TOKENS), rel=5e-3)


@pytest.mark.parametrize(
    "text", ["ema", "ema:1", "ema:0", "ema:nan", "ema:x", "window:0", "window:1.5", "median:3", "", "none:1"]
)
def test_smoothing_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="--smoothing"):
        parse_smoothing(text)


def test_csv_files_are_read_whatever_their_columns_are_called(tmp_path: Path) -> None:
    path = tmp_path / "curve.csv"
    path.write_text("# made by hand\nStep,wall,train/loss,other\n1,9,3.5,\n2,9,,1\n3,9,2.5,2\n")
    [found] = read_points(path, None, [], None, None)
    assert (found.name, found.x_name, found.in_tokens) == ("train/loss", "Step", False)
    assert (found.x.tolist(), found.y.tolist()) == ([1, 3], [3.5, 2.5])
    [other] = read_points(path, "wall", ["other"], None, None)
    assert (other.y.tolist(), other.in_tokens) == ([1, 2], False)
    path.write_text("Wall time,Step,Value\n0.5,1,3\n0.6,2,2\n")
    assert read_points(path, None, [], None, None)[0].y.tolist() == [3, 2]
    path.write_text("\ufefftokens,a,b,e\n1,5,4,1\n2,3,2,0.5\n")
    both = read_points(path, None, ["a", "b"], None, "e")
    assert [(c.name, c.low.tolist(), c.high.tolist()) for c in both] == [
        ("a", [4, 2.5], [6, 3.5]),
        ("b", [3, 1.5], [5, 2.5]),
    ]


def test_weights_and_biases_extremes_bound_the_curve(tmp_path: Path) -> None:
    path = tmp_path / "wandb.csv"
    rows = ['"Step","run - train/loss","run - train/loss__MIN","run - train/loss__MAX"', '"10","4","3.5","4.5"']
    path.write_text("\n".join([*rows, '"20","3","2.5","3.25"']) + "\n")
    [found] = read_points(path, None, [], None, None)
    assert (found.name, found.low.tolist(), found.high.tolist()) == ("run - train/loss", [3.5, 2.5], [4.5, 3.25])
    integral = integrate(convert_points(found, 5, "bits", "instant", parse_smoothing("none")), None, 256)
    part = integral.parts[1]
    assert (part.tokens, part.low_bits, part.high_bits) == (50, 125, 225)


def test_tensorboard_events_are_read_by_tag_from_file_and_folder(tmp_path: Path) -> None:
    writer = SummaryWriter(str(tmp_path))
    for step in (10, 20, 30):
        writer.add_scalar("train/loss", 30 / step, step)
        writer.add_scalar("rate", step, step)
        writer.add_scalar("new/style", 60 / step, step, new_style=True)
    writer.close()
    [file] = tmp_path.glob("*tfevents*")
    for path in (tmp_path, file):
        [found] = read_points(path, None, [], None, None)
        assert (found.name, found.x.tolist(), found.y.tolist()) == ("train/loss", [10, 20, 30], [3, 1.5, 1])
        assert not found.in_tokens
    assert read_points(tmp_path, None, [], "new/style", None)[0].y.tolist() == [6, 3, 2]
    with pytest.raises(ValueError, match=r"no tag 'loss': .* has new/style, rate, train/loss"):
        read_points(tmp_path, None, [], "loss", None)
    with pytest.raises(ValueError, match="choose events by --tag"):
        read_points(tmp_path, "Step", [], None, None)


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("a,b,c\n1,2,3\n", {}, "--x NAME; .* has the columns a, b, c"),
        ("step,b,c\n1,2,3\n", {}, "--y NAME; .* has the columns step, b, c"),
        ("step,loss\n1,2\n", {"y": ["los"]}, "no column 'los': .* has the columns step, loss"),
        ("step,loss\n1,2\n", {"error": "e"}, "no column 'e'"),
        ("step,loss\n1,2\n", {"tag": "loss"}, "--tag loss"),
        ("step,loss\n1,nan\n", {}, "row 2: loss is 'nan'"),
        ("step,loss\n1,2\n2,two\n", {}, "row 3: loss is 'two'"),
        ("step,loss\n1,inf\n", {}, "'inf', not a finite number"),
        ("", {}, "empty"),
    ],
)
def test_files_that_are_no_curves_are_refused(
    tmp_path: Path, content: str, options: dict[str, Any], message: str
) -> None:
    path = tmp_path / "curve.csv"
    path.write_text(content)
    chosen = {"x": None, "y": [], "tag": None, "error": None} | options
    with pytest.raises(ValueError, match=message) as caught:
        read_points(path, **chosen)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="does not exist"):
        read_points(tmp_path / "none.csv", **chosen)
    (tmp_path / "empty").mkdir(exist_ok=True)
    with pytest.raises(ValueError, match="holds no TensorBoard scalars"):
        read_points(tmp_path / "empty", None, [], None, None)


@pytest.mark.parametrize(
    ("x", "y", "options", "message"),
    [
        ([1, 2, 2], [3, 2, 1], {}, "from 2 to 2 after point 2: it has to rise"),
        ([1, 3, 2], [3, 2, 1], {}, "from 3 to 2 after point 2"),
        ([-1, 2], [3, 2], {}, "begins at -1"),
        ([1], [3], {}, "has 1 points where two are the least"),
        ([1, 2], [3, math.nan], {}, "is nan at point 2"),
        ([1, 2], [3, -0.5], {}, "is -0.5 at tokens 2"),
        ([1, 2], [3, 2], {"tokens": 1.5}, "the curve goes on to 2"),
        ([1, 2], [9, 8], {"vocabulary": 256}, "--vocabulary 256: loss begins at 9.000"),
        ([1, 2, 3], [3, 2, 4], {"kind": "total"}, "falls at 2"),
        ([1, 2], [3, 4], {"kind": "total", "smoothing": "ema:0.5"}, "takes no smoothing"),
        ([1, 2, 3], [3, 1, 1], {"smoothing": "ema:0.9"}, "the curve was not smoothed so"),
    ],
)
def test_curves_that_mean_nothing_are_refused(
    x: list[float], y: list[float], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        of(points(np.array(x), np.array(y)), **{"tokens": None, "vocabulary": None} | options)
    assert "\n" not in str(caught.value)


def test_steps_without_their_tokens_and_errors_below_0_are_refused() -> None:
    x, y = np.array([1.0, 2.0]), np.array([3.0, 2.0])
    with pytest.raises(ValueError, match="--tokens_per_step"):
        convert_points(Points("loss", x, y, y, y, "global_step"), None, "bits", "instant", parse_smoothing("none"))
    with pytest.raises(ValueError, match="outside of its own limits"):
        of(points(x, y, error=-0.5))


def test_what_is_told_is_what_was_found(tmp_path: Path) -> None:
    x = np.linspace(1e4, TOKENS, 30)
    curve = convert_points(points(x, law(x)), None, "bits", "instant", parse_smoothing("none"))
    integral = integrate(curve, 1.2e6, 256)
    told = json.loads(json.dumps(to_json(integral, 5e6), allow_nan=False))
    assert told["bits"] == integral.bits
    assert told["high_bytes"] == integral.high_bits / 8
    assert told["compression_ratio"] == pytest.approx(8 * 5e6 / integral.bits)
    assert sum(part["low_bits"] for part in told["parts"]) - told["noise_bits"] == pytest.approx(told["low_bits"])
    text = format_table(integral, 5e6)
    assert f"{integral.bits / 8:,.0f}" in text
    assert max(map(len, text.split("Assumed")[0].splitlines())) <= 100
    # What is shaded is what the bounds are, except for scatter.
    edges, low, high = bound_steps(curve, integral)
    assert np.trapezoid(low, edges) == pytest.approx(integral.low_bits + integral.noise_bits)
    assert np.trapezoid(high, edges) == pytest.approx(integral.high_bits - integral.noise_bits)
    write_figures(tmp_path / "curve", draw, [(curve, integral)])
    for theme in ("light", "dark"):
        assert (tmp_path / f"curve-{theme}.png").read_bytes().startswith(b"\x89PNG")
    unbounded = integrate(curve, None, None)
    assert to_json(unbounded, None)["high_bits"] is None
    assert "no bound" in format_table(unbounded, None)


def test_the_page_says_what_the_commands_give() -> None:
    page = next((ROOT / "research").glob("*loss-curve*.md")).read_text()
    curves = read_points(ROOT / "research/loss-curves/llama.csv", "billion_tokens", ["65B", "33B"], None, "uncertainty")
    for found in curves:
        curve = convert_points(found, 1e9, "nats", "instant", parse_smoothing("none"))
        told = to_json(integrate(curve, None, 32_000), 5.6e12)
        sizes = [f"{told[name] / 1e9:.0f}" for name in ("bytes", "low_bytes", "high_bytes")]
        assert f"| {found.name} | {sizes[0]} GB | {sizes[1]} | {sizes[2]} | {told['compression_ratio']:.1f} |" in page
    with (ROOT / "benchmarks/results/loss_curves.csv").open() as file:
        rows = list(csv.DictReader(file))
    inside, tried = (sum(int(row[name]) for row in rows) for name in ("inside", "curves"))
    assert f"{inside} of {tried}." in page
    # What misses stops before the end of its run.
    missed = {row["logged"] for row in rows if row["inside"] != row["curves"]}
    assert missed <= {"mean since the last point", "the same, 5 % to 80 %"}


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(426.4e9, "426 GB"), (5.6e12, "5.60 TB"), (28.13e9, "28.1 GB"), (999.6, "1000 B"), (0.0, "0.00 B")],
)
def test_sizes_as_a_person_says_them(size_bytes: float, text: str) -> None:
    assert format_bytes(size_bytes) == text
