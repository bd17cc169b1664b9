"""Does the best learning rate stay where it is when the width grows? (Yang et al. 2022, arXiv:2203.03466)

    python benchmarks/learning_rates.py CORPUS_FILE [--bytes 500000] [--blocks attention,ssd] [--widths 32,96]
                                        [--factors 0.25,0.5,1,2,4] [--png FILE] [any option of launch/train.py]

Trains each block (or pattern of blocks), matched in parameters with attention, at each width and with all learning
rates multiplied by each factor, over the bytes of the corpus' first part, and appends a row a run to
benchmarks/results/learning_rates.csv: bits a byte are those of the whole epoch, as a description length counts them.
Rows that are there already are not run again. Prints the factor of the least bits of each block and width, with the
minimum of the parabola through it and its neighbors. About 10 s (width 32) to 25 s (width 96) a run on one core.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)
from launch import entry

entry.begin(__name__)

from dataclasses import replace

import numpy as np
from matplotlib import pyplot

from benchmarks.short_epochs import Row, begin, bits_per_byte, matched
from model.registry import BLOCKS
from studies.scaling.laws import minimum
from train.engine import disconnect

RESULTS = ROOT / "benchmarks" / "results" / "learning_rates.csv"
RATES = ("matrix_lr", "table_lr", "vector_lr")


def draw(rows: list[Row], path: str) -> None:
    """Bits a byte above the block's best at that width, a panel a block."""
    blocks = sorted({row["block"] for row in rows})
    count = (len(blocks) + 4) // 5
    figure, panels = pyplot.subplots(
        count, 5, figsize=(11, 2.6 * count), layout="constrained", sharex=True, sharey=True, squeeze=False
    )
    for axis, block in zip(panels.flat, blocks, strict=False):
        for width in sorted({int(row["width"]) for row in rows}):
            own = [row for row in rows if (row["block"], int(row["width"])) == (block, width)]
            own.sort(key=lambda row: float(row["factor"]))
            bits = np.array([float(row["bits_per_byte"]) for row in own])
            if len(bits):
                axis.semilogx([float(row["factor"]) for row in own], bits - bits.min(), "o-", base=2, label=f"{width}")
        axis.set(title=block, ylim=(-0.02, 0.5))
    for axis in list(panels.flat)[len(blocks) :]:
        axis.set_visible(False)
    panels.flat[0].legend(title="width", fontsize=8, title_fontsize=8)
    figure.supxlabel("factor on all learning rates")
    figure.supylabel("bits a byte above the best")
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = entry.Parser(alone=False, description=__doc__)
    parser.add_argument("--blocks", default=",".join(sorted(BLOCKS)))
    parser.add_argument("--widths", default="32,96")
    parser.add_argument("--factors", default="0.25,0.5,1,2,4")
    options, config, tokens, place, table = begin(parser, RESULTS, ["block", "width", "factor"])
    for block in options.blocks.split(","):
        for width in map(int, options.widths.split(",")):
            model, bits = matched(config.model, block, width), {}
            for factor in sorted(map(float, options.factors.split(","))):
                rates = {name: factor * getattr(config.train, name) for name in RATES}
                tried = replace(config, model=model, train=replace(config.train, **rates))
                key = {"block": block, "width": str(width), "factor": f"{factor:g}"}
                bits[factor] = table.row(key, lambda tried=tried: bits_per_byte(tried, tokens, place))  # type: ignore
            best = minimum(np.array(list(bits)), np.array(list(bits.values())))
            between = f", parabola {best.parabola_size:.2f}" if best.parabola_size else f", the {best.edge} tried"
            values = "  ".join(f"{factor:g}: {value:.4f}" for factor, value in bits.items())
            entry.publish(f"{block:14} width {width:4}  best factor {best.size:g}{between}   {values}")
    if options.png:
        draw(table.rows, options.png)
    disconnect()


if __name__ == "__main__":
    sys.exit(entry.exit_status(main))
