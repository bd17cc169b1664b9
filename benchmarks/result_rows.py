"""Rows of benchmarks/results: appended one by one, with the commit that gave them."""

import csv
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def commit() -> str:
    """The commit that is checked out, with a + if files differ from it, results and the pages that show them aside."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()

    pages = (":!benchmarks/results", ":!docs", ":!README.md")
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", *pages)
    return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")


@contextmanager
def appended(path: Path, columns: Sequence[str]) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """What writes a row at the end of a CSV file, at once on disk. A new file gets a header."""
    path.parent.mkdir(exist_ok=True)
    fresh = not path.exists()
    with path.open("a", newline="") as file:
        table = csv.DictWriter(file, columns, lineterminator="\n")
        if fresh:
            table.writeheader()

        def write(row: Mapping[str, Any]) -> None:
            table.writerow(row)
            file.flush()

        yield write
