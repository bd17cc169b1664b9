"""What studies write for TensorBoard: charts that stand beside those of the runs."""

import re
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter


def remove_events(directory: Path, suffix: str) -> None:
    """Remove the events below `directory` whose files end with `suffix`, and folders that are empty then."""
    for earlier in [*directory.rglob(f"events.out.tfevents.*{suffix}")]:
        earlier.unlink()
        if earlier.parent != directory and not any(earlier.parent.iterdir()):
            earlier.parent.rmdir()


def line_writer(directory: Path, label: str, suffix: str) -> SummaryWriter:
    """What writes a line of charts. It is a run of its own there, `label`, so that it has a color."""
    return SummaryWriter(str(directory / re.sub(r"[^-\w., ]+", "_", label)), filename_suffix=suffix)
