"""The tables of the study of architectures in research/, as Markdown, from what launch/report.py wrote.

    python benchmarks/study_tables.py research/architectures/kjv research/architectures/enwik8
    python benchmarks/study_tables.py --refit ...     the same, after writing today's fits of scaling.csv to its JSON

Of each folder and vocabulary: total bytes of every block and width (mean over seeds), the power law of the data term
with the 95 % interval of its exponent, what the smaller widths predicted for the largest and by how much they erred;
and, where there are several seeds, how far apart they are.
"""

import csv
import json
import sys
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from statistics import mean

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

import numpy as np

from data.files import write_file
from studies.scaling.analysis import trend_of
from studies.scaling.laws import Fit, PowerLaw
from studies.scaling.tables import law_text, without_law


def tables(folder: Path) -> None:
    study = json.loads((folder / "scaling.json").read_text())
    totals: dict[tuple[int, str], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    with (folder / "scaling.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            cell = totals[int(row["vocabulary"]), row["block"]]
            cell[int(row["width"])].append(float(row["total_bits"]) / 8)
    corpus = study["corpus"]
    for vocabulary in sorted({vocabulary for vocabulary, _ in totals}):
        lines = sorted((line for line in study["lines"] if line["vocabulary"] == vocabulary), key=shortest_bits)
        widths = sorted({width for line in lines for width in line["widths"]})
        print(f"\n{corpus['name']}, {corpus['bytes']:,} bytes, {vocabulary:,} symbols: total bytes\n")
        head = [*(f"width {width}" for width in widths), "data bytes by N", "held out", "off by"]
        print("| | " + " | ".join(head) + " |\n|---|" + "---:|" * len(widths) + "---|---:|---:|")
        for line in lines:
            cells = totals[vocabulary, line["block"]]
            values = [f"{mean(cells[width]):,.0f}" if cells[width] else "" for width in widths]
            print(f"| {line['block']} | " + " | ".join([*values, *law_of(line["data"])]) + " |")
        seeds = {
            (block, width): found
            for (size, block), cells in totals.items()
            for width, found in cells.items()
            if size == vocabulary and len(found) > 1
        }
        for (block, width), found in seeds.items():
            apart, values = (max(found) - min(found)) / mean(found), ", ".join(f"{value:,.0f}" for value in found)
            print(f"  {block}, width {width}: {len(found)} seeds {values}: {apart:.2%} apart")


def shortest_bits(line: dict) -> float:
    return line["shortest"]["bits"]


def law_of(trend: dict) -> list[str]:
    """The power law, the prediction for the largest width, and its error."""
    law = without_law(trend["why_no_fit"], "none").split(":")[0]
    if trend["fit"]:
        law = law_text(Fit(**trend["fit"] | {"law": PowerLaw(**trend["fit"]["law"])}))
    if not trend["prediction"]:
        return [law, "", ""]
    predicted, measured = (trend["prediction"][f"{name}_bits"] / 8 for name in ("predicted", "measured"))
    return [law, f"{predicted:,.0f}", f"{predicted / measured - 1:+.2%}"]


def refit(folder: Path) -> None:
    """Write the power laws and predictions that studies/scaling/laws.py finds today in scaling.csv to scaling.json."""
    study = json.loads((folder / "scaling.json").read_text())
    with (folder / "scaling.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for line in study["lines"]:
        cells = [row for row in rows if row["line"] == line["label"]]
        sizes = np.array([float(row["parameters_non_embedding"]) for row in cells])
        for term in ("data", "total"):
            line[term] = asdict(trend_of(term, sizes, np.array([float(row[f"{term}_bits"]) for row in cells])))
    write_file(folder / "scaling.json", (json.dumps(study, indent=1) + "\n").encode())


if __name__ == "__main__":
    folders = [Path(name) for name in sys.argv[1:] if name != "--refit"]
    for folder in folders:
        if "--refit" in sys.argv:
            refit(folder)
        tables(folder)
