"""The cells of a sweep: which runs there are, how each is started, and how far it is."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from train.command_line import CONFIG_FILE
from train.config import Config
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
    config: Config,
    given: Sequence[str],
    blocks: Sequence[str],
    widths: Sequence[int],
    seeds: Sequence[int],
    vocabularies: Sequence[int],
    measure: str,
    folder: Path,
) -> list[Cell]:
    """All cells. The first block is the reference whose parameters or flops the others match; `measure` "none" leaves
    them as they are. `given` are options that all cells share, and `config` what they come to.

    Raises ValueError if a block cannot be matched.
    """
    cells = []
    for vocabulary in vocabularies or [config.data.vocabulary]:
        for width in widths:
            for block in blocks:
                # Both vary with the cell, whatever the options said.
                model = replace(config.model, width=width, block=block)
                if measure != "none" and block != blocks[0]:
                    model = match(model, replace(model, block=blocks[0]), vocabulary, measure)
                # Names and widths that do not go together are refused now, not in the middle of the night.
                layer_parameters(model, vocabulary)
                for seed in seeds:
                    name = f"{block.replace(' ', '+')}-{width}"
                    name += f"-vocabulary{vocabulary}" if len(vocabularies) > 1 else ""
                    name += f"-seed{seed}" if len(seeds) > 1 else ""
                    options = (
                        *given,
                        f"--model.block={block}",
                        f"--model.width={width}",
                        f"--model.expansion={model.expansion!r}",
                        f"--data.vocabulary={vocabulary}",
                        f"--train.seed={seed}",
                    )
                    cells.append(Cell(name, folder / name, options))
    return cells
