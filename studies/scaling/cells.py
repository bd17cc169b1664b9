"""The cells of a sweep: which runs there are, and how each is started.

Comparisons are fair: `match` finds the MLP width at which two architectures have the same parameters, or take the same
arithmetic.
"""

import itertools
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from data.errors import UsageError
from model.build import build_model
from model.registry import block_folder, display_names
from studies.scaling.record import Place
from studies.scaling.status import read_end
from studies.scaling.symbols import tokenizer_axis
from train.command_line import CONFIG_FILE, check, load_config, parse_config, refuse_changes
from train.config import LEFT_TO_MACHINE, ModelConfig
from train.flops import forward_flops
from train.meta import meta_model
from train.networks import PREFIX, resolve_network
from train.own_blocks import find_own_blocks

Vocabulary = int | Literal["bytes"]
# Hidden channels of an MLP, as a multiple of the width, between which a match is sought.
LEAST_EXPANSION, LARGEST_EXPANSION = 0.25, 64.0
TOLERANCE = 0.02
# In the error of a run whose rates are too high (train/run.py).
DIVERGED = "stopped being"


@dataclass(frozen=True)
class Cell:
    """One run of a sweep."""

    name: str
    run_dir: Path
    # Of launch/train.py, for a run from its start.
    options: tuple[str, ...]
    place: Place

    @property
    def seed(self) -> str:
        """As its options give it, the last of them."""
        return self.options[-1].rpartition("train.seed=")[2]

    @property
    def log(self) -> Path:
        return self.run_dir.parent / "logs" / f"{self.name}.log"

    @property
    def finished(self) -> bool:
        """Whether its report, which is written last, is there."""
        return (self.run_dir / "report.json").exists()

    @property
    def diverged(self) -> bool:
        """Whether it has ended because its loss, or its parameters, stopped being numbers: it would end so again."""
        begun = (self.run_dir / CONFIG_FILE).exists()
        return begun and not self.finished and DIVERGED in read_end(self.log)[1]

    @property
    def arguments(self) -> list[str]:
        """What launch/train.py is to be started with now: a run that was interrupted goes on."""
        where = f"--run.dir={self.run_dir}"
        begun = (self.run_dir / CONFIG_FILE).exists()
        return [where, "--run.resume"] if begun else [*self.options, where]


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
    # What differs from the options that are given: the depth, and the factor on all learning rates.
    depth: int | None = None
    factor: float = 1.0


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
        parameters = count_parameters(model, symbols.vocabulary)
        for seed in grid.seeds:
            name, place = place_cell(shown[block], width, seed, symbols.name if wanted else "", grid, parameters)
            chosen = {"model.network": model.network} if model.network else {"model.block": block}
            varied = chosen | {"model.width": width, "model.expansion": model.expansion}
            varied |= symbols.varied | {"train.seed": seed}
            options = (*given, *(f"--{option}={value}" for option, value in varied.items()))
            cells.append(Cell(name, grid.folder / name, options, place))
            refuse_other_run(cells[-1])
    return cells


def place_cell(block: str, width: int, seed: int, symbols: str, grid: Grid, parameters: int) -> tuple[str, Place]:
    """The name of a cell, and its place. `symbols` is empty where all cells share a tokenizer."""
    shared = {"symbols": symbols, "depth": f"depth{grid.depth}" if grid.depth else ""}
    own = {"seed": f"seed{seed}" if seed else "", "rates": f"rates{grid.factor:g}" if grid.factor != 1 else ""}
    parts = [part for name in ("symbols", "seed", "depth", "rates") if (part := (shared | own)[name])]
    place = Place(
        line=", ".join([block, *filter(None, shared.values())]),
        row=", ".join([block, *parts]),
        width=width,
        factor=grid.factor,
        parameters=parameters,
    )
    return "-".join([block_folder(block), str(width), *parts]), place


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
