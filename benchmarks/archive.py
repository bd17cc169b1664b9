"""What coding costs: encoding and decoding against plain training on the same tokens.

    python benchmarks/archive.py [--rounds 8] [--steps 20] [any option of launch/train.py]

All three run in one process, in turns of `--steps` steps, so that whatever else the machine does hits all. Prints the
median seconds of a turn of each, the medians of the ratios of neighbouring turns, and whether the tokens came back.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])
from launch import entry

entry.begin(__name__)

import statistics
import tempfile
from collections.abc import Iterator

import numpy as np

from archive.decoding import Decoding
from archive.encoding import EncodingSource, block_file
from archive.frames import rank_payload
from benchmarks.overhead import Corpus, turn
from train.command_line import parse_config
from train.engine import connect, disconnect
from train.loop import TokenSource, one_epoch


def main() -> None:
    parser = entry.Parser(alone=False, description=__doc__)
    parser.add_argument("--rounds", type=int, default=8, help="turns of each")
    parser.add_argument("--steps", type=int, default=20, help="training steps of a turn")
    options, rest = parser.parse_known_args()
    config = parse_config("", rest)
    place = connect(config.engine.threads, config.engine.timeout_secs)
    corpus = Corpus(config, place)
    lanes = corpus.lanes
    if lanes.steps < options.steps * options.rounds:
        parser.error(f"the corpus has {lanes.steps} steps, fewer than {options.rounds} rounds of {options.steps}")
    decoded = np.full(lanes.tokens, corpus.vocabulary, np.uint32)

    with tempfile.TemporaryDirectory() as folder:

        def payloads() -> Iterator[bytes]:
            for block in range(options.rounds):
                yield rank_payload(block_file(Path(folder), block).read_bytes(), 0)

        sources: dict[str, TokenSource] = {
            "train": corpus.source(),
            "encode": EncodingSource(corpus.source(), Path(folder), place, options.steps),
            "decode": Decoding(lanes, corpus.share, options.steps, payloads(), decoded),
        }
        loops = {name: one_epoch(*corpus.start(source)) for name, source in sources.items()}
        secs: dict[str, list[float]] = {name: [] for name in loops}
        for _ in range(options.rounds):
            for name, loop in loops.items():
                secs[name].append(turn(loop, options.steps))
    read = decoded < corpus.vocabulary
    expected = corpus.read(0, lanes.tokens)
    entry.publish(f"{int(read.sum()):,} tokens decoded, as they were: {np.array_equal(decoded[read], expected[read])}")
    for name, values in secs.items():
        ratios = [mine / plain for mine, plain in zip(values[1:], secs["train"][1:], strict=True)]
        entry.publish(
            f"{name:8} {statistics.median(values[1:]):7.3f} s a turn, {statistics.median(ratios):.3f} of training "
            f"(from {min(ratios):.3f} to {max(ratios):.3f})"
        )
    disconnect()


if __name__ == "__main__":
    sys.exit(entry.exit_status(main))
