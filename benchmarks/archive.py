"""What coding costs: encoding and decoding against plain training on the same tokens.

    python benchmarks/archive.py [--rounds 8] [--steps 20] [any option of launch/train.py]

All three run in one process, in turns of `--steps` steps, so that whatever else the machine does hits all. Prints the
median seconds of a turn of each, the medians of the ratios of neighbouring turns, and whether the tokens came back.
With `--operators`, it prints instead how often a coded token calls PyTorch's operators, by the functions that call
them: most of its time is such calls, for tensors of a few numbers.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])
from launch import entry

entry.begin(__name__)

import statistics
import tempfile
from collections import Counter
from collections.abc import Iterator
from types import FrameType
from typing import Any

import numpy as np

from archive.decoding import Decoding, code_segment
from archive.encoding import EncodingSource, block_file
from archive.frames import rank_payload
from benchmarks.operators import Operators
from benchmarks.overhead import Corpus, corpus_of_turns, turn
from train.engine import disconnect
from train.loop import TokenSource, one_epoch

# Steps before the one whose operators are counted.
LEARNED = 3
ROOT = Path(__file__).resolve().parents[1]


class Callers(Operators):
    """Counts the calls of operators within it, by the function of the project that calls them."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def note(self, operator: Any, args: Any) -> None:
        frame: FrameType | None = sys._getframe(1)
        while frame and not self.place(frame):
            frame = frame.f_back
        self.calls[self.place(frame) if frame else "others"] += 1

    @staticmethod
    def place(frame: FrameType) -> str:
        """File and function of the project; empty elsewhere, as in the benchmarks."""
        path = Path(frame.f_code.co_filename)
        if not path.is_relative_to(ROOT) or path.parent == Path(__file__).parent:
            return ""
        return f"{path.relative_to(ROOT)} {frame.f_code.co_name}"


def count_operators(corpus: Corpus) -> str:
    """Calls in a coded token, on average over the segment after the first LEARNED ones."""
    learner, lanes, source, ledger = corpus.start(corpus.source())
    loop = one_epoch(learner, lanes, source, ledger)
    for _ in range(LEARNED):
        next(loop)
    targets = source.segment(LEARNED, learner)

    def code(bounds: np.ndarray, time: int, below: int) -> np.ndarray:
        return targets[: len(bounds), time] // below % (bounds.shape[1] - 1)

    with Callers() as counted:
        code_segment(LEARNED, learner, lanes, corpus.share, code)
    tokens = targets.shape[1]
    lines = [f"{counted.calls.total() / tokens:7.1f} operators a token of all lanes"]
    lines += [f"{calls / tokens:7.1f}  {place}" for place, calls in counted.calls.most_common(20)]
    return "\n".join(lines)


def compare(corpus: Corpus, rounds: int, steps: int) -> str:
    """Seconds of the three, in turns."""
    lanes = corpus.lanes
    decoded = np.full(lanes.tokens, corpus.vocabulary, np.uint32)
    with tempfile.TemporaryDirectory() as folder:

        def payloads() -> Iterator[bytes]:
            for block in range(rounds):
                yield rank_payload(block_file(Path(folder), block).read_bytes(), 0)

        sources: dict[str, TokenSource] = {
            "train": corpus.source(),
            "encode": EncodingSource(corpus.source(), Path(folder), corpus.place, steps),
            "decode": Decoding(lanes, corpus.share, steps, payloads(), decoded),
        }
        loops = {name: one_epoch(*corpus.start(source)) for name, source in sources.items()}
        secs: dict[str, list[float]] = {name: [] for name in loops}
        for _ in range(rounds):
            for name, loop in loops.items():
                secs[name].append(turn(loop, steps))
    read = decoded < corpus.vocabulary
    expected = corpus.read(0, lanes.tokens)
    lines = [f"{int(read.sum()):,} tokens decoded, as they were: {np.array_equal(decoded[read], expected[read])}"]
    for name, values in secs.items():
        ratios = [mine / plain for mine, plain in zip(values[1:], secs["train"][1:], strict=True)]
        lines.append(
            f"{name:8} {statistics.median(values[1:]):7.3f} s a turn, {statistics.median(ratios):.3f} of training "
            f"(from {min(ratios):.3f} to {max(ratios):.3f})"
        )
    return "\n".join(lines)


def main() -> None:
    parser = entry.Parser(alone=False, description=__doc__)
    parser.add_argument("--rounds", type=int, default=8, help="turns of each")
    parser.add_argument("--steps", type=int, default=20, help="training steps of a turn")
    parser.add_argument("--operators", action="store_true", help="count operators")
    options, corpus = corpus_of_turns(parser)
    entry.publish(count_operators(corpus) if options.operators else compare(corpus, options.rounds, options.steps))
    disconnect()


if __name__ == "__main__":
    sys.exit(entry.exit_status(main))
