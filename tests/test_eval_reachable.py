"""What a program reaches: what is dropped, what has to stay, and that what is left runs as before."""

import ast
import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest

from eval.canonical import canonical_tree, written
from eval.reachable import module_path, prune


def layout(source: str) -> str:
    return written(ast.parse(source))


def pruned(sources: dict[str, str], packages: tuple[str, ...] = (), **found: Any) -> dict[str, str]:
    """What is left of a program that starts with `main`."""
    trees = {name: canonical_tree(source) for name, source in sources.items()}
    return {name: written(tree) for name, tree in prune(trees, packages, "main", **found).items()}


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def run(program: dict[str, str]) -> dict[str, Any]:
    """Run what is left, every module of it importable, and return the names of `main`."""
    for name in sorted(program):
        module = types.ModuleType(name)
        module.__path__ = []
        sys.modules[name] = module
    for name in sorted(program, key=lambda name: (name == "main", -name.count("."), name)):
        exec(compile(program[name], name, "exec"), vars(sys.modules[name]))
    return vars(sys.modules["main"])


def test_definitions_that_nothing_reached_names_are_dropped_and_chains_are_followed() -> None:
    program = pruned({
        "main": "from tools import used\nfrom spare import nothing\nRESULT = used()\nprint(RESULT)\n",
        "tools": (
            "import json, math\nLIMIT = 3\nOTHER = 4\n"
            "def used():\n    return helper() + LIMIT\n"
            "def helper():\n    return math.floor(1.5)\n"
            "def idle():\n    return json.dumps(second())\n"
            "def second():\n    return OTHER\n"
            "class Idle:\n    pass\n"
        ),
        "spare": "def nothing():\n    return 1\n",
    })  # fmt: skip
    assert program == {
        "main": layout("from tools import used\nRESULT = used()\nprint(RESULT)\n"),
        "tools": layout(
            "import math\nLIMIT = 3\n\ndef used():\n return helper() + LIMIT\n\n"
            "def helper():\n return math.floor(1.5)\n"
        ),
    }
    assert run(program)["RESULT"] == 4


def test_a_module_whose_import_does_something_stays_and_what_it_does_too() -> None:
    program = pruned({
        "main": "from plugins import unused\nimport tables\nimport register\n",
        "plugins": "def unused():\n    return 0\n\nseen = []\nseen.append(mark())\n",
        "tables": "def unused():\n    return 0\n",
        "register": "from decorators import known\n\n@known('x')\ndef named_nowhere():\n    return helper()\n\n"
        "def helper():\n    return 1\n",
        "decorators": "ALL = {}\n\ndef known(name):\n    return lambda f: ALL.setdefault(name, f)\n\n"
        "def idle():\n    pass\n",
    })  # fmt: skip
    assert program["main"] == layout("from plugins import unused\nimport tables\nimport register\n")
    assert program["plugins"] == layout("def unused():\n return 0\nseen = []\nseen.append(mark())\n")
    assert "named_nowhere" in program["register"]
    assert "helper" in program["register"]
    assert "idle" not in program["decorators"]
    assert program["tables"] == ""


def test_methods_stay_where_somebody_may_call_them() -> None:
    source = """
import io
from torch import nn

class Layer(nn.Module):
    size: int = 3
    def __init__(self):
        self.setup()
    def setup(self):
        pass
    def forward(self, x):
        return x
    def nobody(self):
        return unreached()
    @property
    def wide(self):
        return 2
    @property
    def narrow(self):
        return 1

class Sink:
    def write(self, text):
        pass
    def forward(self):
        pass

def unreached():
    pass

layer = Layer()
print(layer.wide, file=Sink())
"""
    program = pruned({"main": source}, inherited=["forward"])["main"]
    for kept in ("__init__", "def setup", "def forward(self,x)", "def wide", "size=3", "def write"):
        assert kept in program
    for gone in ("nobody", "unreached", "narrow", "import io"):
        assert gone not in program
    assert "def forward(self)" in program
    assert "def forward" not in pruned({"main": source})["main"]


def test_names_in_strings_and_packages_that_look_names_up_stay() -> None:
    program = pruned({
        "main": "import registry\nprint(getattr(registry, 'chosen')())\n",
        "registry": "def chosen():\n    return 1\n\ndef other():\n    return 2\n",
    })  # fmt: skip
    assert "other" not in program["registry"]
    assert run(program)["registry"].chosen() == 1
    sources = {
        "main": "from kit.deep import first\nfirst()\n",
        "kit": "",
        "kit.deep": "from kit.table import find\n\ndef first():\n    return find('sec' + 'ond')\n",
        "kit.table": "import kit.more\n\ndef find(name):\n    return getattr(kit.more, name)()\n",
        "kit.more": "import math\n\ndef second():\n    return math.pi\n",
    }
    program = pruned(sources, packages=("kit",))
    assert program["kit.more"] == layout("import math\n\ndef second():\n return math.pi\n")


def test_relative_imports_re_exports_submodules_and_stars_are_followed() -> None:
    program = pruned(
        {
            "main": "from kit import gated, Gate\nfrom kit.stars import *\nprint(gated.inner, Gate, moon)\n",
            "kit": "from .gated import Gate, Other\nfrom . import unused\n",
            "kit.gated": "from ..kit.gated_parts import part\ninner = part\n\nclass Gate:\n    pass\n\n"
            "class Other:\n    pass\n",
            "kit.gated_parts": "part = 5\nrest = 6\n",
            "kit.unused": "x = 1\n",
            "kit.stars": "sun = 1\nmoon = 2\n",
        },
        packages=("kit",),
    )
    assert program["kit"] == layout("from .gated import Gate\n")
    assert "Other" not in program["kit.gated"]
    assert program["kit.gated_parts"] == layout("part = 5\n")
    assert program["kit.stars"] == layout("sun = 1\nmoon = 2\n")
    assert "kit.unused" not in program


def test_what_is_loaded_without_an_import_statement_is_reached_with_its_packages() -> None:
    sources = {
        "main": "NAMES = {'a': 'Alpha'}\nprint(NAMES)\n",
        "model": "",
        "model.blocks.a": "class Alpha:\n    pass\n\nclass Beta:\n    pass\n",
    }
    assert set(pruned(sources)) == {"main"}
    program = pruned(sources, packages=("model",), loaded=["model.blocks.a"])
    assert program["model.blocks.a"] == layout("class Alpha:\n pass\n")
    assert set(program) == {"main", "model", "model.blocks.a"}
    # The registry finds its blocks by names that are strings in it; from elsewhere, all that is there may be wanted.
    sources = {"main": "import other\n", "other": "", "computed": "class Beta:\n    pass\n"}
    assert pruned(sources, loaded=["computed"])["computed"] == layout("class Beta:\n pass\n")


def test_only_the_start_runs_as_a_program_and_late_imports_are_followed() -> None:
    guard = "if __name__ == '__main__':\n    only_here()\n"
    program = pruned({
        "main": f"def only_here():\n    from late import work\n    return work()\n\n{guard}",
        "late": f"from heavy import only_here\n\ndef work():\n    pass\n\n{guard}",
        "heavy": "def only_here():\n    pass\n",
    })  # fmt: skip
    assert set(program) == {"main", "late"}
    assert "__main__" in program["main"]
    assert program["late"] == layout("def work():\n pass\n")


def test_fields_that_a_base_class_reads_and_signatures_of_decorated_functions_keep_their_annotations() -> None:
    source = """
from typing import NamedTuple
import torch
class Pair(NamedTuple):
    first: int
    second: int = 2
@torch.jit.script
def scripted(x: torch.Tensor, n: int) -> torch.Tensor:
    "Words."
    return x * n
class Model(torch.nn.Module):
    size: int
print(Pair, scripted, Model)
"""
    program = pruned({"main": source})["main"]
    assert "first:int" in program
    assert "n:int" in program
    assert "->torch.Tensor" in program
    assert "size" not in program
    assert "Words." not in program


def test_a_path_follows_from_a_name_alone() -> None:
    assert module_path("model.blocks", True) == "model/blocks/__init__.py"
    assert module_path("model.blocks.gru", False) == "model/blocks/gru.py"
    tree = ast.parse("import a.b as c\n")
    assert written(tree) == "import a.b as c\n"
