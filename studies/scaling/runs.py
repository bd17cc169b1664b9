"""Finished runs: found, read, and parted by the corpus that they code."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field, TypeAdapter, with_config
from typing_extensions import TypedDict

from data.documents import printable
from data.errors import UsageError
from data.files import read_json
from eval.curve import Curve, load_curve
from eval.description_length import side_bits
from eval.schema import Report, load_report
from studies.scaling.lines import Point, load_settings, point_of, settings_of

SWEEP_LIMIT_BYTES = 16 << 20


@with_config(ConfigDict(extra="ignore", strict=True))
class Sweep(TypedDict):
    """What launch/sweep.py says of its cells in sweep.json, as far as it is of use here."""

    format: Annotated[int, Field(ge=1, le=1)]
    cells: Annotated[int, Field(ge=1)]
    names: list[str]


_SWEEP = TypeAdapter(Sweep)


@dataclass(frozen=True)
class Run:
    """A finished run; `name` is its directory, relative to the one that is compared."""

    name: str
    directory: Path
    report: Report
    curve: Curve
    point: Point

    @property
    def total_bytes(self) -> float:
        return self.report["description_length"]["total_bits"] / 8


@dataclass(frozen=True)
class Selection:
    """What it costs that a reported run was chosen as the best of several `cells`."""

    run: str
    cells: int
    selection_bits: float
    side_bits: float
    total_bits: float

    def __str__(self) -> str:
        return (
            f"{self.run} is the best of {self.cells:,} cells of a sweep: log2({self.cells:,}) = "
            f"{self.selection_bits:.2f} bits are charged to its side information, and its total with them is "
            f"{self.total_bits / 8:,.2f} bytes."
        )


def load_runs(runs_dir: Path) -> list[Run]:
    """The finished runs at or below `runs_dir`, shortest description first. One without a report.json is not finished.

    Raises UsageError when there are none, or when a file is damaged.
    """
    if not runs_dir.is_dir():
        raise UsageError(f"{runs_dir} is no directory: name one that holds run directories")
    directories = sorted(path.parent for path in runs_dir.rglob("report.json"))
    if not directories:
        raise UsageError(f"{runs_dir} holds no finished run: a run has a report.json once its epoch is done")
    runs = []
    for directory in directories:
        name = printable(str(directory.relative_to(runs_dir)) if directory != runs_dir else directory.resolve().name)
        report = load_report(directory / "report.json")
        curve = load_curve(directory / "curve.csv")
        # A report of before 2026-11-28 does not hold its configuration.
        if "config" in report:
            settings = settings_of(report["config"], directory / "report.json")
        else:
            settings = load_settings(directory / "config.yaml")
        runs.append(Run(name, directory, report, curve, point_of(name, report, settings, curve)))
    return sorted(runs, key=lambda run: run.total_bytes)


def by_corpus(runs: list[Run], wanted: str = "") -> list[list[Run]]:
    """The runs in groups of one corpus each, by the corpus' name; only those of the `wanted` one, which is a name or
    the beginning of a SHA-256, if that is given.

    Description lengths of different corpora say nothing about each other. Raises UsageError if no corpus is wanted.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.report["corpus"]["sha256"], []).append(run)
    ordered = sorted(groups.values(), key=lambda group: (group[0].report["corpus"]["name"], group[0].name))
    chosen = [group for group in ordered if _is_called(group[0], wanted)]
    if not chosen:
        there = ", ".join(corpus_words(group[0]) for group in ordered)
        raise UsageError(f"no run codes a corpus {wanted!r}; there are {there}")
    return chosen


def refuse_mixed(runs: list[Run]) -> None:
    """Raise UsageError unless all runs code one corpus, for what cannot be done with several."""
    first, *others = sorted(runs, key=lambda run: run.name)
    for run in others:
        if run.report["corpus"]["sha256"] != first.report["corpus"]["sha256"]:
            raise UsageError(
                f"{first.name} codes {corpus_words(first)} and {run.name} codes {corpus_words(run)}: description "
                "lengths of different corpora cannot be compared; name a directory whose runs share one"
            )


def _is_called(run: Run, wanted: str) -> bool:
    corpus = run.report["corpus"]
    return not wanted or corpus["name"] == wanted or (len(wanted) >= 8 and corpus["sha256"].startswith(wanted.lower()))


def read_sweep(path: Path) -> Sweep:
    """A sweep.json. Raises UsageError, one line, if it is damaged."""
    sweep: Sweep = read_json(path, _SWEEP, SWEEP_LIMIT_BYTES)
    return sweep


def selection_of(runs_dir: Path, runs: list[Run], elsewhere: Sequence[Run] = ()) -> Selection | None:
    """What choosing the best of the runs costs, if they are of the sweep that a sweep.json in `runs_dir` tells of.

    The cells are all that it could have been chosen from: those of sweep.json, finished or not, and those runs beside
    them that an earlier sweep left there, except those that are known to code another corpus, `elsewhere`. Raises
    UsageError if sweep.json is damaged.
    """
    path = runs_dir / "sweep.json"
    if not path.exists():
        return None
    sweep = read_sweep(path)
    strangers = {run.name for run in elsewhere}
    theirs = len(strangers & {*sweep["names"]})
    cells = max(sweep["cells"] - theirs, len({*sweep["names"], *(run.name for run in runs)} - strangers))
    best = runs[0].report
    tokens, ranks = best["corpus"]["tokens"], best["cost"]["world_size"]
    added_bits = side_bits(tokens, ranks, sweep_cells=cells) - side_bits(tokens, ranks)
    length = best["description_length"]
    return Selection(
        run=runs[0].name,
        cells=cells,
        selection_bits=added_bits,
        side_bits=length["side_bits"] + added_bits,
        total_bits=length["total_bits"] + added_bits,
    )


def corpus_words(run: Run) -> str:
    """ "text (1,000 bytes, SHA-256 aaaaaaaa…)"."""
    corpus = run.report["corpus"]
    return f"{corpus['name']} ({corpus['bytes']:,} bytes, SHA-256 {corpus['sha256'][:8]}…)"
