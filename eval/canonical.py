"""The canonical form of Python source: what a program needs to run, without what only its readers and checkers need."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
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
# Tokens that `written` makes itself, or leaves out.
NO_TEXT = {tokenize.INDENT, tokenize.DEDENT, tokenize.NL, tokenize.ENDMARKER}
FSTRING_START, FSTRING_END = getattr(tokenize, "FSTRING_START", -1), getattr(tokenize, "FSTRING_END", -1)


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
    """A tree as source without spaces and line ends that it does not need."""
    lines: list[_Line] = []
    for line in _logical_lines(ast.unparse(tree) + "\n"):
        if lines and not (line.compound or lines[-1].compound) and line.depth == lines[-1].depth:
            lines[-1].text += ";" + line.text
        else:
            lines.append(line)
    parts = [""]
    for before, line, after in zip([None, *lines], lines, [*lines[1:], None], strict=False):
        # A block of simple statements may stand behind its colon.
        inline = before and before.text[-1] == ":" and not line.compound and (not after or after.depth < line.depth)
        parts.append(line.text if inline else f"\n{' ' * line.depth}{line.text}")
    return "".join(parts).lstrip("\n") + "\n" * bool(lines)


@dataclass
class _Line:
    """A logical line. `compound` ones are headers of blocks, and decorators."""

    depth: int
    text: str = ""

    @property
    def compound(self) -> bool:
        return self.text[0] == "@" or self.text[-1] == ":"


def _logical_lines(source: str) -> Iterator[_Line]:
    """The logical lines of source, without spaces that their tokens do not need."""
    rows = source.split("\n")
    line, last_end, opened = _Line(0), (0, 0), []
    for kind, text, begin, end, _ in tokenize.generate_tokens(io.StringIO(source).readline):
        line.depth += (kind == tokenize.INDENT) - (kind == tokenize.DEDENT)
        # From Python 3.12 on, an f-string has tokens of its own. It is taken as it stands.
        if kind == FSTRING_START:
            opened.append(begin)
        if kind == FSTRING_END:
            begin = opened.pop()
            inside = "\n".join(rows[begin[0] - 1 : end[0]])
            text = inside[begin[1] : len(inside) - len(rows[end[0] - 1]) + end[1]]
        if kind == tokenize.NEWLINE:
            yield line
            line = _Line(line.depth)
        elif kind not in NO_TEXT and not opened:
            if line.text and begin != last_end and re.fullmatch(r"\w\w|\d\.", line.text[-1] + text[0]):
                text = " " + text
            line.text += text
            last_end = end


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
