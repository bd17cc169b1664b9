"""The files of a report: report.json, report.md, report.html and the figures of a run."""

from pathlib import Path
from typing import Any

from data.files import write_file
from eval.curve import load_curve
from eval.pages import render
from eval.plots import description_length_figure, picture, rate_figure
from eval.provenance import not_default, setting_text, settings_rows
from eval.schema import Report
from eval.tables import extrapolation_note, known_codes, markdown, sizes, terms, uncharged

MARKDOWN_FIGURE = """<picture>
  <source media="(prefers-color-scheme: dark)" srcset="curve-dark.png">
  <img alt="Description length so far against corpus bytes coded" src="curve-light.png">
</picture>"""


def write_report(run_dir: Path, report: Report, module_bytes: dict[str, int]) -> None:
    """Write all files of the report, from it and from curve.csv.

    `module_bytes` is that of CodeSize. report.json comes last: a run that has it has the others.
    """
    curve = load_curve(run_dir / "curve.csv")
    baselines: Any = report.baselines
    pictures = {"curve": picture(description_length_figure, curve, baselines), "rate": picture(rate_figure, curve)}
    rows = sizes(report)
    page = render(
        "report.html.j2",
        pictures=pictures,
        report=report,
        module_bytes=module_bytes,
        terms=terms(report),
        uncharged=uncharged(report),
        sizes=rows,
        references=known_codes(report),
        most_bytes=rows[-1].bytes,
        note=extrapolation_note(report),
        settings=settings_rows(report),
        changed_settings=not_default(report.config) if report.config else {},
        setting_text=setting_text,
    )
    files = pictures["curve"].files("curve", "-light") | pictures["rate"].files("rate", "-light")
    files["report.html"] = page
    files["report.md"] = markdown(report, MARKDOWN_FIGURE).encode("utf-8", "backslashreplace")
    for name, content in (files | {"report.json": report.content()}).items():
        write_file(run_dir / name, content)
