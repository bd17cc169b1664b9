"""Compare the figures in README and docs with benchmarks/results/published.csv. Five marks, invisible on a page:

    699,942<!-- kjv-default.total_bytes -->      a figure: a row of published.csv, at the precision that is printed
    <!-- cells NAME ... --> TABLE <!-- end -->   a table whose figures are all in the results files of these entries
    <!-- report NAME --> ... <!-- end -->        what a run prints at its end, from its report.json
    <!-- measured NAME ... --> ... <!-- end -->  the lines that say where, when and by what command these were measured
    <!-- blocks --> TABLE <!-- end -->           the blocks of model/registry.py, from the docstrings of their files

`written` makes the text of figures, reports, lines and blocks. `problems` says where a page differs from that text, and
which numbers with a unit have no mark: only those of FACTS need none. Notes in research/ are dated records and not
checked.
"""

import ast
import csv
import functools
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figures import NAMED
from benchmarks.measurement import RESULTS, ROOT, Entry
from eval.schema import load_report
from eval.tables import terminal_table
from model.registry import BLOCKS

PUBLISHED = RESULTS / "published.csv"
CHANGED = " The code has changed since."
# Numbers with a unit that nobody measured, and what they are.
FACTS = {
    "3.11": "the version of Python",
    "4,556,413 bytes": "the King James Bible",
    "100,000,000 bytes": "enwik8",
    "10,000,000 bytes": "its start",
    "95 %": "the level of an interval",
    "134,217,728": "the tokens of the largest corpus whose nats are kept unasked",
    "10 bits": "an example of a difference",
    "40,000 bytes": "the length of benchmarks/portable.py's archives",
    "0.05": "the nats by which a token may differ on another machine",
    "0.01 %": "the part of its bits by which a span may",
    "1 %": "the part of its norm by which a parameter may",
    "80 %": "the power that seeds and corpora are counted for",
    "8 bytes": "a context that is looked for further back",
    "255 bytes": "the longest piece of a tokenizer",
    "1 MiB": "what is encoded at once",
    "262,144": "the largest vocabulary",
    "262,143": "its last id",
    "65,535": "the most ids of two bytes",
    "48 bytes": "the index of a batch",
    "64 MiB": "a shard of batches that are full",
    "30 seconds": "after which a host that is not at work is not waited for",
    "4,096": "the most documents of a batch",
    "16 bits": "a type of ids",
    "32 bits": "a type of ids",
    "1,024 bytes": "the header of llm.c",
    "5 bytes": "what describes the ids of token files",
    "3.28": "an example of a loss in nats",
    "4.73 bits": "the same in bits",
    "16 bytes": "the strings of boilerplate",
    "300,000 bytes": "the start of a corpus, in small comparisons",
    "100,000": "the most ranks that are cut as GPT-2's",
    "150,000": "the most ranks that are cut as cl100k_base's",
}
# Pages that a program writes from the code, and which has a test of its own.
GENERATED = {"docs/options.md"}

FIGURE = re.compile(r"(\d[\d,]*(?:\.\d+)?)<!-- ([\w-]+\.[\w-]+) -->")
BLOCK = re.compile(r"<!-- (measured|cells|report) ([\w -]+) -->\n(.*?)<!-- end -->", re.DOTALL)
BLOCK_TABLE = re.compile(r"<!-- blocks -->\n(.*?)<!-- end -->", re.DOTALL)
CODE = re.compile(r"^```.*?^```$|^ {4}.*?$|`[^`\n]*`|\]\([^)]*\)|<!--.*?-->", re.DOTALL | re.MULTILINE)
THOUSANDS = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+\.\d+"
UNIT = r" ?(?:%|(?:[KMGT]i?B|bytes?|bits?|[mn]?s|min|minutes?|h|hours?|(?:CPU )?seconds?|tokens/s|[MGT]?FLOP/s)\b)"
MEASUREMENT = re.compile(rf"(?<![\w.,:-])(?:(?:{THOUSANDS})(?:{UNIT})?|\d+{UNIT})")
CELL = re.compile(rf"(?<![\w.,^-])(?<!x )(?:{THOUSANDS}|\d{{3,}})(?![\d.]* ?%)(?!\w)")


@dataclass(frozen=True)
class Row:
    """A figure, or with the unit `file` the results file of an entry. `commit` has a + where the tree was changed, and
    there are several where a file's rows have commits of their own."""

    figure: str
    value: str
    unit: str
    commit: str
    date: str
    machine: str
    command: str


def published() -> dict[str, Row]:
    """The rows of published.csv by figure."""
    if not PUBLISHED.exists():
        return {}
    with PUBLISHED.open(newline="") as file:
        return {row["figure"]: Row(**row) for row in csv.DictReader(file)}


def all_pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def git(*arguments: str) -> str | None:
    """What git prints; None where it fails, as without a history."""
    try:
        answer = subprocess.run(["git", *arguments], cwd=ROOT, check=False, capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return None if answer.returncode else answer.stdout


@functools.cache
def changed_since(commit: str, paths: tuple[str, ...]) -> bool | None:
    """Whether the files of today's tree differ from those of one of the commits, comments and docstrings aside.

    None if that cannot be known: without git's history.
    """
    if not (ROOT / ".git").exists():
        return None
    for one in commit.replace("+", "").split():
        names = git("diff", "--name-only", one, "--", *paths)
        if names is None:
            return None
        for name in names.split():
            now = (ROOT / name).read_text() if (ROOT / name).exists() else ""
            if without_comments(name, git("show", f"{one}:{name}") or "") != without_comments(name, now):
                return True
    return False


def without_comments(name: str, text: str) -> str:
    """What of a file can change a result."""
    if name.endswith(".yaml"):
        return re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE)
    if not name.endswith(".py"):
        return text
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            # The text under a field, too.
            node.body = [part for part in node.body if not is_text(part)]
    return ast.dump(tree)


def is_text(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def lines_of(names: list[str], rows: dict[str, Row]) -> str:
    """The visible lines of these entries."""
    lines = []
    for name in names:
        row = rows[name]
        commits = ", ".join(f"`{one}`".replace("+`", "` with changes") for one in row.commit.split())
        command = re.sub(
            r"\{(\w+?)(?::\d+)?\}", lambda word: word[1].upper(), row.command.replace(" --run.dir {run}", "")
        )
        if " && " in command:
            command = f"python benchmarks/published.py --only {name}"
        text = f"Measured ({name}) at commit {commits}, {row.date}, on {row.machine}, by `{command}`."
        if changed_since(row.commit, NAMED[name].measures):
            text += CHANGED
        lines.append(f"- *{text}*")
    return "\n".join(["", *lines]) + "\n"


def printed(value: str | float, like: str) -> str:
    """A value with as many decimals as the figure `like`."""
    return f"{float(value):,.{len(like.partition('.')[2])}f}"


def report_text(name: str) -> str:
    """What a run prints at its end, as a code block."""
    text = terminal_table(load_report(RESULTS / NAMED[name].file)).strip()
    # Bars of terminals without UTF-8.
    bars = re.sub(r" =+$", lambda bar: bar[0].replace("=", "━"), text, flags=re.MULTILINE)
    return f"```\n{bars}\n```\n"


def block_text(kind: str, names: list[str], inside: str, rows: dict[str, Row]) -> str:
    """What belongs inside of a block; of a table what is there, as its text is the page's own."""
    if kind == "measured":
        return lines_of(names, rows)
    return report_text(names[0]) if kind == "report" else inside


def block_table() -> str:
    """Every registered block with the first line of its docstring and the first paper there."""
    lines = ["", "| `--model.block` | what | paper |", "|---|---|---|"]
    for name in sorted(BLOCKS):
        docstring = ast.get_docstring(ast.parse((ROOT / "model" / "blocks" / f"{name}.py").read_text())) or ""
        paper = re.search(r"^Papers?: (.+? \d{4}).*?(\(.+?\))", docstring, re.DOTALL | re.MULTILINE)
        what = docstring.partition("\n")[0].removesuffix(".")
        lines.append(f"| `{name}` | {what} | {' '.join(paper.groups()) if paper else ''} |")
    return "\n".join([*lines, "", ""])


def written(text: str, rows: dict[str, Row]) -> str:
    """A page with the figures, reports and lines that published.csv has today. What it does not have stays."""

    def block(found: re.Match[str]) -> str:
        names = found[2].split()
        inside = block_text(found[1], names, found[3], rows) if all(name in rows for name in names) else found[3]
        return f"<!-- {found[1]} {found[2]} -->\n{inside}<!-- end -->"

    def figure(found: re.Match[str]) -> str:
        row = rows.get(found[2])
        return f"{printed(row.value, found[1])}<!-- {found[2]} -->" if row else found[0]

    text = BLOCK_TABLE.sub(lambda found: found[0].replace(found[1], block_table()), text)
    return BLOCK.sub(block, FIGURE.sub(figure, text))


def problems(page: str, text: str, rows: dict[str, Row]) -> Iterator[str]:
    """What is wrong on a page, a line each. What depends on git's history is left out where there is no history."""
    used: set[str] = set()
    stated: set[str] = set()
    for figure, name in FIGURE.findall(text):
        used.add(name.split(".")[0])
        if name not in rows:
            yield f"{page}: {figure} belongs to {name}, which is no row of {PUBLISHED.name}"
        elif figure != (wanted := printed(rows[name].value, figure)):
            yield f"{page}: {name} is printed as {figure}, and is {wanted}"
    for kind, words, inside in BLOCK.findall(text):
        names = words.split()
        (stated if kind == "measured" else used).update(names)
        if unknown := [name for name in names if name not in rows]:
            yield f"{page}: {', '.join(unknown)}: no row of {PUBLISHED.name}"
        elif kind == "cells":
            yield from (f"{page}: {cell} is not in the results of {words}" for cell in missing(inside, names))
        elif comparable(inside, names, rows) != comparable(block_text(kind, names, inside, rows), names, rows):
            yield f"{page}: what it says of {words} is not what the results say now (--write)"
    if any(table != block_table() for table in BLOCK_TABLE.findall(text)):
        yield f"{page}: its table of blocks is not what their files say now (--write)"
    if unstated := sorted(used - stated):
        yield f"{page}: no line says where {', '.join(unstated)} was measured: add <!-- measured ... -->"
    yield from unmarked(page, text)


def comparable(text: str, names: list[str], rows: dict[str, Row]) -> str:
    """A block's text; without what only git's history tells, if there is none."""
    known = [changed_since(rows[name].commit, NAMED[name].measures) for name in names]
    return text.replace(CHANGED, "") if None in known else text


def missing(table: str, names: list[str]) -> list[str]:
    """The figures below a table's head that no results file of the entries has, at the precision that is printed.

    Zeros at the end of a whole number may be those of a rounded one.
    """
    body = re.sub(r"^.*\n(?=\|[ :|-]+\|$)", "", CODE.sub("", table), flags=re.MULTILINE)
    values = {value for name in names for value in numbers(NAMED[name])}

    def known(cell: str) -> bool:
        whole, _, decimals = cell.replace(",", "").partition(".")
        rounded = len(decimals) or len(whole.rstrip("0")) - len(whole)
        number = float(cell.replace(",", ""))
        return number in values or number in {round(value, rounded) for value in values}

    return [cell for cell in CELL.findall(body) if not known(cell)]


@functools.cache
def numbers(entry: Entry) -> frozenset[float]:
    """All numbers of a results file, without sign, in all units in which a page may print them."""
    path, found = RESULTS / entry.file, set()
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                for name, cell in row.items():
                    for word in re.findall(r"\d+(?:\.\d+)?(?:e[+-]\d+)?", cell or ""):
                        found.add(float(word) / (8 if name.endswith("_bits") else 1))
                # Bits a byte of the corpus.
                found |= {
                    8 * float(row[n]) / float(row["bytes"])
                    for n in row
                    if n.endswith("_bytes") and row[n] and float(row.get("bytes", 0))
                }
    else:
        found = {float(word.replace(",", "")) for word in re.findall(r"\d[\d,]*(?:\.\d+)?", path.read_text())}
    found |= {value for value, _ in entry.figures(path).values()}
    return frozenset(value / scale for value in found for scale in entry.scales)


def unmarked(page: str, text: str) -> Iterator[str]:
    """Find the numbers with a unit, and those with thousands or decimals, that have no mark and are no facts."""
    if page in GENERATED:
        return
    for number in MEASUREMENT.findall(CODE.sub("", BLOCK.sub("", FIGURE.sub("", text)))):
        if number not in FACTS:
            yield f"{page}: {number} looks measured and has no mark"


def expectations(rows: dict[str, Row]) -> Iterator[str]:
    """Find the figures in the headers of configs/*.yaml that no row of published.csv has."""
    sizes = [int(size) for name in rows for size in re.findall(r"^ladder-(\d+)$", name)]
    values = [float(row.value) for row in rows.values() if row.unit != "file"]
    known = {f"{value:,.0f}" for value in values + sizes}
    for path in sorted((ROOT / "configs").glob("*.yaml")):
        header = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
        for number in re.findall(THOUSANDS, header):
            if number not in known:
                yield f"{path.relative_to(ROOT)}: {number} is no row of {PUBLISHED.name}"


def check() -> list[str]:
    """List everything that is wrong in README, docs, the headers of configs and published.csv."""
    rows = published()
    found = [
        f"{PUBLISHED.name}: {row.figure} belongs to no entry"
        for row in rows.values()
        if row.figure.split(".")[0] not in NAMED
    ]
    for row in rows.values():
        if row.unit == "file" and not found:
            found += differing(NAMED[row.figure], rows)
    for path in all_pages():
        found += problems(str(path.relative_to(ROOT)), path.read_text(), rows)
    return [*found, *expectations(rows)]


def differing(entry: Entry, rows: dict[str, Row]) -> Iterator[str]:
    """Where published.csv has not what the results file of an entry has."""
    path = RESULTS / entry.file
    if not path.exists():
        yield f"{PUBLISHED.name}: there is no {path.relative_to(ROOT)}"
        return
    for name, (value, _) in entry.figures(path).items():
        row = rows.get(f"{entry.name}.{name}")
        if not row or row.value != number_text(value):
            yield f"{PUBLISHED.name}: {entry.name}.{name} is {number_text(value)} in {entry.file}"


def number_text(value: float) -> str:
    return f"{value:.6f}".rstrip("0").rstrip(".")
