"""Archives that hold files as they are, made in this process: what comes back, under which names, what is refused."""

import lzma
import os
import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from archive_commands import names, tree
from made_up_archive import seal, stored, with_names

import launch.compress
import launch.decompress
from archive.writing import byte_source
from data.documents import open_source
from eval.begun import refuse_other_run
from train.command_line import parse_config
from train.config import Config


@pytest.mark.parametrize("content", [b"", b"\n", random.Random(2).randbytes(5_000)], ids=["empty", "byte", "noise"])
def test_what_is_shorter_than_any_model_is_stored(content: bytes, tmp_path: Path) -> None:
    paths = [str(tmp_path / name) for name in ("file", "archive", "again")]
    Path(paths[0]).write_bytes(content)
    assert launch.compress.main(paths[:2]) == 0
    assert Path(paths[1]).stat().st_size <= len(content) + 1024
    assert launch.decompress.main(paths[1:]) == 0
    assert Path(paths[2]).read_bytes() == content
    assert names(tmp_path) == {"file", "archive", "again"}


FILES = {"a": b"first", "b/b.txt.gz": b"", "c.jsonl": b"\xff third", os.fsdecode(b"caf\xe9\n"): b"\n"}


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, where the folder `documents` holds FILES."""
    for name, document in FILES.items():
        path = tmp_path / "documents" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(document)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "source", ["documents", "./documents/", "raw:documents", "documents/**/*", "doc*s/**", "documents/**/*.jsonl"]
)
def test_stored_files_come_back_under_their_names(files: Path, source: str) -> None:
    """Whatever their names say, as bytes."""
    assert launch.compress.main([source, "archive"]) == 0
    assert launch.decompress.main(["archive", "folder"]) == 0
    found = tree(files / "folder")
    if source.startswith("doc*"):
        assert found == {f"documents/{name}": content for name, content in FILES.items()}
    else:
        assert found == {name: content for name, content in FILES.items() if name == "c.jsonl" or "*.j" not in source}
    assert launch.decompress.main(["archive", "joined", "--joined"]) == 0
    assert (files / "joined").read_bytes() == b"".join(found[name] for name in sorted(found, key=Path))
    assert names(files) == {"documents", "archive", "folder", "joined"}


def test_a_run_directory_that_cannot_be_is_refused_before_the_work(tmp_path: Path) -> None:
    """TensorBoard would fail in it. What compress makes of an archive's name is."""
    name = str(tmp_path / "caf\udce9.one")
    assert launch.compress.default_dir({"archive": name}) == str(tmp_path / "caf\\xe9.one.run")
    config = Config()
    for config.run.dir, message in [
        (name, r"is not UTF-8, .*: name another"),
        ("x" * 256, "has 256 bytes, and names in"),
    ]:
        with pytest.raises(ValueError, match=message):
            refuse_other_run(config, {})
    assert not names(tmp_path)


def test_an_archive_of_numbered_documents_is_still_read(tmp_path: Path) -> None:
    """Of format 1, as those without names are, and as all were."""
    (tmp_path / "archive").write_bytes(seal(stored([[b"first"], [b""], [b"thi", b"rd"]])))
    assert launch.decompress.main([str(tmp_path / "archive"), str(tmp_path / "folder")]) == 0
    assert tree(tmp_path / "folder") == {"00000000": b"first", "00000001": b"", "00000002": b"third"}


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside", "a/../../outside", ".", "a//b"])
def test_an_archive_cannot_write_outside_of_its_folder(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    content = lzma.compress(b"good\0" + name.encode(), lzma.FORMAT_ALONE)
    (tmp_path / "archive").write_bytes(seal(with_names(stored([[b"first"], [b""]]), content)))
    assert launch.decompress.main([str(tmp_path / "archive"), str(tmp_path / "inner")]) == 1
    assert re.search(f"archive: names at byte [0-9]+: '{name}' is not a path below a folder", capsys.readouterr().err)
    assert names(tmp_path) == {"archive"}


def test_what_names_bytes_is_taken_as_bytes(files: Path) -> None:
    url = "http://host/{1..2}.jsonl"
    assert byte_source(url) == f"raw:{url}"
    assert open_source(f"raw:{url}").names == ("1.jsonl", "2.jsonl") and open_source("raw:http://host/a.gz").names == ()
    assert byte_source("*.jsonl") == f"raw:{files}/*.jsonl"
    assert [*map(byte_source, ("kjv", "hf:name", "raw:x"))] == ["kjv", "hf:name", "raw:x"]
    (files / "kjv").touch()
    assert byte_source("kjv") == f"raw:{files}/kjv"


def test_what_is_not_read_is_refused_or_said(files: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (files / "documents/self").symlink_to(".")
    assert launch.compress.main(["documents", "archive"]) == 0
    assert "onepass: data.source" in (said := capfd.readouterr().err)
    assert said.count("leaves out") == 1 and "documents/self: a link leads there to what is read already" in said
    (files / "documents/gone").symlink_to("/nonexistent")
    assert launch.compress.main(["documents", "again"]) == 2
    assert "documents/gone is a link to nothing (/nonexistent)" in capfd.readouterr().err
    for source in ("", "raw:"):
        assert launch.compress.main([source, "again"]) == 2
        assert "names nothing: give a file" in capfd.readouterr().err
    assert names(files) == {"documents", "archive"}


def test_names_as_long_as_can_be(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """What becomes a file takes a shorter name on the way there, and what cannot become one is refused at once."""
    (tmp_path / "file").write_bytes(b"content")
    longest = {
        name: str(tmp_path / (name * length)) for name, length in [("a", 251), ("b", 252), ("c", 247), ("d", 248)]
    }
    assert launch.compress.main([str(tmp_path / "file"), longest["a"]]) == 0
    assert launch.compress.main([str(tmp_path / "file"), longest["b"]]) == 2
    assert "has 256 bytes, and names in" in capfd.readouterr().err
    assert launch.compress.main([str(tmp_path / "file"), longest["b"], f"--run.dir={tmp_path}/run"]) == 0
    assert launch.decompress.main([longest["a"], longest["c"]]) == 0
    assert launch.decompress.main([longest["b"], longest["d"]]) == 2
    assert "has 256 bytes, and names in" in capfd.readouterr().err
    assert Path(longest["c"]).read_bytes() == b"content"
    assert sorted(map(len, names(tmp_path))) == [4, 247, 251, 252]


def test_stored_documents_come_back_in_order(tmp_path: Path) -> None:
    (tmp_path / "documents").mkdir()
    for name, document in {"a": b"first", "b": b"", "c.jsonl": b"\xff third"}.items():
        (tmp_path / "documents" / name).write_bytes(document)
    archive, folder, joined = (str(tmp_path / name) for name in ("archive", "folder", "joined"))
    assert launch.compress.main([str(tmp_path / "documents"), archive]) == 0
    assert launch.decompress.main([archive, folder]) == 0
    assert [path.read_bytes() for path in sorted(Path(folder).iterdir())] == [b"first", b"", b"\xff third"]
    assert launch.decompress.main([archive, joined, "--joined"]) == 0
    assert Path(joined).read_bytes() == b"first\xff third"


@pytest.fixture
def stored_file(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """A file and its archive."""
    (tmp_path / "file").write_bytes(b"content")
    assert launch.compress.main([str(tmp_path / "file"), str(tmp_path / "archive")]) == 0
    yield str(tmp_path / "file"), str(tmp_path / "archive")


def test_what_exists_is_not_overwritten(stored_file: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    file, archive = stored_file
    before = Path(archive).read_bytes()
    assert launch.compress.main([file, archive]) == 2
    assert f"onepass: {archive} exists" in capsys.readouterr().err
    assert launch.decompress.main([archive, file]) == 2
    assert f"{file} exists" in capsys.readouterr().err
    assert (Path(file).read_bytes(), Path(archive).read_bytes()) == (b"content", before)


def test_what_is_missing_is_named(
    stored_file: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert launch.compress.main([str(tmp_path / "nothing"), str(tmp_path / "new")]) == 2
    assert f"'{tmp_path}/nothing': no such file" in capsys.readouterr().err
    assert launch.decompress.main([stored_file[1]]) == 2
    assert "FILE is missing" in capsys.readouterr().err
    assert launch.decompress.main([str(tmp_path / "nothing"), str(tmp_path / "new")]) == 1
    assert str(tmp_path / "nothing") in capsys.readouterr().err
    assert names(tmp_path) == {"file", "archive"}


def test_no_arguments_are_the_defaults() -> None:
    assert parse_config("", []) == Config()
