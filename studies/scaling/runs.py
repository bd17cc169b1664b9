"""Finished runs: found, read, and grouped by the corpus that they code."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from data.documents import make_printable
from data.errors import UsageError
from eval.curve import Curve, load_curve
from eval.description_length import side_bits
from eval.provenance import commit_text
from eval.schema import Report, finished_report
from model.registry import display_names
from studies.scaling.record import SWEEP_FILE, read_sweep
from train.config import BYTE_SYMBOLS, Config
from train.networks import describe_network

SETTINGS_LIMIT_BYTES = 1 << 20
# A run has these as fields; or the checksum of the corpus covers them; or they say where and how fast it ran.
NOT_COMPARED = {
    *("model.block", "model.width", "train.seed", "train.accumulation"),
    *("data.source", "data.field", "data.split", "data.cache_dir", "data.stream", "data.workers"),
    *("engine.zero_stage", "engine.threads", "engine.portable", "engine.timeout_secs"),
}
# launch/sweep.py --match sizes the MLPs so that blocks of one width have the same cost.
FOLLOWS_WIDTH = "model.expansion"


@dataclass(frozen=True)
class ComparedRun:
    """A finished run. `name` is its directory, relative to the one that is compared; `flops` are those of its epoch.

    `block` is as people read it (model.registry.display_names), and `tokenizer`: "bytes", "bpe" or a file's
    name.
    `settings` is all of its configuration that could explain a difference to another run, beside block, width and seed.
    `commit` is that of its code, empty if it is not known.
    """

    name: str
    block: str
    width: int
    seed: int
    vocabulary: int
    tokenizer: str
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
    directory: Path
    report: Report = field(repr=False, compare=False)
    curve: Curve = field(repr=False, compare=False)

    @property
    def symbols(self) -> str:
        """ "bytes, 257", "bpe, 2,048", "gpt2.json, 50,513, not charged": the tokenizer and its vocabulary."""
        return symbols_text(self.tokenizer, self.vocabulary, self.report)

    @property
    def bytes_per_sec(self) -> float:
        return self.report.corpus.bytes / max(self.report.cost.elapsed_secs, 1e-9)

    @property
    def corpus_text(self) -> str:
        """ "text (1,000 bytes, SHA-256 aaaaaaaa…)"."""
        corpus = self.report.corpus
        return f"{corpus.name} ({corpus.bytes:,} bytes, SHA-256 {corpus.sha256[:8]}…)"


def symbols_text(tokenizer: str, vocabulary: int, report: Report) -> str:
    free = report.tokenizer and report.tokenizer.uncharged_bytes is not None
    return f"{tokenizer}, {vocabulary:,}{', not charged' if free else ''}"


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


def load_runs(runs_dir: Path) -> list[ComparedRun]:
    """The finished runs at or below `runs_dir`, shortest description first. One without a report.json is not finished.

    Raises UsageError when there are none, or when a file is damaged.
    """
    if not runs_dir.is_dir():
        raise UsageError(f"{runs_dir} is no directory: name one that holds run directories")
    directories = sorted(path.parent for path in runs_dir.rglob("report.json")) or [runs_dir]
    names = [folder.relative_to(runs_dir) if folder != runs_dir else folder.resolve().name for folder in directories]
    runs = [load_run(folder, make_printable(str(name))) for folder, name in zip(directories, names, strict=True)]
    shown = display_names(run.block for run in runs)
    runs = [replace(run, block=shown[run.block]) for run in name_tokenizers(runs)]
    return sorted(runs, key=lambda run: run.total_bits)


def name_tokenizers(runs: list[ComparedRun]) -> list[ComparedRun]:
    """The same. Tokenizers of one file name have the beginning of their file's SHA-256 as well: many are called
    tokenizer.json."""
    contents: dict[str, set[str | None]] = {}
    for run in runs:
        if own := run.report.tokenizer:
            contents.setdefault(own.file, set()).add(own.sha256)
    named = []
    for run in runs:
        own = run.report.tokenizer
        if own and len(contents[own.file]) > 1:
            name = f"{own.file} {(own.sha256 or 'unknown')[:8]}"
            symbols = symbols_text(name, run.vocabulary, run.report)
            run = replace(run, tokenizer=name, settings=run.settings | {"data.vocabulary": symbols})
        named.append(run)
    return named


def load_run(directory: Path, name: str) -> ComparedRun:
    """A finished run, to be called `name`. Raises UsageError if it is not finished, or a file is damaged."""
    report, curve = finished_report(directory), load_curve(directory / "curve.csv")
    # A report from before 2026-11-28 does not hold its configuration.
    if report.config is None:
        settings = load_settings(directory / "config.yaml")
    else:
        settings = complete_settings(report.config, directory / "report.json")
    watched = lambda name: name.startswith("run.") and name != "run.warm_start"  # noqa: E731
    compared = {k: v for k, v in settings.items() if k not in NOT_COMPARED and not watched(k)}
    compared["model.depth"] = report.model.depth
    compared["model.network"] = describe_network(str(settings["model.network"]))
    vocabulary = settings["data.vocabulary"]
    tokenizer = "bpe"
    # The vocabulary says which tokenizer it was. That of bytes ignores the other fields, so they must not tell apart.
    if report.tokenizer:
        del compared["data.tokenizer"]
        vocabulary = report.tokenizer.vocabulary
        tokenizer = report.tokenizer.file
        compared["data.vocabulary"] = symbols_text(tokenizer, vocabulary, report)
    elif report.token_files:
        vocabulary, tokenizer = report.token_files.vocabulary, "ids"
    elif compared.pop("data.tokenizer") == "bytes":
        vocabulary, tokenizer = BYTE_SYMBOLS, "bytes"
        sample_bytes = Config().data.tokenizer_sample_bytes
        compared |= {"data.vocabulary": "bytes", "data.tokenizer_sample_bytes": sample_bytes}
    terms = ("data_bits", "code_bits", "tokenizer_bits", "side_bits", "total_bits", "bits_per_byte")
    return ComparedRun(
        name=name,
        **report.model.model_dump(exclude={"depth"}),
        **{term: getattr(report.description_length, term) for term in terms},
        seed=settings["train.seed"],
        vocabulary=vocabulary,
        tokenizer=tokenizer,
        flops=report.cost.model_flops,
        commit=commit_text(report.commit),
        settings=compared,
        directory=directory,
        report=report,
        curve=curve,
    )


def load_settings(path: Path) -> dict[str, Any]:
    """A run's config.yaml as {"model.width": 64}; fields that it lacks take their defaults.

    Unknown fields, of other versions of this program, are kept. Raises UsageError, one line, if it is no configuration.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(SETTINGS_LIMIT_BYTES + 1)
    except FileNotFoundError:
        raise UsageError(f"{path} is missing: nothing else says how the run was made; remove the run") from None
    if len(content) > SETTINGS_LIMIT_BYTES:
        raise UsageError(f"{path} is larger than {SETTINGS_LIMIT_BYTES:,} bytes, the most it can be: it is damaged")
    try:
        tree = yaml.safe_load(content)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise UsageError(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict) or not all(isinstance(section, dict) for section in tree.values()):
        raise UsageError(f"{path} is no configuration of a run: it does not consist of sections of fields")
    return complete_settings(tree, path)


def complete_settings(tree: dict[str, Any], path: Path) -> dict[str, Any]:
    """The same from the sections of a configuration, which `path` holds."""
    sections = [*Config().to_dict().items(), *tree.items()]
    settings = {f"{section}.{name}": value for section, fields in sections for name, value in fields.items()}
    for name, kind in {"train.seed": int, "data.vocabulary": int, FOLLOWS_WIDTH: int | float}.items():
        if not isinstance(settings[name], kind):
            raise UsageError(f"{path}: {name} is {settings[name]!r}, not a number of the kind that it has to be")
    return settings


def group_by_corpus(runs: list[ComparedRun], wanted: str = "") -> list[list[ComparedRun]]:
    """The runs in groups of one corpus each, by the corpus' name; only those of the `wanted` one, which is a name or
    the beginning of a SHA-256, if that is given.

    Description lengths of different corpora say nothing about each other. Raises UsageError if no corpus is wanted.
    """
    groups: dict[str, list[ComparedRun]] = {}
    for run in runs:
        groups.setdefault(run.report.corpus.sha256, []).append(run)
    ordered = sorted(groups.values(), key=lambda group: (group[0].report.corpus.name, group[0].name))
    by_sha256 = lambda sha256: len(wanted) >= 8 and sha256.startswith(wanted.lower())  # noqa: E731
    corpora = [(group, group[0].report.corpus) for group in ordered]
    chosen = [group for group, corpus in corpora if wanted in ("", corpus.name) or by_sha256(corpus.sha256)]
    if not chosen:
        there = ", ".join(group[0].corpus_text for group in ordered)
        raise UsageError(f"no run codes a corpus {wanted!r}; there are {there}")
    return chosen


def refuse_mixed(runs: list[ComparedRun]) -> None:
    """Raise UsageError unless all runs code one corpus, for what cannot be done with several."""
    first, *others = sorted(runs, key=lambda run: run.name)
    for run in others:
        if run.report.corpus.sha256 != first.report.corpus.sha256:
            raise UsageError(
                f"{first.name} codes {first.corpus_text} and {run.name} codes {run.corpus_text}: description "
                "lengths of different corpora cannot be compared; name a directory whose runs share one"
            )


def charge_selection(
    runs_dir: Path, runs: list[ComparedRun], elsewhere: Sequence[ComparedRun] = ()
) -> Selection | None:
    """What choosing the best of the runs costs, if they are of the sweep that a sweep.json in `runs_dir` describes.

    The cells are all that it could have been chosen from: those of sweep.json, finished or not, and those runs beside
    them that an earlier sweep left there, except those that are known to code another corpus, `elsewhere`. Raises
    UsageError if sweep.json is damaged.
    """
    path = runs_dir / SWEEP_FILE
    if not path.exists():
        return None
    sweep = read_sweep(path)
    strangers = {run.name for run in elsewhere}
    theirs = len(strangers & {*sweep.names})
    cells = max(sweep.cells - theirs, len({*sweep.names, *(run.name for run in runs)} - strangers))
    best = runs[0]
    tokens, ranks = best.report.corpus.tokens, best.report.cost.world_size
    added_bits = side_bits(tokens, ranks, sweep_cells=cells) - side_bits(tokens, ranks)
    return Selection(best.name, cells, added_bits, best.side_bits + added_bits, best.total_bits + added_bits)
