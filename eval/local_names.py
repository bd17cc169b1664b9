"""Short local names: a program needs them to differ, and what they are called is for its readers.

A *unit* is a function, lambda or comprehension that stands in no other, with all that stands in it. In each unit, the
names that only its own code can see become a, b, c and so on, in the order in which they appear. So two programs that
differ in nothing but such names are the same.

Names that others can see stay: of what a module or class defines, attributes, imported names, and parameters, which a
caller may give by name. A caller cannot give these by name: `self`, `*args`, `**options` and parameters before a `/`.
"""

import ast
import itertools
import keyword
import string
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

from eval.canonical import SAFE_DECORATORS, last_name

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
# The first read the local names of the function that calls them, the second those of any function.
NAME_READERS = {"locals", "vars", "dir", "eval", "exec"}
FRAME_READERS = {"currentframe", "_getframe", "f_locals", "f_back", "co_varnames"}


def shorten_local_names(program: Collection[ast.Module]) -> None:
    """Rename, in place, what only a unit's own code can see. Modules that may read local names stay as they are."""
    readers = [{name for node in ast.walk(tree) if (name := read_name(node))} for tree in program]
    if set().union(*readers) & FRAME_READERS:
        return
    for tree in (tree for tree, names in zip(program, readers, strict=True) if not names):
        for unit, in_class in units(tree):
            found = _Names(in_class)
            found.visit(unit)
            _Renaming(found.short_names()).visit(unit)


def read_name(node: ast.AST) -> str:
    """The name of what reads local names, if a node names one."""
    if isinstance(node, ast.Name):
        return node.id if node.id in NAME_READERS | FRAME_READERS else ""
    return node.attr if isinstance(node, ast.Attribute) and node.attr in FRAME_READERS else ""


def units(node: ast.AST, in_class: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    """The units below a node, and whether a class defines them."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, FUNCTIONS + COMPREHENSIONS):
            yield child, in_class
        else:
            yield from units(child, isinstance(child, ast.ClassDef) or in_class)


def letters() -> Iterator[str]:
    """a, b, ... z, A, ... Z, aa, ab and so on."""
    for length in itertools.count(1):
        yield from map("".join, itertools.product(string.ascii_letters, repeat=length))


@dataclass(eq=False)
class Scope:
    kind: type[ast.AST]
    bound: set[str] = field(default_factory=set)


class _Names(ast.NodeVisitor):
    """The names in a unit: where they are used, what binds them, and which have to stay."""

    def __init__(self, in_class: bool):
        self.in_class = in_class
        # The scopes that the visited node is in, the unit's own first. Empty for what is evaluated outside of the unit.
        self.scopes: list[Scope] = []
        self.uses: dict[str, list[tuple[Scope, ...]]] = {}
        self.stay: set[str] = set()
        # A decorator that we do not know may read names, as compilers of functions do.
        self.read = False

    def short_names(self) -> dict[str, str]:
        """The new names of those that can be renamed."""
        if self.read:
            return {}
        # Where a use finds no binding in the unit, it means a name from outside.
        free = {
            name
            for name, places in self.uses.items()
            if name not in self.stay
            and not name.startswith("__")
            and all(any(name in scope.bound for scope in scopes) for scopes in places)
        }
        taken = self.uses.keys() - free
        new = (name for name in letters() if name not in taken and not keyword.iskeyword(name))
        return dict(zip([name for name in self.uses if name in free], new, strict=False))

    def use(self, name: str) -> None:
        self.uses.setdefault(name, []).append(tuple(self.scopes))

    def bind(self, name: str, stays: bool = False) -> None:
        self.use(name)
        if self.scopes:
            self.scopes[-1].bound.add(name)
        if stays or not self.scopes or self.scopes[-1].kind is ast.ClassDef:
            self.stay.add(name)

    def visit_all(self, nodes: Collection[ast.AST | None]) -> None:
        for node in nodes:
            if node:
                self.visit(node)

    def visit_inside(self, scope: ast.AST, nodes: Collection[ast.AST | None]) -> None:
        self.scopes.append(Scope(type(scope)))
        self.visit_all(nodes)
        self.scopes.pop()

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load):
            self.use(node.id)
        else:
            self.bind(node.id)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self.visit(node.value)
        # It binds in the function that the comprehensions around it are in.
        inner = [*itertools.takewhile(lambda scope: issubclass(scope.kind, COMPREHENSIONS), reversed(self.scopes))]
        outer = self.scopes[: len(self.scopes) - len(inner)]
        self.scopes, here = outer, self.scopes
        self.bind(node.target.id)
        self.scopes = here

    def visit_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> None:
        given = node.args
        ordinary, starred = given.args + given.kwonlyargs, [given.vararg, given.kwarg]
        hidden = {part.arg for part in [*given.posonlyargs, *starred] if part}
        # What is evaluated outside of the function.
        self.visit_all([*given.defaults, *given.kw_defaults])
        self.visit_all([part and part.annotation for part in [*given.posonlyargs, *ordinary, *starred]])
        body: Any = [node.body]
        if not isinstance(node, ast.Lambda):
            decorators = {last_name(part) for part in node.decorator_list}
            self.read |= not decorators <= SAFE_DECORATORS
            self.visit_all([*node.decorator_list, node.returns, *getattr(node, "type_params", [])])
            self.bind(node.name)
            method = self.scopes[-1].kind is ast.ClassDef if self.scopes else self.in_class
            if method and "staticmethod" not in decorators:
                hidden |= {part.arg for part in given.args[:1]}
            body = node.body
        self.scopes.append(Scope(type(node)))
        for part in [*given.posonlyargs, *ordinary, *starred]:
            if part:
                self.bind(part.arg, stays=part.arg not in hidden)
        self.visit_all(body)
        self.scopes.pop()

    visit_FunctionDef = visit_AsyncFunctionDef = visit_Lambda = visit_function

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.visit_all([*node.decorator_list, *node.bases, *node.keywords, *getattr(node, "type_params", [])])
        self.bind(node.name, stays=True)
        self.visit_inside(node, node.body)

    def visit_comprehension_scope(self, node: Any) -> None:
        first, *others = node.generators
        # The first iterable is evaluated outside.
        self.visit(first.iter)
        results = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
        self.visit_inside(node, [first.target, *first.ifs, *others, *results])

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = visit_comprehension_scope

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        if node.name:
            self.bind(node.name)
        self.generic_visit(node)

    def visit_Nonlocal(self, node: ast.Nonlocal) -> None:
        for name in node.names:
            self.use(name)

    def visit_Global(self, node: ast.Global) -> None:
        self.stay.update(node.names)

    def visit_alias(self, node: ast.alias) -> None:
        self.bind((node.asname or node.name).split(".")[0], stays=True)

    def visit_pattern(self, node: Any) -> None:
        name = node.rest if isinstance(node, ast.MatchMapping) else node.name
        if name:
            self.bind(name, stays=True)
        self.generic_visit(node)

    visit_MatchAs = visit_MatchStar = visit_MatchMapping = visit_pattern
    # Parameters of types, from Python 3.12 on.
    visit_TypeVar = visit_ParamSpec = visit_TypeVarTuple = visit_pattern


class _Renaming(ast.NodeTransformer):
    def __init__(self, names: dict[str, str]):
        self.names = names

    def rename(self, node: Any) -> Any:
        self.generic_visit(node)
        for attribute in ("id", "arg", "name"):
            if isinstance(old := getattr(node, attribute, None), str):
                setattr(node, attribute, self.names.get(old, old))
        return node

    visit_Name = visit_arg = visit_ExceptHandler = visit_FunctionDef = visit_AsyncFunctionDef = rename

    def visit_Nonlocal(self, node: ast.Nonlocal) -> ast.AST:
        node.names = [self.names.get(name, name) for name in node.names]
        return node
