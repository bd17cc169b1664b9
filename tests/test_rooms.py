"""The rooms of the house: imports point one way, files stay short."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "model": {"model"},
    "data": {"data"},
    "train": {"train", "model", "data"},
    "eval": {"eval", "train", "data"},
    "launch": {"eval", "train", "model", "data", "launch"},
}
FILES = [path.relative_to(ROOT) for room in MAY_IMPORT for path in sorted((ROOT / room).rglob("*.py"))]


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


def test_there_is_something_to_check() -> None:
    assert len(FILES) > 20


@pytest.mark.parametrize("file", FILES, ids=str)
def test_imports_point_one_way(file: Path) -> None:
    allowed = MAY_IMPORT[file.parts[0]]
    for name in imported(ROOT / file):
        if name.split(".")[0] in MAY_IMPORT:
            assert name.split(".")[0] in allowed or name in allowed, f"{file} imports {name}"


@pytest.mark.parametrize("file", FILES, ids=str)
def test_heavy_packages_stay_in_their_rooms(file: Path) -> None:
    tops = {name.split(".")[0] for name in imported(ROOT / file)}
    assert "deepspeed" not in tops or file in (Path("train/engine.py"), Path("train/saved_engine.py"))
    assert "torch" not in tops or file.parts[0] != "data"


@pytest.mark.parametrize("file", FILES, ids=str)
def test_files_are_short(file: Path) -> None:
    assert len((ROOT / file).read_text().splitlines()) <= 400
