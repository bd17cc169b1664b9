"""The style of all figures, figures as files and as parts of pages, and those of a run: x is corpus bytes coded."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np

from eval.curve import Curve

# Imported where something is drawn: a run starts half a second faster.
if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FuncFormatter

DOTS_PER_INCH = 200
WIDTH_INCHES = 9.0
# The margins beside the axes; what an end label takes: its line, and a letter of it.
LEFT_INCHES, BELOW_INCHES, ABOVE_INCHES, LABEL_INCHES, LETTER_INCHES = 0.65, 0.5, 0.35, 0.17, 0.073
LONGEST_LABEL = 40
# The id of a line whose points say in a page what they are: this, and their texts as JSON.
SAYS = "says:"
SVG = "{http://www.w3.org/2000/svg}"
# Points of a curve that do.
MOST_SAYING = 60


@dataclass(frozen=True)
class Theme:
    """Colors of a page and of what is drawn on it. Pages have them as CSS variables of these names."""

    page: str
    panel: str
    ink: str
    faint: str
    grid: str
    other: str
    series: Sequence[str]

    @property
    def data(self) -> str:
        return self.series[0]

    @property
    def fixed(self) -> str:
        return self.series[1]

    @property
    def variables(self) -> dict[str, str]:
        """Colors by the names of their CSS variables."""
        fields = {name: color for name, color in vars(self).items() if name != "series"}
        return fields | {f"series-{number}": color for number, color in enumerate(self.series)}


LIGHT = Theme(
    "#ffffff", "#f7f8f9", "#1c2024", "#6b7280", "#e7e8ea", "#c3c8cf",
    ("#1f5fbf", "#b3540f", "#257f4e", "#8a55b5", "#c2415d", "#1f7a8a", "#8a6700", "#7a4a2b", "#4a4fb0", "#5c6470"),
)  # fmt: skip
DARK = Theme(
    "#15181d", "#1c2027", "#e8e9eb", "#98a0ab", "#2a2f37", "#4a525e",
    ("#72a7f5", "#f0a06a", "#74c69d", "#bd9be6", "#f08aa0", "#6cc5d3", "#e0bb55", "#c99b78", "#9aa0f0", "#b4bac4"),
)  # fmt: skip
THEMES = {"light": LIGHT, "dark": DARK}


def use_style(theme: Theme) -> Any:
    """Within it, figures are drawn and saved in our style."""
    import matplotlib

    colors = {"text.color": theme.ink, "axes.edgecolor": theme.grid, "axes.labelcolor": theme.faint}
    colors |= {"xtick.color": theme.faint, "ytick.color": theme.faint, "grid.color": theme.grid}
    sizes = {"font.size": 9.5, "axes.titlesize": 9.5, "axes.titlelocation": "left", "axes.linewidth": 1.0}
    sizes |= {"xtick.major.size": 0, "ytick.major.size": 0, "grid.linewidth": 0.8}
    sizes |= {"legend.frameon": False, "legend.fontsize": 8.5}
    # Names may hold dollar signs. Text stays text, and the same figure is the same file.
    files = {"text.parse_math": False, "svg.fonttype": "none", "pdf.fonttype": 42, "svg.hashsalt": "onepass"}
    return matplotlib.rc_context(colors | sizes | files)


def png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", transparent=True)
    return stream.getvalue()


def pdf(figure: Figure) -> bytes:
    from fontTools.subset import Options

    # A PDF places each letter by itself. To cut these tables of a font to its letters takes most of the time.
    Options._drop_tables_default = sorted({*Options._drop_tables_default, "GDEF", "GPOS", "GSUB"})
    stream = io.BytesIO()
    figure.savefig(stream, format="pdf", transparent=True, metadata={"CreationDate": None})
    return stream.getvalue()


def say(points: Iterable[Line2D], texts: Sequence[str]) -> None:
    """In a page, let each point of a line of markers show its text while the mouse is over it."""
    for line in points:
        line.set_gid(SAYS + json.dumps(texts))


def say_course(axes: Axes, x: np.ndarray, y: np.ndarray, name: str, form: str, most: int = MOST_SAYING) -> None:
    """The same for a curve, which has no markers: name, value and corpus bytes, at `most` of its points that are within
    the limits of the axes, which are set before."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    inside = np.flatnonzero((left <= x) & (x <= right) & (bottom <= y) & (y <= top))
    shown = inside[np.unique(np.linspace(0, len(inside) - 1, most).round().astype(int))]
    texts = [f"{name}: {format(y[at], form)} at {x[at]:,.0f} bytes" for at in shown]
    say(axes.plot(x[shown], y[shown], "o", ms=9, alpha=0, mew=0), texts)


def svg(figure: Figure) -> str:
    """A figure in LIGHT as an element of a page, in the colors and the font of that page."""
    stream = io.BytesIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(stream, format="svg", transparent=True, metadata=nothing)
    variables = {color: f"var(--{name})" for name, color in LIGHT.variables.items()}
    root = ElementTree.fromstring(stream.getvalue())
    for element in list(root.iter()):
        # HTML knows the namespaces by itself.
        element.tag = element.tag.split("}")[1]
        element.attrib = {name.split("}")[-1]: value for name, value in element.attrib.items()}
        if (name := element.get("id", "")).startswith(SAYS):
            del element.attrib["id"]
            # As many as there are texts, or some are outside of the axes.
            if len(points := list(element.iter(SVG + "use"))) == len(texts := json.loads(name.removeprefix(SAYS))):
                for point, text in zip(points, texts, strict=True):
                    ElementTree.SubElement(point, "title").text = text
        # Only what others refer to keeps its name: a page holds several figures.
        if "_" in element.get("id", ""):
            del element.attrib["id"]
        if style := element.get("style"):
            own = re.sub("font-family: [^;]*; ", "", style)
            element.set("style", re.sub("#[0-9a-f]{6}", lambda color: variables.get(color[0], color[0]), own))
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=False)


@dataclass(frozen=True)
class Picture:
    """A figure as an element of a page, and as files."""

    svg: str
    light: bytes
    dark: bytes
    pdf: bytes

    def files(self, name: str, light: str = "") -> dict[str, bytes]:
        return {f"{name}{light}.png": self.light, f"{name}-dark.png": self.dark, f"{name}.pdf": self.pdf}


def picture(draw: Callable[..., Figure], *arguments: Any) -> Picture:
    """What `draw(*arguments, theme)` draws."""
    with use_style(LIGHT):
        figure = draw(*arguments, LIGHT)
        element, light, document = svg(figure), png(figure), pdf(figure)
    with use_style(DARK):
        return Picture(element, light, png(draw(*arguments, DARK)), document)


def description_length_figure(curve: Curve, baselines: dict[str, int], theme: Theme) -> Figure:
    """Description length so far against corpus bytes, the baselines as lines: where ours ends is the number."""
    figure, axes = canvas("bytes of description so far", 1 + len(baselines))
    curve = curve.thin()
    fixed_bytes = float(curve.total_bits[0] - curve.data_bits[0]) / 8
    coded_bytes = np.append(0, curve.coded_bytes)
    total_bytes = np.append(fixed_bytes, curve.total_bits / 8)
    axes.fill_between(coded_bytes, 0, fixed_bytes, color=theme.fixed, alpha=0.35, lw=0)
    axes.fill_between(coded_bytes, fixed_bytes, total_bytes, color=theme.data, alpha=0.12, lw=0)
    axes.plot(coded_bytes, total_bytes, color=theme.data, lw=2.2)
    axes.plot(coded_bytes[-1], total_bytes[-1], "o", color=theme.data, ms=5)
    labels = [("onepass", float(total_bytes[-1]), theme.data), *baseline_lines(axes, baselines, theme)]
    byte_axes(axes, coded_bytes[-1], max(value for _, value, _ in labels))
    say_course(axes, coded_bytes, total_bytes, "total", ",.0f")
    end_labels(axes, figure, labels)
    return figure


def rate_figure(curve: Curve, theme: Theme) -> Figure:
    """Bits per byte now, which falls as the model learns, and the mean of all so far."""
    figure, axes = canvas("bits per byte", 2)
    middle, now = curve.rate()
    curve = curve.thin()
    mean = curve.data_bits / curve.coded_bytes
    axes.plot(middle, now, color=theme.data, lw=1.8)
    axes.plot(curve.coded_bytes, mean, color=theme.faint, lw=1.2)
    # The first windows cost as much as bytes that nothing is known about; the rest is what there is to see.
    axes.set_xlim(0, curve.coded_bytes[-1])
    axes.xaxis.set_major_formatter(bytes_formatter(curve.coded_bytes[-1]))
    axes.set_ylim(0.8 * float(now.min()), 1.4 * float(np.quantile(mean, 0.8)))
    say_course(axes, middle, now, "now", ".4f")
    say_course(axes, curve.coded_bytes, mean, "mean so far", ".4f")
    labels = [("now", float(now[-1]), theme.data), ("mean so far", float(mean[-1]), theme.faint)]
    end_labels(axes, figure, labels, "{:.3f}")
    return figure


def frame(axes: Axes, grid: Any = "y") -> None:
    """The lines around and behind what is drawn."""
    axes.set_axisbelow(True)
    axes.grid(axis=grid)
    axes.spines[["top", "right", "left"]].set_visible(False)


def canvas(caption: str, labels: int, below_inches: float = 0.0) -> tuple[Figure, Axes]:
    """A figure high enough for so many end labels, whose margin `end_labels` sets, above an empty strip."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    height = max(4.0, 0.9 + LABEL_INCHES * labels) + below_inches
    figure = Figure(figsize=(WIDTH_INCHES, height), dpi=DOTS_PER_INCH)
    axes = figure.add_subplot()
    bottom = (BELOW_INCHES + below_inches) / height
    figure.subplots_adjust(LEFT_INCHES / WIDTH_INCHES, bottom, top=1 - ABOVE_INCHES / height)
    frame(axes)
    offset = (4 - LEFT_INCHES * 72, 12)
    axes.annotate(caption, (0, 1), offset, xycoords="axes fraction", textcoords="offset points")
    axes.set_xlabel("corpus coded")
    axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    return figure, axes


def byte_axes(axes: Axes, corpus_bytes: float, most_bytes: float) -> None:
    axes.set_xlim(0, corpus_bytes)
    axes.xaxis.set_major_formatter(bytes_formatter(corpus_bytes))
    axes.set_ylim(0, 1.05 * most_bytes)
    axes.yaxis.set_major_formatter(bytes_formatter(most_bytes))


def bytes_formatter(most_bytes: float) -> FuncFormatter:
    """Tick labels in the largest decimal unit that leaves the axis' end above 1."""
    from matplotlib.ticker import FuncFormatter

    unit, size = next(
        (u, s) for u, s in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("B", 1.0)) if most_bytes >= s or s == 1
    )
    return FuncFormatter(lambda value, _: f"{value / size:g} {unit}".replace("-", "−") if value else "0")


def baseline_lines(axes: Axes, baselines: dict[str, int], theme: Theme) -> list[tuple[str, float, str]]:
    for size_bytes in baselines.values():
        axes.axhline(size_bytes, color=theme.faint, lw=0.9, ls=(0, (4, 3)), alpha=0.6)
    return [(name, float(size_bytes), theme.faint) for name, size_bytes in baselines.items()]


def end_labels(axes: Axes, figure: Figure, labels: list[tuple[str, float, str]], form: str = "{:,.0f}") -> None:
    """Name and value of each line, at the right edge, moved apart where they would overlap."""
    import matplotlib

    labels = sorted(labels, key=lambda label: label[1])
    texts = [f"{name[:LONGEST_LABEL]}  {form.format(value)}" for name, value, _ in labels]
    figure.subplots_adjust(right=1 - (0.3 + LETTER_INCHES * max(20, *map(len, texts))) / WIDTH_INCHES)
    bottom, top = axes.get_ylim()
    scale = np.log if axes.get_yscale() == "log" else np.asarray
    low, high, at = (scale(values) for values in (bottom, top, [value for _, value, _ in labels]))
    wanted = (at - low) / (high - low)
    heights = spread(wanted, LABEL_INCHES / (axes.get_position().height * figure.get_figheight()))
    for (_, _, color), text, at, placed in zip(labels, texts, wanted, heights, strict=True):
        axes.plot(
            [1.0, 1.012, 1.022], [at, placed, placed], color=color, lw=0.8, transform=axes.transAxes, clip_on=False
        )
        weight = "normal" if color == matplotlib.rcParams["axes.labelcolor"] else "bold"
        axes.text(1.028, placed, text, color=color, weight=weight, size=8.5, va="center", transform=axes.transAxes)


def spread(wanted: np.ndarray, gap: float) -> np.ndarray:
    """Rising positions in [0, 1], `gap` apart or more, each group of neighbors centered on where its members belong."""
    groups: list[list[float]] = []
    for position in wanted:
        groups.append([float(position)])
        while len(groups) > 1 and _placed(groups[-1], gap)[0] - _placed(groups[-2], gap)[-1] < gap:
            last = groups.pop()
            groups[-1] += last
    steps = gap * np.arange(len(wanted))
    return np.concatenate([_placed(group, gap) for group in groups]).clip(steps, 1 - steps[::-1])


def _placed(group: list[float], gap: float) -> np.ndarray:
    """A group of wanted positions, `gap` apart around their mean."""
    return np.mean(group) + gap * (np.arange(len(group)) - (len(group) - 1) / 2)
