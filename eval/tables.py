"""A report's numbers as rows, and the rows as text for terminals and for Markdown."""

import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from eval.provenance import commit_text, settings_rows
from eval.schema import Report

BAR_COLUMNS = 34
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


@dataclass(frozen=True)
class Size:
    """The corpus as one compressor leaves it. `verdict` says how ours compares, and is empty for ours."""

    name: str
    bytes: float
    ratio: float
    verdict: str
    ours: bool


@dataclass(frozen=True)
class Reference:
    """The corpus by a code of known length. `verdict` says how ours compares; nothing compares with 0 bytes."""

    name: str
    bytes: float
    bits_per_byte: float
    verdict: str
    meaning: str


def terms(report: Report) -> list[Term]:
    """The four terms in the order of the formula; a warm start, which is side information, has a row of its own."""
    length, corpus_bytes = report["description_length"], report["corpus"]["bytes"]
    bits = {name: length[f"{name}_bits"] for name in ("data", "code", "tokenizer", "side")}  # type: ignore[literal-required]
    if warm_start_bits := length.get("warm_start_bits"):
        bits |= {"side": bits["side"] - warm_start_bits, "warm start": warm_start_bits}
    return [Term(name, b / 8, b / length["total_bits"], b / corpus_bytes) for name, b in bits.items()]


def sizes(report: Report) -> list[Size]:
    """Ours and the baselines, smallest first."""
    corpus_bytes, total_bytes = report["corpus"]["bytes"], report["description_length"]["total_bits"] / 8
    rows = [Size("onepass", total_bytes, corpus_bytes / total_bytes, "", True)]
    for name, size_bytes in report["baselines"].items():
        assert isinstance(size_bytes, int)
        rows.append(Size(name, size_bytes, corpus_bytes / size_bytes, verdict(total_bytes, size_bytes), False))
    return sorted(rows, key=lambda row: row.bytes)


def known_codes(report: Report) -> list[Reference]:
    """The codes whose length is known by counting, shortest extreme first; none in reports that lack them."""
    corpus_bytes, total_bytes = report["corpus"]["bytes"], report["description_length"]["total_bits"] / 8
    rows = []
    for name, size_bytes in report.get("references", {}).items():
        assert isinstance(size_bytes, float)
        told = verdict(total_bytes, size_bytes) if size_bytes else ""
        rows.append(Reference(name, size_bytes, 8 * size_bytes / corpus_bytes, told, MEANINGS[name]))
    return rows


def verdict(our_bytes: float, their_bytes: float) -> str:
    """How ours compares: "1.2 % smaller"."""
    percent = 100 * (our_bytes / their_bytes - 1)
    if abs(percent) < 0.05:
        return "the same size"
    return f"{abs(percent):,.1f} % {'smaller' if percent < 0 else 'larger'}"


def extrapolation_note(report: Report) -> str:
    """What has to be said of baselines and counts that were made on a part of the corpus; empty for the others."""
    names = {"Baselines": "baselines_measured_bytes", "Counted reference codes": "references_measured_bytes"}
    return " ".join(
        f"{name} are extrapolated from the first {measured_bytes:,} bytes."
        for name, key in names.items()
        if isinstance(measured_bytes := report.get(key), int)
    )


def duration(elapsed_secs: float) -> str:
    """Seconds as a person says them: "2 min 52 s"."""
    minutes, seconds = divmod(round(elapsed_secs), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{elapsed_secs:.1f} s"


def operations(report: Report) -> str:
    """The arithmetic of the epoch."""
    cost = report["cost"]
    beside = f", and {cost['elementwise_flops']:.2e} elementwise operations" if "elementwise_flops" in cost else ""
    return f"{cost['model_flops']:.2e}{beside}"


def utilisation(report: Report) -> str:
    """MFU by both conventions, and the rate that they are parts of: train/cost.py."""
    cost = report["cost"]
    parts = [f"MFU {cost['mfu']:.1%}"] if "mfu" in cost else []
    if "uncounted" in cost:
        parts.append(f"MFU unknown: no formula for {', '.join(cost['uncounted'])}")
    if "mfu_6n" in cost:
        parts.append(f"{cost['mfu_6n']:.1%} by 6 N a token")
    if "peak_flops_per_sec" in cost:
        shape = " x ".join(f"{side:,}" for side in cost["peak_shape"])
        rate = f"{cost['peak_flops_per_sec'] / 1e12:,.3g} TFLOP/s"
        parts.append(f"100% is {rate}, {cost['peak_dtype']} products of {shape} on {cost['device']}")
    return "; ".join(parts)


def summary(report: Report) -> str:
    """Corpus, model and time, on one line."""
    corpus, model = report["corpus"], report["model"]
    return (
        f"{corpus['name']}: {corpus['bytes']:,} bytes in {duration(report['cost']['elapsed_secs'])}, by "
        f"{model['block']}, depth {model['depth']}, width {model['width']}, {model['parameters']:,} parameters"
    )


def terminal_table(report: Report) -> str:
    """The end of a run, for a terminal of 100 columns: the terms, their total, and the baselines beside it."""
    stroke = "━" if (sys.stdout.encoding or "").lower().startswith("utf") else "="
    length = report["description_length"]
    lines = [
        "",
        summary(report),
        *_settings_lines(report),
        "",
        f"{'description length':<20}{'bytes':>17}{'share':>10}{'bits/byte':>12}",
    ]
    for term in terms(report):
        lines.append(f"{term.name:<20}{term.bytes:>17,.0f}{term.share:>9.1%} {term.bits_per_byte:>11.4f}")
    lines.append(f"{'total':<20}{length['total_bits'] / 8:>17,.0f}{1:>9.1%} {length['bits_per_byte']:>11.4f}")
    lines += ["", f"{'compared':<20}{'bytes':>17}{'ratio':>10}{'onepass is':>16}"]
    rows = sizes(report)
    for row in rows:
        bar = stroke * max(1, round(BAR_COLUMNS * row.bytes / rows[-1].bytes))
        lines.append(f"{row.name:<20}{row.bytes:>17,.0f}{row.ratio:>10.2f}{row.verdict:>16} {bar}")
    if rows_known := known_codes(report):
        lines += ["", f"{'reference codes':<20}{'bytes':>17}{'bits/byte':>10}{'onepass is':>16}"]
        for known in rows_known:
            size = f"{known.bytes:>17,.0f}{known.bits_per_byte:>10.4f}"
            lines.append(f"{known.name:<20}{size}{known.verdict:>16} {known.meaning}")
    return "\n".join([*lines, extrapolation_note(report)]).rstrip() + "\n"


def _settings_lines(report: Report) -> list[str]:
    """What was run, a row a line, wrapped."""
    rows = settings_rows(report)
    column = max((len(name) for name, _ in rows), default=0) + 2
    lines = []
    for name, words in rows:
        indent = " " * column
        lines += textwrap.wrap(f"{name:<{column}}{words}", 100, subsequent_indent=indent)
    return lines and ["", *lines]


def markdown(report: Report, figure: str) -> str:
    """report.md. `figure` is the Markdown that shows the live curve."""
    corpus, model, length = report["corpus"], report["model"], report["description_length"]
    cost, code = report["cost"], report["code"]
    total_bytes = length["total_bits"] / 8
    blocks = [
        f"# {_cell(corpus['name'])}: {total_bytes:,.0f} bytes",
        f"{corpus['bytes']:,} bytes described in **{total_bytes:,.0f}**: {length['bits_per_byte']:.4f} bits per byte, "
        f"{length['compression_ratio']:.2f} times smaller, by one epoch of training.",
        figure,
        _table(
            ("description length", "bytes", "share", "bits per byte"),
            [(t.name, f"{t.bytes:,.0f}", f"{t.share:.1%}", f"{t.bits_per_byte:.4f}") for t in terms(report)]
            + [("**total**", f"**{total_bytes:,.0f}**", "100.0%", f"**{length['bits_per_byte']:.4f}**")],
        ),
        _table(
            ("compared", "bytes", "ratio", "onepass is"),
            [
                (f"**{s.name}**" if s.ours else s.name, f"{s.bytes:,.0f}", f"{s.ratio:.2f}", s.verdict)
                for s in sizes(report)
            ],
        ),
        _table(
            ("reference codes", "bytes", "bits per byte", "onepass is", "which"),
            [(r.name, f"{r.bytes:,.0f}", f"{r.bits_per_byte:.4f}", r.verdict, r.meaning) for r in known],
        )
        if (known := known_codes(report))
        else "",
        extrapolation_note(report),
        _table(
            ("run", ""),
            [
                ("model", f"{model['block']}, depth {model['depth']}, width {model['width']}"),
                ("parameters", f"{model['parameters']:,} ({model['parameters_non_embedding']:,} beside the embedding)"),
                ("corpus", f"{corpus['documents']:,} documents, {corpus['tokens']:,} tokens"),
                ("time", f"{duration(cost['elapsed_secs'])}, {cost['tokens_per_sec']:,.0f} tokens/s"),
                ("model FLOPs", operations(report)),
                ("utilisation", utilisation(report)),
                ("ranks and steps", f"{cost['world_size']:,} and {cost['optimizer_steps']:,}"),
                ("peak memory", f"{cost['peak_memory_bytes'] / 1e6:,.0f} MB"),
                (
                    "code",
                    f"{len(code['modules'])} modules, {code['canonical_bytes']:,} bytes, {code['xz_bytes']:,} in xz",
                ),
                *settings_rows(report),
                ("software", ", ".join(f"{name} {value}" for name, value in report["reference_machine"].items())),
                *([("commit", commit_text(report["commit"]) or "not a git checkout")] if "commit" in report else []),
                *([("command", f"`{report['command']}`")] if "command" in report else []),
                ("SHA-256 of the corpus", f"`{corpus['sha256']}`"),
            ],
        ),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A GitHub table; every column but the first aligned right."""
    lines = [header, ("---",) + ("---:" if len(header) > 2 else "---",) * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(text: str) -> str:
    """Text that neither ends a table cell nor opens a tag."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
