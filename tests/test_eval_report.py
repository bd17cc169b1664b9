"""report.json, .md, .html and the terminal's table, against a run with round numbers: 500 bytes for 1,000."""

import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from finished_run import REFERENCES, SIZES, finished_run, made_report, sections
from pydantic import ValidationError

from data.streams import Outlet, text_to
from eval.layout import duration
from eval.measured import MeasuredSizes
from eval.schema import load_report
from eval.tables import known_codes, markdown, sizes, terminal_table, terms, verdict
from studies.scaling.pages import write_comparison
from studies.scaling.runs import load_runs
from studies.scaling.tables import compare_runs

KEYS = {
    "format": None,
    "corpus": {"name", "bytes", "sha256", "documents", "tokens"},
    "model": {"block", "width", "depth", "parameters", "parameters_non_embedding"},
    "description_length": {
        "data_bits",
        "code_bits",
        "tokenizer_bits",
        "side_bits",
        "total_bits",
        "bits_per_byte",
        "data_bits_per_byte",
        "compression_ratio",
    },
    "coded": {"tokens", "bytes"},
    "baselines": {"gzip-9", "bzip2-9", "xz-9e", "zstd-22", "brotli-11", "ppmd"},
    "references": {"oracle", "order-2", "order-0", "untrained", "uniform"},
    "cost": {
        "world_size",
        "optimizer_steps",
        "elapsed_secs",
        "tokens_per_sec",
        "model_flops",
        "elementwise_flops",
        "mfu",
        "mfu_6n",
        "peak_flops_per_sec",
        "peak_shape",
        "peak_dtype",
        "device",
        "peak_memory_bytes",
    },
    "code": {"modules", "source_bytes", "canonical_bytes", "xz_bytes"},
    "reference_machine": {"python", "torch"},
    "config": {"data", "model", "train", "engine", "run"},
    "command": None,
    "commit": {"hash", "changed"},
    "device": {"name", "kind", "world_size", "threads", "precision"},
}


def test_the_keys_are_the_contract_and_the_numbers_follow() -> None:
    report = made_report().values()
    assert {name: set(value) if isinstance(value, dict) else None for name, value in report.items()} == KEYS
    assert report["description_length"] == {
        "data_bits": 3200.0,
        "code_bits": 640.0,
        "tokenizer_bits": 120.0,
        "side_bits": 40.0,
        "total_bits": 4000.0,
        "bits_per_byte": 4.0,
        "data_bits_per_byte": 3.2,
        "compression_ratio": 2.0,
    }
    assert report["code"] == {
        "modules": ["data/tokenizer.py", "train/loop.py"],
        "source_bytes": 200,
        "canonical_bytes": 100,
        "xz_bytes": 80,
    }


def test_extrapolated_baselines_are_said_to_be(tmp_path: Path) -> None:
    report = made_report(**MeasuredSizes({**SIZES}, 600, 1000).sections("baselines"))
    assert report.baselines_measured_bytes == 600
    for text in (terminal_table(report), markdown(report, "")):
        assert "extrapolated from the first 600 bytes" in text
    whole = made_report()
    assert "extrapolated" not in terminal_table(whole) + markdown(whole, "")


def test_reference_codes_are_told_and_their_extrapolation_too() -> None:
    report = made_report()
    assert [(r.name, r.bytes, r.bits_per_byte, r.verdict) for r in known_codes(report)] == [
        ("oracle", 0.0, 0.0, ""),
        ("order-2", 625.0, 5.0, "20.0 % smaller"),
        ("order-0", 550.0, 4.4, "9.1 % smaller"),
        ("untrained", 300.0, 2.4, "66.7 % larger"),
        ("uniform", 1000.0, 8.0, "50.0 % smaller"),
    ]
    assert "| order-0 | 550 | 4.4000 | 9.1 % smaller | counts bytes |" in markdown(report, "")
    half = made_report(**MeasuredSizes(REFERENCES.sizes, 600, 1000).sections("references"))
    for text in (terminal_table(half), markdown(half, "")):
        assert "codes are extrapolated from the first 600 bytes" in text
        assert "extrapolated" not in terminal_table(report) + markdown(report, "")


def test_a_report_of_before_there_were_reference_codes_still_reads(tmp_path: Path) -> None:
    report = made_report(references=None)
    assert known_codes(report) == []
    path = tmp_path / "report.json"
    path.write_bytes(report.content())
    assert load_report(path) == report
    assert "reference codes" not in terminal_table(report) + markdown(report, "")


def test_a_run_without_baselines_has_a_report_and_a_table() -> None:
    report = made_report(baselines={})
    assert report.values()["baselines"] == {}
    assert [row.name for row in sizes(report)] == ["onepass"]
    assert "onepass" in terminal_table(report)


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("coded", {"tokens": 299}, "299 tokens and 1,000 bytes were coded where the corpus has 300 and 1,000"),
        ("coded", {"bytes": 999}, "999 bytes were coded"),
        ("corpus", {"surprise": 1}, "corpus.surprise"),
        ("corpus", {"sha256": "abc"}, "corpus.sha256"),
        ("corpus", {"bytes": -5}, "corpus.bytes"),
        ("cost", {"mfu": float("nan")}, "cost.mfu"),
        ("cost", {"model_flops": float("inf")}, "cost.model_flops"),
        ("cost", {"world_size": 1.5}, "cost.world_size"),
        ("baselines", {"lzma": 5}, "baselines.lzma"),
        ("references", {"oracle": 1.0}, "references.oracle"),
        ("references", {"uniform": 999.0}, "references.uniform is 999.0"),
        ("references", {"order-1": 9.0}, "references.order-1"),
        ("description_length", {"total_bits": 3999.0}, "total_bits is 3999.0, but its terms make it 4000.0"),
        ("description_length", {"compression_ratio": 2.1}, "compression_ratio is 2.1"),
        ("description_length", {"bits_per_byte": None}, "bits_per_byte is None"),
        ("description_length", {"corpus_bytes": 1000}, "description_length.corpus_bytes"),
        ("description_length", {"warm_start_bits": 41.0}, "warm_start_bits exceed side_bits"),
    ],
)
def test_a_report_that_does_not_hold_is_refused_on_one_line(
    tmp_path: Path, section: str, change: dict[str, Any], message: str
) -> None:
    report = made_report().values()
    path = tmp_path / "report.json"
    path.write_text(json.dumps(report | {section: report[section] | change}))
    with pytest.raises(ValueError, match="report") as caught:
        load_report(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"{}", b'{"format": 2}', b" " * (1 << 21)])
def test_what_is_no_report_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "report.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"report\.json"):
        load_report(tmp_path / "report.json")


def test_no_report_is_built_of_a_corpus_that_was_not_coded_whole() -> None:
    with pytest.raises(ValidationError, match="299 tokens"):
        made_report(coded={"tokens": 299, "bytes": 1000})


def test_a_missing_key_is_named() -> None:
    arguments = sections()
    del arguments["cost"]["elapsed_secs"]
    with pytest.raises(ValidationError, match=r"cost\.elapsed_secs\n +Field required"):
        made_report(**arguments)


def test_utilisation_by_both_conventions_and_what_it_is_a_part_of(tmp_path: Path) -> None:
    said = "MFU 25.0%; 20.0% by 6 N a token; 100% is 46.5 TFLOP/s, bfloat16 products of 2,048 x 2,048 x 2,048 on A Fast"
    report = finished_run(tmp_path / "run")
    text = markdown(report, "")
    assert f"| utilisation | {said} Device |" in text
    assert "| model FLOPs | 2.00e+09, and 1.00e+08 elementwise operations |" in text
    words = " ".join(Page((tmp_path / "run/report.html").read_text()).words)
    assert "MFU 25.0% MFU, 6 N a token 20.0% 100% is 46.5 TFLOP/s, bfloat16 products of 2048 × 2048 × 2048" in words
    assert "elementwise 1.00e+08" in words
    assert "device A Fast Device" in words


def test_without_formulas_there_is_no_utilisation_but_the_names(tmp_path: Path) -> None:
    arguments = sections()
    del arguments["cost"]["mfu"]
    arguments["cost"]["uncounted"] = ["fla.chunk_delta"]
    text = markdown(made_report(**arguments), "")
    assert "| utilisation | MFU unknown: no formula for fla.chunk_delta; 20.0% by 6 N a token; 100% is" in text


def test_a_report_of_before_the_yardstick_was_told_still_reads(tmp_path: Path) -> None:
    arguments = sections()
    old = {"world_size", "optimizer_steps", "elapsed_secs", "tokens_per_sec", "model_flops", "mfu", "peak_memory_bytes"}
    arguments["cost"] = {name: value for name, value in arguments["cost"].items() if name in old}
    report = made_report(**arguments)
    path = tmp_path / "report.json"
    path.write_bytes(report.content())
    assert load_report(path) == report
    assert "| utilisation | MFU 25.0% |" in markdown(report, "")


def test_rows() -> None:
    report = made_report()
    assert [(t.name, t.bytes, t.share, t.bits_per_byte) for t in terms(report)] == [
        ("data", 400.0, 0.8, 3.2),
        ("code", 80.0, 0.16, 0.64),
        ("tokenizer", 15.0, 0.03, 0.12),
        ("side", 5.0, 0.01, 0.04),
    ]
    assert [(s.name, s.bytes, s.ratio, s.verdict) for s in sizes(report)] == [
        ("ppmd", 400, 2.5, "25.0 % larger"),
        ("onepass", 500.0, 2.0, ""),
        ("xz-9e", 500, 2.0, "the same size"),
        ("brotli-11", 520, 1000 / 520, "3.8 % smaller"),
        ("zstd-22", 550, 1000 / 550, "9.1 % smaller"),
        ("bzip2-9", 625, 1.6, "20.0 % smaller"),
        ("gzip-9", 1000, 1.0, "50.0 % smaller"),
    ]


@pytest.mark.parametrize(
    ("ours", "theirs", "text"),
    [(99, 100, "1.0 % smaller"), (101, 100, "1.0 % larger"), (9996, 10000, "the same size"), (1, 1, "the same size")],
)
def test_verdict(ours: float, theirs: float, text: str) -> None:
    assert verdict(ours, theirs) == text


@pytest.mark.parametrize(
    ("elapsed_secs", "text"),
    [(0.24, "0.2 s"), (59.4, "59.4 s"), (59.9, "1 min 0 s"), (172.4, "2 min 52 s"), (7384, "2 h 3 min")],
)
def test_duration(elapsed_secs: float, text: str) -> None:
    assert duration(elapsed_secs) == text


def test_the_terminal_table_fits_and_adds_up() -> None:
    lines = terminal_table(made_report()).splitlines()
    assert max(map(len, lines)) <= 100
    rows = {line.split()[0]: line.split() for line in lines if line}
    assert rows["data"] == ["data", "400", "80.0%", "3.2000"]
    assert rows["total"] == ["total", "500", "100.0%", "4.0000"]
    assert rows["ppmd"][:3] == ["ppmd", "400", "2.50"]
    assert rows["ppmd"][3:6] == ["25.0", "%", "larger"]
    # Bars are as long as the sizes, up to a character.
    assert (len(rows["gzip-9"][-1]), len(rows["onepass"][-1]), len(rows["ppmd"][-1])) == (34, 17, 14)


class Page(HTMLParser):
    """What a page says and what it refers to."""

    def __init__(self, text: str):
        super().__init__()
        self.references: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "link", "iframe")
        self.references += [value or "" for name, value in attrs if name.split(":")[-1] in ("src", "srcset", "href")]

    def handle_data(self, data: str) -> None:
        self.words += data.split()


def test_a_run_directory_gets_all_its_reports(tmp_path: Path) -> None:
    report = finished_run(tmp_path / "run")
    assert load_report(tmp_path / "run/report.json") == report
    text = (tmp_path / "run/report.html").read_text()
    page = Page(text)
    # Figures are elements of the page, whose text can be selected, in the colors of either theme.
    assert all(reference.startswith("#") for reference in page.references)
    assert text.count("<svg") == 2
    assert {"onepass", "corpus", "coded"} <= set(page.words)
    assert "stroke: var(--series-0)" in text
    assert set(re.findall(r"url\((.)", text)) == {"#"}
    assert "@import" not in text
    for word in (
        "500",
        "4.0000",
        "2.00",
        "12,345",
        "train/loop.py",
        "50",
        "2.13.0",
        "gzip-9",
        "625",
        "untrained",
        "66.7",
    ):
        assert word in page.words, word
    for name in ("curve-light.png", "curve-dark.png"):
        assert (tmp_path / "run" / name).read_bytes().startswith(b"\x89PNG")
        assert (tmp_path / "run" / name.replace("curve", "rate")).read_bytes().startswith(b"\x89PNG")
        assert (tmp_path / "run" / name.replace(name[5:], ".pdf")).read_bytes().startswith(b"%PDF")
        assert name in (tmp_path / "run/report.md").read_text()
    assert not list((tmp_path / "run").glob(".*"))


def test_markdown_tables_are_well_formed() -> None:
    text = markdown(made_report(), "FIGURE")
    assert "| **total** | **500** | 100.0% | **4.0000** |" in text
    assert "| ppmd | 400 | 2.50 | 25.0 % larger |" in text
    assert "\n\nFIGURE\n\n" in text
    for table in [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]:
        assert len({line.count("|") for line in table}) == 1


def test_a_hostile_name_stays_text(tmp_path: Path) -> None:
    name = '<script>alert("x")</script>|`'
    finished_run(tmp_path / "run", name=name)
    page = Page((tmp_path / "run/report.html").read_text())
    assert '<script>alert("x")</script>|`' in page.words
    assert "<script" not in (tmp_path / "run/report.md").read_text()


def test_a_name_that_is_not_utf8_reaches_every_file(tmp_path: Path) -> None:
    """Of a corpus, whose name data.documents escapes, and of a run directory that was renamed."""
    name = "caf\udce9"
    finished_run(tmp_path / "corpus", name=name)
    for file in ("report.html", "report.md"):
        assert "caf\\udce9" in (tmp_path / "corpus" / file).read_text()
    finished_run(tmp_path / "runs/run")
    (tmp_path / "runs/run").rename(tmp_path / "runs" / name)
    for path in write_comparison([compare_runs(load_runs(tmp_path / "runs"))], tmp_path / "out"):
        assert path.suffix in (".png", ".pdf") or "caf\\xe9" in path.read_text(), path


def test_a_name_that_is_not_utf8_prints() -> None:
    here, there = os.pipe()
    stream = text_to(Outlet(there, "w"), "utf-8")
    stream.write("caf\udce9\n")
    stream.close()
    assert os.read(here, 100) == b"caf\\udce9\n"
    os.close(here)
