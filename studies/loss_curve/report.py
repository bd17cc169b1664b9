"""An integral of a loss curve as text, as JSON and as a figure."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from eval.plots import Theme, canvas, end_labels, png, styled
from studies.loss_curve.integral import Integral
from studies.loss_curve.smoothing import LossCurve

UNITS = ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))


def human(size_bytes: float) -> str:
    """Bytes in a unit that a person would take, to three digits or more: "426 GB"."""
    if not math.isfinite(size_bytes):
        return "no bound"
    size, unit = next(((size, unit) for size, unit in UNITS if size_bytes >= size), UNITS[-1])
    return f"{size_bytes / size:.{max(0, 2 - len(f'{size_bytes / size:.0f}') + 1)}f} {unit}"


def table(integral: Integral, corpus_bytes: float | None) -> str:
    """The integral and its bounds, and below it where they come from."""
    total = (integral.bits, integral.low_bits, integral.high_bits)
    noise = -integral.noise_bits, integral.noise_bits
    lines = [
        f"{integral.name}: {integral.points:,} points over {integral.tokens:,.0f} tokens",
        "",
        f"{'description length':<24}{'estimate':>22}{'at least':>22}{'at most':>22}",
        _row("bytes", [bits / 8 for bits in total], "{:,.0f}"),
        _row("", [human(bits / 8) for bits in total], "{}"),
        _row("bits per token", [bits / integral.tokens for bits in total], "{:.4f}"),
    ]
    if corpus_bytes:
        lines.append(_row("bits per byte", [bits / corpus_bytes for bits in total], "{:.4f}"))
        lines.append(_row("ratio", [_ratio(corpus_bytes, bits) for bits in total], "{:.2f}"))
    lines += ["", f"{'of it':<24}{'estimate':>22}{'at least':>22}{'at most':>22}{'tokens':>9}"]
    for part in integral.parts:
        sizes = [human(bits / 8) for bits in (part.bits, part.low_bits, part.high_bits)]
        lines.append(_row(part.name, sizes, "{}") + f"{part.tokens / integral.tokens:>9.2%}")
    if integral.noise_bits:
        lines.append(_row("scatter of the points", ["", *(_signed(bits / 8) for bits in noise)], "{}"))
    return "\n".join([*lines, "", "Assumed:", *(f"- {sentence}" for sentence in integral.assumptions)])


def as_json(integral: Integral, corpus_bytes: float | None) -> dict[str, Any]:
    """The same for programs. What has no bound is null."""
    bounds = {"bits": integral.bits, "low_bits": integral.low_bits, "high_bits": integral.high_bits}
    values: dict[str, Any] = {"curve": integral.name, "points": integral.points, "tokens": integral.tokens, **bounds}
    values |= {name.replace("bits", "bytes"): bits / 8 for name, bits in bounds.items()}
    if corpus_bytes:
        values |= {"corpus_bytes": corpus_bytes}
        values |= {f"{name}_per_byte": bits / corpus_bytes for name, bits in bounds.items()}
        values["compression_ratio"] = _ratio(corpus_bytes, integral.bits)
    values["noise_bits"] = integral.noise_bits
    values["parts"] = [{name: _finite(value) for name, value in vars(part).items()} for part in integral.parts]
    return {name: _finite(value) for name, value in values.items()} | {"assumptions": list(integral.assumptions)}


def figure(curves: Sequence[tuple[LossCurve, Integral]], theme: Theme) -> bytes:
    """Bits per token against tokens: the points, and shaded what the bounds leave open. The areas are the lengths."""
    with styled(theme):
        drawn, axes = canvas("bits per token", 2 * len(curves))
        labels, heights = [], []
        for (curve, integral), color in zip(curves, theme.series, strict=False):
            edges, low, high = bands(curve, integral)
            axes.fill_between(edges, low, high, color=color, alpha=0.28, lw=0)
            axes.plot(curve.x, curve.bits, color=color, lw=1.6, marker="o" if len(curve.x) < 60 else "", ms=3.2)
            labels.append((f"{curve.name}  {human(integral.bits / 8)}  ends at", float(curve.bits[-1]), color))
            heights.append(curve.bits)
        bits = np.concatenate(heights)
        axes.set_ylim(0.9 * float(bits.min()), 1.08 * float(np.quantile(bits, 0.98)))
        axes.set_xlabel("tokens")
        _token_axis(axes, max(integral.tokens for _, integral in curves))
        end_labels(axes, drawn, labels, "{:.2f}")
        return png(drawn)


def bands(curve: LossCurve, integral: Integral) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps (x, least, most) that bound the curve: their areas are the bounds, but for scatter."""
    starts, low, high = curve.starts, curve.low, curve.high
    ends = curve.x
    if starts is None:
        starts, ends = curve.x[:-1], curve.x[1:]
        low, high = np.minimum(low[1:], low[:-1]), np.maximum(high[1:], high[:-1])
    for part in integral.parts:
        mean = part.low_bits / part.tokens, min(part.high_bits / part.tokens, 1e3)
        if part.name.startswith("before"):
            starts, ends = np.append(0.0, starts), np.append(part.tokens, ends)
            low, high = np.append(mean[0], low), np.append(mean[1], high)
        if part.name.startswith("after"):
            starts, ends = np.append(starts, ends[-1]), np.append(ends, ends[-1] + part.tokens)
            low, high = np.append(low, mean[0]), np.append(high, mean[1])
    return np.stack([starts, ends], 1).ravel(), np.repeat(low, 2), np.repeat(high, 2)


def _token_axis(axes: Axes, most: float) -> None:
    size, unit = next((s, u) for s, u in ((1e12, " T"), (1e9, " B"), (1e6, " M"), (1e3, " k"), (1, "")) if most >= s)
    axes.set_xlim(0, most)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / size:g}{unit}" if value else "0"))


def _row(name: str, values: Sequence[Any], form: str) -> str:
    cells = ["no bound" if isinstance(v, float) and not math.isfinite(v) else form.format(v) for v in values]
    return f"{name:<24}" + "".join(f"{cell:>22}" for cell in cells)


def _signed(size_bytes: float) -> str:
    return ("+" if size_bytes > 0 else "-") + human(abs(size_bytes))


def _ratio(corpus_bytes: float, bits: float) -> float:
    return 8 * corpus_bytes / bits if bits else math.inf


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
