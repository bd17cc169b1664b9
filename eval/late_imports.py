"""What a decoder's program would import only while it runs: refused, because that is not in the code term."""

import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from data.errors import RunFailed
from eval.decoder_imports import ImportWatch, Sorter


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
