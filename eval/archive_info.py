"""What an archive says of itself, for a terminal: header, configuration, and each reported term beside its bytes."""

import json
from collections.abc import Iterator
from typing import Any

from data.archive import Archive
from data.errors import UsageError
from eval.code_size import unpack
from eval.description_length import side_bits

LINE_COLUMNS = 100
ALLOWED_SHARE, ALLOWED_BYTES = 0.0005, 1024


def info(archive: Archive) -> str:
    """Tables for a terminal of 100 columns. Raises UsageError if the program, which the archive carries, is damaged."""
    lines = [f"{name:<20}{_printable(text)}" for name, text in _header_rows(archive)]
    if archive.program:
        try:
            settings = sorted(_settings(unpack(archive.program)[0], ""))
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{archive.path}: program: {error}; fetch the archive again") from error
        lines += ["", *_columns([_printable(f"{name} {value}") for name, value in settings])]
    return "\n".join([*lines, "", *_reconciliation(archive)]) + "\n"


def _header_rows(archive: Archive) -> Iterator[tuple[str, str]]:
    header, corpus = archive.header, archive.header["corpus"]
    yield "archive", str(archive.path)
    yield "method", header["method"]
    yield "corpus", corpus["name"]
    yield "bytes", f"{corpus['bytes']:,}"
    yield "documents", f"{corpus['documents']:,}"
    if archive.names:
        yield "first name", archive.names[0]
        yield "last name", archive.names[-1]
    yield "SHA-256", archive.sha256
    if header["method"] == "stored":
        yield "chunks", f"{archive.blocks:,}"
        return
    yield "tokens", f"{corpus['tokens']:,}"
    yield "tokenizer", header["tokenizer"]
    yield "lanes x segment", f"{header['lanes']:,} x {header['segment_tokens']:,} tokens"
    yield "blocks", f"{archive.blocks:,} of {header['block_steps']:,} steps"
    yield "ranks", f"{header['world_size']:,}"
    yield "threads", f"{header['threads']:,}"
    yield "pins", " ".join(f"{name}={value}" for name, value in sorted(header["pins"].items()))
    yield "machine", ", ".join(f"{name} {value}" for name, value in sorted(header["machine"].items()))
    if header["method"] == "fixed":
        yield "model", header["model"]
    else:
        yield "code", header["code"]


def _settings(value: Any, prefix: str) -> Iterator[tuple[str, str]]:
    """Dotted name and value, as JSON, of every setting in a configuration."""
    if not isinstance(value, dict):
        yield prefix, json.dumps(value, ensure_ascii=False)
        return
    for name, part in value.items():
        yield from _settings(part, f"{prefix}.{name}" if prefix else name)


def _columns(items: list[str]) -> list[str]:
    """The items in columns, to be read downwards."""
    width = min(LINE_COLUMNS, max(map(len, items), default=0) + 2)
    rows = -(-len(items) // (LINE_COLUMNS // width))
    return ["".join(f"{item:<{width}}" for item in items[row::rows]).rstrip() for row in range(rows)]


def _reconciliation(archive: Archive) -> list[str]:
    """Each term of the description length beside the bytes of the file that stand for it."""
    header, parts = archive.header, archive.part_bytes
    rest_bytes, names_bytes = parts["header"] + parts["framing"] + parts["end"], parts["names"]
    if header["method"] == "stored":
        terms = [
            ("corpus, as it is", archive.data_bits / 8, parts["payload"]),
            *([("names", float(names_bytes), names_bytes)] if names_bytes else []),
            ("header and framing", 0.0, rest_bytes),
        ]
    else:
        side_bytes = side_bits(header["corpus"]["tokens"], header["world_size"], names_bytes=names_bytes) / 8
        terms = [
            ("data", archive.data_bits / 8, parts["payload"]),
            ("code", float(parts["program"]), parts["program"]),
            ("tokenizer", float(parts["tokenizer"]), parts["tokenizer"]),
            ("side", side_bytes, rest_bytes + names_bytes),
        ]
    reported_bytes = sum(reported for _, reported, _ in terms)
    archive_bytes = sum(parts.values())
    rows = [*terms, ("total", reported_bytes, archive_bytes)]
    over_bytes = archive_bytes - reported_bytes
    return [
        f"{'term':<20}{'reported bytes':>17}{'in the archive':>17}{'difference':>17}",
        *(f"{name:<20}{told:>17,.1f}{found:>17,}{found - told:>+17,.1f}" for name, told, found in rows),
        "",
        f"the archive is {archive_bytes:,} bytes, {abs(over_bytes):,.0f} {'over' if over_bytes >= 0 else 'under'} "
        f"the reported total; allowed {ALLOWED_SHARE:.2%} + {ALLOWED_BYTES:,}".replace("%", " %"),
    ]


def _printable(text: str) -> str:
    """The text, with escapes if it holds anything that would not print as itself, such as a terminal's commands."""
    return text if text.isprintable() else text.encode("unicode_escape").decode()
