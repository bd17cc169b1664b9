"""The modules of a run's decoder, found by building its model and learner in a fresh interpreter.

`python -P -m eval.decoder_imports CONFIG DECLARED` (both JSON) is that interpreter; `decoder_imports` starts it.

Modules are told apart by name, never by where a file is. Ours are the seven rooms. The reference machine is Python's
standard library, torch, deepspeed, numpy, the packages that a run declares beside them, and what these require. All
else that the decoder imports belongs to its program.
"""

import ast
import importlib
import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from data.errors import RunFailed, UsageError
from eval.canonical import OUR_ROOMS, all_statements

REFERENCE = ("torch", "deepspeed", "numpy")
# They come with these, and some builds name no package that brings them.
REFERENCE_MODULES = {"functorch", "torchgen", "triton", "_distutils_hack", "pkg_resources", "setuptools"}
PIECES = 512
# By kind of tokenizer, the module that rebuilds its pieces, where that is not data/tokenizer.py.
PIECE_READERS = {"file": "data.joins", "tokens": "data.token_pieces"}
UNKNOWN = "of unknown version"


class NotImportable(RuntimeError):
    """The decoder of a configuration cannot be imported, or its model not built."""

    def __init__(self, reason: str):
        super().__init__(f"the decoder's modules cannot be imported, so the code term is unknown: {reason}")
        self.reason = reason


class Imports(TypedDict):
    """What the fresh interpreter found."""

    sources: dict[str, str]
    """Source of each module of the decoder's program, by dotted name: ours, and those from elsewhere."""
    packages: list[str]
    """Which of them are packages."""
    loaded: list[str]
    """Which of them were imported while the decoder was built, and not before it."""
    inherited: list[str]
    """Names of attributes that their classes have from classes of the reference machine."""
    uncharged: dict[str, str]
    """Packages that take part without source that could be charged, or were declared, with their versions."""


_IMPORTS = TypeAdapter(Imports)


def decoder_imports(config: dict[str, Any], declared: Iterable[str] = ()) -> Imports:
    """Import the decoder of a resolved configuration, and its model's blocks. Takes as long as the imports: seconds.

    `declared` are packages that the run takes for granted. Raises UsageError if one of them is not installed,
    NotImportable if the decoder cannot be imported.
    """
    command = [sys.executable, "-P", "-m", "eval.decoder_imports", json.dumps(config), json.dumps(sorted(declared))]
    # The interpreter has to find what this one finds, in the same order.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)}
    run = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    reason = (run.stderr.strip().splitlines() or ["no message"])[-1]
    if run.returncode == 2:
        raise UsageError(reason)
    if run.returncode:
        raise NotImportable(reason)
    imports: Imports = _IMPORTS.validate_json(run.stdout)
    return imports


class ImportWatch(MetaPathFinder):
    """Notes, for every module that is imported while it stands first in sys.meta_path, the module that asked for it."""

    def __init__(self) -> None:
        self.importer: dict[str, str] = {}

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        self.importer.setdefault(name, next(filter(_asks, _callers())))

    def asked_by_program(self, name: str, sorter: "Sorter") -> bool:
        """Whether the decoder's program asked for a module, and no package of the reference machine, for which it would
        be what that package needs."""
        while name.split(".")[0] not in OUR_ROOMS | {"__main__"}:
            if name not in self.importer or not sorter.charged(name):
                return False
            name = self.importer[name]
        return True


def build_decoder(config: dict[str, Any]) -> None:
    """Import the decoder and build its model and learner on PyTorch's meta device, where numbers take no memory."""
    import torch

    import train.loop
    from train.engine import Place

    importlib.import_module("archive.decoding")
    # DeepSpeed's engine is part of the reference machine, and cannot live on that device; the optimiser imports nothing
    # of its own accord, and PyTorch's constructor of it takes seconds.
    train.loop.build_engine = lambda model, *_: SimpleNamespace(module=model)
    train.loop.build_optimizer = lambda *_: None  # type: ignore[assignment]
    config["model"].setdefault("network", "")
    tree = json.loads(json.dumps(config), object_hook=lambda fields: SimpleNamespace(**fields))
    if reader := PIECE_READERS.get(config["data"]["tokenizer"]):
        importlib.import_module(reader)
    vocabulary = 257 if config["data"]["tokenizer"] == "bytes" else PIECES
    with torch.device("meta"):
        train.loop.Learner(tree, vocabulary, 0, Place(0, 1, torch.device("meta")))


class Sorter:
    """Tells modules of the decoder's program from those of the reference machine.

    `declared` are packages, or modules that no package brought. Raises LookupError on what is neither.
    """

    def __init__(self, declared: list[str]):
        self.packages = importlib.metadata.packages_distributions()
        reference = find_required([*REFERENCE, *declared])
        tops = {top for top, names in self.packages.items() if any(plain(name) in reference for name in names)}
        self.reference = sys.stdlib_module_names | {*REFERENCE, *REFERENCE_MODULES, *declared} | tops
        self.declared = dict(map(self.version, declared))
        for name, version in self.declared.items():
            if version == UNKNOWN and importlib.util.find_spec(name) is None:
                raise LookupError(name)

    def charged(self, name: str) -> bool:
        return name.split(".")[0] not in self.reference

    def version(self, name: str) -> tuple[str, str]:
        """Name and version of the package that brought a module; a module that no package brought has its own name."""
        top = name.split(".")[0]
        package = next(iter(self.packages.get(top, [])), top)
        with suppress(importlib.metadata.PackageNotFoundError):
            return package, importlib.metadata.version(package)
        return package, UNKNOWN


def find_required(names: Iterable[str]) -> set[str]:
    """Normalised names of packages, of those that they require, and so on. What is not installed is left out."""
    from packaging.requirements import Requirement

    found: set[str] = set()
    waiting = [plain(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        with suppress(importlib.metadata.PackageNotFoundError):
            for line in importlib.metadata.requires(name) or []:
                requirement = Requirement(line)
                if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                    waiting.append(plain(requirement.name))
    return found


def plain(name: str) -> str:
    """A package's name in its normal form (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def source_of(name: str, module: ModuleType) -> str | None:
    """A module's source, from a file or a zip; None if it has none."""
    loader: Any = getattr(module.__spec__, "loader", None)
    try:
        return loader.get_source(name) if hasattr(loader, "get_source") else None
    except (ImportError, OSError, UnicodeDecodeError):
        return None


def import_late_ones(sources: Iterable[str], sorter: Sorter) -> None:
    """Import what functions of modules from elsewhere would import when they run. Ours have been asked: what building
    the model does not import, this configuration does not need."""
    for source in sources:
        for node in all_statements(ast.parse(source)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            for name in names:
                if sorter.charged(name) and name.split(".")[0] not in OUR_ROOMS:
                    with suppress(ImportError):
                        importlib.import_module(name)


def find_imports(config: dict[str, Any], declared: list[str]) -> Imports:
    """Build the decoder in this interpreter, and sort what it imported."""
    before, sorter, watch = set(sys.modules), Sorter(declared), ImportWatch()
    sys.meta_path.insert(0, watch)
    build_decoder(config)
    sources: dict[str, str] = {}
    uncharged = dict(sorter.declared)
    size = None
    while size != len(sources):
        size = len(sources)
        for name, module in sorted(sys.modules.items()):
            if name in sources or name == "__main__" or not sorter.charged(name):
                continue
            if name not in before and not watch.asked_by_program(name, sorter):
                continue
            source = source_of(name, module)
            if source is not None:
                sources[name] = source
            elif name not in before and not hasattr(module, "__path__"):
                uncharged |= [sorter.version(name)]
        import_late_ones([*sources.values()][size:], sorter)
    modules = {name: sys.modules[name] for name in sources}
    inherited = {
        attribute
        for module in modules.values()
        for kind in list(vars(module).values())
        if isinstance(kind, type) and kind.__module__ in modules
        for base in kind.__mro__
        if base.__module__ not in modules
        for attribute in dir(base)
    }
    return {
        "sources": sources,
        "packages": [name for name, module in modules.items() if hasattr(module, "__path__")],
        "loaded": sorted(modules.keys() - before),
        "inherited": sorted(inherited),
        "uncharged": uncharged,
    }


@contextmanager
def refuse_late_imports(program: Collection[str], declared: list[str]) -> Iterator[None]:
    """Within it, an import that code of the decoder's program (paths of its modules) asks for, of what neither the
    program nor the reference machine has, raises RunFailed: it happens too late to be charged."""
    watch = LateImports({module_name(path) for path in program}, declared)
    sys.meta_path.insert(0, watch)
    try:
        yield
    finally:
        sys.meta_path.remove(watch)


def _callers() -> Iterator[str]:
    """Names of the modules whose functions are running, the innermost first, without those that look for a module."""
    frame = sys._getframe(1)
    while frame:
        if frame.f_code.co_name != "find_spec":
            yield frame.f_globals.get("__name__", "")
        frame = frame.f_back  # type: ignore[assignment]


def _asks(module: str) -> bool:
    """Whether a module may ask for an import: those that carry it out do not."""
    return module.split(".")[0] not in ("importlib", "_frozen_importlib")


class LateImports(ImportWatch):
    def __init__(self, program: Collection[str], declared: list[str]):
        super().__init__()
        self.program, self.declared = program, declared

    @cached_property
    def sorter(self) -> Sorter:
        """Made when first asked for: most runs import nothing late. What making it imports is not the program's."""
        program, self.program = self.program, ()
        sorter = Sorter(self.declared)
        self.program = program
        return sorter

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        super().find_spec(name)
        importer = self.importer[name]
        if importer in self.program and name not in self.program and self.sorter.charged(name):
            raise RunFailed(
                f"{importer} imports {name} while the run learns, so it is missing in the code term: import it by an "
                "import statement, or when the block is built"
            )


def module_name(path: str) -> str:
    """The dotted name of a module from its path (eval.reachable.module_path)."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def main(config: str, declared: str) -> int:
    # An imported package may print, so the result leaves by a descriptor of its own.
    result = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        json.dump(find_imports(json.loads(config), json.loads(declared)), result)
    except LookupError as error:
        print(
            f"run.reference_packages names {error}, which is not installed: give names that `pip list` shows, or of "
            "modules that can be imported",
            file=sys.stderr,
        )
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
