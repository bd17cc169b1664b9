"""The pages: every link leads to something, and the examples run."""

import csv
import logging
import re
import runpy
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from dist import run
from properdocs.commands.build import build
from properdocs.config import load_config

from model.contract import check_behaviour
from train.command_line import parse_config

ROOT = Path(__file__).parents[1]


def test_the_site_builds_and_no_link_is_broken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        build(load_config(str(ROOT / "properdocs.yml"), site_dir=str(tmp_path / "site")))
    assert [record.getMessage() for record in caplog.records] == []
    pages = {path.stem for path in (tmp_path / "site").glob("*.html")}
    assert {path.stem for path in (ROOT / "docs").glob("*.md")} <= pages
    assert "own-block-light" in (text := (tmp_path / "site/your-architecture.html").read_text())
    assert "dark" not in re.findall(r"<source[^>]*>|own-block-(\w+)", text)


def test_a_broken_link_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """In Markdown as in HTML, inside docs/ as outside of it."""
    (tmp_path / "docs").mkdir()
    hooks = (ROOT / "docs/hooks.py").read_text()
    (tmp_path / "docs/hooks.py").write_text(hooks)
    (tmp_path / "README.md").write_text("[a](docs/none.md)\n")
    (tmp_path / "docs/index.md").write_text('[b](../LICENSE)\n\n<img src="none.png">\n\n[c](#none)\n')
    (tmp_path / "properdocs.yml").write_text(
        "site_name: test\ntheme: readthedocs\nhooks: [docs/hooks.py]\nexclude_docs: hooks.py\n"
        "validation: {links: {anchors: warn}}\n"
    )
    with caplog.at_level(logging.WARNING):
        build(load_config(str(tmp_path / "properdocs.yml"), site_dir=str(tmp_path / "site")))
    told = "\n".join(record.getMessage() for record in caplog.records)
    for link in ("docs/none.md", "../LICENSE", "none.png", "#none"):
        assert link in told


def test_pages_are_short() -> None:
    """A user page takes five minutes to read, and README.md has 900 words at most."""
    assert len((ROOT / "README.md").read_text().split()) <= 900
    for page in (ROOT / "docs").glob("*.md"):
        if page.name != "options.md":
            assert len(page.read_text().split()) <= 1200, page.name


def example(name: str) -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "examples" / name))


@pytest.mark.parametrize("where", ["examples/decay.py", "docs/your-architecture.md"])
def test_the_blocks_of_the_pages_hold_the_contract(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, kind = ROOT / where, "Decay"
    if where.endswith(".md"):
        code = re.search(r"```python\n# my_block\.py\n(.*?)```", file.read_text(), re.DOTALL)
        assert code
        file, kind = tmp_path / "my_block_of_the_page.py", "GatedConv"
        file.write_text(code[1])
    monkeypatch.setattr(sys, "path", [*sys.path])
    model = parse_config("", [f"--model.block={file}:{kind}", "--model.width=16", "--model.ngram_orders=[]"]).model
    assert [one for one in check_behaviour(model) if one.verdict != "ok"] == []


@pytest.mark.slow
def test_the_commands_of_the_page_lead_from_an_empty_file_to_the_figure(tmp_path: Path) -> None:
    """Each of them, as it stands on the page, with options that make it small."""
    page = (ROOT / "docs/your-architecture.md").read_text()
    section = page.split("## From an empty file to a figure")[1].split("\n## ")[0]
    code = re.search(r"```python\n# (my_block\.py)\n(.*?)```", section, re.DOTALL)
    assert code
    (tmp_path / code[1]).write_text(code[2])
    (tmp_path / "text").write_bytes((ROOT / "LICENSE").read_bytes()[:6000])
    small = ["--data.source=text", "--data.tokenizer=bytes", "--model.head_width=8", "--model.state=8",
             "--model.depth=2", "--train.lanes=8", "--run.baselines=false", "--engine.threads=1"]  # fmt: skip
    added = {"train": [*small, "--model.width=16"], "sweep": [*small, "--jobs=2"]}
    ran = []
    for line in re.findall(r"^    (?:python|deepspeed) (launch/.*)$", section, re.MULTILINE):
        # Widths are a quarter of those of the page, and one seed is enough.
        program, *words = shlex.split(line.replace("64,96,128,192", "16,24,32,48").replace("0,1,2", "0"))
        done = run(program, *words, *added.get(Path(program).stem, []), cwd=tmp_path, HOME=str(tmp_path))
        assert done.returncode == 0, done.stderr
        ran.append(Path(program).stem)
    assert ran == ["check_block", "train", "train", "sweep"]
    assert (tmp_path / "runs/mine/scaling.png").read_bytes().startswith(b"\x89PNG")
    table = (tmp_path / "runs/mine/comparison.csv").read_text()
    assert {row["block"] for row in csv.DictReader(table.splitlines())} == {"attention", "ssd", "GatedConv"}
    again = run("launch/report.py", "runs/mine", cwd=tmp_path)
    assert again.returncode == 0 and "GatedConv" in again.stdout


def test_the_examples_read_a_report() -> None:
    text = example("read_report.py")["describe"](ROOT / "benchmarks/results/kjv-default.json")
    assert "total" in text and "times our total" in text


def test_the_examples_train_two_widths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "text.txt").write_bytes((ROOT / "LICENSE").read_bytes()[:3000])
    threads = torch.get_num_threads()
    found = example("train_from_python.py")["compare_widths"](str(tmp_path / "text.txt"), tmp_path / "runs", (32, 64))
    torch.set_num_threads(threads)
    assert set(found) == {32, 64} and all(0 < size < 3000 for size in found.values())


def test_the_notebook_runs_from_its_first_cell_to_its_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "text.txt").write_bytes((ROOT / "LICENSE").read_bytes()[:3000])
    monkeypatch.setattr(sys, "argv", ["notebook.py", str(tmp_path / "text.txt"), str(tmp_path / "runs")])
    threads = torch.get_num_threads()
    cells = example("notebook.py")
    torch.set_num_threads(threads)
    out = capsys.readouterr().out
    assert "Did you mean gru?" in out
    assert set(cells["table"].index) == {"gru", "attention"}
    assert 0 < cells["bits"] < 8.1 * len(cells["text"])
    # The page shows the same cells.
    page = (ROOT / "docs/python.md").read_text()
    for line in (
        "start = torch.full((1, model.context), tokenizer.end_of_document)",
        "from eval.report import read_runs",
    ):
        assert line in page and line in (ROOT / "examples/notebook.py").read_text()


def test_the_python_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "corpus.txt").write_bytes((ROOT / "LICENSE").read_bytes()[:2000])
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/python.md").read_text(), re.DOTALL)
    blocks = [block.replace("configs/", f"{ROOT}/configs/").replace("runs/mine", "runs/ssd-64") for block in blocks]
    names: dict[str, Any] = {}
    threads = torch.get_num_threads()
    for block in blocks:
        exec(block.replace('curve.plot("coded_bytes", "total_bits")', "len(curve)"), names)
    torch.set_num_threads(threads)
    assert names["table"].loc["ssd-64", "model.width"] == 64
    assert len(names["curve"]) >= 1


def test_files_that_pages_and_comments_name_exist() -> None:
    rooms = "archive|benchmarks|configs|data|docs|eval|examples|launch|model|research|studies|tests|train"
    named = re.compile(rf"(?<![\w/.-])(?:{rooms})/[\w/.-]+\.(?:py|md|yaml|csv|sbatch)\b")
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "configs").iterdir()]
    code = [
        path for room in rooms.split("|") if room not in ("tests", "examples") for path in (ROOT / room).rglob("*.py")
    ]
    for path in [*pages, *code]:
        for name in named.findall(path.read_text()):
            assert (ROOT / name).exists(), f"{path.relative_to(ROOT)} names {name}"
