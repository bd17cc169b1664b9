"""One command for every figure of README and docs: measures them, and holds the pages against what was measured.

    python benchmarks/published.py --tier minutes [--only NAME ...] [--enwik8 FILE] [--deuterocanon FILE]
    python benchmarks/published.py --list                what is fresh, older than the code that it measures, never run
    python benchmarks/published.py --check               where README and docs differ from benchmarks/results
    python benchmarks/published.py --write               write the figures and lines of results into README and docs
    python benchmarks/published.py --compare-default     the newest run of the default against the README's
    python benchmarks/published.py --take gpu FILE       what another machine measured, as the rows of the file say

benchmarks/figures.py has the commands, in three tiers: minutes, hours, gpu. Each leaves a results file; its commit,
date, machine and command, and the figures that pages quote, become rows of benchmarks/results/published.csv. Measure
on an idle machine and on a commit without changes, then --write, and commit both. Other tables are a page's own text:
after a new measurement --check says which of their figures to change. benchmarks/pages.py says how a page marks its
figures.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)
from launch import entry

entry.begin(__name__)

import csv
import datetime
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sysconfig
import tempfile
from dataclasses import asdict, fields

import torch

from benchmarks.figures import ENTRIES, NAMED
from benchmarks.ladder import first_bytes
from benchmarks.measurement import RESULTS, Entry, from_report
from benchmarks.pages import PUBLISHED, Row, all_pages, changed_since, check, number_text, published, written
from benchmarks.result_rows import commit
from data.documents import open_source
from data.errors import RunFailed, UsageError
from eval.code_size import reference_machine
from train.command_line import CONFIG_FILE, load_config

# How far totals may lie apart on machines of two classes: other roundings.
OTHER_MACHINE = 0.002
# Sections of the configuration that are in the code term.
CHARGED = ("model", "train", "engine")


def machine(threads: int) -> str:
    """The class of this machine: what bits depend on."""
    known = reference_machine()
    processor = f"{processor_name()} ({known['processor'].removeprefix('CPU, ')})"
    if torch.cuda.is_available():
        processor = f"{known['processor']}, {processor_name()}"
    return f"{processor}, {os.cpu_count()} cores, {threads} thread{'s' * (threads != 1)}, torch {known['torch']}"


def processor_name() -> str:
    """Model name, family and model number of the CPU, where the system tells."""
    try:
        told = dict(re.findall(r"^([\w ]+?)\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE))
        return f"{told['model name']} {told['cpu family']}/{told['model']}"
    except (OSError, KeyError):
        return platform.processor() or platform.machine()


def run_threads(run: Path) -> int:
    return load_config(run / CONFIG_FILE).engine.threads


def measure(item: Entry, given: dict[str, Path]) -> list[Row]:
    """Run the commands of an entry, keep its results file, and return its rows."""
    result, at = RESULTS / item.file, commit()
    with tempfile.TemporaryDirectory(prefix="onepass-published-") as folder:
        work = Path(folder)
        told = []
        if item.anew:
            result.unlink(missing_ok=True)
        for command in item.commands:
            argv = [filled(word, work, given) for word in shlex.split(command)]
            # Launchers and Python of this environment, whatever PATH says.
            argv = (
                [sys.executable, *argv[1:]]
                if argv[0] == "python"
                else [str(Path(sys.executable).with_name(argv[0])), *argv[1:]]
            )
            print(f"{item.name}: {command}", file=sys.stderr, flush=True)
            kept = subprocess.PIPE if item.keeps == "stdout" else sys.stderr
            ended = subprocess.run(argv, cwd=ROOT, check=False, stdout=kept)
            if ended.returncode:
                raise RunFailed(
                    f"{item.name}: {command} ended with status {ended.returncode}. Its rows stay as they were"
                )
            told.append(f"$ {command}\n{(ended.stdout or b'').decode(errors='replace')}")
        threads = torch.get_num_threads()
        if (work / "run").exists():
            threads = run_threads(work / "run")
        elif named := re.search(r"--engine.threads[= ](\d+)", item.commands[-1]):
            threads = int(named[1])
        if item.keeps in ("report.json", "curve.csv"):
            shutil.copy(work / "run" / item.keeps, result)
        elif item.keeps == "stdout":
            # Without what DeepSpeed's launcher logs there.
            result.write_text(re.sub(r"^\[\d{4}-\d\d-\d\d .*\n", "", "\n".join(told), flags=re.MULTILINE))
        for page in ("light", "dark") if item.pictures else ():
            shutil.copy(work / "run" / f"curve-{page}.png", ROOT / f"{item.pictures}-{page}.png")
    return rows_of(item, at, datetime.date.today().isoformat(), machine(threads))


def rows_of(item: Entry, at: str, date: str, where: str) -> list[Row]:
    """The rows of an entry whose results file is there."""
    stamp = (at, date, where, " && ".join(item.commands))
    rows = [Row(item.name, f"benchmarks/results/{item.file}", "file", *stamp)]
    for name, (value, unit) in item.figures(RESULTS / item.file).items():
        rows.append(Row(f"{item.name}.{name}", number_text(value), unit, *stamp))
    return rows


def take(item: Entry, path: Path) -> list[Row]:
    """The rows of an entry whose results file another machine made: a CSV file with commit, date, device and PyTorch's
    version in its rows."""
    with path.open(newline="") as file:
        found = list(csv.DictReader(file))
    shutil.copy(path, RESULTS / item.file)
    commits, machines = (" ".join(dict.fromkeys(row[name] for row in found)) for name in ("commit", "device"))
    return rows_of(item, commits, max(row["date"] for row in found), f"{machines}, torch {found[0]['torch']}")


def filled(word: str, work: Path, given: dict[str, Path]) -> str:
    """A word of a command with its placeholders replaced; corpora are made as files when they are asked for."""

    def value(found: re.Match[str]) -> str:
        name, size = found[1], found[2]
        if name == "work":
            return str(work)
        if name == "run":
            return str(work / "run")
        path = work / f"{name}{size or ''}"
        if name == "kjv" and not path.exists():
            path.write_bytes(b"".join(chunk for chunk, _ in open_source("kjv").chunks()))
        if name == "stdlib" and not path.exists():
            path.write_bytes(b"".join(file.read_bytes() for file in library()))
        if name in given and not size:
            return str(given[name])
        if name in given and not path.exists():
            path.write_bytes(first_bytes(given[name], int(size)))
        return str(path)

    return re.sub(r"\{(\w+)(?::(\d+))?\}", value, word)


def library() -> list[Path]:
    """The modules of Python's standard library, in order of name."""
    return sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))


def lacking(item: Entry, given: dict[str, Path]) -> list[str]:
    """The files that an entry's commands need and that were not given."""
    names = re.findall(r"\{(enwik8|deuterocanon)", " ".join(item.commands))
    return sorted(set(names) - set(given))


def keep(rows: list[Row]) -> None:
    """Put an entry's rows in the place of its earlier ones, in the order of the registry."""
    name = rows[0].figure
    kept = [row for row in published().values() if row.figure.split(".")[0] != name]
    order = [item.name for item in ENTRIES]
    ordered = sorted(kept + rows, key=lambda row: order.index(row.figure.split(".")[0]))
    with PUBLISHED.open("w", newline="") as file:
        table = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
        table.writeheader()
        table.writerows(map(asdict, ordered))


def state(item: Entry, rows: dict[str, Row]) -> str:
    """Whether an entry's figures are those of today's code."""
    if item.name not in rows:
        return "never run"
    changed = changed_since(rows[item.name].commit, item.measures)
    return {None: "history unknown", False: "fresh", True: "the code has changed"}[changed]


def compare_default(run: Path) -> list[str]:
    """What is wrong with a run of the default, beside the one that the README shows.

    On a machine of the same class the data bits are the same, elsewhere the total within 0.2 %; the code term is the
    same wherever the configuration is, which has the number of threads. If the code has changed since the README's, as
    it then says, only the 0.2 % are looked at.
    """
    row, item = published()["kjv-default"], NAMED["kjv-default"]
    files = [RESULTS / item.file, run / "report.json"]
    theirs, ours = map(from_report, files)
    their_report, our_report = (json.loads(path.read_text()) for path in files)
    for name in ("total", "data", "code"):
        entry.publish(f"{name:<10}{ours[f'{name}_bytes'][0]:>14,.0f}   README {theirs[f'{name}_bytes'][0]:>12,.0f}")
    if our_report["corpus"] != their_report["corpus"]:
        raise UsageError(f"{run} is no run over the default's corpus. Name one with --compare-default RUN")
    exact = []
    if not changed_since(row.commit, item.measures):
        exact = ["tokenizer"]
        if all(our_report.get("config", {}).get(part) == their_report.get("config", {}).get(part) for part in CHARGED):
            exact += ["code"]
        here = machine(run_threads(run))
        if here == row.machine:
            exact += ["data", "total"]
        entry.publish(f"this machine: {here}\nthe README's: {row.machine}")
    found = []
    for name in exact:
        if ours[f"{name}_bytes"] != theirs[f"{name}_bytes"]:
            found.append(
                f"{name}: {ours[f'{name}_bytes'][0]} bytes where the README's run has {theirs[f'{name}_bytes'][0]}"
            )
    apart = ours["total_bytes"][0] / theirs["total_bytes"][0] - 1
    if abs(apart) > OTHER_MACHINE:
        found.append(f"total: {apart:+.2%} against the README's, more than {OTHER_MACHINE:.1%}")
    return found


def newest_default() -> Path:
    runs = sorted((ROOT / "runs").glob("kjv-*/report.json"), key=lambda path: path.stat().st_mtime)
    if not runs:
        raise UsageError("runs/ has no finished run over kjv. Name one: --compare-default RUN")
    return runs[-1].parent


def main() -> int:
    parser = entry.Parser(description=__doc__)
    parser.add_argument("--tier", choices=["minutes", "hours", "gpu"], help="measure the entries of a tier")
    parser.add_argument("--only", nargs="+", choices=sorted(NAMED), metavar="NAME", help="measure these entries")
    parser.add_argument("--enwik8", type=Path, help="enwik8, plain or .xz, for the entries that need it")
    parser.add_argument("--deuterocanon", type=Path, help="what benchmarks/deuterocanon.py makes")
    parser.add_argument("--take", nargs=2, metavar=("NAME", "FILE"), help="take the results that another machine made")
    parser.add_argument("--list", action="store_true", help="show the entries and how old they are")
    parser.add_argument("--check", action="store_true", help="compare README and docs with the results")
    parser.add_argument("--write", action="store_true", help="write figures and lines into README and docs")
    parser.add_argument("--compare-default", nargs="?", const="", metavar="RUN", help="compare a run with the README's")
    options = parser.parse_args()
    if options.compare_default is not None:
        found = compare_default(Path(options.compare_default) if options.compare_default else newest_default())
        entry.publish("\n".join(found) or "as in the README")
        return bool(found)
    given = {name: getattr(options, name).resolve() for name in ("enwik8", "deuterocanon") if getattr(options, name)}
    if options.tier or options.only:
        for item in ENTRIES:
            if options.tier in (None, item.tier) and (not options.only or item.name in options.only):
                if absent := lacking(item, given):
                    print(f"{item.name}: left out, as it needs --{' and --'.join(absent)}", file=sys.stderr)
                else:
                    keep(measure(item, given))
    if options.take:
        keep(take(NAMED[options.take[0]], Path(options.take[1])))
    if options.list:
        rows = published()
        for item in ENTRIES:
            row = rows.get(item.name)
            entry.publish(f"{item.name:<20}{item.tier:<9}{state(item, rows):<22}{row.commit if row else ''}")
    if options.write:
        for page in all_pages():
            text = page.read_text()
            if (new := written(text, published())) != text:
                page.write_text(new)
                entry.publish(f"{page.relative_to(ROOT)} written")
    if options.check:
        found = check()
        entry.publish("\n".join(found) or "README and docs say what the results say")
        return bool(found)
    return 0


if __name__ == "__main__":
    sys.exit(entry.exit_status(main))
