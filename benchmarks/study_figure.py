"""The picture of scaling curves in README.md: totals by width, a panel for each folder that launch/report.py wrote.

    python benchmarks/study_figure.py research/architectures/kjv research/architectures/enwik8 --out docs/scaling

Draws the cells of one vocabulary (--vocabulary 1024), their mean where there are several seeds, in the colors that
blocks have in all figures, and writes NAME-light.png and NAME-dark.png.
"""

import argparse
import csv
import sys
from collections import defaultdict
from pathlib import Path
from statistics import mean

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from eval.plots import THEMES, Theme, use_style
from studies.scaling.plots import block_hue, pick_stroke

Totals = dict[str, dict[int, float]]
NAMES = {"kjv": "King James Bible", "enwik8": "enwik8, first 3 MB"}


def read_totals(folder: Path, vocabulary: int) -> Totals:
    """Read kilobytes of description by block and width, from the shortest at the largest width to the longest."""
    found: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    with (folder / "scaling.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if int(row["vocabulary"]) == vocabulary:
                found[row["block"]][int(row["width"])].append(float(row["total_bits"]) / 8000)
    totals = {block: {width: mean(found[block][width]) for width in sorted(found[block])} for block in found}
    return dict(sorted(totals.items(), key=lambda item: item[1][max(item[1])]))


def draw(folders: list[Path], vocabulary: int, theme: Theme) -> Figure:
    with use_style(theme):
        figure = Figure(figsize=(9.0, 3.9), dpi=200, facecolor=theme.page)
        panels = figure.subplots(1, len(folders), sharey=True)
        blocks = list(read_totals(folders[0], vocabulary))
        for axes, folder in zip(panels, folders, strict=True):
            draw_panel(axes, read_totals(folder, vocabulary), blocks, theme)
            axes.set_title(NAMES.get(folder.name, folder.name), loc="left", size=9.5)
        panels[0].set_ylabel("total description, kB")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="center right", frameon=False, title="block", alignment="left")
        figure.subplots_adjust(left=0.075, right=0.83, bottom=0.13, top=0.92, wspace=0.06)
        return figure


def draw_panel(axes: Axes, totals: Totals, blocks: list[str], theme: Theme) -> None:
    for number, block in enumerate(blocks):
        curve, first = totals[block], number == 0
        style = pick_stroke(block_hue(block), 0, theme).style(2.2 if first else 1.4)
        axes.plot(list(curve), list(curve.values()), label=block, zorder=3 if first else 2, **style)
    axes.set_facecolor(theme.page)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="y")
    axes.set_xscale("log")
    axes.set_xlabel("width")
    axes.xaxis.set_major_locator(FixedLocator(list(totals[blocks[0]])))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--vocabulary", type=int, default=1024)
    parser.add_argument("--out", required=True, metavar="NAME")
    options = parser.parse_args()
    for name, theme in THEMES.items():
        draw(options.folders, options.vocabulary, theme).savefig(f"{options.out}-{name}.png", facecolor=theme.page)
