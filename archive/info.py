"""A table of what an archive holds, for a terminal: header, configuration, and the bytes of each reported term."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from archive.format import Archive
from archive.reference_tokenizer import needed_tokenizer
from data.errors import UsageError
from eval.code_size import unpack
from eval.description_length import side_bits
from eval.provenance import schedule_words

LINE_COLUMNS = 100
# Of a frame: kind, content length, CRC-32; in a stored archive also whether its document ends.
FRAME_BYTES = 10
# Header, magic, end, and the frames of one run.
FIXED_BYTES = 1024
# What the coder loses in a block of one rank: the 48 bits that it begins with, which hold a check, and the rest of a
# byte.
BLOCK_LOSS_BYTES = 7
# Relative difference between the sums of nats of the parallel and the stepwise form of a model.
FORMS_DIFFER = 2e-5


def info(archive: Archive) -> str:
    """Tables for a terminal of 100 columns. Raises UsageError if the program, which the archive carries, is damaged."""
    lines = [f"{name:<20}{_printable(text)}" for name, text in _header_rows(archive)]
    if archive.program:
        try:
            settings = sorted(_settings(unpack(archive.program)[0], ""))
        except (UsageError, RecursionError) as error:
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
    needed = needed_tokenizer(archive)
    file = f", {needed[2]!r} with SHA-256 {needed[0]}, which is not in the archive" if needed else ""
    yield "tokenizer", header["tokenizer"] + file
    yield "lanes x segment", f"{header['lanes']:,} x {schedule_words(header['segment_tokens'], ' tokens')}"
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


@dataclass(frozen=True)
class Term:
    """A term of the description length, the bytes of the archive that stand for it, and how far these may be off."""

    name: str
    reported_bytes: float
    archive_bytes: int
    allowed_bytes: float = 0.0

    @property
    def over_bytes(self) -> float:
        return self.archive_bytes - self.reported_bytes

    @property
    def holds(self) -> bool:
        return abs(self.over_bytes) <= self.allowed_bytes


def reconcile(archive: Archive) -> list[Term]:
    """Each term of the description length beside the bytes of the file that stand for it; together, the whole file.

    Code, tokenizer and names of documents are exact. The data may be off by what the parallel and the stepwise form
    differ in, and by what the coder loses at the end of a block. Header, checks and the frames of one run are within a
    bound that does not depend on the corpus; each block has a frame of its own, with the length of every rank's
    payload.
    """
    header, parts = archive.header, archive.part_bytes
    rest_bytes, names_bytes = parts["header"] + parts["framing"] + parts["end"], parts["names"]
    if header["method"] == "stored":
        return [
            Term("corpus, as it is", archive.data_bits / 8, parts["payload"]),
            *([Term("names", float(names_bytes), names_bytes)] if names_bytes else []),
            Term("header and framing", 0.0, rest_bytes, FIXED_BYTES + FRAME_BYTES * archive.blocks),
        ]
    ranks, data_bytes = header["world_size"], archive.data_bits / 8
    block_bytes = archive.blocks * (FRAME_BYTES - 1 + 4 * ranks)
    coder_bytes = BLOCK_LOSS_BYTES * archive.blocks * ranks
    side_bytes = side_bits(header["corpus"]["tokens"], ranks, names_bytes=names_bytes) / 8
    return [
        Term("data", data_bytes, parts["payload"], FORMS_DIFFER * data_bytes + coder_bytes),
        Term("code", float(parts["program"]), parts["program"]),
        Term("tokenizer", float(parts["tokenizer"]), parts["tokenizer"]),
        Term("side", side_bytes, rest_bytes - block_bytes + names_bytes, FIXED_BYTES),
        Term("frames of blocks", 0.0, block_bytes, block_bytes),
    ]


def _reconciliation(archive: Archive) -> list[str]:
    terms = reconcile(archive)
    total = Term("total", sum(term.reported_bytes for term in terms), sum(term.archive_bytes for term in terms))
    heading = f"{'term':<20}{'reported bytes':>17}{'in the archive':>17}{'difference':>17}{'allowed':>17}"
    beyond = [term.name for term in terms if not term.holds]
    verdict = f"beyond what is allowed: {', '.join(beyond)}" if beyond else "every term within what is allowed"
    return [
        heading,
        *(f"{_row(term)}{term.allowed_bytes:>17,.1f}" for term in terms),
        _row(total),
        "",
        f"the archive is {total.archive_bytes:,} bytes, {abs(total.over_bytes):,.0f} "
        f"{'over' if total.over_bytes >= 0 else 'under'} the reported total; {verdict}",
    ]


def _row(term: Term) -> str:
    return f"{term.name:<20}{term.reported_bytes:>17,.1f}{term.archive_bytes:>17,}{term.over_bytes:>+17,.1f}"


def _printable(text: str) -> str:
    """The text, with escapes if it holds anything that would not print as itself, such as a terminal's commands."""
    return text if text.isprintable() else text.encode("unicode_escape").decode()
