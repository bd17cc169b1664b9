"""Do activations keep their scale when the width grows? (Yang et al. 2022, arXiv:2203.03466, appendix D.1)

    python benchmarks/coordinate_check.py [--blocks attention,ssd] [--widths 64,128,256,512,1024] [--steps 10]
                                          [--png FILE] [any option of launch/train.py]

Trains each block at each width for a few steps on the same text (the licence, as bytes) and prints, for the last step,
the root mean square of what every part adds to the residual stream, of the stream and of the logits; and, last, the
slope of its logarithm in the logarithm of the width. Scales that are flat have slopes near 0; under standard
parametrisation they grow with slopes of 0.5 to 1.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)
from launch import entry

entry.begin(__name__)

from dataclasses import replace

import numpy as np
import torch
from matplotlib import pyplot

from data.lanes import Lanes
from model.contract import slopes, watch_scales
from model.registry import BLOCKS
from train.command_line import parse_config
from train.config import BYTE_SYMBOLS, Config
from train.corpus import CorpusSource
from train.engine import Place, connect, disconnect
from train.loop import Learner


def scales(config: Config, place: Place, steps: int) -> dict[str, float]:
    """Root mean square of each part's output in the last of `steps` steps."""
    tokens = np.frombuffer((ROOT / "LICENSE").read_bytes(), np.uint8).astype(np.int64)
    lanes = Lanes(len(tokens), config.train.lanes, config.train.segment_tokens)
    source = CorpusSource(lanes, range(config.train.lanes), lambda start, stop: tokens[start:stop], {})
    # Rates stay at their peak.
    config = replace(config, train=replace(config.train, final_fraction=1.0))
    learner = Learner(config, BYTE_SYMBOLS, BYTE_SYMBOLS - 1, place)
    found: dict[str, float] = {}
    with watch_scales(learner.model, found):
        for step in range(steps):
            targets = torch.from_numpy(source.segment(step, learner))
            learner.learn(targets, lanes, step)
    return found


def draw(found: dict[str, list[dict[str, float]]], widths: list[int], path: str) -> None:
    """What the last block adds, the stream after it and the logits by width, beside a slope of 1/2."""
    last = max(name.split()[1] for name in next(iter(found.values()))[0] if " " in name)
    panels = {f"added by block {last}": f"block {last}", "residual stream": f"stream {last}", "logits": "logits"}
    figure, axes = pyplot.subplots(1, 3, figsize=(11, 3.8), layout="constrained")
    for axis, (title, name) in zip(axes, panels.items(), strict=True):
        values = np.array([[row[name] for row in rows] for rows in found.values()])
        for block, scale in zip(found, values, strict=True):
            axis.loglog(widths, scale, "o-", ms=3, label=block)
        middle = np.exp(np.log(values).mean())
        axis.loglog(widths, middle * np.sqrt(np.array(widths) / widths[0]), "k:", label="slope 1/2")
        axis.set(title=title, xlabel="width", ylim=(middle / 8, middle * 8))
        axis.set_xticks(widths, [str(width) for width in widths])
        axis.minorticks_off()
    axes[0].set_ylabel("root mean square")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center")
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = entry.Parser(alone=False, description=__doc__)
    parser.add_argument("--blocks", default=",".join(sorted(BLOCKS)))
    parser.add_argument("--widths", default="64,128,256,512,1024")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--png", help="draw the logits' and the stream's scales here")
    options, rest = parser.parse_known_args()
    config = parse_config("", ["--model.ngram_orders=[]", "--train.lanes=4", *rest])
    place = connect(config.engine.threads, config.engine.timeout_secs)
    config = replace(config, engine=replace(config.engine, precision="fp32"))
    widths = [int(width) for width in options.widths.split(",")]
    found = {}
    for block in options.blocks.split(","):
        rows = []
        for width in widths:
            model = replace(config.model, block=block, width=width)
            rows.append(scales(replace(config, model=model), place, options.steps))
        entry.publish(f"\n{block:12}" + "".join(f"{width:>10}" for width in widths) + "     slope")
        steep = slopes(widths, rows)
        for name, slope in steep.items():
            entry.publish(f"  {name:10}" + "".join(f"{row[name]:10.4f}" for row in rows) + f"{slope:+10.3f}")
        worst = max(steep, key=lambda name: abs(steep[name]))
        entry.publish(f"  steepest: {worst}, {steep[worst]:+.3f}")
        found[block] = rows
    if options.png:
        draw(found, widths, options.png)
    disconnect()


if __name__ == "__main__":
    sys.exit(entry.exit_status(main))
