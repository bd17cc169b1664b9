"""The rooms of the house: imports point one way, without circles; files stay short."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Each room may import itself and the rooms after it.
ORDER = ["launch", "studies", "archive", "eval", "train", "model", "data"]
APART = {("model", "data")}
# What a room is for, said when an import is refused.
PURPOSE = {
    "launch": "is what a person starts: nothing else may need it",
    "studies": "holds instruments over finished runs: the core works without them",
    "archive": "codes with what train and eval define: they must not know of it",
    "eval": "says what one run's number means: training must not depend on its own report",
    "train": "is one epoch of learning: models and data are of use without it",
    "model": "is pure PyTorch: data needs no network",
    "data": "knows files and tokens: a model is given tensors",
}
FILES = [path.relative_to(ROOT) for room in ORDER for path in sorted((ROOT / room).rglob("*.py"))]
# A decoder, and so its code term, holds them only where its configuration asks for them (eval/decoder_imports.py).
CHOSEN_BY_CONFIGURATION = {
    "data.joins", "data.token_pieces", "model.adapter", "model.cuda", "model.mixing", "model.mixture",
    "model.network", "model.network_parts", "model.parts", "model.words",
    "train.cuda", "train.graphs", "train.replay", "train.zero_muon",
}  # fmt: skip
# Its program is the decoder's interpreter, which must import what it looks at, and nothing before.
LOOKS_AT_IMPORTS = Path("eval/decoder_imports.py")
# An archive is verified before PyTorch is loaded (tests/test_archive.py), which then finds its pins in the environment.
VERIFIES_FIRST = Path("launch/decompress.py")


def module_name(file: Path) -> str:
    return ".".join(file.with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(file) for file in FILES}


def imported(file: Path, inside_functions: bool = False) -> set[str]:
    """Modules that a file imports when it runs, or those alone that it imports inside functions; ours by full name."""
    names: set[str] = set()
    tree: ast.AST = ast.parse((ROOT / file).read_text())
    nodes = list(ast.walk(tree))
    if inside_functions:
        nodes = [node for part in nodes if isinstance(part, ast.FunctionDef) for node in ast.walk(part)]
    for_types = {
        id(node)
        for part in ast.walk(tree)
        if isinstance(part, ast.If) and isinstance(part.test, ast.Name) and part.test.id == "TYPE_CHECKING"
        for node in ast.walk(part)
    }
    for node in nodes:
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            parts = {f"{module}.{alias.name}" for alias in node.names}
            names |= (parts & MODULES) or {module}
    return names


def test_there_is_something_to_check() -> None:
    assert len(FILES) > 100
    assert {file.parts[0] for file in FILES} == set(ORDER)


@pytest.mark.parametrize("file", FILES, ids=str)
def test_imports_point_one_way(file: Path) -> None:
    room = file.parts[0]
    allowed = ORDER[ORDER.index(room) :]
    for name in imported(file):
        other = name.split(".")[0]
        if other in ORDER:
            assert other in allowed and (room, other) not in APART, (
                f"{file} imports {name}: {other}/ {PURPOSE[other]}. Move what {file} needs of it to {room}/ or to a "
                f"room after it ({', '.join(allowed[1:])}), or move {file} up"
            )


def test_no_imports_go_in_circles() -> None:
    graph = {module_name(file): imported(file) & MODULES for file in FILES}
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> None:
        assert name not in path, f"imports go in a circle: {' -> '.join([*path[path.index(name) :], name])}"
        if name not in done:
            for other in sorted(graph[name]):
                visit(other, [*path, name])
            done.add(name)

    for name in sorted(graph):
        visit(name, [])


@pytest.mark.parametrize("file", [file for file in FILES if file not in (LOOKS_AT_IMPORTS, VERIFIES_FIRST)], ids=str)
def test_our_own_modules_are_imported_at_the_top(file: Path) -> None:
    """An import inside a function hides what a file depends on."""
    late = imported(file, inside_functions=True) & MODULES
    assert late <= CHOSEN_BY_CONFIGURATION, f"{file} imports {late} inside a function: move it to the top"


@pytest.mark.parametrize("file", FILES, ids=str)
def test_heavy_packages_stay_in_their_rooms(file: Path) -> None:
    tops = {name.split(".")[0] for name in imported(file)}
    named = [Path("train", name) for name in ("engine.py", "monitors.py", "saved_engine.py", "zero_muon.py")]
    assert "deepspeed" not in tops or file in named
    assert "torch" not in tops or file.parts[0] != "data"


@pytest.mark.parametrize("file", FILES, ids=str)
def test_files_are_short(file: Path) -> None:
    assert len((ROOT / file).read_text().splitlines()) <= 400
