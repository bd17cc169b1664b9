"""The files of a report: report.json, report.md, report.html and the figures of a run; and reports of many runs."""

from pathlib import Path
from typing import Any

from data.errors import UsageError
from data.files import write_file
from eval.curve import load_curve
from eval.pages import render
from eval.plots import description_length_figure, picture, rate_figure
from eval.provenance import not_default, setting_text, settings_rows
from eval.schema import Report, finished_report
from eval.tables import extrapolation_note, known_codes, markdown, sizes, terms, uncharged
from train.config import Config, flatten

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


def read_runs(runs_dir: Path | str) -> Any:
    """A pandas DataFrame with a row for each finished run at or below a directory, shortest description first.

    The index is the run's directory relative to `runs_dir`. Columns are the numbers and names of report.json by their
    dotted names (`description_length.total_bits`, `cost.elapsed_secs`, `corpus.name`), and each field of the
    configuration (`model.width`, `train.seed`). A field that is newer than a run has its default, as it had then.

    Raises UsageError if pandas is not installed, if there are no finished runs, or if a report is damaged.
    """
    try:
        import pandas
    except ImportError:
        raise UsageError("read_runs needs pandas, which is not installed: pip install 'onepass[pandas]'") from None
    folder = Path(runs_dir)
    reports = {str(path.parent.relative_to(folder)): path.parent for path in sorted(folder.rglob("report.json"))}
    if not reports:
        raise UsageError(f"{folder} holds no finished run: a run has a report.json once its epoch is done")
    rows = {name: run_values(finished_report(run)) for name, run in reports.items()}
    table = pandas.DataFrame.from_dict(rows, orient="index")
    return table.sort_values("description_length.total_bits", kind="stable").rename_axis("run")


def run_values(report: Report) -> dict[str, Any]:
    """The values of a report by their dotted names, and those of its configuration by theirs."""
    values = report.values()
    config = flatten(values.pop("config", None) or {})
    plain = {name: value for name, value in flatten(values).items() if not isinstance(value, list)}
    # The model of a report and that of a configuration share names, with the same values.
    return (flatten(Config().to_dict()) if config else {}) | config | plain
