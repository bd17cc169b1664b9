"""The integral of a training curve over its tokens, with bounds: table, JSON and figure."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from data.errors import UsageError
from data.streams import publish
from eval.plots import Theme, canvas, end_labels
from studies.common import write_figures
from studies.loss_curve.options import Curve
from studies.loss_curve.points import LossCurve, convert_points, parse_smoothing, read_points

# Points at most so much further than the one before are close.
CLOSE = 1.1
# Of the standard error of noise.
SIGMAS = 3.0
UNITS = ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))


def execute(options: Curve) -> None:
    """Raises UsageError for what is wrong with the arguments or the file."""
    for name in ("tokens_per_step", "tokens", "corpus_bytes"):
        amount = getattr(options, name)
        if amount is not None and not 0 < amount < math.inf:
            raise UsageError(f"--{name} {amount:g}: give a number above 0")
    if options.vocabulary is not None and options.vocabulary < 2:
        raise UsageError(f"--vocabulary {options.vocabulary}: give the number of tokens that there are, 2 or more")
    how = parse_smoothing(options.smoothing)
    found = read_points(options.file, options.x, options.y, options.tag, options.error)
    curves = [convert_points(logged, options.tokens_per_step, options.unit, options.points, how) for logged in found]
    integrals = [integrate(curve, options.tokens, options.vocabulary) for curve in curves]
    if options.json:
        entries = [to_json(integral, options.corpus_bytes) for integral in integrals]
        publish(json.dumps(entries, indent=1, allow_nan=False))
    else:
        publish("\n\n".join(format_table(integral, options.corpus_bytes) for integral in integrals))
    write_figures(options.png, draw, list(zip(curves, integrals, strict=True)))


@dataclass(frozen=True)
class Part:
    """Bits of a stretch of the curve: the estimate, at least and at most."""

    name: str
    tokens: float
    bits: float
    low_bits: float
    high_bits: float


@dataclass(frozen=True)
class Integral:
    """All parts together. `noise_bits` is what the scatter of the points may be worth, which widens the bounds beyond
    those of the parts. `high_bits` are infinite where nothing bounds what is before the first point."""

    name: str
    points: int
    tokens: float
    bits: float
    low_bits: float
    high_bits: float
    noise_bits: float
    parts: Sequence[Part]
    assumptions: Sequence[str]


def integrate(curve: LossCurve, tokens: float | None, vocabulary: int | None) -> Integral:
    """The integral from 0 to `tokens`, or to the last point. Raises UsageError where these do not fit the curve.

    Trained for one epoch, a model's loss before each update is the code length of what it is about to learn, so the
    area under the training curve is a file size (Rae 2023; Blier & Ollivier 2018, arXiv:1802.07044). A published curve
    is a few points of it. What is between them is bounded by what is assumed, and all that is assumed is said:

        between two points   no lower than the lower and no higher than the higher of them
        before the first     no lower than it, and no higher than log2 V, which a model takes that has learned nothing
        after the last       no higher than the latest points; no lower than the straight line through the middle of
                             the curve and its end, which a curve that bends upwards does not cross; both moved by three
                             times how far points of the second half are off a line, since the text that comes may be
                             easier or harder

    The estimate follows straight lines between points that are close, and power laws across gaps, before and after.
    """
    end_tokens = float(curve.x[-1])
    if tokens is not None and tokens < end_tokens * (1 - 1e-9):
        raise UsageError(f"--tokens {tokens:,.0f}: the curve goes on to {end_tokens:,.0f}; give all of the epoch")
    if vocabulary is not None and curve.bits[0] > 1.1 * math.log2(vocabulary):
        raise UsageError(
            f"--vocabulary {vocabulary}: {curve.name} begins at {curve.bits[0]:.3f} bits a token where guessing takes "
            f"{math.log2(vocabulary):.3f}; give the right --vocabulary, or the right --unit"
        )
    assumptions = ["every token was trained on once, and the loss is that before its update"]
    parts = [integrate_before(curve, vocabulary), integrate_between(curve, math.log2(vocabulary or 1))]
    if parts[0].tokens:
        most = "nothing bounds it from above: say --vocabulary" if vocabulary is None else "no higher than log2 V"
        assumptions.append(f"before the first point the loss is no lower than there, and {most}")
    if curve.starts is None:
        assumptions.append("between two points the loss is no lower than the lower, no higher than the higher of them")
    else:
        assumptions.append("a point is the mean of all since the one before")
    rest_tokens = 0.0 if tokens is None else tokens - end_tokens
    if rest_tokens > 1e-9 * end_tokens:
        parts.append(integrate_after(curve, rest_tokens))
        assumptions.append(
            "after the last point the loss falls no faster than from the middle to the end, "
            "give or take three times how far points are off a line"
        )
    noise_bits = SIGMAS * scatter_bits(curve)
    if noise_bits:
        assumptions.append("points scatter independently; three standard errors of that are in the bounds")
    parts = [part for part in parts if part.tokens]
    amounts = [(part.tokens, part.bits, part.low_bits, part.high_bits) for part in parts]
    all_tokens, bits, low, high = (sum(column) for column in zip(*amounts, strict=True))
    low, high = max(0.0, low - noise_bits), high + noise_bits
    return Integral(curve.name, len(curve.x), all_tokens, bits, low, high, noise_bits, parts, assumptions)


def integrate_before(curve: LossCurve, vocabulary: int | None) -> Part:
    """From no token to where the curve begins."""
    start = float(curve.x[0] if curve.starts is None else curve.starts[0])
    first = float(curve.bits[0])
    if start == 0:
        return Part("before the first point", 0.0, 0.0, 0.0, 0.0)
    second = min(int(np.searchsorted(curve.x, 2 * curve.x[0])), len(curve.x) - 1)
    power = min(max(power_between(curve, 0, second), 0.0), 0.95)
    guess = math.inf if vocabulary is None else max(math.log2(vocabulary), first)
    # Where the power law meets the guess; below, it is the guess.
    meets = start * (first / guess) ** (1 / power) if power else 0.0
    bits = (guess * meets if meets else 0.0) + first * start * (1 - (meets / start) ** (1 - power)) / (1 - power)
    high = max(guess, float(curve.high[0]))
    return Part("before the first point", start, bits, float(curve.low[0]) * start, high * start)


def integrate_between(curve: LossCurve, highest: float) -> Part:
    """From where the curve begins to its last point. No loss is above `highest`."""
    x, y = curve.x, curve.bits
    starts, ends, low, high = curve.steps()
    wide = ends - starts
    tokens, low_bits, high_bits = (float(values.sum()) for values in (wide, wide * low, wide * high))
    if curve.starts is not None:
        # Sums over places that are so far apart, of what falls to 0 or stays, are off by no more than this.
        slack = curve.gap_tokens * max(highest, float(curve.high[0]))
        bits = float((wide * y).sum())
        return Part("between points", tokens, bits, max(0.0, low_bits - slack), high_bits + slack)
    far = ends > CLOSE * starts
    areas = wide * (y[1:] + y[:-1]) / 2
    far &= (x[:-1] > 0) & (y[1:] > 0) & (y[:-1] > 0)
    starts, ends = (x * y)[:-1][far], (x * y)[1:][far]
    # The integral of a x^-b is the logarithmic mean of x y at both ends, times log(x_1 / x_0).
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(np.isclose(ends, starts, rtol=1e-9), starts, (ends - starts) / np.log(ends / starts))
    areas[far] = mean * np.log(x[1:][far] / x[:-1][far])
    return Part("between points", tokens, float(areas.sum()), low_bits, high_bits)


def integrate_after(curve: LossCurve, rest_tokens: float) -> Part:
    """The `rest_tokens` after the last point."""
    count, end = min(max(3, len(curve.x) // 20), len(curve.x) // 2), float(curve.x[-1])
    last = slice(-count, None)
    first = min(int(np.searchsorted(curve.x, end / 2)), len(curve.x) - 2 * count)
    middle = slice(max(0, first), max(0, first) + count)
    (mid_x, mid_y), (end_x, end_y) = ((curve.x[part].mean(), curve.bits[part].mean()) for part in (middle, last))
    slope = min(0.0, float((end_y - mid_y) / (end_x - mid_x)))
    lowest, highest = float(curve.low[last].min()), float(curve.high[last].max())
    # A straight line down to 0, at the earliest.
    falling = rest_tokens if slope == 0 else min(rest_tokens, lowest / -slope)
    # The second half's distance from a straight line comes from the text, not from learning.
    half = slice(min(len(curve.x) // 2, len(curve.x) - 2), None)
    off = curve.bits[half] - np.polyval(np.polyfit(curve.x[half] / end, curve.bits[half], 1), curve.x[half] / end)
    open_bits = SIGMAS * rest_tokens * float(off.std())
    low = max(0.0, falling * (lowest + slope * falling / 2) - open_bits)
    power = max(0.0, -math.log(end_y / mid_y) / math.log(end_x / mid_x)) if mid_x > 0 and min(end_y, mid_y) > 0 else 0.0
    # The mean of x^-b from the end on, by the middle of the stretch: b is small, so it is nearly straight.
    bits = rest_tokens * float(end_y) * (1 + rest_tokens / end / 2) ** -power
    high = highest * rest_tokens + open_bits
    return Part("after the last point", rest_tokens, min(max(bits, low), high), low, high)


def scatter_bits(curve: LossCurve) -> float:
    """The standard error of the sum that comes from points being samples, by how far each but the first and the last
    is off its neighbours; means leave nothing out."""
    if curve.starts is not None or len(curve.x) < 3:
        return 0.0
    at = np.log(np.maximum(curve.x, curve.x[1] / 2))
    share = (at[1:-1] - at[:-2]) / (at[2:] - at[:-2])
    off = curve.bits[1:-1] - (1 - share) * curve.bits[:-2] - share * curve.bits[2:]
    variance = off**2 / (1 + share**2 + (1 - share) ** 2)
    return float(np.sqrt((((curve.x[2:] - curve.x[:-2]) / 2) ** 2 * variance).sum()))


def power_between(curve: LossCurve, one: int, other: int) -> float:
    """b of the power law a x^-b through two points of the curve; 0 where no law goes through them."""
    x, y = curve.x, curve.bits
    if one == other or x[one] <= 0 or min(y[one], y[other]) <= 0:
        return 0.0
    return -math.log(y[other] / y[one]) / math.log(x[other] / x[one])


def format_table(integral: Integral, corpus_bytes: float | None) -> str:
    """The integral and its bounds, and below it where they come from."""
    total = [integral.bits, integral.low_bits, integral.high_bits]
    columns = f"{'estimate':>22}{'at least':>22}{'at most':>22}"
    lines = [
        f"{integral.name}: {integral.points:,} points over {integral.tokens:,.0f} tokens",
        "",
        f"{'description length':<24}{columns}",
        format_row("bytes", [bits / 8 for bits in total], "{:,.0f}"),
        format_row("", [format_bytes(bits / 8) for bits in total]),
        format_row("bits per token", [bits / integral.tokens for bits in total], "{:.4f}"),
    ]
    if corpus_bytes:
        lines.append(format_row("bits per byte", [bits / corpus_bytes for bits in total], "{:.4f}"))
        lines.append(format_row("ratio", [ratio(corpus_bytes, bits) for bits in total], "{:.2f}"))
    lines += ["", f"{'of it':<24}{columns}{'tokens':>9}"]
    for part in integral.parts:
        sizes = [format_bytes(bits / 8) for bits in (part.bits, part.low_bits, part.high_bits)]
        lines.append(format_row(part.name, sizes) + f"{part.tokens / integral.tokens:>9.2%}")
    if integral.noise_bits:
        noise = format_bytes(integral.noise_bits / 8)
        lines.append(format_row("scatter of the points", ["", f"-{noise}", f"+{noise}"]))
    return "\n".join([*lines, "", "Assumed:", *(f"- {sentence}" for sentence in integral.assumptions)])


def format_row(name: str, values: Sequence[Any], form: str = "{}") -> str:
    cells = ["no bound" if isinstance(v, float) and not math.isfinite(v) else form.format(v) for v in values]
    return f"{name:<24}" + "".join(f"{cell:>22}" for cell in cells)


def format_bytes(size_bytes: float) -> str:
    """Bytes in a unit that a person would take, to three digits or more: "426 GB"."""
    if not math.isfinite(size_bytes):
        return "no bound"
    size, unit = next(((size, unit) for size, unit in UNITS if size_bytes >= size), UNITS[-1])
    return f"{size_bytes / size:.{max(0, 2 - len(f'{size_bytes / size:.0f}') + 1)}f} {unit}"


def ratio(corpus_bytes: float, bits: float) -> float:
    return 8 * corpus_bytes / bits if bits else math.inf


def to_json(integral: Integral, corpus_bytes: float | None) -> dict[str, Any]:
    """The same for programs. What has no bound is null."""
    bounds = {"bits": integral.bits, "low_bits": integral.low_bits, "high_bits": integral.high_bits}
    values = {"curve": integral.name, "points": integral.points, "tokens": integral.tokens, **bounds}
    values |= {name.replace("bits", "bytes"): bits / 8 for name, bits in bounds.items()}
    if corpus_bytes:
        values |= {"corpus_bytes": corpus_bytes}
        values |= {f"{name}_per_byte": bits / corpus_bytes for name, bits in bounds.items()}
        values["compression_ratio"] = ratio(corpus_bytes, integral.bits)
    parts = [replace_infinite(vars(part)) for part in integral.parts]
    return replace_infinite(
        values | {"noise_bits": integral.noise_bits, "parts": parts, "assumptions": integral.assumptions}
    )


def replace_infinite(values: dict[str, Any]) -> dict[str, Any]:
    """The values, with None in the place of what is infinite."""
    return {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in values.items()}


def draw(curves: Sequence[tuple[LossCurve, Integral]], theme: Theme) -> Figure:
    """Bits per token against tokens: the points, and shaded what the bounds leave open. The areas are the lengths."""
    figure, axes = canvas("bits per token", 2 * len(curves))
    labels = []
    for (curve, integral), color in zip(curves, theme.series, strict=False):
        edges, low, high = bound_steps(curve, integral)
        axes.fill_between(edges, low, high, color=color, alpha=0.28, lw=0)
        axes.plot(curve.x, curve.bits, color=color, lw=1.6, marker="o" if len(curve.x) < 60 else "", ms=3.2)
        labels.append((f"{curve.name}  {format_bytes(integral.bits / 8)}  ends at", float(curve.bits[-1]), color))
    bits = np.concatenate([curve.bits for curve, _ in curves])
    axes.set_ylim(0.9 * float(bits.min()), 1.08 * float(np.quantile(bits, 0.98)))
    axes.set_xlabel("tokens")
    most = max(integral.tokens for _, integral in curves)
    size, unit = next((s, u) for s, u in ((1e12, " T"), (1e9, " B"), (1e6, " M"), (1e3, " k"), (1, "")) if most >= s)
    axes.set_xlim(0, most)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / size:g}{unit}" if value else "0"))
    end_labels(axes, figure, labels, "{:.2f}")
    return figure


def bound_steps(curve: LossCurve, integral: Integral) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps (x, least, most) that bound the curve: their areas are the bounds, except for scatter."""
    starts, ends, low, high = curve.steps()
    for part in integral.parts:
        least, most = part.low_bits / part.tokens, min(part.high_bits / part.tokens, 1e3)
        if part.name.startswith("before"):
            starts, ends = np.append(0.0, starts), np.append(part.tokens, ends)
            low, high = np.append(least, low), np.append(most, high)
        if part.name.startswith("after"):
            starts, ends = np.append(starts, ends[-1]), np.append(ends, ends[-1] + part.tokens)
            low, high = np.append(low, least), np.append(high, most)
    return np.stack([starts, ends], 1).ravel(), np.repeat(low, 2), np.repeat(high, 2)
