"""Lines through finished runs: those on one line differ in nothing except width and seed."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from studies.scaling.runs import FOLLOWS_WIDTH, ComparedRun

# Factors on them are an axis of a sweep.
RATES = ("train.matrix_lr", "train.table_lr", "train.vector_lr")


@dataclass(frozen=True)
class SeedGroup:
    """Runs that differ in nothing except the seed."""

    name: str
    runs: list[ComparedRun]

    def values(self, field: str) -> np.ndarray:
        """A field of every run: float64 [runs]."""
        return np.array([getattr(run, field) for run in self.runs], dtype=np.float64)

    def mean(self, field: str) -> float:
        return float(self.values(field).mean())

    def seeds(self) -> np.ndarray:
        """The data bits of each seed: float64 [seeds]. A seed that was run twice counts once."""
        return np.array(list({run.seed: run.data_bits for run in self.runs}.values()))


@dataclass(frozen=True)
class Line:
    """Runs of one block and one setting of everything else, narrow to wide. `label` is unique among the lines, and
    `family` among those that differ in more than the vocabulary."""

    label: str
    family: str
    runs: list[ComparedRun]
    # It has the learning rates that were best for it, and its label does not say which.
    tuned: bool = False

    @property
    def block(self) -> str:
        return self.runs[0].block

    @property
    def vocabulary(self) -> int:
        return self.runs[0].vocabulary

    @property
    def tokenizer(self) -> str:
        return self.runs[0].tokenizer

    @property
    def symbols(self) -> str:
        return self.runs[0].symbols

    @property
    def widths(self) -> list[int]:
        return sorted({run.width for run in self.runs})

    @property
    def groups(self) -> list[SeedGroup]:
        """The runs of each width; a group of one run has the run's name."""
        by_width = [[run for run in self.runs if run.width == width] for width in self.widths]
        name = lambda runs: f"{self.label}, width {runs[0].width}, {len(runs)} seeds"  # noqa: E731
        return [SeedGroup(name(runs) if len(runs) > 1 else runs[0].name, runs) for runs in by_width]

    def values(self, field: str) -> np.ndarray:
        """A field of every run: float64 [runs]."""
        return np.array([getattr(run, field) for run in self.runs], dtype=np.float64)

    def means(self, field: str) -> np.ndarray:
        """The mean of a field over the seeds of each width: float64 [widths]."""
        return np.array([group.mean(field) for group in self.groups])

    def range(self, field: str) -> tuple[np.ndarray, np.ndarray]:
        """The least and the greatest of a field over the seeds of each width: float64 [widths] each."""
        values = [group.values(field) for group in self.groups]
        return np.array([each.min() for each in values]), np.array([each.max() for each in values])


def lines_of(runs: list[ComparedRun], tuned: Collection[str] = ()) -> list[Line]:
    """The runs in lines, the block of the shortest description first. Labels hold what tells the lines apart, except
    the learning rates of runs that are `tuned`, by their names."""
    names = [name for name in find_differing(runs) if name != FOLLOWS_WIDTH]

    def named(run: ComparedRun) -> list[str]:
        return [name for name in names if name not in RATES] if run.name in tuned else names

    groups: dict[str, list[ComparedRun]] = {}
    for run in sorted(runs, key=lambda run: run.total_bits):
        groups.setdefault(_label(run, named(run)), []).append(run)
    lines: dict[str, Line] = {}
    for group in groups.values():
        names_here = named(group[0])
        expansions = {(run.width, _text(run.settings.get(FOLLOWS_WIDTH))) for run in group}
        one_each = len(expansions) == len({run.width for run in group})
        own = names_here if one_each else [*names_here, FOLLOWS_WIDTH]
        for run in group:
            family = _label(run, [name for name in own if name != "data.vocabulary"])
            label = _label(run, own)
            lines.setdefault(label, Line(label, family, [], run.name in tuned)).runs.append(run)
    for line in lines.values():
        line.runs.sort(key=lambda run: (run.width, run.seed))
    blocks = list(dict.fromkeys(line.block for line in lines.values()))
    return sorted(lines.values(), key=lambda line: blocks.index(line.block))


def find_differing(runs: list[ComparedRun]) -> list[str]:
    """Names of the settings in which any two of the runs differ, in the order of the configuration."""
    names = dict.fromkeys(name for run in runs for name in run.settings)
    return [name for name in names if len({_text(run.settings.get(name)) for run in runs}) > 1]


def notes_of(lines: list[Line]) -> list[str]:
    """What has to be said of runs that differ in more than their block, width and seed. Sentences."""
    runs = [run for line in lines for run in line.runs]
    names = find_differing(runs)
    notes = []
    if FOLLOWS_WIDTH in names:
        expansions = [float(run.settings[FOLLOWS_WIDTH]) for run in runs]
        notes.append(f"{FOLLOWS_WIDTH} differs from cell to cell, from {min(expansions):g} to {max(expansions):g}.")
        names.remove(FOLLOWS_WIDTH)
    if {*RATES} & {*names} and all(line.tuned for line in lines):
        notes.append("Each line has the learning rates that were best for it at one width.")
        names = [name for name in names if name not in RATES]
    if names:
        notes.append(f"Runs that differ in {', '.join(names)} are never on one line: the labels say how they do.")
    return notes


def _label(run: ComparedRun, settings: list[str]) -> str:
    """The block and the given ones of its settings: "ssd, depth 4, vocabulary 1024"."""
    return ", ".join([run.block, *(f"{s.split('.')[-1]} {_text(run.settings.get(s))}" for s in settings)])


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return "unset" if value is None else str(value) or "none"
