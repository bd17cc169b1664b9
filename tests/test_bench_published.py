"""Figures in README and docs are those of benchmarks/results, and say when they are older than the code."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import figures, pages, published
from benchmarks.figures import ENTRIES
from benchmarks.measurement import RESULTS, ROOT, Entry, Figures, last_row
from benchmarks.pages import CHANGED, Row, changed_since, check, git, missing, problems, written
from data.errors import UsageError
from train.command_line import CONFIG_FILE, save_config
from train.config import Config

HISTORY = bool(git("rev-parse", "HEAD~1")) and (ROOT / ".git").exists()
needs_history = pytest.mark.skipif(not HISTORY, reason="needs git's history, which says how old a figure is")


def total(path: Path) -> Figures:
    """What the tiny entry prints."""
    found = re.search(r"^([\d,]+) bytes", path.read_text(), re.MULTILINE)
    return {"total_bytes": (float(found[1].replace(",", "")), "bytes")} if found else {}


@pytest.fixture
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Entry]:
    """A registry of one entry, whose results go to a folder of the test's own."""
    made = Entry(
        "tiny", "minutes", ("python -c 'print(\"1,234 bytes in 5.25 s\")'",), ("LICENSE",), "tiny.txt", "stdout",
        figures=total,
    )  # fmt: skip
    for module in (published, pages):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
        monkeypatch.setattr(module, "PUBLISHED", tmp_path / "published.csv")
        monkeypatch.setattr(module, "NAMED", {"tiny": made})
    monkeypatch.setattr(published, "ENTRIES", [made])
    yield made
    pages.numbers.cache_clear()


def row(figure: str, value: str, commit: str = "HEAD") -> Row:
    return Row(figure, value, "bytes", commit, "2026-01-01", "a machine", "a command")


def test_a_measurement_that_was_changed_and_not_made_is_named(
    entry: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rungs.csv").write_text("options,total_bytes\n--old,5\n")
    changed = replace(entry, file="rungs.csv", figures=last_row({"total_bytes": "bytes"}, options="--new"))
    monkeypatch.setattr(pages, "NAMED", {"tiny": changed})
    published.keep([replace(row("tiny", "rungs.csv"), unit="file")])
    with pytest.raises(UsageError, match=r"^rungs\.csv: no row has options '--new'\. Measure it$"):
        check()


def test_readme_and_docs_say_what_the_results_say() -> None:
    assert check() == []


def test_without_a_history_everything_else_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "changed_since", lambda commit, paths: None)
    assert check() == []


@needs_history
def test_commits_of_the_figures_are_in_the_history() -> None:
    for name, found in pages.published().items():
        for commit in found.commit.replace("+", "").split():
            assert git("cat-file", "-t", commit) == "commit\n", f"{name} was measured at {commit}"


def test_the_registry_names_what_there_is() -> None:
    assert len({entry.name for entry in ENTRIES}) == len(ENTRIES)
    for entry in ENTRIES:
        for path in entry.measures:
            assert (ROOT / path).exists(), f"{entry.name} measures {path}"
        for command in entry.commands:
            script = next(word for word in command.split() if word.endswith(".py"))
            assert (ROOT / script).is_file(), command


def test_an_entry_becomes_rows_that_are_written_into_a_page(entry: Entry) -> None:
    rows = published.measure(entry, {})
    assert [(found.figure, found.value) for found in rows] == [
        ("tiny", "benchmarks/results/tiny.txt"),
        ("tiny.total_bytes", "1234"),
    ]
    published.keep([row("tiny", "of before"), row("tiny.old", "1")])
    published.keep(rows)
    assert pages.published() == {found.figure: found for found in rows}
    before = "Takes 9,999<!-- tiny.total_bytes --> bytes.\n<!-- measured tiny -->\n<!-- end -->\n"
    page = written(before, pages.published())
    assert page.startswith("Takes 1,234<!-- tiny.total_bytes --> bytes.")
    assert f"at commit `{rows[0].commit.replace('+', '` with changes')}"[:20] in page and "python -c" in page
    assert list(problems("docs/page.md", page, pages.published())) == []
    found = list(problems("docs/page.md", before, pages.published()))
    assert found[0] == "docs/page.md: tiny.total_bytes is printed as 9,999, and is 1,234"
    assert len(found) == 2


def test_a_command_that_fails_leaves_the_rows(entry: Entry, capfd: pytest.CaptureFixture[str]) -> None:
    broken = replace(entry, commands=("python -c 'raise SystemExit(3)'",))
    with pytest.raises(published.RunFailed, match="status 3"):
        published.measure(broken, {})
    assert not (published.RESULTS / "tiny.txt").exists()


def test_what_belongs_to_nothing_is_told(entry: Entry) -> None:
    rows = {"tiny": row("tiny", "tiny.txt")}
    (published.RESULTS / "tiny.txt").touch()

    def told(page: str, text: str) -> list[str]:
        return [found.partition(": ")[2] for found in problems(page, text, rows)]

    for page in ("README.md", "docs/a.md"):
        assert told(
            page, "It makes 123,456 of 4,556,413 bytes in 7 minutes, 8 % less.\n\n| a | b |\n|---|---|\n| 1.5 | 2 |\n"
        ) == [f"{number} looks measured and has no mark" for number in ("123,456", "7 minutes", "8 %", "1.5")]
        assert told(page, "It holds 64 bytes, 2 GiB, and makes 90 tokens/s.") == [
            f"{number} looks measured and has no mark" for number in ("64 bytes", "2 GiB", "90 tokens/s")
        ]
        assert (
            told(page, "Python 3.11, arXiv:1802.07044, `--x 1.5`, 64-bit\n```\n8 %\n```\n\n    python x.py --a 0.1\n")
            == []
        )
    assert told("docs/a.md", "1,234<!-- tiny.gone -->\n<!-- measured tiny -->\n<!-- end -->")[0].startswith(
        "1,234 belongs to tiny.gone"
    )
    assert "no line says where tiny was measured" in told("docs/a.md", "<!-- cells tiny -->\n<!-- end -->")[0]


def test_facts_are_used() -> None:
    pages_text = "".join(path.read_text() for path in pages.all_pages())
    assert [fact for fact in pages.FACTS if fact not in pages_text] == []


def test_headers_of_configs_quote_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    (tmp_path / "configs").mkdir()
    header = "# Expect 1,234 bytes of 1,000,000, and {} of data.\nmodel:\n  width: 5,678\n"
    rows = {name: row(name, value) for name, value in (("a.total_bytes", "1234.4"), ("ladder-1000000", "x.csv"))}
    rows["ladder-1000000"] = replace(rows["ladder-1000000"], unit="file")
    for wrong, found in (("1,234", []), ("1,235", ["configs/a.yaml: 1,235 is no row of published.csv"])):
        (tmp_path / "configs/a.yaml").write_text(header.format(wrong))
        assert list(pages.expectations(rows)) == found


def test_cells_are_those_of_the_results_as_precisely_as_they_are_printed(entry: Entry) -> None:
    (published.RESULTS / "tiny.txt").write_text("1,234 and 5.256 and 98765")
    head = "| 777 | b |\n|---|---|\n"
    assert missing(head + "| **1,234** | 5.3 | 5.26 | 98,800 | x 9.99 | -3.1 % | `777` | 12 |\n", ["tiny"]) == []
    assert missing(head + "| 1,235 | 5.2 | 5.27 | 98,700 |\n", ["tiny"]) == ["1,235", "5.2", "5.27", "98,700"]


@needs_history
def test_what_is_older_than_its_code_says_so(entry: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    first = git("rev-list", "--max-parents=0", "HEAD")
    assert first
    assert changed_since("HEAD", ("LICENSE",)) is False
    assert changed_since(f"HEAD {first.split()[0]}", ("README.md",)) is True
    assert changed_since("no-such-commit", ("LICENSE",)) is None
    for commit, paths, told in (("HEAD", ("LICENSE",), False), (first.split()[0], ("README.md",), True)):
        monkeypatch.setitem(pages.NAMED, "tiny", replace(entry, measures=paths))
        rows = {"tiny": row("tiny", "tiny.txt", commit)}
        page = written("<!-- measured tiny -->\n<!-- end -->\n", rows)
        assert (CHANGED in page) == told
        assert list(problems("docs/a.md", page, rows)) == []
        other = page.replace(CHANGED, "") if told else page.replace("`.*", f"`.{CHANGED}*")
        assert len(list(problems("docs/a.md", other, rows))) == 1


def test_comments_and_docstrings_change_nothing() -> None:
    one, two = 'def f():\n    """A."""\n    return 1  # a\n', 'def f():\n    """B."""\n\n    return 1\n'
    assert pages.without_comments("a.py", one) == pages.without_comments("a.py", two)
    assert pages.without_comments("a.py", one) != pages.without_comments("a.py", two.replace("1", "2"))
    fields = 'class A:\n    x: int = 1\n    """{}."""\n'
    assert pages.without_comments("a.py", fields.format("Old")) == pages.without_comments("a.py", fields.format("New"))
    assert pages.without_comments("a.yaml", "# a\nb: 1\n") == "b: 1\n"


@pytest.fixture
def default_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of the default as the README has it, on this machine."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "report.json").write_bytes((RESULTS / "kjv-default.json").read_bytes())
    save_config(Config(engine=replace(Config().engine, threads=1)), run / CONFIG_FILE)
    known = pages.published()
    here = replace(known["kjv-default"], machine=published.machine(1))
    monkeypatch.setattr(published, "published", lambda: known | {"kjv-default": here})
    monkeypatch.setattr(published, "changed_since", lambda commit, paths: False)
    return run


def altered(run: Path, **bits: float) -> None:
    report = json.loads((run / "report.json").read_text())
    length = report["description_length"]
    for term, more in bits.items():
        length[f"{term}_bits"] += more
        length["total_bits"] += more
    corpus_bytes = report["corpus"]["bytes"]
    length["bits_per_byte"] = length["total_bits"] / corpus_bytes
    length["data_bits_per_byte"] = length["data_bits"] / corpus_bytes
    length["compression_ratio"] = 8 * corpus_bytes / length["total_bits"]
    (run / "report.json").write_text(json.dumps(report))


def test_a_run_of_the_default_is_compared_with_the_readmes(default_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert published.compare_default(default_run) == []
    altered(default_run, data=8.0)
    assert len(published.compare_default(default_run)) == 2, "data and total are exact on this machine"
    monkeypatch.setattr(published, "machine", lambda threads: "another machine")
    assert published.compare_default(default_run) == []
    altered(default_run, code=8.0)
    assert [found.split(":")[0] for found in published.compare_default(default_run)] == ["code"]
    report = json.loads((default_run / "report.json").read_text())
    other = report | {"config": {"engine": {"threads": 64}}}
    (default_run / "report.json").write_text(json.dumps(other))
    assert published.compare_default(default_run) == [], "its configuration is another"
    (default_run / "report.json").write_text(json.dumps(report))
    altered(default_run, data=8 * 2000.0)
    assert [found.split(":")[0] for found in published.compare_default(default_run)] == ["code", "total"]
    monkeypatch.setattr(published, "changed_since", lambda commit, paths: True)
    assert [found.split(":")[0] for found in published.compare_default(default_run)] == ["total"]


def test_placeholders_of_commands(tmp_path: Path) -> None:
    (tmp_path / "given").write_bytes(b"0123456789")
    given = {"enwik8": tmp_path / "given"}
    assert published.filled("--run.dir={run}", tmp_path, given) == f"--run.dir={tmp_path}/run"
    assert published.filled("{enwik8}", tmp_path, given) == str(tmp_path / "given")
    assert Path(published.filled("{enwik8:4}", tmp_path, given)).read_bytes() == b"0123"
    assert published.lacking(figures.NAMED["pruning"], given) == ["deuterocanon"]
