"""The modules of a run's decoder, found by building its model and learner in a fresh interpreter.

`python -P -m eval.decoder_imports CONFIG DEVICE DECLARED` is that interpreter; `decoder_imports` starts it.
Without arguments it imports what all decoders have in common, and answers requests from standard input, each in a fork:
`start_ahead` starts that one while there is other work to do.
"""

import ast
import fcntl
import importlib
import importlib.metadata
import importlib.util
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, TextIO

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from data.errors import UsageError
from eval.canonical import OUR_ROOMS, all_statements

REFERENCE = ("torch", "deepspeed", "numpy")
# They come with these, and some builds name no package that brings them.
REFERENCE_MODULES = {"functorch", "torchgen", "triton", "_distutils_hack", "pkg_resources", "setuptools"}
PIECES = 512
INTERPRETER = [sys.executable, "-P", "-m", "eval.decoder_imports"]
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


def decoder_imports(config: dict[str, Any], declared: Iterable[str] = (), device: str = "meta") -> Imports:
    """Import the decoder of a resolved configuration, and build it on a PyTorch device. Takes as long as the imports:
    seconds.

    `declared` are packages that the run takes for granted. Raises UsageError if one of them is not installed,
    NotImportable if the decoder cannot be imported.
    """
    if AHEAD:
        status, found, reason = AHEAD[0].ask(config, device, sorted(declared))
    else:
        given = [json.dumps(config), device, json.dumps(sorted(declared))]
        run = subprocess.run(
            [*INTERPRETER, *given], check=False, capture_output=True, text=True, env=same_path(os.environ)
        )
        status, found = run.returncode, run.stdout
        reason = (run.stderr.strip().splitlines() or ["no message"])[-1]
    if status == 2:
        raise UsageError(reason)
    if status:
        raise NotImportable(reason)
    imports: Imports = _IMPORTS.validate_json(found)
    return imports


def search_path() -> list[str]:
    """Where this interpreter looks for modules. Another one has to find the same, in the same order."""
    return [path or str(Path.cwd()) for path in sys.path]


def same_path(environment: Mapping[str, str]) -> dict[str, str]:
    return {**environment, "PYTHONPATH": os.pathsep.join(search_path())}


class Ahead:
    """An interpreter that has imported what all decoders have in common, and waits for requests."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            INTERPRETER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env=same_path(os.environ),
        )  # fmt: skip
        # Forks of this process share the pipes: one asks at a time.
        self.turn = tempfile.TemporaryFile()  # noqa: SIM115
        self.requests = itertools.count()

    def ask(self, config: dict[str, Any], device: str, declared: list[str]) -> tuple[int, str, str]:
        """Its exit status for a request, the imports as JSON, and what is wrong where the status is not 0."""
        assert self.process.stdin and self.process.stdout
        # A fork that was killed may have left its answer, or a part of it.
        number = f"{os.getpid()}-{next(self.requests)}"
        fcntl.lockf(self.turn, fcntl.LOCK_EX)
        try:
            self.process.stdin.write(json.dumps([number, config, device, declared, search_path()]) + "\n")
            self.process.stdin.flush()
            while line := self.process.stdout.readline():
                with suppress(ValueError):
                    answered, status, found, reason = json.loads(line)
                    if answered == number:
                        return status, found, reason
        except OSError:
            pass
        finally:
            fcntl.lockf(self.turn, fcntl.LOCK_UN)
        AHEAD.remove(self)
        return 1, "", f"its interpreter ended with status {self.process.wait()}"


AHEAD: list[Ahead] = []


def start_ahead() -> None:
    """Let the interpreter of `decoder_imports` import what all decoders have in common: from now on, beside what this
    process does. It stays for further calls, until `stop_ahead`, or this process ends."""
    if not AHEAD:
        AHEAD.append(Ahead())


def stop_ahead() -> None:
    while AHEAD:
        # At the end of its input it leaves.
        AHEAD.pop().process.communicate()


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


def import_decoder() -> None:
    """Import what the decoders of all configurations have in common."""
    for name in ("torch", "train.loop", "train.engine", "archive.decoding"):
        importlib.import_module(name)


def build_decoder(config: dict[str, Any], device: str) -> None:
    """Import the decoder and build its model and learner on a device, where its numbers are of no use."""
    import torch

    import train.loop
    from train.engine import Place

    import_decoder()
    # DeepSpeed's engine is part of the reference machine, and cannot live on the meta device. PyTorch's constructor of
    # an optimiser takes seconds, and the optimiser imports nothing, except that of ZeRO.
    train.loop.build_engine = lambda model, *_: SimpleNamespace(module=model)
    if not config["engine"].get("zero_stage"):
        train.loop.build_optimizer = lambda *_: None  # type: ignore[assignment]
    config["model"].setdefault("network", "")
    tree = json.loads(json.dumps(config), object_hook=lambda fields: SimpleNamespace(**fields))
    if reader := PIECE_READERS.get(config["data"]["tokenizer"]):
        importlib.import_module(reader)
    vocabulary = 257 if config["data"]["tokenizer"] == "bytes" else config["data"].get("vocabulary", PIECES)
    with torch.device(device):
        train.loop.Learner(tree, vocabulary, 0, Place(0, 1, torch.device(device)))


class Sorter:
    """Tells modules of the decoder's program from those of the reference machine.

    `declared` are packages, or modules that no package brought. Raises LookupError on what is neither.
    """

    def __init__(self, declared: list[str], packages: Mapping[str, list[str]] | None = None):
        """`packages`: those that brought each module, if that is known."""
        self.packages = importlib.metadata.packages_distributions() if packages is None else packages
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


def find_imports(
    config: dict[str, Any], device: str, sorter: Sorter, watch: ImportWatch, before: Collection[str]
) -> Imports:
    """Build the decoder in this interpreter, which had modules `before` it could `watch`, and sort what it imported."""
    build_decoder(config, device)
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


def main(arguments: list[str]) -> int:
    # An imported package may print, so the result leaves by a descriptor of its own.
    result = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    before, watch = set(sys.modules), ImportWatch()
    sys.meta_path.insert(0, watch)
    if not arguments:
        serve(watch, before, result)
        return 0
    config, device, declared = arguments
    try:
        sorter = Sorter(json.loads(declared))
        json.dump(find_imports(json.loads(config), device, sorter, watch, before), result)
    except LookupError as error:
        print(not_installed(error), file=sys.stderr)
        return 2
    return 0


def not_installed(error: LookupError) -> str:
    return (
        f"run.reference_packages names {error}, which is not installed: give names that `pip list` shows, or of "
        "modules that can be imported"
    )


def serve(watch: ImportWatch, before: Collection[str], result: TextIO) -> None:
    """Answer requests, a line of JSON each, [number, config, device, declared, search path], by [number, status,
    imports, reason]."""
    # Ctrl-C is for the program that asks, whose end is the end of the requests.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import_decoder()
    packages, path = importlib.metadata.packages_distributions(), list(sys.path)
    for line in sys.stdin:
        number, config, device, declared, sys.path[:] = json.loads(line)
        pid = os.fork()
        if pid == 0:
            importlib.invalidate_caches()
            try:
                sorter = Sorter(declared, packages if sys.path == path else None)
                answer = [number, 0, json.dumps(find_imports(config, device, sorter, watch, before)), ""]
            except LookupError as error:
                answer = [number, 2, "", not_installed(error)]
            except BaseException as error:
                answer = [number, 1, "", traceback.format_exception_only(error)[-1].strip().splitlines()[-1]]
            print(json.dumps(answer), file=result, flush=True)
            os._exit(0)
        if status := os.waitpid(pid, 0)[1]:
            print(json.dumps([number, 1, "", f"its interpreter ended with status {status}"]), file=result, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
