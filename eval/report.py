"""The report of a run: report.json, report.md, report.html and the table at its end."""

import json
from pathlib import Path
from typing import Any

from data.files import write_file
from eval.baselines import Baselines
from eval.code_size import CodeSize
from eval.curve import load_curve
from eval.description_length import DescriptionLength
from eval.pages import render
from eval.plots import THEMES, description_length_figure, rate_figure
from eval.provenance import not_default, setting_text, settings_rows
from eval.reference_codes import ReferenceCodes
from eval.schema import FORMAT, Report, check_report
from eval.tables import extrapolation_note, known_codes, markdown, sizes, terms

MARKDOWN_FIGURE = """<picture>
  <source media="(prefers-color-scheme: dark)" srcset="curve-dark.png">
  <img alt="Description length so far against corpus bytes coded" src="curve-light.png">
</picture>"""


def build_report(
    corpus: dict[str, Any],
    model: dict[str, Any],
    description_length: DescriptionLength,
    coded: dict[str, int],
    baselines: Baselines | None,
    references: ReferenceCodes | None,
    cost: dict[str, Any],
    code: CodeSize,
    reference_machine: dict[str, str],
    run: dict[str, Any],
) -> Report:
    """The contents of report.json. Sections that come as dicts have the keys of eval/schema.py; `run` holds config,
    command, commit and device.

    Raises UsageError if a key is missing or unknown, or if not every token and byte of the corpus was coded.
    """
    corpus_bytes = corpus["bytes"]
    report: dict[str, Any] = {
        "format": FORMAT,
        "corpus": corpus,
        "model": model,
        "description_length": {
            "data_bits": description_length.data_bits,
            "code_bits": description_length.code_bits,
            "tokenizer_bits": description_length.tokenizer_bits,
            "side_bits": description_length.side_bits,
            "total_bits": description_length.total_bits,
            "bits_per_byte": description_length.bits_per_byte(corpus_bytes),
            "data_bits_per_byte": description_length.data_bits_per_byte(corpus_bytes),
            "compression_ratio": description_length.compression_ratio(corpus_bytes),
        },
        "coded": coded,
        "baselines": baselines.sizes if baselines else {},
        "cost": cost,
        "code": {
            "modules": code.modules,
            "source_bytes": code.source_bytes,
            "canonical_bytes": code.canonical_bytes,
            "xz_bytes": code.xz_bytes,
        },
        "reference_machine": reference_machine,
        **run,
    }
    if code.uncharged:
        report["reference_packages"] = code.uncharged
    if description_length.warm_start_bits:
        report["description_length"]["warm_start_bits"] = description_length.warm_start_bits
    if baselines and baselines.extrapolated:
        report["baselines_measured_bytes"] = baselines.measured_bytes
    if references:
        report["references"] = references.sizes
        if references.extrapolated:
            report["references_measured_bytes"] = references.measured_bytes
    return check_report(report)


def write_report(run_dir: Path, report: Report, module_bytes: dict[str, int]) -> None:
    """Write report.json, report.md, report.html and the figure that report.md shows, from the report and curve.csv.

    `module_bytes` is that of CodeSize. report.json comes last: where it stands, the others do.
    """
    curve = load_curve(run_dir / "curve.csv")
    baselines: dict[str, Any] = {**report["baselines"]}
    lengths = {name: description_length_figure(curve, baselines, theme) for name, theme in THEMES.items()}
    rates = {name: rate_figure(curve, theme) for name, theme in THEMES.items()}
    rows = sizes(report)
    page = render(
        "report.html.j2",
        {"description_length": lengths, "rate": rates},
        report=report,
        module_bytes=module_bytes,
        terms=terms(report),
        sizes=rows,
        references=known_codes(report),
        most_bytes=rows[-1].bytes,
        note=extrapolation_note(report),
        settings=settings_rows(report),
        changed_settings=not_default(report["config"]) if "config" in report else {},
        setting_text=setting_text,
    )
    for name, content in lengths.items():
        write_file(run_dir / f"curve-{name}.png", content)
    write_file(run_dir / "report.html", page)
    write_file(run_dir / "report.md", markdown(report, MARKDOWN_FIGURE).encode("utf-8", "backslashreplace"))
    write_file(run_dir / "report.json", (json.dumps(report, indent=1) + "\n").encode())
