"""What the runs over one corpus show, as text for a terminal, as Markdown for TensorBoard, as CSV and as JSON."""

import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from eval.layout import csv_text, duration, lay_out, markdown_table
from eval.schema import Corpus, Report
from eval.tables import Size, extrapolation_note, sizes
from studies.scaling.analysis import LineResult, Pair, Scaling, analyse, size_text
from studies.scaling.frontier import Frontier, matched_flops
from studies.scaling.laws import NOT_IDENTIFIED, Fit, Interval
from studies.scaling.lines import Line, lines_of
from studies.scaling.predicted import Predicted
from studies.scaling.rates import LineRates
from studies.scaling.runs import ComparedRun, Selection
from studies.scaling.verdicts import NOT_DISTINGUISHABLE, Standing, Verdict, standing_of

FORMAT = 1
FIELDS = [entry.name for entry in fields(ComparedRun)]
# Of a run's configuration, as columns.
SETTINGS = ("train.optimizer", "train.matrix_lr", "train.table_lr", "train.vector_lr")
# Of pairs of architectures in a terminal.
MOST_PAIRS = 10


@dataclass(frozen=True)
class Comparison:
    """The runs over one corpus, shortest first, and what they show. `scaling` is None without two widths on a line."""

    runs: list[ComparedRun]
    lines: list[Line]
    standing: Standing
    scaling: Scaling | None
    selection: Selection | None
    rates: Sequence[LineRates]

    @property
    def corpus(self) -> Corpus:
        return self.runs[0].report.corpus

    @property
    def several_tokenizers(self) -> bool:
        return len({run.symbols for run in self.runs}) > 1

    @property
    def baselines(self) -> list[Size]:
        return [row for row in sizes(self.measured) if not row.ours]

    @property
    def measured(self) -> Report:
        """The report of the best run whose baselines were measured; of the best run where none were."""
        return next((run.report for run in self.runs if run.report.baselines), self.runs[0].report)


def compare_runs(
    runs: list[ComparedRun], selection: Selection | None = None, rates: Sequence[LineRates] = ()
) -> Comparison:
    """What the runs, all of one corpus, show. Of those with learning rates that were tried, and are not among the best
    `rates` of their lines, only the totals are shown."""
    rejected = {name for one in rates for name in one.rejected}
    kept = [run for run in runs if run.name not in rejected]
    lines = lines_of(kept, {name for one in rates for name in one.runs})
    return Comparison(kept, lines, standing_of(lines), analyse(lines), selection, rates)


def comparison_text(comparison: Comparison) -> str:
    """The runs as a table for a terminal of 100 columns, or wider if their names are long."""
    runs, corpus, standing = comparison.runs, comparison.corpus, comparison.standing
    widest = max(len("baseline"), *(len(run.name) for run in runs))
    # Tokens of different tokenizers are not compared, and their bytes and charges are.
    several = comparison.several_tokenizers
    terms = ("data", "code", *(["tokenizer"] if several else []))
    speeds = ("bytes/s", "time", "   symbols") if several else ("tokens/s", "time")
    rows: list[tuple[str, ...]] = [("run", "total bytes", *terms, "bits/byte", "ratio", "parameters", *speeds)]
    for run in runs:
        length, cost = run.report.description_length, run.report.cost
        sizes_bytes = (f"{getattr(run, f'{term}_bits') / 8:,.0f}" for term in ("total", *terms))
        rates = f"{run.bits_per_byte:.4f}", f"{length.compression_ratio:.2f}"
        speed = f"{run.bytes_per_sec if several else cost.tokens_per_sec:,.0f}", duration(cost.elapsed_secs)
        symbols = [f"   {run.symbols}"] if several else []
        rows.append((run.name, *sizes_bytes, *rates, f"{run.parameters:,}", *speed, *symbols))
    lines = [f"\n{corpus.name}: {corpus.bytes:,} bytes, {len(runs)} finished runs\n"]
    term_columns = [">13", ">9", ">11"][: len(terms)]
    lines += lay_out(rows, f"<{widest}", ">13", *term_columns, ">10", ">7", ">13", ">10", ">13", "")
    if standing.others:
        beside = [("bytes beside", "", f"  {standing.shortest.name}", "")]
        for group, *verdicts in standing.others:
            names = (group.name, "")
            beside += [(n, f"  {v.term}", f"  {v.span}", f"  {v.text}") for n, v in zip(names, verdicts, strict=True)]
        lines += ["", *lay_out(beside, f"<{max(len(name) for name, *_ in beside)}", "<7", "<30", "")]
        lines += ["", textwrap.fill(" ".join([*standing.sentences(), *standing.method()]), 100)]
        lines += [line for one in standing.needed() for line in textwrap.wrap(one, 100)]
    if comparison.rates:
        lines += ["", *lay_out(rates_rows(comparison.rates), *_rates_columns(comparison.rates))]
    if comparison.selection:
        lines.append("\n" + textwrap.fill(str(comparison.selection), 100))
    if comparison.baselines:
        head = ("baseline", "bytes", "bits/byte", "ratio", f"   {runs[0].name} is")
        cells = [
            (row.name, f"{row.bytes:,.0f}", f"{row.bits_per_byte:.4f}", f"{row.ratio:.2f}", f"   {row.verdict}")
            for row in comparison.baselines
        ]
        lines += ["", *lay_out([head, *cells], f"<{widest}", ">15", ">11", ">8", "")]
    return "\n".join([*lines, extrapolation_note(comparison.measured)]).rstrip() + "\n"


def rates_rows(rates: Sequence[LineRates]) -> list[tuple[str, ...]]:
    """Totals in bytes with the learning rates that were tried, a row a line, below a head; the last column says which
    were taken."""
    factors = sorted({factor for one in rates for factor in one.total_bits})
    widths = sorted({one.tuned.width for one in rates})
    first = f"learning rates at width {', '.join(map(str, widths))}"
    rows = [(first, *(f"x {factor:g}" for factor in factors), "   taken")]
    for one in rates:
        cells = dict(zip(sorted(one.total_bits), one.cells, strict=True))
        rows.append((one.line, *(cells.get(factor, "") for factor in factors), f"   {one.verdict}"))
    return rows


def _rates_columns(rates: Sequence[LineRates]) -> list[str]:
    head, *rows = rates_rows(rates)
    return [f"<{max(len(row[0]) for row in (head, *rows))}", *[">13"] * (len(head) - 2), ""]


def scaling_text(scaling: Scaling) -> str:
    """The best width and the power law of each line, and the crossings, for a terminal."""
    column = max(len("across widths"), *(len(result.line.label) for result in scaling.results)) + 2
    rows = [("across widths", "widths", "best", "bytes", "   data bytes against N parameters")]
    ties = []
    for result in scaling.results:
        line, shortest = result.line, result.shortest
        data = result.data
        law = law_text(data.fit, data.other_text) if data.fit else without_law(data.why_no_fit, "no power law")
        widths = f"{line.widths[0]}-{line.widths[-1]}"
        rows.append((line.label, widths, f"{shortest.size:.0f}", f"{shortest.bits / 8:,.0f}", f"   {law}"))
        if result.tied:
            tied = ", ".join(map(str, result.tied))
            ties += textwrap.wrap(f"{line.label}: width {shortest.size:.0f} is {NOT_DISTINGUISHABLE} from {tied}.", 100)
    lines = lay_out(rows, f"<{column}", ">9", ">7", ">13", "")
    lines += ["", *(textwrap.fill(note, 100) for note in scaling.notes)] if scaling.notes else []
    lines += ties
    lines += ["", *frontier_lines(scaling.frontiers)] if scaling.frontiers else []
    lines += ["", *predicted_lines(scaling.predicted)] if scaling.predicted else []
    return "\n".join([*lines, *(["", *_pair_lines(scaling.pairs)] if scaling.pairs else [])]) + "\n"


def frontier_rows(frontiers: Sequence[Frontier]) -> list[tuple[str, ...]]:
    """What each line comes to at equal FLOPs, below a head: data bits a byte of what is coded by then, and by which
    width."""
    matched = matched_flops(frontiers)
    rows = [("at equal FLOPs", *(f"{flops:.1e}" for flops in matched), "best N and D against FLOPs C")]
    for one in frontiers:
        cells = (f"{rate:.4f} ({width})" for rate, width, _ in map(one.at, matched))
        rows.append((one.label, *cells, powers_text(one)))
    return rows


def powers_text(one: Frontier) -> str:
    """How the best parameters N and bytes D grow with FLOPs C, as N ~ C^0.48 (0.41 to 0.55), or why none is known."""
    if one.powers is None:
        return one.why_none
    named = {"N": one.powers["parameters"], "D": one.powers["bytes"]}
    texts = (f"{n} ~ C^{p.exponent:.2f} ({p.interval[0]:.2f} to {p.interval[1]:.2f})" for n, p in named.items())
    return ", ".join(texts)


def frontier_lines(frontiers: Sequence[Frontier]) -> list[str]:
    rows = frontier_rows(frontiers)
    rows = [(*row[:-1], f"   {row[-1]}") for row in rows]
    return lay_out(rows, f"<{max(len(row[0]) for row in rows)}", *[">14"] * (len(rows[0]) - 2), "")


def predicted_text(one: Predicted) -> str:
    """Where two lines will cross, and what the widest says."""
    where = one.why_none
    if one.size and one.interval:
        low, high = map(size_text, one.interval)
        where = f"data terms cross at {size_text(one.size)} parameters ({low} to {high})"
    return f"{where}; at {size_text(one.held_out)}, {one.foretold} is foretold shorter: {one.verdict}"


def predicted_lines(predicted: Sequence[Predicted]) -> list[str]:
    lines = ["Foretold by all widths except the widest"]
    for one in predicted:
        lines += [f"{one.first} and {one.second}", f"  {predicted_text(one)}"]
    return lines


def frontier_csv(frontiers: Sequence[Frontier]) -> str:
    """scaling-frontier.csv: a row for each line and number of FLOPs."""
    rows = []
    for one in frontiers:
        table = zip(one.flops, one.bits_per_byte, one.width, one.coded_bytes, strict=True)
        for flops, rate, width, coded in table:
            values = {"flops": f"{flops:.6g}", "bits_per_byte": f"{rate:.6f}", "width": width}
            rows.append({"line": one.label, **values, "coded_bytes": round(float(coded))})
    return csv_text(rows)


def _pair_lines(pairs: list[Pair]) -> list[str]:
    """Which architecture is shorter where: all pairs by width if they are few, and those that cross."""
    crossed = [pair for pair in pairs if pair.identified]
    shown = [pair for pair in pairs if pair in crossed or (pair.axis == "width" and len(pairs) <= 2 * MOST_PAIRS)]
    lines = []
    for pair in shown:
        lines.append(f"{pair.first} and {pair.second}, by {pair.axis}")
        lines += [f"  data   {pair.data_verdict}", f"  total  {pair.verdict}"]
    if any(pair.crossings for pair in pairs) and not crossed:
        lines.append(f"Crossings of architectures: {NOT_IDENTIFIED}.")
    elif not crossed:
        lines.append("No two architectures cross.")
    return lines


def law_text(found: Fit, other_text: Interval | None = None) -> str:
    """ "612,000 + 1.2e+08 N^-0.35 (95 %: 0.31 to 0.38; other text: 0.34 to 0.36)"; letters where a coefficient is not
    identified."""
    law, (low, high) = found.law, found.exponent_interval
    floor = f"{law.floor_bits / 8:,.0f}" if found.floor_interval else "L∞"
    scale = f"{law.scale_bits / 8:.2g}" if found.scale_interval else "a"
    unknown = " and ".join(text for text in (floor, scale) if text in ("L∞", "a"))
    end = f"; {unknown} {NOT_IDENTIFIED}" if unknown else ""
    text = f"; other text: {other_text[0]:.2f} to {other_text[1]:.2f}" if other_text else ""
    return f"{floor} + {scale} N^-{law.exponent:.2f} (95 %: {low:.2f} to {high:.2f}{text}){end}"


def without_law(why: str, what: str) -> str:
    """What is said in the place of a law: "not identified: ...", or the reason after `what`."""
    return why if why.startswith(NOT_IDENTIFIED) else f"{what}: {why}"


def verdict_texts(scaling: Scaling, standing: Standing) -> dict[str, str]:
    """What the runs show, and what they do not, as Markdown by the name of its chart."""
    laws = [
        (result.line.label, t.term, law_text(t.fit, t.other_text) if t.fit else without_law(t.why_no_fit, "none"))
        for result in scaling.results
        for t in (result.data, result.total)
    ]
    texts = {"verdicts/power_laws": markdown_table(("", "term", "bytes against N parameters"), laws, "---")}
    if standing.others:
        head = (f"bytes beside {standing.shortest.name}", "data, 95 %", "", "total, 95 %", "")
        rows = [(group.name, data.span, data.text, total.span, total.text) for group, data, total in standing.others]
        words = " ".join([*standing.sentences(), *standing.method()])
        texts["verdicts/beside_shortest"] = f"{markdown_table(head, rows, '---')}\n\n{words}"
    if scaling.pairs:
        pairs = [(f"{p.first} and {p.second}", p.axis, p.data_verdict, p.verdict) for p in scaling.pairs]
        texts["verdicts/architectures"] = markdown_table(("", "by", "data", "total"), pairs, "---")
    return texts


def comparison_csv(comparison: Comparison) -> str:
    """A line a run: its name, its settings that matter, model, description length and cost as in report.json, and its
    verdict beside the shortest one."""
    rows, shortest = [], comparison.standing.shortest
    beside = {run.name: found for group, *found in comparison.standing.others for run in group.runs}
    for run in comparison.runs:
        report = run.report.values()
        row = {"run": run.name, **_settings_columns(run), **report["model"], **report["description_length"]}
        row["block"] = run.block
        row |= report["cost"] | {"beside": shortest.name}
        for verdict in beside.get(run.name, ()):
            row |= verdict.csv_columns()
        rows.append(row)
    return csv_text(rows)


def scaling_csv(lines: list[Line]) -> str:
    """scaling.csv: a row a run. `parameters` are all of them, `flops` those of the epoch, `line` the line it is on."""
    names, rows = FIELDS[: FIELDS.index("commit")], []
    for line in lines:
        for run in line.runs:
            row = {name: getattr(run, name) for name in names}
            rows.append(row | _settings_columns(run) | {"line": line.label})
    return csv_text(rows)


def _settings_columns(run: ComparedRun) -> dict[str, Any]:
    """The settings of a run that a table of runs should not leave out, and the commit of its code."""
    chosen = {name.split(".")[1]: run.settings[name] for name in SETTINGS}
    return {"seed": run.seed, "vocabulary": run.vocabulary, "tokenizer": run.tokenizer, **chosen, "commit": run.commit}


def scaling_json(comparison: Comparison, scaling: Scaling) -> bytes:
    """scaling.json.

    Lengths are in bits. Sizes are widths in `shortest` and `vocabularies`, what `axis` names in `architectures`, and
    parameters beside the embedding in fits and predictions. What is not identified is null.
    """
    standing = comparison.standing
    values = {
        "format": FORMAT,
        "corpus": comparison.corpus.model_dump(include={"name", "bytes", "sha256"}),
        "lines": [_line_values(result) for result in scaling.results],
        "beside_shortest": {
            "shortest": standing.shortest.name,
            "cells": [{"cell": group.name, "data": data, "total": total} for group, data, total in standing.others],
        },
        "architectures": [_pair_values(pair) for pair in scaling.pairs],
        "vocabularies": {
            family: [
                {
                    "vocabulary": result.line.vocabulary,
                    "tokenizer": result.line.tokenizer,
                    "width": result.shortest.size,
                    "total_bits": result.shortest.bits,
                    "beside_shortest": verdict,
                }
                for result, verdict in results
            ]
            for family, results in scaling.families.items()
        },
        "best": comparison.selection,
        "learning_rates": [
            {
                "line": one.line,
                "width": one.tuned.width,
                "factor": one.tuned.factor,
                "tried": [{"factor": factor, "total_bits": bits} for factor, bits in one.total_bits.items()],
            }
            for one in comparison.rates
        ],
        "notes": scaling.notes,
        "frontiers": [one.json_values() for one in scaling.frontiers],
        "predicted_crossings": [vars(one) | {"verdict": one.verdict} for one in scaling.predicted],
    }
    # Dataclasses are written as their fields.
    text = json.dumps(
        values, indent=1, default=lambda one: one.json_values() if isinstance(one, Verdict) else vars(one)
    )
    return (text + "\n").encode()


def _line_values(result: LineResult) -> dict[str, Any]:
    line = result.line
    about = {name: getattr(line, name) for name in ("label", "block", "vocabulary", "tokenizer", "widths")}
    found = {name: value for name, value in vars(result).items() if name != "line"}
    return about | {"runs": [run.name for run in line.runs]} | found


def _pair_values(pair: Pair) -> dict[str, Any]:
    identified = pair.identified
    about = {"first": pair.first, "second": pair.second, "axis": pair.axis, "range": pair.range}
    crossings = [vars(at) | {"identified": at in identified} for at in pair.crossings]
    verdicts = {"verdict": pair.verdict, "data_verdict": pair.data_verdict}
    return about | {"crossings": crossings} | verdicts | {"nodes": pair.nodes}
