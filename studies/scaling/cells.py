"""The cells of a sweep: which runs there are, how each is started, and how far it is.

Comparisons are fair: `match` finds the MLP width at which two architectures have the same parameters, or take the same
arithmetic.
"""

import csv
import itertools
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from data.errors import UsageError
from model.registry import block_folder, display_names
from studies.scaling.symbols import tokenizer_axis
from train.command_line import CONFIG_FILE, check, load_config, parse_config, refuse_changes
from train.config import LEFT_TO_MACHINE, ModelConfig
from train.flops import forward_flops
from train.meta import build_model, meta_model
from train.networks import PREFIX, resolve_network
from train.own_blocks import find_own_blocks

Vocabulary = int | Literal["bytes"]
# Hidden channels of an MLP, as a multiple of the width, between which a match is sought.
LEAST_EXPANSION, LARGEST_EXPANSION = 0.25, 64.0
TOLERANCE = 0.02


@dataclass(frozen=True)
class Cell:
    """One run of a sweep."""

    name: str
    run_dir: Path
    # Of launch/train.py, for a run from its start.
    options: tuple[str, ...]

    @property
    def log(self) -> Path:
        return self.run_dir.parent / "logs" / f"{self.name}.log"

    @property
    def finished(self) -> bool:
        """Whether its report, which is written last, is there."""
        return (self.run_dir / "report.json").exists()

    @property
    def arguments(self) -> list[str]:
        """What launch/train.py is to be started with now: a run that was interrupted goes on."""
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


@dataclass(frozen=True)
class Grid:
    """What a sweep varies. `given` are options of launch/train.py that all cells share.

    The first block is the reference: the others match its `measure`, which is a name in MEASURES or "none".
    """

    folder: Path
    given: Sequence[str]
    blocks: Sequence[str]
    widths: Sequence[int]
    seeds: Sequence[int]
    vocabularies: Sequence[Vocabulary]
    measure: str
    # `bytes`, `bpe:PIECES` and files, in place of vocabularies.
    tokenizers: Sequence[str] = ()
    # Ends the names of all cells.
    suffix: str = ""


def make_cells(grid: Grid) -> list[Cell]:
    """All cells. A cell's name does not depend on what other cells there are, so a grid can be cut in parts and grow.

    Raises UsageError if a block cannot be matched, or if a cell's directory holds a run with other settings.
    """
    config = parse_config("", list(grid.given))
    found = [find_own_blocks(replace(config, model=choose_block(config.model, block))) for block in grid.blocks]
    blocks, folders = [one.model.block for one in found], {one.run.import_dir for one in found} - {""}
    # Networks as they were given: their sizes follow from the width.
    networks = {one.model.block: name for one, name in zip(found, grid.blocks, strict=True) if one.model.network}
    if len({*blocks}) < len(blocks):
        raise UsageError(f"{' and '.join(grid.blocks)} are two networks of one type: give them sweeps of their own")
    if len(folders) > 1:
        raise UsageError(f"blocks come from {' and '.join(sorted(folders))}: keep a sweep's own blocks in one folder")
    shown, import_dir = display_names(blocks), "".join(folders)
    given = (*grid.given, f"--run.import_dir={import_dir}") if folders else grid.given
    wanted = grid.tokenizers or [f"bpe:{one}" if isinstance(one, int) else one for one in grid.vocabularies]
    cells = []
    for symbols, width, block in itertools.product(tokenizer_axis(config, wanted), grid.widths, blocks):
        # These come from the cell, not from the options.
        model = replace(choose_block(config.model, networks.get(block, block)), width=width)
        for seed in grid.seeds:
            resolved = resolve_network(model)
            train = replace(config.train, seed=seed)
            check(replace(config, data=symbols.data, model=resolved, train=train, run=symbols.run))
        if grid.measure != "none" and block != blocks[0]:
            first = replace(choose_block(config.model, networks.get(blocks[0], blocks[0])), width=width)
            model = match(model, first, symbols.vocabulary, grid.measure)
        # Raises UsageError for a width that the block cannot have: now, not when the cell is started hours later.
        count_parameters(model, symbols.vocabulary)
        for seed in grid.seeds:
            name = f"{block_folder(shown[block])}-{width}"
            name += f"-{symbols.name}" if wanted else ""
            name += f"-seed{seed}" if seed else ""
            chosen = {"model.network": model.network} if model.network else {"model.block": block}
            varied = chosen | {"model.width": width, "model.expansion": model.expansion}
            varied |= symbols.varied | {"train.seed": seed}
            options = (*given, *(f"--{option}={value}" for option, value in varied.items()))
            name += grid.suffix
            cells.append(Cell(name, grid.folder / name, options))
            refuse_other_run(cells[-1])
    return cells


def choose_block(model: ModelConfig, name: str) -> ModelConfig:
    """`model` with one of --blocks: a network is one, too, as model.network has it."""
    return replace(model, network=name) if name.startswith(PREFIX) else replace(model, block=name)


def refuse_other_run(cell: Cell) -> None:
    """Raise UsageError if a run with other settings than the cell's was begun in its directory."""
    saved = cell.run_dir / CONFIG_FILE
    if saved.exists():
        before, after = load_config(saved), parse_config("", list(cell.options))
        # What was left to the machine is filled in there.
        for name in LEFT_TO_MACHINE:
            setattr(after.engine, name, getattr(before.engine, name))
        refuse_changes(before, after, saved)


def count_parameters(config: ModelConfig, vocabulary: int) -> int:
    """Parameters of the network without its tables, whose size only the width and the vocabulary decide."""
    parameters: Any = meta_model(resolve_network(replace(config, ngram_orders=[])), vocabulary).parameters()
    return sum(p.numel() for p in parameters if p.role != "table")


def count_flops(config: ModelConfig, vocabulary: int) -> int:
    """Floating-point operations of a forward pass over 128 tokens."""
    return forward_flops(build_model(resolve_network(replace(config, ngram_orders=[])), vocabulary), time=128)


MEASURES: dict[str, Callable[[ModelConfig, int], int]] = {"parameters": count_parameters, "flops": count_flops}


def match(config: ModelConfig, reference: ModelConfig, vocabulary: int, measure: str) -> ModelConfig:
    """`config` with the MLP expansion that brings it to the parameters or flops of `reference`.

    Raises UsageError if none does within 2 %.
    """
    size = MEASURES[measure]
    target = size(reference, vocabulary)

    def at(hidden: int) -> ModelConfig:
        return replace(config, expansion=hidden / config.width)

    low, high = (round(bound * config.width) for bound in (LEAST_EXPANSION, LARGEST_EXPANSION))
    above = bisect_left(range(high), target, low, high, key=lambda hidden: size(at(hidden), vocabulary))
    best = min((at(above), at(max(above - 1, 1))), key=lambda found: abs(size(found, vocabulary) - target))
    found = size(best, vocabulary)
    if abs(found - target) > TOLERANCE * target:
        ours, theirs = (one.network or one.block for one in (config, reference))
        remedy = (
            "take --match none, or give its sizes in a config.json"
            if config.network
            else ("change model.expand or --match")
        )
        raise UsageError(
            f"model.block {ours!r} at width {config.width} cannot have the {target:,} {measure} of "
            f"{theirs!r}: the nearest is {found:,}, at model.expansion {best.expansion:g}; {remedy}"
        )
    return best
