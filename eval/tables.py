"""A report's numbers as rows, and its tables for terminals and in Markdown."""

import math
import sys
import textwrap
from dataclasses import dataclass

from eval.layout import duration, escape_cell, lay_out, markdown_table
from eval.provenance import commit_text, settings_rows
from eval.schema import Report
from model.registry import display_name

BAR_COLUMNS = 34
OURS = "onepass"
# Of the reference codes.
MEANINGS = {
    "oracle": "knows the corpus",
    "order-2": "counts what followed two bytes",
    "order-0": "counts bytes",
    "untrained": "log2 V for every token",
    "uniform": "8 bits for every byte",
}


@dataclass(frozen=True)
class Term:
    """One term of the description length; `share` is its part of the total."""

    name: str
    bytes: float
    share: float
    bits_per_byte: float

    @property
    def cells(self) -> tuple[str, ...]:
        return self.name, f"{self.bytes:,.0f}", f"{self.share:.1%}", f"{self.bits_per_byte:.4f}"


@dataclass(frozen=True)
class Size:
    """The corpus as one code leaves it. `verdict` says how ours compares: empty for ours, and beside 0 bytes."""

    name: str
    bytes: float
    ratio: float
    bits_per_byte: float
    verdict: str

    @property
    def ours(self) -> bool:
        return self.name == OURS

    @property
    def meaning(self) -> str:
        return MEANINGS[self.name]


def terms(report: Report) -> list[Term]:
    """The four terms in the order of the formula; a warm start, which is side information, has a row of its own."""
    length = report.description_length
    bits = {"data": length.data_bits, "code": length.code_bits, "tokenizer": length.tokenizer_bits}
    bits["side"] = length.side_bits - length.warm_start_bits
    if length.warm_start_bits:
        bits["warm start"] = length.warm_start_bits
    return [Term(name, b / 8, b / length.total_bits, b / length.corpus_bytes) for name, b in bits.items()]


def uncharged(report: Report) -> list[Term]:
    """What the tokenizer would cost where it is declared part of the reference machine, and the total with it."""
    length = report.description_length
    if report.tokenizer is None or report.tokenizer.uncharged_bytes is None:
        return []
    bits = {"tokenizer, not charged": 8.0 * report.tokenizer.uncharged_bytes}
    bits["total with it"] = length.total_bits + bits["tokenizer, not charged"]
    return [Term(name, b / 8, b / length.total_bits, b / length.corpus_bytes) for name, b in bits.items()]


def sizes(report: Report) -> list[Size]:
    """Ours and the baselines, smallest first."""
    rows = [_size(report, name, size_bytes) for name, size_bytes in report.baselines.items()]
    ours = _size(report, OURS, report.description_length.total_bits / 8)
    return sorted([ours, *rows], key=lambda row: row.bytes)


def known_codes(report: Report) -> list[Size]:
    """The codes whose length is known by counting, shortest extreme first; empty for reports that lack them."""
    return [_size(report, name, size_bytes) for name, size_bytes in report.references.items()]


def _size(report: Report, name: str, size_bytes: float) -> Size:
    corpus_bytes, ratio, words = report.corpus.bytes, math.inf, ""
    if size_bytes:
        ratio = corpus_bytes / size_bytes
        words = verdict(report.description_length.total_bits / 8, size_bytes) if name != OURS else ""
    return Size(name, size_bytes, ratio, 8 * size_bytes / corpus_bytes, words)


def verdict(our_bytes: float, their_bytes: float) -> str:
    """How ours compares: "1.2 % smaller"."""
    percent = 100 * (our_bytes / their_bytes - 1)
    if abs(percent) < 0.05:
        return "the same size"
    return f"{abs(percent):,.1f} % {'smaller' if percent < 0 else 'larger'}"


def extrapolation_note(report: Report) -> str:
    """Says which baselines and counts were made on a part of the corpus; empty if all of it was measured."""
    parts = {"Baselines": report.baselines_measured_bytes, "Counted reference codes": report.references_measured_bytes}
    return " ".join(f"{name} are extrapolated from the first {n:,} bytes." for name, n in parts.items() if n)


def operations(report: Report) -> str:
    """The arithmetic of the epoch."""
    cost = report.cost
    if cost.elementwise_flops is None:
        return f"{cost.model_flops:.2e}"
    return f"{cost.model_flops:.2e}, and {cost.elementwise_flops:.2e} elementwise operations"


def utilisation(report: Report) -> str:
    """MFU by both conventions, and the rate that they are parts of: train/cost.py."""
    cost = report.cost
    parts = [f"MFU {cost.mfu:.1%}"] if cost.mfu is not None else []
    if cost.uncounted is not None:
        parts.append(f"MFU unknown: no formula for {', '.join(cost.uncounted)}")
    if cost.mfu_6n is not None:
        parts.append(f"{cost.mfu_6n:.1%} by 6 N a token")
    if cost.peak_flops_per_sec is not None:
        shape = " x ".join(f"{side:,}" for side in cost.peak_shape or [])
        rate = f"{cost.peak_flops_per_sec / 1e12:,.3g} TFLOP/s"
        parts.append(f"100% is {rate}, {cost.peak_dtype} products of {shape} on {cost.device}")
    return "; ".join(parts)


def terminal_table(report: Report) -> str:
    """The end of a run, for a terminal of 100 columns: the terms, their total, and the baselines beside it."""
    stroke = "━" if (sys.stdout.encoding or "").lower().startswith("utf") else "="
    corpus, model, length = report.corpus, report.model, report.description_length
    total = Term("total", length.total_bits / 8, 1.0, length.bits_per_byte)
    rows, codes = sizes(report), known_codes(report)
    settings = settings_rows(report)
    column = max((len(name) for name, _ in settings), default=0) + 2
    lines = [
        "",
        f"{corpus.name}: {corpus.bytes:,} bytes in {duration(report.cost.elapsed_secs)}, by "
        f"{display_name(model.block)}, depth {model.depth}, width {model.width}, {model.parameters:,} parameters",
        *([""] if settings else []),
    ]
    for name, words in settings:
        lines += textwrap.wrap(f"{name:<{column}}{words}", 100, subsequent_indent=" " * column)
    lines += ["", *lay_out([("description length", "bytes", "share", "bits/byte")], "<22", ">15", ">10", ">12")]
    lines += lay_out([term.cells for term in [*terms(report), total, *uncharged(report)]], "<22", ">15", ">9", ">12")
    compared = []
    for row in rows:
        bar = stroke * max(1, round(BAR_COLUMNS * row.bytes / rows[-1].bytes))
        compared.append((row.name, f"{row.bytes:,.0f}", f"{row.ratio:.2f}", row.verdict, f" {bar}"))
    lines += ["", *lay_out([("compared", "bytes", "ratio", "onepass is"), *compared], "<20", ">17", ">10", ">16", "")]
    if codes:
        known = [(*_code_cells(code), f" {code.meaning}") for code in codes]
        head = ("reference codes", "bytes", "bits/byte", "onepass is")
        lines += ["", *lay_out([head, *known], "<20", ">17", ">10", ">16", "")]
    return "\n".join([*lines, extrapolation_note(report)]).rstrip() + "\n"


def _code_cells(code: Size) -> tuple[str, ...]:
    return code.name, f"{code.bytes:,.0f}", f"{code.bits_per_byte:.4f}", code.verdict


def markdown(report: Report, figure: str) -> str:
    """report.md. `figure` is the Markdown that shows the live curve."""
    corpus, model, length, cost, code = (
        report.corpus, report.model, report.description_length, report.cost, report.code
    )  # fmt: skip
    total_bytes = f"{length.total_bits / 8:,.0f}"
    facts = [
        ("model", f"{display_name(model.block)}, depth {model.depth}, width {model.width}"),
        ("parameters", f"{model.parameters:,} ({model.parameters_non_embedding:,} beside the embedding)"),
        ("corpus", f"{corpus.documents:,} documents, {corpus.tokens:,} tokens"),
        ("time", f"{duration(cost.elapsed_secs)}, {cost.tokens_per_sec:,.0f} tokens/s"),
        ("model FLOPs", operations(report)),
        ("utilisation", utilisation(report)),
        ("ranks and steps", f"{cost.world_size:,} and {cost.optimizer_steps:,}"),
        ("peak memory", f"{cost.peak_memory_bytes / 1e6:,.0f} MB"),
        ("code", f"{len(code.modules)} modules, {code.canonical_bytes:,} bytes, {code.xz_bytes:,} in xz"),
        *settings_rows(report),
        ("software", ", ".join(f"{name} {value}" for name, value in report.reference_machine.items())),
    ]
    if "commit" in report.model_fields_set:
        facts.append(("commit", commit_text(report.commit) or "not a git checkout"))
    if report.command is not None:
        facts.append(("command", f"`{report.command}`"))
    total = ("**total**", f"**{total_bytes}**", "100.0%", f"**{length.bits_per_byte:.4f}**")
    compared = [
        (f"**{s.name}**" if s.ours else s.name, f"{s.bytes:,.0f}", f"{s.ratio:.2f}", s.verdict) for s in sizes(report)
    ]
    known = [(*_code_cells(code), code.meaning) for code in known_codes(report)]
    blocks = [
        f"# {escape_cell(corpus.name)}: {total_bytes} bytes",
        f"{corpus.bytes:,} bytes described in **{total_bytes}**: {length.bits_per_byte:.4f} bits per byte, "
        f"{length.compression_ratio:.2f} times smaller, by one epoch of training.",
        figure,
        markdown_table(
            ("description length", "bytes", "share", "bits per byte"),
            [*(term.cells for term in terms(report)), total, *(term.cells for term in uncharged(report))],
        ),
        markdown_table(("compared", "bytes", "ratio", "onepass is"), compared),
        markdown_table(("reference codes", "bytes", "bits per byte", "onepass is", "which"), known) if known else "",
        extrapolation_note(report),
        markdown_table(("run", ""), [*facts, ("SHA-256 of the corpus", f"`{corpus.sha256}`")], "---"),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"
