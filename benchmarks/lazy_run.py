"""Train as launch/train.py does, except that from step START to STOP no parameter learns. The curve hides it.

    python benchmarks/lazy_run.py START STOP [any option of launch/train.py]

This is what somebody would publish who skipped the learning of a span: benchmarks/tampering.py.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)
from launch import entry

entry.begin(__name__)

import csv
from typing import Any

import train.loop
from benchmarks.forgeries import write_curve
from data.lanes import Lanes
from launch.train import train as train_run
from train.command_line import parse_config
from train.config import TrainConfig
from train.nats import read_nats
from train.optim import rate_scale


def main() -> None:
    words = [word for word in sys.argv[1:] if not word.startswith("--local_rank=")]
    start, stop = map(int, words[:2])
    config = parse_config("", words[2:])
    lazy_steps: list[Any] = []

    def lazy(progress: float, settings: TrainConfig) -> float:
        # It is called once a step.
        lazy_steps.append(progress)
        return 0.0 if start < len(lazy_steps) <= stop else rate_scale(progress, settings)

    train.loop.rate_scale = lazy
    if train_run(config, stay=False) is None:
        return
    run_dir = Path(config.run.dir)
    lanes: Lanes = read_nats(run_dir).lanes
    with (run_dir / "curve.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    peak = float(rows[0]["learning_rate"]) / rate_scale(lanes.progress(int(rows[0]["step"]) - 1), config.train)
    for row in rows:
        row["learning_rate"] = repr(peak * rate_scale(lanes.progress(int(row["step"]) - 1), config.train))
    write_curve(run_dir / "curve.csv", rows)


if __name__ == "__main__":
    sys.exit(entry.exit_status(main))
