"""The canonical form of Python source: what a program needs to run, without what only its readers and checkers need."""

import ast
import re
from typing import Any

OUR_ROOMS = {"data", "eval", "launch", "model", "train"}


def canonical_source(source: str) -> str:
    """Python source that runs as `source` does, without comments, docstrings, bare strings or its own layout, without
    annotations of arguments, results and variables (those of dataclass fields make fields, and stay), without blocks
    under `if TYPE_CHECKING`, and without imports from elsewhere that nothing then uses."""
    tree = _Bare().visit(ast.parse(source))
    _drop_unused_imports(tree)
    wide = ast.unparse(tree) + "\n"
    narrow = re.sub("^(?: {4})+", lambda indent: " " * (len(indent[0]) // 4), wide, flags=re.MULTILINE)
    # Lines inside a multi-line string look like indented code and may not be touched: then the wide form stays.
    return narrow if ast.dump(ast.parse(narrow)) == ast.dump(ast.parse(wide)) else wide


class _Bare(ast.NodeTransformer):
    def __init__(self) -> None:
        self.fields_count = False

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
        outside, self.fields_count = self.fields_count, bool(node.decorator_list)
        self.generic_visit(node)
        self.fields_count = outside
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.AST:
        node.returns = None
        outside, self.fields_count = self.fields_count, False
        self.generic_visit(node)
        self.fields_count = outside
        return node

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        if self.fields_count:
            return node
        if node.value is None:
            return None
        return ast.copy_location(ast.Assign([node.target], self.visit(node.value)), node)

    def visit_If(self, node: ast.If) -> ast.AST | None:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return None
        return self.generic_visit(node)


def _drop_unused_imports(tree: ast.Module) -> None:
    """Only top-level ones, and none of ours, which may be imported for what they do."""
    nodes = list(ast.walk(tree))
    used = {node.id for node in nodes if isinstance(node, ast.Name)}
    if any(isinstance(node, ast.AnnAssign) for node in nodes):
        used.add("annotations")
    for node in tree.body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            ours = isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in OUR_ROOMS
            bound = lambda name: (name.asname or name.name).split(".")[0]  # noqa: E731
            node.names = [name for name in node.names if ours or bound(name) in used | OUR_ROOMS]
    tree.body = [node for node in tree.body if getattr(node, "names", True)]


def _is_bare_string(node: Any) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
