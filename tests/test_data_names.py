"""Names of documents: they come back as they were, and an archive cannot make them point anywhere else."""

import lzma
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.names import MAX_TEXT_BYTES, open_output, pack_names, refuse_long_paths, unpack_names
from data.output import write_documents

EMPTY_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
part = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=60)
part = part.filter(lambda text: text not in (".", ".."))


@settings(deadline=None)
@given(st.lists(st.lists(part, min_size=1, max_size=3).map("/".join), min_size=1, max_size=6))
def test_names_come_back_or_are_refused(names):
    try:
        content = pack_names(tuple(names))
    except ValueError:
        clash = len(set(names)) < len(names) or any(b.startswith(f"{a}/") for a in names for b in names)
        assert clash
        return
    assert unpack_names(content, len(names)) == tuple(names)


def test_no_names_take_nothing():
    assert pack_names(()) == b""


def test_names_that_are_not_utf8_come_back():
    names = tuple(os.fsdecode(name) for name in (b"caf\xe9", b"\xff/\xfe", b"new\nline", "\u0085".encode()))
    assert unpack_names(pack_names(names), 4) == names


BAD = {
    "/etc/passwd": "is not a path below a folder",
    "../up": "is not a path below a folder",
    "a/../../up": "is not a path below a folder",
    "..": "is not a path below a folder",
    ".": "is not a path below a folder",
    "a/./b": "is not a path below a folder",
    "a//b": "is not a path below a folder",
    "a/": "is not a path below a folder",
    "": "is not a path below a folder",
    "x" * 256: "is not a path below a folder",
    "x/" * 2048 + "x": "is not a path below a folder",
    "good": "'good' is the name of two documents",
    "good/b": "'good' is the name of a document and of a folder",
}


@pytest.mark.parametrize(("name", "message"), BAD.items(), ids=range(len(BAD)))
def test_what_is_no_path_below_a_folder_is_neither_written_nor_read(name, message):
    with pytest.raises(ValueError, match=message):
        pack_names(("good", name))
    with pytest.raises(ValueError, match=message):
        unpack_names(packed(b"good\0" + name.encode()), 2)


def packed(text: bytes, **options: int) -> bytes:
    return lzma.compress(text, lzma.FORMAT_ALONE, filters=[{"id": lzma.FILTER_LZMA1, "preset": 0, **options}])


def test_streams_that_we_do_not_write_are_refused(monkeypatch):
    content = pack_names(("one", "two"))
    for damaged in (b"", content[:-1], content + b"x", b"\xff" * 40, lzma.compress(b"one\0two")):
        with pytest.raises(ValueError, match=r"not a \.lzma stream|does not end with its frame"):
            unpack_names(damaged, 2)
    with pytest.raises(ValueError, match=r"not a \.lzma stream"):
        unpack_names(packed(b"one\0two", dict_size=128 << 20), 2)
    with pytest.raises(ValueError, match="there are 2 names for 3 documents"):
        unpack_names(content, 3)
    monkeypatch.setattr("data.names.MAX_TEXT_BYTES", 6)
    with pytest.raises(ValueError, match="takes more than 6 bytes"):
        unpack_names(content, 2)
    with pytest.raises(ValueError, match="the names of 2 documents take 8 bytes: archive the folder in parts"):
        pack_names(("one", "four"))
    assert MAX_TEXT_BYTES == 256 << 20


def write(output: Path, documents: list[bytes], names: tuple[str, ...], sha256: str) -> None:
    with open_output(output, names) as folder:
        write_documents(((document, True) for document in documents), folder, len(documents) == 1, sha256)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_documents_get_their_names(tmp_path):
    names = ("b/c/d", "a", os.fsdecode(b"b/\xff"), ".hidden")
    write(tmp_path / "out", [b""] * 4, names, EMPTY_SHA256)
    assert tree(tmp_path / "out") == dict.fromkeys(names, b"")
    write(tmp_path / "alone", [b""], ("one",), EMPTY_SHA256)
    assert tree(tmp_path / "alone") == {"one": b""}
    write(tmp_path / "numbered", [b"", b""], (), EMPTY_SHA256)
    assert tree(tmp_path / "numbered") == {"00000000": b"", "00000001": b""}
    long = tmp_path / ("x" * 255)
    write(long, [b""], ("y" * 255,), EMPTY_SHA256)
    assert tree(long) == {"y" * 255: b""}
    assert len([*tmp_path.iterdir()]) == 4


def test_what_fails_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="the archive says"):
        write(tmp_path / "out", [b"x", b"y"], ("a", "b"), EMPTY_SHA256)
    with pytest.raises(KeyboardInterrupt), open_output(tmp_path / "out", ("a",)):
        raise KeyboardInterrupt
    # A decoder of an archive's own that ended with a status.
    with open_output(tmp_path / "out", ("a",)):
        pass
    assert not [*tmp_path.iterdir()]


def test_names_that_a_file_system_takes_for_one_are_refused(tmp_path, monkeypatch):
    """As those without upper and lower case do."""
    monkeypatch.setattr("data.names.Path.__truediv__", lambda path, name: Path(f"{path}/{str(name).lower()}"))
    with pytest.raises(ValueError, match="'A' and a name before it are one"):
        write(tmp_path / "out", [b"", b""], ("a", "A"), EMPTY_SHA256)
    assert not [*tmp_path.iterdir()]


def test_paths_that_would_be_too_long_are_refused_before_the_work(tmp_path):
    deep = "/".join(["x" * 200] * 20)
    refuse_long_paths(Path("/out"), (deep,))
    refuse_long_paths(tmp_path / "out", ())
    with pytest.raises(ValueError, match="make too long a path: name a folder with a shorter one"):
        refuse_long_paths(tmp_path / ("y" * 200) / "out", ("a", deep))
