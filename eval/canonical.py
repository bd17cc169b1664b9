"""The canonical form of Python source: what a program needs to run, without what only its readers and checkers need."""

import ast
import re
from typing import Any

OUR_ROOMS = {"archive", "data", "eval", "launch", "model", "studies", "train"}
# Decorators that neither register what they decorate nor look at its annotations.
SAFE_DECORATORS = {
    "abstractmethod", "cache", "cached_property", "classmethod", "contextmanager", "dataclass", "enable_grad", "final",
    "inference_mode", "lru_cache", "no_grad", "once_differentiable", "override", "property", "setter", "staticmethod",
    "total_ordering", "wraps",
}  # fmt: skip
SELF_READERS = {"__doc__", "__annotations__", "getdoc", "getsource", "get_type_hints", "get_source", "signature"}
# Bases that do not read the annotations of a class.
PLAIN_BASES = {"ABC", "Exception", "Function", "Module", "Optimizer", "Protocol", "ValueError"}


def canonical_tree(source: str) -> ast.Module:
    """Python source that runs as `source` does, parsed, without comments, docstrings, bare strings and blocks under `if
    TYPE_CHECKING`, and without annotations of arguments, results and variables, except those that may be read:
    of dataclass fields, of fields of classes with bases that we do not know, and of decorated functions."""
    tree: ast.Module = _Bare().visit(ast.parse(source))
    return tree


def all_statements(tree: ast.Module) -> list[ast.AST]:
    """The statements of a module at any depth, and what they stand in. Most nodes are expressions, which have none."""
    found: list[ast.AST] = [tree]
    for node in found:
        for block in ("body", "handlers", "cases", "orelse", "finalbody"):
            found += getattr(node, block, [])
    return found


def reads_itself(tree: ast.Module) -> bool:
    """Whether a module may look at docstrings, annotations or source of what is in the program: then these count."""
    return any(
        (node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")) in SELF_READERS
        for node in ast.walk(tree)
    )


def last_name(node: ast.expr) -> str:
    """The name after the last dot of what is called, subscripted or just named; empty where there is no name."""
    while isinstance(node, (ast.Call, ast.Subscript)):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def written(tree: ast.Module) -> str:
    """A canonical tree as source, indented by single spaces."""
    wide = ast.unparse(tree) + "\n"
    narrow = re.sub("^(?: {4})+", lambda indent: " " * (len(indent[0]) // 4), wide, flags=re.MULTILINE)
    # Lines inside a multi-line string look like indented code and may not be touched: then the wide form stays.
    if '"""' not in wide and "'''" not in wide:
        return narrow
    return narrow if ast.dump(ast.parse(narrow)) == ast.dump(ast.parse(wide)) else wide


class _Bare(ast.NodeTransformer):
    def __init__(self) -> None:
        self.fields_count = self.signature_counts = False

    def generic_visit(self, node: ast.AST) -> ast.AST:
        blocks = {name: value for name, value in ast.iter_fields(node) if isinstance(value, list) and value}
        for name, value in blocks.items():
            setattr(node, name, [child for child in value if not _is_bare_string(child)])
        super().generic_visit(node)
        for name in blocks.keys() & {"body", "finalbody"}:
            # A block that had nothing else gets `pass`.
            if not getattr(node, name) and not isinstance(node, ast.Module):
                setattr(node, name, [ast.Pass()])
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        bases = {last_name(base) for base in node.bases}
        outside, self.fields_count = self.fields_count, bool(node.decorator_list) or not bases <= PLAIN_BASES
        self.generic_visit(node)
        self.fields_count = outside
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.AST:
        outside = self.fields_count, self.signature_counts
        self.fields_count = False
        self.signature_counts = not {last_name(part) for part in node.decorator_list} <= SAFE_DECORATORS
        if not self.signature_counts:
            node.returns = None
        self.generic_visit(node)
        self.fields_count, self.signature_counts = outside
        return node

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_arg(self, node: ast.arg) -> ast.AST:
        if not self.signature_counts:
            node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        if self.fields_count:
            return node
        if node.value is None:
            return None
        return ast.copy_location(ast.Assign([node.target], self.visit(node.value)), node)

    def visit_If(self, node: ast.If) -> ast.AST | None:
        if last_name(node.test) == "TYPE_CHECKING":
            return None
        return self.generic_visit(node)


def _is_bare_string(node: Any) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
