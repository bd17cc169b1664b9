"""How much of a block's advantage is the context that it carries from segment to segment?

    python benchmarks/carried_context.py CORPUS_FILE [--bytes 1000000] [--blocks attention,ssd] [--width 64]
                                         [--segments 16,64,256] [--windows 64,128,256,512] [--batch 2048] [--png FILE]
                                         [any option of launch/train.py]

Two questions to each block, all matched in parameters with attention. How do bits a byte change with the length of the
segments that gradients flow through, when state is carried from one to the next as always, and when every segment
starts from an empty state? A step has --batch tokens whatever the length, so that the number of updates stays. And of
attention: how do they change with its window? Appends a row a run to benchmarks/results/carried_context.csv; rows that
are there already are not run again. About 30 s a run and million bytes on one core.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)
from launch import entry

entry.begin(__name__)

from dataclasses import replace

from matplotlib import pyplot

from benchmarks.short_epochs import Row, begin, bits_per_byte, matched
from data.lanes import longest_segment
from train.engine import disconnect

RESULTS = ROOT / "benchmarks" / "results" / "carried_context.csv"


def draw(rows: list[Row], path: str) -> None:
    """Left: bits a byte by segment length, with and without carried state. Right: attention's by its window."""
    figure, (left, right) = pyplot.subplots(
        1, 2, figsize=(10, 4), layout="constrained", sharey=True, width_ratios=[3, 2]
    )
    blocks = list(dict.fromkeys(row["block"] for row in rows))
    segments = sorted({int(row["segment_tokens"]) for row in rows})
    by_segment = [row for row in rows if row["window"] == ""]
    for index, block in enumerate(blocks):
        for carried, dash in (("yes", "-"), ("no", ":")):
            own = [row for row in by_segment if (row["block"], row["carried"]) == (block, carried)]
            own.sort(key=lambda row: int(row["segment_tokens"]))
            label = block if carried == "yes" else None
            points = [int(row["segment_tokens"]) for row in own], [float(row["bits_per_byte"]) for row in own]
            left.semilogx(*points, f"o{dash}", color=f"C{index}", base=2, label=label)
    left.set(xlabel="tokens a segment (dotted: every segment starts empty)", ylabel="bits a byte")
    left.set_xticks(segments, [str(segment) for segment in segments])
    left.legend()
    own = sorted((row for row in rows if row["window"]), key=lambda row: int(row["window"]))
    windows = [int(row["window"]) for row in own]
    right.semilogx(windows, [float(row["bits_per_byte"]) for row in own], "o-", color="C0", base=2)
    right.set(xlabel="attention's window, tokens", xticks=windows, xticklabels=[str(window) for window in windows])
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = entry.Parser(alone=False, description=__doc__)
    parser.add_argument("--blocks", default="attention,s4d,s4,ssd,gated_delta,rglru,lstm")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--segments", default="16,64,256")
    parser.add_argument("--windows", default="32,64,128,256,512")
    parser.add_argument("--batch", type=int, default=2048, help="tokens a step")
    columns = ["block", "width", "batch", "segment_tokens", "carried", "window"]
    options, config, tokens, place, table = begin(parser, RESULTS, columns)
    common = {"width": str(options.width), "batch": str(options.batch)}
    for block in options.blocks.split(","):
        model = matched(config.model, block, options.width)
        for segment in map(int, options.segments.split(",")):
            train = replace(config.train, lanes=options.batch // segment, segment_tokens=segment)
            tried, found = replace(config, model=model, train=train), []
            for carry in (True, False):
                key = {"block": block, "segment_tokens": str(segment), "carried": "yes" if carry else "no"}
                measure = lambda tried=tried, carry=carry: bits_per_byte(tried, tokens, place, carry)  # noqa: E731
                found.append(table.row(common | key | {"window": ""}, measure))  # type: ignore[arg-type]
            carried, empty = found
            entry.publish(f"{block:14} segments of {segment:4}  carried {carried:.4f}  empty {empty:.4f}")
    segment = longest_segment(config.train.segment_tokens)
    train = replace(config.train, lanes=options.batch // segment, segment_tokens=segment)
    for window in map(int, options.windows.split(",")):
        model = replace(matched(config.model, "attention", options.width), window=window)
        tried = replace(config, model=model, train=train)
        key = {"block": "attention", "segment_tokens": str(segment), "carried": "yes", "window": str(window)}
        bits = table.row(common | key, lambda tried=tried: bits_per_byte(tried, tokens, place))  # type: ignore[misc]
        entry.publish(f"attention      window {window:4}  segments of {segment}  {bits:.4f}")
    if options.png:
        draw(table.rows, options.png)
    disconnect()


if __name__ == "__main__":
    sys.exit(entry.exit_status(main))
