"""Does the best learning rate stay where it is when the width grows? (Yang et al. 2022, arXiv:2203.03466, figure 1)

    python benchmarks/learning_rates.py CORPUS_FILE [--bytes 500000] [--blocks attention,ssd] [--widths 32,96]
                                        [--factors 0.25,0.5,1,2,4] [--png FILE] [any option of launch/train.py]

Trains each block (or pattern of blocks), matched in parameters with attention, at each width and with all learning
rates multiplied by each factor, over the bytes of the corpus' first part, and appends a row a run to
benchmarks/results/learning_rates.csv: bits a byte are those of the whole epoch, as a description length counts them.
Rows that are there already are not run again. Prints the factor of the least bits of each block and width, with the
minimum of the parabola through it and its neighbors. About 15 s (width 32) to 45 s (width 96) a run on one core.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

import argparse
import csv
from dataclasses import replace

import numpy as np
from matplotlib import pyplot
from tqdm import tqdm

from data.lanes import Lanes
from eval.scaling import minimum
from model.registry import BLOCKS
from train.command_line import parse_config
from train.config import BYTE_SYMBOLS, Config
from train.engine import Place, connect, disconnect
from train.ledger import Ledger
from train.loop import Learner, one_epoch
from train.matching import match
from train.run import CorpusSource

RESULTS = ROOT / "benchmarks" / "results" / "learning_rates.csv"
COLUMNS = ["corpus", "bytes", "options", "block", "width", "factor", "bits_per_byte"]
RATES = ("matrix_lr", "table_lr", "vector_lr")


def bits_per_byte(config: Config, tokens: np.ndarray, place: Place) -> float:
    """Bits of one epoch over the bytes, a byte."""
    lanes = Lanes(len(tokens), config.train.lanes, config.train.segment_tokens)
    source = CorpusSource(lanes, range(config.train.lanes), lambda start, stop: tokens[start:stop], "")
    learner = Learner(config, BYTE_SYMBOLS, BYTE_SYMBOLS - 1, place)
    ledger = Ledger(config.train.lanes, np.ones(BYTE_SYMBOLS, np.int64), place)
    for _ in tqdm(one_epoch(learner, lanes, source, ledger), total=lanes.steps, leave=False, unit="step", disable=None):
        pass
    bits, coded_tokens, _ = ledger.totals()
    return bits / coded_tokens


def draw(rows: list[dict[str, str]], path: str) -> None:
    """Excess bits a byte over the block's best at that width, a panel a block."""
    blocks = list(dict.fromkeys(row["block"] for row in rows))
    count = (len(blocks) + 2) // 3
    figure, panels = pyplot.subplots(
        count, 3, figsize=(10, 2.7 * count), layout="constrained", sharex=True, sharey=True, squeeze=False
    )
    for axis, block in zip(panels.flat, blocks, strict=False):
        for width in sorted({int(row["width"]) for row in rows}):
            own = [row for row in rows if (row["block"], int(row["width"])) == (block, width)]
            own.sort(key=lambda row: float(row["factor"]))
            bits = np.array([float(row["bits_per_byte"]) for row in own])
            if len(bits):
                axis.semilogx([float(row["factor"]) for row in own], bits - bits.min(), "o-", base=2, label=f"{width}")
        axis.set(title=block, ylim=(-0.01, 0.3))
        axis.legend(title="width", loc="upper center", ncols=2, fontsize=8, title_fontsize=8)
    for axis in list(panels.flat)[len(blocks) :]:
        axis.set_visible(False)
    figure.supxlabel("factor on all learning rates")
    figure.supylabel("bits a byte above the best")
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--bytes", type=int, default=500_000, help="length of the prefix that is used")
    parser.add_argument("--blocks", default=",".join(sorted(BLOCKS)))
    parser.add_argument("--widths", default="32,96")
    parser.add_argument("--factors", default="0.25,0.5,1,2,4")
    parser.add_argument("--png", help="draw all of the corpus' rows here")
    options, rest = parser.parse_known_args()
    config = parse_config("", ["--model.ngram_orders=[]", *rest])
    place = connect(config.engine.threads, config.engine.timeout_secs)
    config = replace(config, engine=replace(config.engine, precision="fp32"))
    tokens = np.frombuffer(options.corpus.read_bytes()[: options.bytes], np.uint8).astype(np.int64)
    common = {"corpus": options.corpus.name, "bytes": str(len(tokens)), "options": " ".join(rest)}
    RESULTS.parent.mkdir(exist_ok=True)

    def known() -> list[dict[str, str]]:
        """The rows of this corpus and these options."""
        if not RESULTS.exists():
            return []
        with RESULTS.open(newline="") as file:
            return [row for row in csv.DictReader(file) if common.items() <= row.items()]

    for block in options.blocks.split(","):
        for width in map(int, options.widths.split(",")):
            found = {}
            for factor in map(float, options.factors.split(",")):
                key = {"block": block, "width": str(width), "factor": f"{factor:g}"}
                row = next((row for row in known() if key.items() <= row.items()), None)
                if row is None:
                    reference = replace(config.model, width=width, block="attention")
                    model = match(replace(reference, block=block), reference, BYTE_SYMBOLS, "parameters")
                    rates = {name: factor * getattr(config.train, name) for name in RATES}
                    measured = replace(config, model=model, train=replace(config.train, **rates))
                    row = common | key | {"bits_per_byte": f"{bits_per_byte(measured, tokens, place):.5f}"}
                    fresh = not RESULTS.exists()
                    with RESULTS.open("a", newline="") as file:
                        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
                        if fresh:
                            table.writeheader()
                        table.writerow(row)
                found[factor] = float(row["bits_per_byte"])
            factors = np.array(sorted(found))
            best = minimum(factors, np.array([found[factor] for factor in factors]))
            between = f", parabola {best.parabola_size:.2f}" if best.parabola_size else f", the {best.edge} tried"
            values = "  ".join(f"{factor:g}: {found[factor]:.4f}" for factor in factors)
            print(f"{block:12} width {width:4}  best factor {best.size:g}{between}   {values}", flush=True)
    if options.png:
        draw(known(), options.png)
    disconnect(place)


if __name__ == "__main__":
    main()
