"""Folders and globs: every real file once, whatever links lead to it, and a word or a refusal for the rest."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from archive.rerun import MARK
from data.documents import Source, open_source
from data.listing import COMPARISONS, OUTPUTS, STILLBORN
from data.prepare import prepare
from data.shards import INDEX, MANIFEST
from data.shared_making import JOURNAL
from train.command_line import CONFIG_FILE
from train.frozen import TOKENIZER_FILE
from train.run_dir import CODE_FILE, LOCK_FILE

A, B = b"a" * 20_011, b"b" * 10_007


def contents(source: Source) -> list[bytes]:
    documents, parts = [], []
    for chunk, ends in source.chunks():
        parts.append(chunk)
        if ends:
            documents.append(b"".join(parts))
            parts = []
    return documents


def read(source: "Path | str") -> list[bytes]:
    return contents(open_source(str(source)))


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """A folder with one file, and a link to a folder with another."""
    (tmp_path / "d").mkdir()
    (tmp_path / "e").mkdir()
    (tmp_path / "d/a.txt").write_bytes(A)
    (tmp_path / "e/b.txt").write_bytes(B)
    (tmp_path / "d/more").symlink_to("../e")
    return tmp_path / "d"


@pytest.mark.parametrize("form", ["", "/**", "/**/*", "/**/*.txt", "/**/**/*.txt", "/**/[ab].txt"])
def test_a_link_to_a_folder_is_followed_in_every_form(linked: Path, form: str) -> None:
    assert read(f"{linked}{form}") == [A, B]
    assert open_source(f"{linked}{form}").notes == ()


def test_a_folder_that_a_glob_does_not_enter_is_noted(linked: Path) -> None:
    source = open_source(f"{linked}/*")
    assert contents(source) == [A]
    (note,) = source.notes
    assert f"leaves out {linked}/more: it is a folder" in note
    assert read(f"{linked}/more/*") == [B]


@pytest.mark.parametrize("form", ["", "/**", "/**/*.txt", "/*.txt", "/*/*.txt"])
def test_a_link_to_nothing_is_refused_by_name(linked: Path, form: str) -> None:
    (linked / "gone.txt").symlink_to("/nonexistent")
    (linked / "more/gone.txt").symlink_to("gone.txt")
    with pytest.raises(ValueError, match=r"gone\.txt is a link to nothing \((/nonexistent|gone\.txt)\)"):
        open_source(f"{linked}{form}")
    assert read(f"{linked}/**/[ab].txt") == [A, B]
    with pytest.raises(ValueError, match=r"gone\.txt' is a link to nothing"):
        open_source(f"{linked}/gone.txt")


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_what_is_no_regular_file_is_refused_by_name(linked: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind == "pipe":
        os.mkfifo(linked / "odd")
    else:
        monkeypatch.chdir(linked)  # for the path of a socket may not be long
        socket.socket(socket.AF_UNIX).bind("odd")
    for form in ("", "/*", "/**", "/o*"):
        with pytest.raises(ValueError, match=f"{linked}/odd is not a regular file and cannot be read twice"):
            open_source(f"{linked}{form}")
    assert read(f"{linked}/*.txt") == [A]


def test_a_folder_that_cannot_be_entered_is_refused(linked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = os.scandir

    def closed(folder: Path) -> object:
        if Path(folder).name == "more":
            raise PermissionError(13, "Permission denied", str(folder))
        return scan(folder)

    monkeypatch.setattr("os.scandir", closed)
    for form in ("", "/**/*.txt", "/*/*.txt"):
        with pytest.raises(ValueError, match=r"more cannot be read \(Permission denied\)"):
            open_source(f"{linked}{form}")


@pytest.mark.parametrize("form", ["", "/**", "/**/*.txt", "/*.txt", "/**/**/*"])
def test_loops_and_second_ways_count_nothing_twice(tmp_path: Path, form: str) -> None:
    """Glob's own ** would count the file 41 times, and with two loops never end."""
    folder = tmp_path / "lp"
    folder.mkdir()
    (folder / "text.txt").write_bytes(b"seventeen bytes.\n")
    for name in ("self", "also"):
        (folder / name).symlink_to(".")
    (folder / "again.txt").symlink_to("text.txt")
    (folder / "up").symlink_to("..")
    source = open_source(f"{folder}{form}")
    assert contents(source) == [b"seventeen bytes.\n"] and source.expected_bytes == 17
    (note,) = source.notes
    assert f"{folder}/again.txt" in note or f"{folder}/also" in note
    assert "a link leads there to what is read already" in note


def test_files_under_two_names_of_their_own_are_two_files(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(A)
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    assert read(tmp_path) == [A, A]


def test_names_without_a_link_come_first(tmp_path: Path) -> None:
    (tmp_path / "z").mkdir()
    (tmp_path / "z/file").write_bytes(A)
    (tmp_path / "a").symlink_to("z")
    (tmp_path / "b").symlink_to("z/file")
    assert open_source(f"raw:{tmp_path}").names == ("z/file",)
    assert open_source(f"raw:{tmp_path}/*/*").names == ("z/file",)


def test_globs_are_those_of_a_shell(tmp_path: Path) -> None:
    for name in ("a.txt", "b/c.txt", "b/.hidden/d.txt", ".e.txt", "x[1].txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    found = {
        "*.txt": [b"a.txt", b"x[1].txt"],
        "**/*.txt": [b"a.txt", b"b/c.txt", b"x[1].txt"],
        ".*": [b".e.txt"],
        "?/[!x].txt": [b"b/c.txt"],
        "b/.*/*": [b"b/.hidden/d.txt"],
        "x[1].txt": [b"x[1].txt"],
        "*/c.txt": [b"b/c.txt"],
        "*/../a.*": [b"a.txt"],
    }
    for pattern, names in found.items():
        assert read(f"{tmp_path}/{pattern}") == names, pattern
    with pytest.raises(ValueError, match="no such file, folder or glob match"):
        open_source(f"{tmp_path}/none/*")


def test_here_has_a_name_and_nothing_has_none(linked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(linked)
    assert [open_source(source).name for source in (".", "raw:.", "./", "../d", "..", str(linked))] == [
        "d", "d", "d", "d", linked.parent.name, "d"
    ]  # fmt: skip
    for source in ("", "raw:"):
        with pytest.raises(ValueError, match="names nothing: give a file, a folder"):
            open_source(source)


def test_what_onepass_wrote_is_left_out_with_a_line(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "text.txt").write_bytes(A)
    options: dict[str, Any] = {"tokenizer": "bytes", "cache_dir": corpus / "cache"}
    first = prepare(str(corpus), **options)
    run, stillborn, partial = corpus / "runs/one", corpus / "runs/two", corpus / "file.partial"
    for folder in (run, stillborn, partial, corpus / "runs/tensorboard"):
        folder.mkdir(parents=True)
    for path in (
        run / CONFIG_FILE, run / CODE_FILE, run / "report.md", stillborn / LOCK_FILE, stillborn / TOKENIZER_FILE,
        partial / MARK, partial / LOCK_FILE, corpus / "runs/tensorboard/events", corpus / "runs/comparison.csv",
    ):  # fmt: skip
        path.write_bytes(b"old output")
    for form in ("", "/**", "/**/*"):
        source = open_source(f"{corpus}{form}")
        assert contents(source) == [A]
        assert any(f"leaves out {corpus}/cache/" in note and "Onepass wrote it" in note for note in source.notes)
    assert prepare(str(corpus), **options).manifest == first.manifest
    assert read(f"{corpus}/*.txt") == [A]
    # Named itself, it is read.
    assert read(run / "report.md") == [b"old output"] and len(read(run)) == 3
    with pytest.raises(ValueError, match=f"no such file.*leaves out {corpus}/runs/comparison.csv .*Onepass wrote it"):
        open_source(f"{corpus}/runs")


def test_an_archive_beside_its_run_is_left_out_and_a_corpus_is_not(tmp_path: Path) -> None:
    for name, content in (
        ("a.one", b"ONEPASS\1..."),
        ("b.one", b"ONEPASS\2..."),
        ("c.txt", A),
        ("d.one", b"ONEPASS\1"),
    ):
        (tmp_path / name).write_bytes(content)
    for name in ("a.one.run", "b.one.run", "c.txt.run"):
        (tmp_path / name).mkdir()
        (tmp_path / name / CONFIG_FILE).touch()
        (tmp_path / name / CODE_FILE).touch()
    assert read(tmp_path) == [A, b"ONEPASS\1"]
    (note,) = open_source(str(tmp_path)).notes
    assert f"leaves out {tmp_path}/a.one (and 4 more): Onepass wrote it" in note


def test_output_is_known_by_the_names_that_are_written(tmp_path: Path) -> None:
    assert {CONFIG_FILE, CODE_FILE} in OUTPUTS and {MARK, LOCK_FILE} in OUTPUTS
    assert {MANIFEST, "tokens-00000.bin"} in OUTPUTS and {JOURNAL, "tokens-00000.bin"} in OUTPUTS
    assert {INDEX, "index-00000.bin"} in OUTPUTS and {JOURNAL, "index-00000.bin"} in OUTPUTS
    assert STILLBORN[0] == LOCK_FILE and {TOKENIZER_FILE, CODE_FILE} < set(STILLBORN)
    for name in ("comparison.html", "comparison-dark.png", "scaling.csv", "scaling-vocabulary-light.png", "sweep.json"):
        assert COMPARISONS.fullmatch(name)
