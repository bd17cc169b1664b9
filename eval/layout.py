"""Rows as tables, for terminals, as CSV and in Markdown, and durations: text that needs nothing else of ours."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any


def duration(elapsed_secs: float) -> str:
    """Seconds as a person says them: "2 min 52 s"."""
    minutes, seconds = divmod(round(elapsed_secs), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{elapsed_secs:.1f} s"


def lay_out(rows: Iterable[Sequence[str]], *columns: str) -> list[str]:
    """Rows as lines. Each of the `columns` has its side and its characters: "<20" is 20, to the left."""
    return ["".join(f"{cell:{column}}" for cell, column in zip(row, columns, strict=False)).rstrip() for row in rows]


def csv_text(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as CSV; the columns are all the names that any of them has."""
    stream = io.StringIO()
    table = csv.DictWriter(stream, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return stream.getvalue()


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], rule: str = "---:") -> str:
    """A GitHub table. `rule` aligns every column except the first."""
    lines = [header, ["---", *[rule] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(map(escape_cell, line)) + " |" for line in lines)


def escape_cell(text: str) -> str:
    """Text that neither ends a table cell nor opens a tag."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
