"""What it costs a run to keep every token's nats: time of a step, and bytes a token on disk.

    python benchmarks/kept_nats.py [--rounds 15] [--steps 20] [any option of launch/train.py]

Two learners take turns of `--steps` steps in one process, with and without nats.npy, and their sums are asked for every
run.log_steps steps, as a run does. Appends a row to benchmarks/results/kept_nats.csv.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)
from launch import entry

entry.begin(__name__)

import statistics
import tempfile
from collections.abc import Iterator

from benchmarks.overhead import Corpus, turn
from benchmarks.result_rows import appended, commit
from train.command_line import parse_config
from train.cost import device_name
from train.engine import connect, disconnect
from train.loop import one_epoch
from train.nats import NATS_FILE, NatsLedger

RESULTS = ROOT / "benchmarks" / "results" / "kept_nats.csv"
COLUMNS = ["commit", "options", "device", "secs_kept_over_not", "lowest", "highest", "bytes_a_token"]


def logged(corpus: Corpus, folder: Path | None, log_steps: int) -> Iterator[int]:
    """An epoch that keeps nats in `folder`, if one is given."""
    learner, lanes, source, ledger = corpus.start(corpus.source())
    if folder:
        kept = NatsLedger(learner.rows, ledger.token_bytes, corpus.place, lanes, folder)
        kept.begin(0)
        ledger = kept
    for done in one_epoch(learner, lanes, source, ledger):
        if done % log_steps == 0:
            ledger.totals()
        yield done


def main() -> None:
    parser = entry.Parser(alone=False, description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="turns of each")
    parser.add_argument("--steps", type=int, default=20, help="training steps of a turn")
    options, rest = parser.parse_known_args()
    config = parse_config("", rest)
    place = connect(config.engine.threads, config.engine.timeout_secs)
    corpus = Corpus(config, place)
    with tempfile.TemporaryDirectory(prefix="onepass-nats-") as folder:
        folders = {"kept": Path(folder), "not kept": None}
        loops = {name: logged(corpus, where, config.run.log_steps) for name, where in folders.items()}
        secs: dict[str, list[float]] = {name: [] for name in loops}
        for index in range(options.rounds):
            for name in sorted(loops, reverse=bool(index % 2)):
                secs[name].append(turn(loops[name], options.steps))
        bytes_a_token = (Path(folder) / NATS_FILE).stat().st_size / corpus.lanes.tokens
    # The first turn has what happens once.
    ratios = [kept / bare for kept, bare in zip(secs["kept"][1:], secs["not kept"][1:], strict=True)]
    ratio, low, high = statistics.median(ratios), min(ratios), max(ratios)
    entry.publish(
        f"kept / not kept: median {ratio:.4f}, from {low:.4f} to {high:.4f}; {bytes_a_token:.4f} bytes a token"
    )
    with appended(RESULTS, COLUMNS) as write:
        values = [commit(), " ".join(rest), device_name(place.device), f"{ratio:.4f}", f"{low:.4f}", f"{high:.4f}"]
        write(dict(zip(COLUMNS, [*values, f"{bytes_a_token:.4f}"], strict=True)))
    disconnect()


if __name__ == "__main__":
    sys.exit(entry.exit_status(main))
