"""Loggers that a user's DeepSpeed configuration names: wandb, comet, csv_monitor, tensorboard. Rank 0 feeds them.

DeepSpeed's monitors write the points; DeepSpeed's engine does not know of them. So the x axis of every chart is corpus
bytes coded, as in metrics.py, and what is coded does not depend on who watches.
"""

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from data.errors import UsageError
from train.command_line import MONITOR_PACKAGES, read_deepspeed_keys


def read_monitors(path: str) -> dict[str, Any]:
    """The sections of the DeepSpeed file `path` that are on. Raises UsageError for one that is wrong, or whose package
    is missing."""
    found = {name: value for name, value in read_deepspeed_keys(path).items() if name in MONITOR_PACKAGES}
    on = {name: value for name, value in found.items() if isinstance(value, dict) and value.get("enabled")}
    for name, value in found.items():
        if not isinstance(value, dict):
            raise UsageError(f"engine.deepspeed_config {path}: {name} is not a JSON object")
    for name in on:
        package = MONITOR_PACKAGES[name]
        if package and not find_spec(package):
            raise UsageError(
                f"engine.deepspeed_config {path}: {name} needs the package {package}: pip install {package}"
            )
    if on:
        from deepspeed.monitor.config import get_monitor_config
        from pydantic import ValidationError

        try:
            get_monitor_config(on)
        except ValidationError as error:
            where = error.errors()[0]
            raise UsageError(
                f"engine.deepspeed_config {path}: {'.'.join(map(str, where['loc']))}: {where['msg']}: correct it there"
            ) from None
    return on


class Monitors:
    """The loggers of one run. Call `begin` once, `write` as often as points are wanted, then `close`."""

    def __init__(self, sections: dict[str, Any], run_dir: Path):
        self.sections, self.run_dir = sections, run_dir
        # DeepSpeed's, once it is there.
        self.master: Any = None
        # What was set for them in the environment, which is not for the next run of this process.
        self.environment: dict[str, str] = {}

    def begin(self, hparams: dict[str, Any]) -> None:
        """Start the loggers, whose runs get the name of the run's folder and its flat configuration."""
        if not self.sections:
            return
        from deepspeed.monitor.config import get_monitor_config
        from deepspeed.monitor.monitor import MonitorMaster

        # DeepSpeed has no keys for these. What the user has set stays.
        name, folder = self.run_dir.name, str(self.run_dir)
        ours = {"WANDB_NAME": name, "WANDB_DIR": folder, "COMET_OFFLINE_DIRECTORY": folder}
        self.environment = {key: value for key, value in ours.items() if key not in os.environ}
        os.environ.update(self.environment)
        self.master = MonitorMaster(get_monitor_config(self.sections))
        if self.master.wandb_monitor:
            sys.modules["wandb"].config.update(hparams)
        if self.master.comet_monitor:
            experiment = self.master.comet_monitor.experiment
            if not self.sections["comet"].get("experiment_name"):
                experiment.set_name(name)
            experiment.log_parameters(hparams)

    def write(self, points: dict[str, float], coded_bytes: int) -> None:
        """Write the points of all charts at so many corpus bytes."""
        if self.master:
            self.master.write_events([(tag, value, coded_bytes) for tag, value in points.items()])

    def close(self, failed: bool) -> None:
        """Let the loggers' runs end, as `failed` or as finished."""
        for key in self.environment:
            os.environ.pop(key, None)
        if not self.master:
            return
        if self.master.wandb_monitor:
            sys.modules["wandb"].finish(exit_code=int(failed))
        if self.master.comet_monitor:
            self.master.comet_monitor.experiment.end()
