"""Short local names: a program does what it did, and what its local names were called costs nothing."""

import ast
import dis
from collections.abc import Iterator
from pathlib import Path
from types import CodeType

import pytest
from project_files import PROJECT_FILES, ROOT

from eval.canonical import canonical_tree, written
from eval.local_names import shorten_local_names


def shortened(source: str) -> str:
    tree = canonical_tree(source)
    shorten_local_names([tree])
    return written(tree)


def operations(code: CodeType) -> Iterator[tuple[str, object]]:
    """What a program does, step by step, and the names of all that is not local. Local names are their numbers."""
    for step in dis.get_instructions(code):
        # How a method is called, and so how far jumps are, depends on whether a module imports something of that name.
        name = {"LOAD_METHOD": "LOAD_ATTR"}.get(step.opname, step.opname)
        # Names that inner functions share are numbered by the alphabet.
        numbered = step.opcode in dis.hasjrel or step.opcode in dis.hasfree or "CALL" in name
        if name not in ("PUSH_NULL", "EXTENDED_ARG"):
            yield name, None if numbered else step.argval if step.opcode in dis.hasname else step.arg
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from operations(constant)


@pytest.mark.parametrize("path", PROJECT_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_of_the_project_does_what_it_did(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    before = compile(written(canonical_tree(source)), str(path), "exec")
    short = shortened(source)
    assert [*operations(compile(short, str(path), "exec"))] == [*operations(before)]
    assert shortened(short) == short


@pytest.mark.parametrize(
    ("source", "short"),
    [
        ("def f(x):\n y = x\n z, x = y, 2\n return z\n", "def f(x):\n a=x\n b,x=(a,2)\n return b\n"),
        # Callers cannot give these by name.
        ("def f(x, /, *rest, **more): return x, rest, more\n", "def f(a,/,*b,**c):\n return(a,b,c)\n"),
        ("class A:\n def f(self, x): self.x = x\n", "class A:\n def f(a,x):\n  a.x=x\n"),
        ("class A:\n @staticmethod\n def f(x): return x\n", "class A:\n @staticmethod\n def f(x):\n  return x\n"),
        # Inner functions share names with outer ones.
        (
            "def f():\n total = 0\n def add(x):\n  nonlocal total\n  total += x\n return add\n",
            "def f():\n a=0\n def b(x):\n  nonlocal a\n  a+=x\n return b\n",
        ),
        # `rows` is local to the comprehension, and the module's own outside of it.
        ("def f(x): return rows([rows for rows in x])\n", "def f(x):\n return rows([rows for rows in x])\n"),
        ("def f(): return [rows for rows in rows]\n", "def f():\n return[rows for rows in rows]\n"),
        ("lines = [line for line in lines]\n", "lines=[a for a in lines]\n"),
        # It binds outside of the comprehension.
        (
            "def f(x):\n return [last := y for y in x], last\n",
            "def f(x):\n return([(b:=a)for a in x],b)\n",
        ),
        ("x = [last := y for y in range(3)]\n", "x=[(last:=a)for a in range(3)]\n"),
        # A short name is not one that means something else there.
        ("def f(b):\n y = a(b)\n return y\n", "def f(b):\n c=a(b)\n return c\n"),
        ("def f():\n global total\n total = 1\n", "def f():\n global total\n total=1\n"),
        # A class makes attributes of its names.
        (
            "def f():\n size = 2\n class A:\n  wide = size\n return A.wide\n",
            "def f():\n a=2\n class A:\n  wide=a\n return A.wide\n",
        ),
        ("def f():\n class A:\n  wide = 2\n wide = 3\n", "def f():\n class A:\n  wide=2\n wide=3\n"),
        (
            "def f():\n import os.path, json as j\n return os, j\n",
            "def f():\n import os.path,json as j\n return(os,j)\n",
        ),
        (
            "def f():\n try: g()\n except OSError as error: raise error\n",
            "def f():\n try:\n  g()\n except OSError as a:\n  raise a\n",
        ),
        (
            "def f(x):\n match x:\n  case [first, *rest]: return first, rest\n",
            "def f(x):\n match x:\n  case[first,*rest]:\n   return(first,rest)\n",
        ),
        ("f = lambda x, *y: (x, y)\n", "f=lambda x,*a:(x,a)\n"),
        # A compiler of functions may look at names.
        ("@njit\ndef f():\n y = 1\n return y\n", "@njit\ndef f():\n y=1\n return y\n"),
        ("def f():\n size = 1\n return locals()\n", "def f():\n size=1\n return locals()\n"),
        ("def f():\n size = 1\n return g(sys._getframe())\n", "def f():\n size=1\n return g(sys._getframe())\n"),
    ],
)
def test_names_become_short_where_nobody_else_sees_them(source: str, short: str) -> None:
    assert shortened(source) == written(ast.parse(short))
    compile(short, "short", "exec")


def test_a_program_that_looks_at_frames_keeps_all_names_and_one_that_lists_its_own_keeps_those() -> None:
    plain = "def f():\n size = 1\n return size\n"
    for reader, others in ("import sys\nx = sys._getframe\n", False), ("x = eval('1')\n", True):
        trees = [ast.parse(source) for source in (plain, reader + plain)]
        shorten_local_names(trees)
        assert ["size" not in written(tree) for tree in trees] == [others, False]


def test_many_names_stay_apart() -> None:
    names = [f"name_{number}" for number in range(3000)]
    source = "def f():\n " + "\n ".join(f"{name} = {number}" for number, name in enumerate(names))
    short = shortened(f"{source}\n return [{', '.join(names)}]\n")
    defined: dict[str, object] = {}
    exec(short, defined)
    assert defined["f"]() == [*range(3000)]  # type: ignore[operator]
    # Names of one letter, of two, and of three, and none is a keyword.
    assert ";zz=" in short and ";aaa=" in short and ";is=" not in short
