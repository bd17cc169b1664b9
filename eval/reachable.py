"""What a program reaches: its modules without the definitions that nothing reached refers to.

Reachability goes by name and errs towards keeping. Statements that do something when a module is imported stay, and
what they mention is reached. A function, class, constant or imported name is reached once reached code of its own
module mentions it, or reached code of any module imports it, takes an attribute of that name, or holds it as a string
(as `getattr` may look it up). Methods are reached in the same way; those with special names stay, and so do those whose
names a base class from elsewhere has, since its code may call them. A package that looks names up in ways that cannot
be followed stays whole.
"""

import ast
import builtins
import io
from collections.abc import Collection, Iterable, Iterator, Mapping

from eval.canonical import SAFE_DECORATORS, last_name

# They look up names in the registry, which are strings in it, in the configuration, which `named` lists, and names of
# classes, which classes in model/cuda share.
LOOKED_UP = ("model.registry", "model.adapter", "model.cuda")
BLOCKS, KERNELS = "model.blocks", "model.cuda"
# Calls by which a program may come by names that stand nowhere in it.
UNTRACEABLE = {"getattr", "eval", "exec", "globals", "vars", "locals", "__import__", "import_module"}
# Methods of these names may be called by whatever an object is given to: file-like, container-like, and so on.
COMMON_METHODS = {
    name for kind in (object, str, bytes, dict, list, set, int, io.RawIOBase, io.TextIOBase) for name in dir(kind)
}
SAFE_CALLS = {name for name in vars(builtins) if name not in UNTRACEABLE} | {
    "compile", "defaultdict", "namedtuple", "partial", "Path", "Struct", "TypeVar", "NewType", "get", "getLogger",
}  # fmt: skip


def prune(
    modules: Mapping[str, ast.Module],
    packages: Collection[str],
    start: str,
    loaded: Iterable[str] = (),
    inherited: Iterable[str] = (),
    named: Collection[str] = (),
) -> dict[str, ast.Module]:
    """The part of `modules`, trees of canonical source by dotted name, that the program `start`, one of them, reaches.

    `packages` says which of them are packages. `loaded` are modules that the program imports without an import
    statement that names them, `inherited` the names that classes from elsewhere bring along, `named` the definitions
    that its configuration names, as MODULE:NAME. The trees are changed in place; modules that nothing reaches are left
    out.
    """
    return _Reach(modules, packages, start, loaded, COMMON_METHODS | set(inherited), named).kept()


def module_path(name: str, is_package: bool) -> str:
    """Where a module is in a source tree: the one place that its name gives it, however it was installed."""
    return name.replace(".", "/") + ("/__init__.py" if is_package else ".py")


def imported_modules(
    node: ast.Import | ast.ImportFrom, alias: ast.alias, module: str, is_package: bool
) -> Iterator[str]:
    """Dotted names of what one name of an import statement in `module` may load: packages, the module, a submodule."""
    if isinstance(node, ast.Import):
        name = alias.name
    else:
        # A relative import counts from the package that the module is in.
        parts = module.split(".")
        parts = parts[: len(parts) - node.level + is_package] if node.level else []
        name = ".".join([*parts, *([node.module] if node.module else []), alias.name])
    parts = name.split(".")
    yield from (".".join(parts[:length]) for length in range(1, len(parts) + 1))


class _Reach:
    def __init__(
        self,
        modules: Mapping[str, ast.Module],
        packages: Collection[str],
        start: str,
        loaded: Iterable[str],
        kept_methods: Collection[str],
        named: Collection[str],
    ):
        self.modules, self.packages, self.start, self.kept_methods = modules, packages, start, kept_methods
        hidden = [name for name, tree in modules.items() if name not in LOOKED_UP and _untraceable(tree)]
        self.whole = {name.split(".")[0] for name in hidden}
        # What reached code mentions: names in its own module; in any, attributes, "module:name" for what is imported
        # from there, and strings.
        self.here: dict[str, set[str]] = {name: set() for name in modules}
        self.anywhere = set(named)
        self.strings: set[str] = set()
        self.reached: set[str] = set()
        self.mentioned: set[int] = set()
        for name in [start, *loaded]:
            self._reach_module(name)
            if name.startswith(KERNELS):
                classes = [part.name for part in modules[name].body if isinstance(part, ast.ClassDef)]
                self.anywhere |= {f"{name}:{kind}" for kind in classes}
        # A program that computes the name of a module may compute names in it, too; those of blocks are known.
        known = {name.split(":")[0] for name in named}
        for name in loaded:
            traceable = name.startswith((BLOCKS, KERNELS)) or any(f"{n}.".startswith(f"{name}.") for n in known)
            if name != start and not traceable:
                self.whole.add(name.split(".")[0])

    def kept(self) -> dict[str, ast.Module]:
        size = None
        while size != (size := self._size()):
            for name in sorted(self.reached):
                for statement in self.modules[name].body:
                    self._visit(name, statement)
        for name in self.reached:
            self.modules[name].body = [*self._remaining(name)]
        return {name: tree for name, tree in self.modules.items() if name in self.reached}

    def _size(self) -> tuple[int, ...]:
        return (
            len(self.reached),
            len(self.anywhere),
            len(self.strings),
            len(self.mentioned),
            sum(map(len, self.here.values())),
        )

    def _reach_module(self, name: str) -> None:
        """Reach a module, and the packages that it is in."""
        parts = name.split(".")
        self.reached |= {".".join(parts[:length]) for length in range(1, len(parts) + 1)} & self.modules.keys()

    def _visit(self, module: str, statement: ast.stmt) -> None:
        """Note what a statement at the top of a module mentions, if it is reached."""
        if isinstance(statement, (ast.Import, ast.ImportFrom)):
            for alias in statement.names:
                if self._wants_import(module, statement, alias):
                    self._follow(module, statement, alias)
        elif self._wants(module, statement):
            parts: list[ast.AST] = [statement]
            if isinstance(statement, ast.ClassDef):
                parts = [*statement.bases, *statement.keywords, *statement.decorator_list]
                parts += [part for part in statement.body if self._wants_member(module, part)]
            for part in parts:
                self._mention(module, part)

    def _wants(self, module: str, statement: ast.stmt) -> bool:
        if module != self.start and _runs_as_program(statement):
            return False
        names = _bound(statement)
        return names is None or any(self._named(module, name) for name in names)

    def _named(self, module: str, name: str) -> bool:
        return (
            name in self.here[module]
            or name in self.anywhere
            or name in self.strings
            or f"{module}:{name}" in self.anywhere
            or module.split(".")[0] in self.whole
        )

    def _wants_import(self, module: str, node: ast.Import | ast.ImportFrom, alias: ast.alias) -> bool:
        name = alias.asname or alias.name.split(".")[0]
        if alias.name == "*" or module.split(".")[0] in self.whole:
            return True
        if isinstance(node, ast.ImportFrom) and node.module == "__future__":
            return any(isinstance(part, ast.AnnAssign) for part in ast.walk(self.modules[module]))
        found = self._found(module, node, alias)
        if not found:
            # The reference machine's own: an attribute of that name elsewhere does not come from this module.
            return name in self.here[module] or name in self.strings or f"{module}:{name}" in self.anywhere
        effects = any(_does_something(self.modules[other]) for other in found)
        return effects or isinstance(node, ast.Import) or self._named(module, name)

    def _found(self, module: str, node: ast.Import | ast.ImportFrom, alias: ast.alias) -> list[str]:
        """The modules of the program that one name of an import statement loads."""
        names = imported_modules(node, alias, module, module in self.packages)
        return [name for name in names if name in self.modules]

    def _follow(self, module: str, node: ast.Import | ast.ImportFrom, alias: ast.alias) -> None:
        for other in self._found(module, node, alias):
            self._reach_module(other)
            if isinstance(node, ast.ImportFrom):
                self.anywhere.add(f"{other}:{alias.name}")
            if alias.name == "*":
                self.here[other] |= {name for part in self.modules[other].body for name in _bound(part) or ()}

    def _mention(self, module: str, root: ast.AST) -> None:
        """Note the names in a piece of reached code, and what it imports."""
        if id(root) in self.mentioned:
            return
        self.mentioned.add(id(root))
        for node in ast.walk(root):
            if isinstance(node, ast.Name):
                self.here[module].add(node.id)
            elif isinstance(node, ast.Attribute):
                self.anywhere.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                self.strings |= {part for part in node.value.split(".") if part.isidentifier()}
            elif isinstance(node, (ast.Import, ast.ImportFrom)):
                for alias in node.names:
                    self._follow(module, node, alias)

    def _remaining(self, module: str) -> Iterator[ast.stmt]:
        for statement in self.modules[module].body:
            if isinstance(statement, (ast.Import, ast.ImportFrom)):
                statement.names = [alias for alias in statement.names if self._wants_import(module, statement, alias)]
                if statement.names:
                    yield statement
            elif self._wants(module, statement):
                if isinstance(statement, ast.ClassDef):
                    body = [part for part in statement.body if self._wants_member(module, part)]
                    statement.body = body or [ast.Pass()]
                yield statement

    def _wants_member(self, module: str, member: ast.stmt) -> bool:
        if not isinstance(member, (ast.FunctionDef, ast.AsyncFunctionDef)):
            return True
        name = member.name
        special = name.startswith("__") and name.endswith("__")
        return special or name in self.kept_methods or self._named(module, name)


def _bound(statement: ast.stmt) -> list[str] | None:
    """The names that a statement defines if that is all that it does, else None: then it has to stay."""
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return [statement.name] if {last_name(part) for part in statement.decorator_list} <= SAFE_DECORATORS else None
    if isinstance(statement, (ast.Assign, ast.AnnAssign)):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        calls = [node for node in ast.walk(statement) if isinstance(node, ast.Call)]
        if all(last_name(call.func) in SAFE_CALLS for call in calls):
            names = [node for target in targets for node in ast.walk(target) if isinstance(node, ast.expr)]
            if all(isinstance(node, (ast.Name, ast.Tuple)) for node in names):
                return [node.id for node in names if isinstance(node, ast.Name)]
    return None


def _does_something(tree: ast.Module) -> bool:
    """Whether importing a module has effects beside its definitions."""
    definitions = (ast.Import, ast.ImportFrom, ast.Pass)
    return any(
        not isinstance(part, definitions) and _bound(part) is None and not _runs_as_program(part) for part in tree.body
    )


def _runs_as_program(statement: ast.stmt) -> bool:
    """Whether a statement is `if __name__ == "__main__"`."""
    return isinstance(statement, ast.If) and any(
        isinstance(node, ast.Name) and node.id == "__name__" for node in ast.walk(statement.test)
    )


def _untraceable(tree: ast.Module) -> bool:
    """Whether a module looks names up that do not stand in it. `getattr(x, "name")` names what it takes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and last_name(node.func) in UNTRACEABLE:
            named = len(node.args) > 1 and isinstance(node.args[1], ast.Constant)
            if not (last_name(node.func) == "getattr" and named):
                return True
        if isinstance(node, ast.Attribute) and node.attr in ("__dict__", "__subclasses__"):
            return True
    return False
