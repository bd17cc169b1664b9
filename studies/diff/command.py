"""The comparison of two codes, byte by byte: what is printed and written (options.py says how to ask for it)."""

import csv
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from data.errors import UsageError
from data.files import write_file
from data.streams import publish
from eval.pages import render
from eval.plots import picture
from studies.diff.classes import DOCUMENT, Distances, Documents, Kinds, Positions, Words
from studies.diff.evidence import ClassRow, Course, Tally
from studies.diff.groups import group_documents
from studies.diff.options import Diff
from studies.diff.paired import ReadRun, open_runs, pair_blocks, read_blocks
from studies.diff.passages import Passages
from studies.diff.plots import evidence_figure, place_figure, where_figure
from studies.diff.power import Needed, times_needed
from train.command_line import CONFIG_FILE, load_config

TEMPLATES = Path(__file__).parent / "templates"
# Of documents and groups of them, those with the largest differences are shown.
MOST_DOCUMENTS = 20


@dataclass(frozen=True)
class Difference:
    """What the second of two runs saves: over all, by class, and in passages."""

    runs: Sequence[ReadRun]
    course: Course
    tallies: Sequence[Tally]
    passages: Passages

    @property
    def names(self) -> list[str]:
        return [run.name for run in self.runs]

    @property
    def whole(self) -> ClassRow:
        half = self.course.curve()[2]
        bits = self.runs[0].kept.bits, self.runs[1].kept.bits
        return ClassRow("data", self.course.units, bits, None if half is None else float(half[-1]))

    def groups(self) -> dict[str, list[ClassRow]]:
        """Rows by group. Of several documents, those with the largest differences; of a single one, no place in it."""
        found = {tally.classifier.name: tally.rows() for tally in self.tallies}
        if len(found[DOCUMENT]) == 1:
            del found[DOCUMENT], found[Positions.name]
        for tally in self.tallies:
            if isinstance(tally.classifier, Documents) and tally.classifier.name in found:
                rows = found[tally.classifier.name]
                found[tally.classifier.name] = sorted(rows, key=lambda row: -abs(row.saved_bits))[:MOST_DOCUMENTS]
        return found


def compare(runs: Sequence[ReadRun], most: int, text: bytes, groups: Documents | None = None) -> Difference:
    """Read the corpus twice: for its words, then for everything else, `groups` of documents included."""
    first, corpus = runs[0], runs[0].report.corpus
    units = corpus.bytes + corpus.documents
    course, passages = Course(first.kept.lanes.lanes, units), Passages(most, units, text)
    shown = lambda title: tqdm(desc=title, total=units, unit="B", unit_scale=True, file=sys.stderr)  # noqa: E731

    def watched(bar: Any) -> Any:
        for block in read_blocks(first):
            bar.update(len(block))
            yield block

    with shown("finding words") as bar:
        words = Words(watched(bar))
    names = first.corpus.source.names or [f"document {number + 1:,}" for number in range(corpus.documents)]
    classifiers = (Kinds(), words, Distances(), *([groups] if groups else []), Positions(), Documents(names))
    tallies = [Tally(classifier, course) for classifier in classifiers]
    with shown("comparing") as bar:
        for block in pair_blocks(list(runs)):
            saved_bits = block.bits[0] - block.bits[1]
            parts: list[Any] = [course, passages, *tallies]
            for part in parts:
                part.add(block, saved_bits)
            bar.update(len(block.units))
    return Difference(runs, course, tallies, passages)


def execute(options: Diff) -> None:
    """Raises UsageError for what is wrong with the arguments, or runs that cannot be compared."""
    if not 1 <= options.passages <= 500:
        raise UsageError(f"--passages {options.passages}: take 1 to 500")
    runs = open_runs([options.run_a, options.run_b], options.corpus)
    here, there = (folder.resolve() for folder in (options.run_a, options.run_b))
    out = options.out or there.parent / f"diff-{here.name}-{there.name}"
    groups = read_groups(runs[0], options)
    found = compare(runs, options.passages, options.find.encode(errors="surrogateescape"), groups)
    publish(terminal_text(found))
    for name, content in files(found, options.find).items():
        out.mkdir(parents=True, exist_ok=True)
        write_file(out / name, content)
        if name.endswith((".html", ".csv")):
            print(f"wrote {out / name}", file=sys.stderr)


def read_groups(run: ReadRun, options: Diff) -> Documents | None:
    """The groups of documents of --by, if it is given."""
    if not options.by:
        return None
    data = load_config(run.folder / CONFIG_FILE).data
    data = replace(data, source=options.corpus or data.source)
    return Documents(*group_documents(data, options.by, run.report.corpus.documents), f"by {options.by}")


def saved_text(row: ClassRow, scale: float = 1.0, form: str = "+z,.0f") -> str:
    """ "+1,234 (+1,000 to +1,468)"."""
    text = f"{row.saved_bits * scale:{form}}"
    if row.half_width is not None:
        low, high = ((row.saved_bits + sign * row.half_width) * scale for sign in (-1, 1))
        text += f" ({low:{form}} to {high:{form}})"
    return text.replace("-", "−")


def verdict_text(found: Difference) -> str:
    """Which of the two is shorter, in words."""
    whole, (a, b) = found.whole, found.names
    if whole.half_width is None:
        return f"{b} against {a}: too few lanes for an interval"
    if not whole.shown:
        return f"{a} and {b} are not distinguishable"
    return f"{b if whole.saved_bits > 0 else a} is shorter than {a if whole.saved_bits > 0 else b}"


def needed_text(found: Difference) -> str:
    """How much corpus it would take to tell the two apart; empty where this one is enough, or nobody can say."""
    times = times_needed(found.course.saved_bits)
    if found.whole.shown or times is None:
        return ""
    text = Needed(None, times).text(found.runs[0].report.corpus.bytes)
    return f"To tell them apart in 80 % of cases, if they differ as measured: {text}"


def terminal_text(found: Difference) -> str:
    """The table that the command prints."""
    whole, (a, b) = found.whole, found.names
    lines = [f"A {a}", f"B {b}", f"{verdict_text(found)}, by their data terms"]
    lines += [*filter(None, [needed_text(found)]), ""]
    head = f"{'':<34}{'bytes':>14}{'A bits/byte':>13}{'B bits/byte':>13}   bytes that B saves"
    lines += [head, row_text(whole)]
    for group, rows in found.groups().items():
        if group not in (DOCUMENT, Positions.name):
            lines += ["", group, *(row_text(row) for row in rows)]
    return "\n".join(lines)


def row_text(row: ClassRow) -> str:
    rates = "".join(f"{bits / row.units:>13.4f}" for bits in row.bits)
    return f"{row.label[:33]:<34}{row.units:>14,}{rates}   {saved_text(row, 1 / 8)}"


def files(found: Difference, text: str) -> dict[str, bytes]:
    """What is written, by name."""
    groups, names = found.groups(), found.names
    pictured = {group: rows for group, rows in groups.items() if group != DOCUMENT}
    pictures = {
        "evidence": picture(evidence_figure, found.course, names),
        "where": picture(where_figure, pictured, names),
        "place": picture(place_figure, found.course, names),
    }
    made = {"diff.csv": classes_csv(found), "diff-curve.csv": curve_csv(found.course)}
    for name, one in pictures.items():
        made |= one.files(f"diff-{name}", "-light")
    page = render(
        "diff.html.j2", TEMPLATES, found=found, corpus=found.runs[0].report.corpus, groups=groups, whole=found.whole,
        pictures=pictures, saved=saved_text, verdict_words=verdict_text(found), passages=found.passages.values(),
        text=text, lanes=found.course.blocks, same_plan=found.runs[0].kept.lanes == found.runs[1].kept.lanes,
    )  # fmt: skip
    return {"diff.html": page} | made


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([header, *rows])
    return text.getvalue().encode("utf-8", "backslashreplace")


def classes_csv(found: Difference) -> bytes:
    """A row a class; all documents are in it."""
    header = ("group", "class", "bytes", "a_bits", "b_bits", "saved_bits", "saved_half_width_bits")
    every = {"": [found.whole]} | {tally.classifier.name: tally.rows() for tally in found.tallies}
    return table(
        header,
        [
            (group, row.label, row.units, *row.bits, row.saved_bits, "" if row.half_width is None else row.half_width)
            for group, rows in every.items()
            for row in rows
        ],
    )


def curve_csv(course: Course) -> bytes:
    """A row an interval of the epoch."""
    coded, saved, half = course.curve()
    widths = [""] * len(coded) if half is None else half.tolist()
    rows = zip(coded.astype(np.int64).tolist(), saved.tolist(), widths, strict=True)
    return table(("coded_bytes", "saved_bits", "saved_half_width_bits"), list(rows))
