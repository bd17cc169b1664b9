"""Axes of a sweep that multiply a grid: depths of the network, and factors on its learning rates."""

import itertools
from collections.abc import Sequence
from dataclasses import replace

from studies.scaling.cells import Cell, Grid, make_cells
from train.command_line import parse_config

RATES = ("matrix_lr", "table_lr", "vector_lr")


def multiply(grid: Grid, depths: Sequence[int], factors: Sequence[float]) -> list[Cell]:
    """The cells of `grid` at each of the depths, with all learning rates times each of the factors. No depths, or no
    factors, leave what the grid's options say.

    The name of a cell says its depth and factor where they differ from those options, so that these axes can be added
    to a sweep later. Raises UsageError as make_cells does.
    """
    config = parse_config("", list(grid.given))
    cells = []
    for depth, factor in itertools.product(depths or [config.model.depth], factors or [1.0]):
        varied, other_depth = [], depth if depth != config.model.depth else None
        if other_depth is not None:
            varied.append(f"--model.depth={depth}")
        if factor != 1:
            rates = {name: getattr(config.train, name) * factor for name in RATES}
            varied += [f"--train.{name}={rate:.12g}" for name, rate in rates.items()]
        cells += make_cells(replace(grid, given=(*grid.given, *varied), depth=other_depth, factor=factor))
    return cells
