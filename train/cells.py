"""The cells of a sweep: which runs there are, how each is started, and how far it is."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from train.command_line import CONFIG_FILE, check, load_config, parse_config, refuse_changes
from train.config import BYTE_SYMBOLS, DataConfig
from train.matching import layer_parameters, match


@dataclass(frozen=True)
class Cell:
    """One run of a sweep."""

    name: str
    run_dir: Path
    options: tuple[str, ...]
    """Of launch/train.py, for a run from its start."""

    @property
    def finished(self) -> bool:
        """Whether its report, which is written last, is there."""
        return (self.run_dir / "report.json").exists()

    @property
    def arguments(self) -> list[str]:
        """What launch/train.py is to be started with now: a run that was broken off goes on."""
        where = f"--run.dir={self.run_dir}"
        begun = (self.run_dir / CONFIG_FILE).exists()
        return [where, "--run.resume"] if begun else [*self.options, where]

    @property
    def coded_bytes(self) -> int:
        """Corpus bytes that its live curve has reached."""
        try:
            with (self.run_dir / "curve.csv").open(newline="") as file:
                return max((int(row["coded_bytes"]) for row in csv.DictReader(file)), default=0)
        except (OSError, ValueError, TypeError, KeyError):
            return 0


def grid(
    given: Sequence[str],
    blocks: Sequence[str],
    widths: Sequence[int],
    seeds: Sequence[int],
    vocabularies: Sequence[int | Literal["bytes"]],
    measure: str,
    folder: Path,
) -> list[Cell]:
    """All cells. The first block is the reference whose parameters or flops the others match; `measure` "none" leaves
    them as they are. `given` are options that all cells share. A cell's name does not depend on what other cells there
    are, so a grid can be cut in parts and grow.

    Raises UsageError if a block cannot be matched, or if a cell's directory holds a run with other settings.
    """
    config = parse_config("", list(given))
    cells = []
    for vocabulary in vocabularies or [config.data.vocabulary if config.data.tokenizer == "bpe" else "bytes"]:
        symbols = BYTE_SYMBOLS if vocabulary == "bytes" else vocabulary
        data = replace(config.data, tokenizer="bytes", vocabulary=DataConfig.vocabulary)
        if vocabulary != "bytes":
            data = replace(config.data, tokenizer="bpe", vocabulary=vocabulary)
        for width in widths:
            for block in blocks:
                # Both vary with the cell, whatever the options said.
                model = replace(config.model, width=width, block=block)
                for seed in seeds:
                    check(replace(config, data=data, model=model, train=replace(config.train, seed=seed)))
                if measure != "none" and block != blocks[0]:
                    model = match(model, replace(model, block=blocks[0]), symbols, measure)
                # Names and widths that do not go together are refused now, not in the middle of the night.
                layer_parameters(model, symbols)
                for seed in seeds:
                    name = f"{block.replace(' ', '+')}-{width}"
                    name += f"-{vocabulary}" if vocabularies else ""
                    name += f"-seed{seed}" if seed else ""
                    options = (
                        *given,
                        f"--model.block={block}",
                        f"--model.width={width}",
                        f"--model.expansion={model.expansion!r}",
                        f"--data.tokenizer={data.tokenizer}",
                        f"--data.vocabulary={data.vocabulary}",
                        f"--train.seed={seed}",
                    )
                    cell = Cell(name, folder / name, options)
                    refuse_other_run(cell)
                    cells.append(cell)
    return cells


def refuse_other_run(cell: Cell) -> None:
    """Raise UsageError if a run with other settings than the cell's was begun in its directory."""
    saved = cell.run_dir / CONFIG_FILE
    if saved.exists():
        before, after = load_config(saved), parse_config("", list(cell.options))
        # What was left to the machine is filled in there.
        after.engine.precision, after.engine.threads = before.engine.precision, before.engine.threads
        refuse_changes(before, after, saved)
