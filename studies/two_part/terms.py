"""Two-part codes beside the prequential one: rows, table and figure."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from archive.weights import FLOATS, Point
from eval.plots import DOTS_PER_INCH, WIDTH_INCHES, Theme, bytes_formatter, png, styled

COLUMNS = (
    "run", "tables", "point", "weight_bytes", "table_bytes", "data_bytes", "fixed_bytes", "total_bytes",
    "prequential_bytes",
)  # fmt: skip


@dataclass(frozen=True)
class TwoPart:
    """One two-part code. `tables` says what becomes of the context mixing's tables, "none" for a model without.

    `fixed_bytes` are code, tokenizer and side information, the same as the prequential code pays."""

    run: str
    tables: str
    point: Point
    weight_bytes: int
    table_bytes: int
    data_bytes: float
    fixed_bytes: float
    prequential_bytes: float

    @property
    def total_bytes(self) -> float:
        return self.weight_bytes + self.table_bytes + self.data_bytes + self.fixed_bytes

    @property
    def times(self) -> float:
        """How many times the prequential total this is."""
        return self.total_bytes / self.prequential_bytes


def label(point: Point) -> str:
    return str(point) if point in FLOATS else f"{point} bits"


def heading(prequential_bytes: float, fixed_bytes: float) -> str:
    """What stands over the rows of a run."""
    names = f"{'weights as':<12}{'weights':>12}{'tables':>12}{'data':>12}{'code':>10}{'total':>13}{'prequential':>14}"
    own = f"{'prequential':<12}{0:>12,}{0:>12,}{prequential_bytes - fixed_bytes:>12,.0f}{fixed_bytes:>10,.0f}"
    return f"{names}\n{own}{prequential_bytes:>13,.0f}{'x 1.000':>14}"


def line(row: TwoPart) -> str:
    return (
        f"{label(row.point):<12}{row.weight_bytes:>12,}{row.table_bytes:>12,}{row.data_bytes:>12,.0f}"
        f"{row.fixed_bytes:>10,.0f}{row.total_bytes:>13,.0f}{f'x {row.times:.3f}':>14}"
    )


def verdict(rows: Sequence[TwoPart]) -> str:
    """Where the two-part code of a run is shortest, and what is left of it if the weights were free."""
    best = min(rows, key=lambda row: row.total_bytes)
    free = min(row.data_bytes + row.fixed_bytes for row in rows)
    compared = f"{abs(best.times - 1):.1%} {'longer' if best.times > 1 else 'shorter'} than"
    return (
        f"shortest with weights as {label(best.point)}: {best.total_bytes:,.0f} bytes, {compared} the prequential "
        f"{best.prequential_bytes:,.0f}; with weights for nothing it would be {free:,.0f}"
    )


def as_csv(rows: Sequence[TwoPart]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow([round(v) if isinstance(v := getattr(row, name), float) else v for name in COLUMNS])
    return stream.getvalue()


def figure(rows: Sequence[TwoPart], theme: Theme) -> bytes:
    """Total bytes against bits a weight as stacked bars, a panel a run and treatment of its tables, each with the
    prequential total as a line."""
    panels: dict[str, list[TwoPart]] = {}
    for row in rows:
        panels.setdefault(row.run if row.tables == "none" else f"{row.run}, tables {row.tables}", []).append(row)
    columns = min(len(panels), 4)
    lines = -(-len(panels) // columns)
    with styled(theme):
        drawn = Figure(figsize=(WIDTH_INCHES, 3.1 * lines + 0.5), dpi=DOTS_PER_INCH)
        grid = drawn.subplots(lines, columns, squeeze=False, sharey=True)
        drawn.subplots_adjust(0.1, 0.62 / (3.1 * lines + 0.5), 0.995, 1 - 0.62 / (3.1 * lines + 0.5), 0.08, 0.42)
        most_bytes = max(max(row.total_bytes, row.prequential_bytes) for row in rows)
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        for axes, (name, panel) in zip(grid.flat, panels.items(), strict=False):
            places, floor = np.arange(len(panel)), np.zeros(len(panel))
            parts: dict[str, tuple[str, list[float]]] = {
                "code, tokenizer, side": (theme.faint, [row.fixed_bytes for row in panel]),
                "data given the weights": (theme.data, [row.data_bytes for row in panel]),
                "weights (and tables)": (theme.fixed, [row.weight_bytes + row.table_bytes for row in panel]),
            }
            for part, (color, sizes) in parts.items():
                axes.bar(places, sizes, 0.75, floor, color=color, label=part, alpha=0.85)
                floor += sizes
            prequential_bytes = panel[0].prequential_bytes
            axes.axhline(prequential_bytes, color=theme.ink, lw=1.4, ls=(0, (4, 2)), label="prequential total")
            best = int(floor.argmin())
            # Above its neighbours too, into which it may reach.
            height = floor[max(0, best - 2) : best + 3].max()
            axes.annotate(
                f"x {panel[best].times:.2f}", (best, height), (0, 3), textcoords="offset points", ha="center",
                size=8.5, weight="bold",
            )  # fmt: skip
            axes.set_xticks(places, [label(row.point).removesuffix(" bits") for row in panel], size=7.5, rotation=90)
            axes.set_title(name, size=9.5, loc="left")
            axes.set_ylim(0, 1.06 * most_bytes)
            axes.yaxis.set_major_formatter(bytes_formatter(most_bytes))
            axes.set_axisbelow(True)
            axes.grid(axis="y")
            axes.spines[["top", "right", "left"]].set_visible(False)
        grid[0, 0].set_ylabel("description length")
        for axes in grid[-1]:
            axes.set_xlabel("weights as: bits, or float")
        handles, names = grid[0, 0].get_legend_handles_labels()
        drawn.legend(handles, names, ncols=4, loc="upper left", bbox_to_anchor=(0.07, 1.0), frameon=False, fontsize=8.5)
        return png(drawn)
