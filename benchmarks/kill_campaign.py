"""Kill runs at random moments, resume them, and compare with runs that nobody disturbed.

    python benchmarks/kill_campaign.py [--kills 50] [--seed 0] [--stages 0,1,2,3] [--ranks 1,2]
                                       [--signals KILL,TERM,USR1] [--moments any,preparing,saving,flushing]

For each ZeRO stage and number of ranks a small run goes undisturbed; another is killed, as a whole process group, again
and again, and each time resumed, or started as before when it was killed before it had written its configuration. Some
kills fall at any moment of the time that a run takes; others lie in wait for the preparation of the corpus, for a
checkpoint half written, for TensorBoard's events being flushed. At its end its ledger (report.json), curve.csv,
parameters, optimiser state and carried states must be the undisturbed run's, bit for bit, and its TensorBoard events
one curve without a fold. Appends a row a configuration to benchmarks/results/kill_campaign.csv:
where the kills fell, as the files that they left behind tell, and what differed; exit status 1 if anything did. About
20 s a kill.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)
from launch import entry

entry.begin(__name__)

import contextlib
import csv
import io
import json
import logging
import math
import random
import shutil
import signal
import subprocess
import tempfile
import time
from typing import Any

import torch
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils._pytree import tree_leaves
from tqdm import tqdm

from benchmarks.result_rows import appended
from data.shards import MANIFEST
from studies.scaling.sweep import end_group
from train.checkpoint import POINTER
from train.command_line import CONFIG_FILE
from train.ranks import free_port
from train.run_dir import CHECKPOINTS
from train.saved_engine import load_saved, plain_values

RESULTS = ROOT / "benchmarks" / "results" / "kill_campaign.csv"
FELL = ["before_tokens", "before_config", "in_training", "in_checkpoint", "after_end"]
COLUMNS = ["date", "zero_stage", "ranks", "kills", *FELL, "at_flush", "differences", "secs"]
SMALL = [
    "--model.width=32", "--model.head_width=16", "--model.depth=2", "--model.window=32", "--model.ngram_orders=[1,2]",
    "--model.ngram_rows_log2=12", "--train.segment_tokens=32", "--train.lanes=8", "--engine.threads=1",
    "--data.tokenizer=bpe", "--data.vocabulary=300", "--run.log_steps=2", "--run.checkpoint_secs=0.05",
    "--run.baselines=false",
]  # fmt: skip
# Seconds by the clock, and what they make of a sum, differ between any two runs.
TIMES = {"elapsed_secs", "tokens_per_sec"}


def command(ranks: int, *arguments: str) -> list[str]:
    launcher = [sys.executable, "-m", "deepspeed.launcher.runner", "--num_accelerators", str(ranks)]
    return [*launcher, "--master_port", str(free_port()), "launch/train.py", *arguments]


def start(ranks: int, arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as file:
        return subprocess.Popen(command(ranks, *arguments), cwd=ROOT, stdout=file, stderr=file, start_new_session=True)


def finished(run_dir: Path) -> bool:
    return (run_dir / "report.json").exists()


class Prey:
    """A run as its files show it from outside."""

    def __init__(self, run_dir: Path, cache_dir: Path):
        self.run_dir, self.cache_dir = run_dir, cache_dir
        self.events_bytes, self.began = self.flushed_bytes(), time.time()

    def preparing(self) -> bool:
        return any(self.cache_dir.glob("*.lock")) and not any(self.cache_dir.glob(f"*/{MANIFEST}"))

    def saving(self) -> bool:
        """Whether there is a checkpoint that the pointer does not name yet."""
        folder = self.run_dir / CHECKPOINTS
        newest = max(folder.glob("step-*"), default=folder)
        with contextlib.suppress(FileNotFoundError):  # old ones are deleted all the while
            if newest == folder or newest.stat().st_ctime < self.began:
                return False
        return not (folder / POINTER).exists() or newest.name not in (folder / POINTER).read_text()

    def flushing(self) -> bool:
        before, self.events_bytes = self.events_bytes, self.flushed_bytes()
        return self.events_bytes > before

    def flushed_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.run_dir.glob("events.out.tfevents.*"))

    def lie_in_wait(self, moment: str, run_secs: float, chance: random.Random) -> bool:
        """Wait for a moment of a kind, and say whether it came."""
        time.sleep(0 if moment == "preparing" else chance.uniform(0.2, 0.9) * run_secs)
        until = time.monotonic() + run_secs
        while moment != "any" and not getattr(self, moment)():
            if time.monotonic() > until or finished(self.run_dir):
                return False
            time.sleep(0.001)
        # Every part of the moment may be struck.
        time.sleep(chance.uniform(0, 0.2) if moment == "preparing" else chance.uniform(0, 0.03))
        return True

    def fell(self) -> str:
        """In what part of its life a run that is dead by now was struck."""
        if self.preparing() or not self.cache_dir.exists():
            return "before_tokens"
        if not (self.run_dir / CONFIG_FILE).exists():
            return "before_config"
        if finished(self.run_dir):
            return "after_end"
        return "in_checkpoint" if self.saving() else "in_training"


def again(run_dir: Path, fresh: list[str]) -> list[str]:
    """The arguments that go on with a run, or begin it."""
    return [f"--run.dir={run_dir}", "--run.resume"] if (run_dir / CONFIG_FILE).exists() else fresh


def differences(run_dir: Path, other: Path) -> list[str]:
    """Names of what is not the same in two finished runs, bit for bit."""
    found = []
    reports = [json.loads((path / "report.json").read_text()) for path in (run_dir, other)]
    found += [name for name in ("corpus", "coded", "description_length") if reports[0][name] != reports[1][name]]
    curves = []
    for path in (run_dir, other):
        with (path / "curve.csv").open(newline="") as file:
            curves.append([{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(file)])
    found += ["curve.csv"] if curves[0] != curves[1] else []
    saved = [checkpoint(path / "checkpoints") for path in (run_dir, other)]
    found += [f"{name} of the last checkpoint" for name in saved[0] if not same(saved[0][name], saved[1].get(name))]
    found += ["TensorBoard's curve"] if (events := [points(path) for path in (run_dir, other)])[0] != events[1] else []
    return found


def checkpoint(folder: Path) -> dict[str, Any]:
    """What the last checkpoint holds, by the names of its files, with the parameters of ZeRO's shards put together."""
    tag = json.loads((folder / POINTER).read_text())["tag"]
    found = {path.name: load_saved(str(path)) for path in sorted((folder / tag).glob("*.pt"))}
    shards = [content["optimizer_state_dict"] for name, content in found.items() if "optim_states" in name]
    if shards and all(shard["zero_stage"] == 3 for shard in shards):
        # Shards end in padding that nobody ever writes, so that it differs from run to run.
        for shard in shards:
            del shard["fp32_flat_groups"]
        with plain_values(), contextlib.redirect_stdout(io.StringIO()):
            found["parameters"] = get_fp32_state_dict_from_zero_checkpoint(str(folder), tag)
    return found


def same(a: Any, b: Any) -> bool:
    """Whether two trees hold the same tensors and plain values. Settings of the engine name ports and paths."""
    if isinstance(a, dict):
        a, b = ({k: v for k, v in tree.items() if k != "ds_config"} for tree in (a, b))
    one, two = tree_leaves(a), tree_leaves(b)
    return len(one) == len(two) and all(
        torch.equal(x, y) if isinstance(x, torch.Tensor) else str(x) == str(y) for x, y in zip(one, two, strict=True)
    )


def points(run_dir: Path) -> list[tuple[int, float]]:
    """The total's curve as TensorBoard shows it."""
    accumulator = EventAccumulator(str(run_dir))
    accumulator.Reload()
    return [(point.step, point.value) for point in accumulator.Scalars("description_length/total_bytes")]


def campaign(
    stage: int,
    ranks: int,
    kills: int,
    signals: list[signal.Signals],
    moments: list[str],
    folder: Path,
    chance: random.Random,
    bar: tqdm,
) -> dict[str, Any]:
    """Kill one run so many times, and return a row of the table."""
    began = time.monotonic()
    documents = folder / "documents"
    documents.mkdir(parents=True)
    text = b"".join(path.read_bytes() for path in sorted(ROOT.glob("t*/*.py")))
    for number in range(2):
        (documents / f"{number}.txt").write_bytes(text[number * 100_000 : (number + 1) * 100_000 - 77])
    shared = [*SMALL, f"--data.source={documents}", f"--engine.zero_stage={stage}"]
    shared += ["--train.optimizer=adamw"] if stage else []
    calm, hunted, log = folder / "calm", folder / "hunted", folder / "log"
    before = time.monotonic()
    fresh = [*shared, f"--run.dir={calm}", f"--data.cache_dir={folder / 'cache-calm'}"]
    start(ranks, fresh, log).wait()
    run_secs = time.monotonic() - before
    if not finished(calm):
        raise SystemExit(f"the undisturbed run failed:\n{log.read_text()[-3000:]}")
    fresh = [*shared, f"--run.dir={hunted}", f"--data.cache_dir={folder / 'cache-hunted'}"]
    struck = dict.fromkeys([*FELL, "at_flush"], 0)
    wrong: list[str] = []
    for _ in range(kills):
        if finished(hunted):
            wrong += differences(hunted, calm)
            shutil.rmtree(hunted)
            shutil.rmtree(folder / "cache-hunted")
        prey = Prey(hunted, folder / "cache-hunted")
        begun = (hunted / CONFIG_FILE).exists()
        moment = chance.choice([moment for moment in moments if not begun or moment != "preparing"] or ["any"])
        process = start(ranks, again(hunted, fresh), log)
        came = prey.lie_in_wait(moment, run_secs, chance)
        end_group(process, chance.choice(signals), grace_secs=math.inf)
        struck[prey.fell()] += 1
        struck["at_flush"] += moment == "flushing" and came
        bar.update()
    if not finished(hunted):
        start(ranks, again(hunted, fresh), log).wait()
    if not finished(hunted):
        raise SystemExit(f"the hunted run could not be finished:\n{log.read_text()[-3000:]}")
    wrong += differences(hunted, calm)
    for name in wrong:
        bar.write(f"ZeRO {stage}, {ranks} ranks: {name} differs")
    row = {"date": time.strftime("%Y-%m-%d"), "zero_stage": stage, "ranks": ranks, "kills": kills, **struck}
    return row | {"differences": len(wrong), "secs": round(time.monotonic() - began)}


def main() -> int:
    parser = entry.Parser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="in all, shared by the configurations")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stages", default="0,1,2,3")
    parser.add_argument("--ranks", default="1,2")
    parser.add_argument("--signals", default="KILL,KILL,KILL,TERM,USR1", help="one is drawn each time")
    moments = "preparing,saving,flushing,any,any,any"
    parser.add_argument("--moments", default=moments, help="what to wait for; one is drawn each time")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    # It tells of every restart that it finds in the events, and restarts are what this is about.
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    chance = random.Random(options.seed)
    signals = [signal.Signals[f"SIG{name}"] for name in options.signals.split(",")]
    stages, worlds = ([int(part) for part in text.split(",")] for text in (options.stages, options.ranks))
    cases = [(stage, ranks) for stage in stages for ranks in worlds]
    each = -(-options.kills // len(cases))
    differing = 0
    with appended(options.out, COLUMNS) as write, tqdm(total=each * len(cases), unit="kill") as bar:
        for stage, ranks in cases:
            with tempfile.TemporaryDirectory(prefix="onepass-") as folder:
                row = campaign(stage, ranks, each, signals, options.moments.split(","), Path(folder), chance, bar)
            write(row)
            bar.write(", ".join(f"{name} {value}" for name, value in row.items()))
            differing += row["differences"]
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(entry.exit_status(main))
