"""What the code of a network of the transformers library would cost, if that library were not part of the reference
machine: a number beside the total, not a part of it.

Counted are the modules of `transformers.models` in which the classes of the network's parts and of its configuration
are defined, the modules there that these import, and so on; and the other modules of the library that any of them
imports, such as activations and masks, without what those import in turn. Each is counted whole, in its canonical form
(eval/canonical.py), as one xz stream. Packages are not, since theirs are lists of names.
"""

import ast
import inspect
import sys
from typing import Any

from torch import nn

from eval.canonical import canonical_tree, written
from eval.code_size import pack
from eval.local_names import shorten_local_names
from eval.reachable import imported_modules
from eval.schema import NetworkCode

LIBRARY, MODELS = "transformers.", "transformers.models."


def measure_network(network: nn.Module) -> NetworkCode:
    """The code of a network of the library, which has been imported. Takes a second."""
    kinds = [type(network.config), *(type(part) for part in network.modules())]
    bases = {base.__module__ for kind in kinds for base in kind.__mro__}
    waiting = [name for name in bases if name.startswith(MODELS)]
    sources: dict[str, str] = {}
    while waiting:
        name = waiting.pop()
        module: Any = sys.modules.get(name)
        if name in sources or module is None or hasattr(module, "__path__"):
            continue
        tree = canonical_tree(inspect.getsource(module))
        shorten_local_names([tree])
        sources[name] = written(tree)
        if not name.startswith(MODELS):
            continue
        for node in ast.walk(tree):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                for alias in node.names:
                    waiting += [one for one in imported_modules(node, alias, name, False) if one.startswith(LIBRARY)]
    own = {name: source for name, source in sources.items() if name.startswith(MODELS)}
    return NetworkCode(modules=sorted(sources), own_xz_bytes=packed_bytes(own), xz_bytes=packed_bytes(sources))


def packed_bytes(sources: dict[str, str]) -> int:
    return len(pack("\0".join(part for name in sorted(sources) for part in (name, sources[name]))))
