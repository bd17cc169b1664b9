"""Finished runs as points, and the lines through them: what lies on one line differs in nothing but width and seed."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from data.errors import UsageError
from eval.curve import Curve
from eval.provenance import commit_text
from eval.schema import Report
from train.config import BYTE_SYMBOLS, Config

LIMIT_BYTES = 1 << 20
# Points have these by themselves; or the corpus' checksum stands for them; or they say where and how fast a run ran.
NOT_COMPARED = {
    *("model.block", "model.width", "train.seed", "train.accumulation"),
    *("data.source", "data.field", "data.split", "data.cache_dir", "data.workers"),
    *("engine.zero_stage", "engine.threads", "engine.portable", "engine.timeout_secs"),
}
# launch/sweep.py --match sizes the MLPs so that blocks of one width have the same cost.
FOLLOWS_WIDTH = "model.expansion"


@dataclass(frozen=True)
class Point:
    """A finished run. `flops` are those of its epoch; `settings` is all of its configuration that could explain a
    difference to another run, beside block, width and seed. `commit` is that of its code, empty if it is not known."""

    name: str
    block: str
    width: int
    seed: int
    vocabulary: int
    parameters: int
    parameters_non_embedding: int
    flops: float
    data_bits: float
    code_bits: float
    tokenizer_bits: float
    side_bits: float
    total_bits: float
    bits_per_byte: float
    commit: str
    settings: dict[str, Any]
    curve: Curve = field(repr=False, compare=False)


@dataclass(frozen=True)
class Line:
    """Points of one block and one setting of everything else, narrow to wide. `label` is unique among the lines, and
    `family` among those that differ in more than the vocabulary."""

    label: str
    family: str
    points: list[Point]

    @property
    def block(self) -> str:
        return self.points[0].block

    @property
    def vocabulary(self) -> int:
        return self.points[0].vocabulary

    @property
    def widths(self) -> list[int]:
        return sorted({point.width for point in self.points})

    def values(self, name: str) -> np.ndarray:
        """A field of every point: float64 [points]."""
        return np.array([getattr(point, name) for point in self.points], dtype=np.float64)

    def by_width(self, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean, least and greatest of a field over the seeds of each width: float64 [widths] each."""
        widths, values = self.values("width"), self.values(name)
        groups = [values[widths == width] for width in self.widths]
        mean, least, greatest = np.array([(group.mean(), group.min(), group.max()) for group in groups]).T
        return mean, least, greatest


def load_settings(path: Path) -> dict[str, Any]:
    """A run's config.yaml as {"model.width": 64}; fields that it lacks take their defaults.

    Unknown fields, of other versions of this program, are kept. Raises UsageError, one line, if it is no configuration.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(LIMIT_BYTES + 1)
    except FileNotFoundError:
        raise UsageError(f"{path} is missing: nothing else says how the run was made; remove the run") from None
    if len(content) > LIMIT_BYTES:
        raise UsageError(f"{path} is larger than {LIMIT_BYTES:,} bytes, the most a configuration can be: it is damaged")
    try:
        tree = yaml.safe_load(content)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise UsageError(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict) or not all(isinstance(section, dict) for section in tree.values()):
        raise UsageError(f"{path} is no configuration of a run: it does not consist of sections of fields")
    return settings_of(tree, path)


def settings_of(tree: dict[str, Any], path: Path) -> dict[str, Any]:
    """The same from the sections of a configuration, which `path` holds."""
    settings = flat(Config().to_dict()) | flat(tree)
    for name, kind in {"train.seed": int, "data.vocabulary": int, FOLLOWS_WIDTH: int | float}.items():
        if not isinstance(settings[name], kind):
            raise UsageError(f"{path}: {name} is {settings[name]!r}, not a number of the kind that it has to be")
    return settings


def point_of(name: str, report: Report, settings: dict[str, Any], curve: Curve) -> Point:
    """The point that a report.json, the settings and the live curve of its run make."""
    model, length = report["model"], report["description_length"]
    watched = lambda name: name.startswith("run.") and name != "run.warm_start"  # noqa: E731
    compared = {k: v for k, v in settings.items() if k not in NOT_COMPARED and not watched(k)}
    compared["model.depth"] = model["depth"]
    vocabulary = settings["data.vocabulary"]
    # The vocabulary says which tokenizer it was. That of bytes ignores the other fields, so they must not tell apart.
    if compared.pop("data.tokenizer") == "bytes":
        vocabulary = BYTE_SYMBOLS
        sample_bytes = Config().data.tokenizer_sample_bytes
        compared |= {"data.vocabulary": "bytes", "data.tokenizer_sample_bytes": sample_bytes}
    return Point(
        name=name,
        block=model["block"],
        width=model["width"],
        seed=settings["train.seed"],
        vocabulary=vocabulary,
        parameters=model["parameters"],
        parameters_non_embedding=model["parameters_non_embedding"],
        flops=report["cost"]["model_flops"],
        data_bits=length["data_bits"],
        code_bits=length["code_bits"],
        tokenizer_bits=length["tokenizer_bits"],
        side_bits=length["side_bits"],
        total_bits=length["total_bits"],
        bits_per_byte=length["bits_per_byte"],
        commit=commit_text(report.get("commit")),
        settings=compared,
        curve=curve,
    )


def lines_of(points: list[Point]) -> list[Line]:
    """The points in lines, the block of the shortest description first. Labels hold what tells the lines apart."""
    names = [name for name in differing(points) if name != FOLLOWS_WIDTH]
    groups: dict[str, list[Point]] = {}
    for point in sorted(points, key=lambda point: point.total_bits):
        groups.setdefault(_label(point, names), []).append(point)
    lines: dict[str, Line] = {}
    for group in groups.values():
        expansions = {(point.width, _text(point.settings.get(FOLLOWS_WIDTH))) for point in group}
        follows = len(expansions) == len({point.width for point in group})
        for point in group:
            own = names if follows else [*names, FOLLOWS_WIDTH]
            family = _label(point, [name for name in own if name != "data.vocabulary"])
            label = _label(point, own)
            lines.setdefault(label, Line(label, family, [])).points.append(point)
    for line in lines.values():
        line.points.sort(key=lambda point: (point.width, point.seed))
    blocks = list(dict.fromkeys(line.block for line in lines.values()))
    return sorted(lines.values(), key=lambda line: blocks.index(line.block))


def differing(points: list[Point]) -> list[str]:
    """Names of the settings in which any two of the points differ, in the order of the configuration."""
    names = dict.fromkeys(name for point in points for name in point.settings)
    return [name for name in names if len({_text(point.settings.get(name)) for point in points}) > 1]


def notes_of(lines: list[Line]) -> list[str]:
    """What has to be said of points that differ in more than their block, width and seed. Sentences."""
    points = [point for line in lines for point in line.points]
    names = differing(points)
    notes = []
    if FOLLOWS_WIDTH in names:
        expansions = [float(point.settings[FOLLOWS_WIDTH]) for point in points]
        notes.append(f"{FOLLOWS_WIDTH} differs from cell to cell, from {min(expansions):g} to {max(expansions):g}.")
        names.remove(FOLLOWS_WIDTH)
    if names:
        notes.append(f"Runs that differ in {', '.join(names)} are never on one line: the labels say how they do.")
    return notes


def _label(point: Point, settings: list[str]) -> str:
    """The block and the given ones of its settings: "ssd, depth 4, vocabulary 1024"."""
    return ", ".join([point.block, *(f"{s.split('.')[-1]} {_text(point.settings.get(s))}" for s in settings)])


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return "unset" if value is None else str(value) or "none"


def flat(tree: dict[Any, Any]) -> dict[str, Any]:
    """Sections of fields as {"model.width": 64}."""
    return {f"{section}.{name}": value for section, fields in tree.items() for name, value in fields.items()}
