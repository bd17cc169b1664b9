"""The code term: how many bytes the program takes that turns the coded data back into the corpus.

Charged are the definitions that a decoder of the run reaches (eval/reachable.py) in the modules that it imports
(eval/decoder_imports.py), ours or anybody's, and the configuration that it obeys. Comments, docstrings, annotations and
layout are not (eval/canonical.py). Python, torch, deepspeed, numpy and what they require are the reference machine,
named by `reference_machine` and not charged.
"""

import ast
import hashlib
import importlib.metadata
import json
import lzma
import platform
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import Any

import torch

from data.errors import UsageError
from data.tokenizer import Tokenizer
from eval.canonical import OUR_ROOMS, all_statements, canonical_tree, reads_itself, written
from eval.decoder_imports import NotImportable, decoder_imports
from eval.local_names import shorten_local_names
from eval.reachable import imported_modules, module_path, prune
from model.registry import BLOCKS, block_names
from train.config import BYTE_SYMBOLS, Config, ModelConfig
from train.meta import shape_device

DECODER = "archive.decoding"
# They make one thing in one of two ways: the model, of blocks or as a whole network, and the tokenizer.
CHOOSERS = ("model.build", "data.tokenizer")
NETWORK_PACKAGES = ("transformers",)
PARTS = "model/parts.py"
MISSING = "missing"


@dataclass(frozen=True)
class CodeSize:
    """A decoder's program, measured.

    `packed` is the one xz stream (.lzma container) whose length is the code term; `unpack` opens it.
    `module_bytes` says how long each module's canonical source is, before compression. `uncharged` names the packages,
    with their versions, that take part beside the reference machine and are not charged: they were declared, or are
    compiled and have no source.
    """

    module_bytes: dict[str, int]
    source_bytes: int
    canonical_bytes: int
    packed: bytes
    uncharged: dict[str, str]

    @property
    def modules(self) -> list[str]:
        return list(self.module_bytes)

    @property
    def xz_bytes(self) -> int:
        return len(self.packed)

    @property
    def code_bits(self) -> float:
        return 8.0 * len(self.packed)


def measure_code(config: dict[str, Any], declared: Iterable[str] = ()) -> CodeSize:
    """Measure the program that decodes a run of this resolved configuration. Takes as long as the imports: seconds.

    `declared` are packages that the run takes for granted beside the reference machine. Raises UsageError if one of
    them is not installed, NotImportable when the decoder cannot be imported.
    """
    network = bool(config["model"].get("network"))
    blocks = [] if network else block_names(config["model"]["block"])
    if unknown := [name for name in blocks if ":" not in name and name not in BLOCKS]:
        raise NotImportable(f"unknown block {unknown[0]!r}")
    # On CUDA, kernels are chosen while the learner is built, which takes no device here.
    model = SimpleNamespace(**{**asdict(ModelConfig()), **config["model"]})
    device = "meta" if config["engine"].get("kernels") == "on" else shape_device(model, BYTE_SYMBOLS).type
    imports = decoder_imports(config, {*declared, *NETWORK_PACKAGES} if network else declared, device)
    sources, packages = imports["sources"], set(imports["packages"])

    def reached(parse: Callable[[str], ast.Module]) -> dict[str, ast.Module]:
        trees: dict[str, ast.Module] = {}
        asked: set[str] = set()
        waiting = [DECODER, *imports["loaded"]]
        # Only what an import statement may lead to is worth parsing.
        while waiting:
            name = waiting.pop()
            if name in trees or name not in sources:
                continue
            trees[name] = parse(sources[name])
            if name.split(".")[0] in OUR_ROOMS:
                trees[name] = Branches(sources, name in CHOOSERS).visit(trees[name])
            for node in all_statements(trees[name]):
                if isinstance(node, (ast.Import, ast.ImportFrom)):
                    for alias in node.names:
                        asked.update(imported_modules(node, alias, name, name in packages))
            waiting += asked - trees.keys()
        drop_entries(trees["model.registry"], blocks)
        named = [name for name in blocks if ":" in name]
        # The configuration names their modules, whatever imports them as well.
        loaded = set(imports["loaded"]) - asked | {name.split(":")[0] for name in named} & trees.keys()
        return prune(trees, packages, DECODER, loaded, imports["inherited"], named)

    program = reached(canonical_tree)
    if any(reads_itself(ast.parse(sources[name])) for name in program):
        # A program that looks at its own words needs them.
        program = reached(ast.parse)
    else:
        shorten_local_names(program.values())
    paths = {name: module_path(name, name in packages) for name in program}
    canonical = {paths[name]: written(program[name]) for name in sorted(program, key=paths.__getitem__)}
    module_bytes = {path: len(source.encode()) for path, source in canonical.items()}
    text = canonical_text(config, canonical)
    source_bytes = sum(len(sources[name].encode()) for name in program)
    return CodeSize(module_bytes, source_bytes, len(text.encode()), pack(text), imports["uncharged"])


def drop_entries(registry: ast.Module, blocks: Collection[str]) -> None:
    """Take the blocks that a configuration does not name out of the registry's table, so that they cost it nothing."""
    for statement in registry.body:
        if isinstance(statement, (ast.Assign, ast.AnnAssign)) and isinstance(table := statement.value, ast.Dict):
            kept = [
                (key, value)
                for key, value in zip(table.keys, table.values, strict=True)
                if isinstance(key, ast.Constant) and key.value in blocks
            ]
            table.keys, table.values = [key for key, _ in kept], [value for _, value in kept]


class Branches(ast.NodeTransformer):
    """Leaves out branches that this configuration's decoder cannot take: those that begin with the import of a module
    of ours that it does not import while it is built (a later import would be an error). With `either`, what stands
    beside a branch that it takes goes as well: its `else`, or what follows its `return`."""

    def __init__(self, sources: Collection[str], either: bool):
        self.sources, self.either = sources, either

    def visit_If(self, node: ast.If) -> Any:
        self.generic_visit(node)
        if (module := imported_first(node)) is None:
            return node
        if module not in self.sources:
            return node.orelse
        return node.body if self.either and node.orelse else node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> Any:
        self.generic_visit(node)
        for place, part in enumerate(node.body):
            if self.either and imported_first(part) and isinstance(part.body[-1], ast.Return):  # type: ignore[attr-defined]
                node.body[place:] = part.body  # type: ignore[attr-defined]
        node.body = node.body or [ast.Pass()]
        return node


def imported_first(node: ast.stmt) -> str | None:
    """The module of ours that an `if` statement begins by importing."""
    first = node.body[0] if isinstance(node, ast.If) else None
    ours = isinstance(first, ast.ImportFrom) and (first.module or "").split(".")[0] in OUR_ROOMS
    return first.module if isinstance(first, ast.ImportFrom) and ours else None


def decoder_values(config: Config, tokenizer: Tokenizer | None, extra: dict[str, Any]) -> dict[str, Any]:
    """The configuration that a decoder needs, with the user's DeepSpeed keys in it: what measure_code takes. Without a
    tokenizer it leaves out the tokenizer's kind."""
    values = config.to_dict()
    values["engine"]["deepspeed_config"] = extra
    values["model"] = without_empty_network(values["model"])
    if tokenizer is None:
        del values["data"]["tokenizer"]
        return values
    values["data"]["vocabulary"] = tokenizer.vocabulary
    if tokenizer.vocabulary == BYTE_SYMBOLS:
        # Also where a corpus gives no piece: a model of bytes has contexts of words, which its decoder needs.
        values["data"]["tokenizer"] = "bytes"
    else:
        # A file of this machine is nothing to a decoder.
        values["data"]["tokenizer"] = tokenizer.kind
    return values


def without_empty_network(model: dict[str, Any]) -> dict[str, Any]:
    """The section of a model of blocks without model.network, for which it does not pay."""
    return {name: value for name, value in model.items() if name != "network" or value}


def charged_config(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a configuration that is charged."""
    charged = {name: config[name] for name in ("model", "train", "engine")} | {
        "data": {"tokenizer": config["data"]["tokenizer"]}
    }
    charged["model"] = without_empty_network(config["model"])
    return charged


def canonical_text(config: dict[str, Any], canonical: dict[str, str]) -> str:
    """A decoder's program as one text: its configuration as JSON, then path and canonical source of each module.

    NUL, which neither JSON nor Python source can hold, stands between them.
    """
    charged = charged_config(config)
    if PARTS in canonical:
        # With another vocabulary the decoder may be another one.
        charged["data"]["vocabulary"] = config["data"]["vocabulary"]
    parts = [json.dumps(charged, sort_keys=True, separators=(",", ":"), ensure_ascii=False)]
    for name, source in canonical.items():
        parts += [name, source]
    return "\0".join(parts)


def pack(text: str) -> bytes:
    """Compress a decoder's canonical text: the bytes that the code term counts."""
    # The .lzma container has the shortest header; text is better off without position bits.
    filters = [{"id": lzma.FILTER_LZMA1, "preset": 9 | lzma.PRESET_EXTREME, "pb": 0}]
    return lzma.compress(text.encode(), format=lzma.FORMAT_ALONE, filters=filters)


def unpack(packed: bytes, limit_bytes: int = 16 << 20) -> tuple[dict[str, Any], dict[str, str]]:
    """Configuration and {path: canonical source} from `CodeSize.packed`, which is not trusted.

    Raises UsageError when it is damaged, larger than `limit_bytes` once expanded, or names a path outside its root.
    """
    decompressor = lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=256 << 20)
    try:
        text = decompressor.decompress(packed, max_length=limit_bytes).decode()
        if not decompressor.eof or decompressor.unused_data:
            raise UsageError(f"it does not end within {limit_bytes:,} bytes, or something follows it")
        config, *rest = text.split("\0")
        sources = dict(zip(rest[::2], rest[1::2], strict=True))
        if strange := [name for name in sources if not re.fullmatch(r"(\w+/)*\w+\.py", name)]:
            raise UsageError(f"{strange[0]!r} is no module's path")
        return json.loads(config), sources
    except (lzma.LZMAError, ValueError, RecursionError) as error:
        raise UsageError(f"the packed decoder is damaged: {error}") from None


def code_identity(packed: bytes) -> str:
    """SHA-256 of the canonical sources in `CodeSize.packed`, in hexadecimal, whatever the configuration."""
    sources = unpack(packed)[1]
    return hashlib.sha256(json.dumps(sources, sort_keys=True).encode()).hexdigest()


def foreign_modules(packed: bytes, declared: Iterable[str] = ()) -> list[str]:
    """Modules of `CodeSize.packed` that the project here lacks or has otherwise, or has beside them, for the same
    configuration; layout, comments and what the decoder does not reach are free."""
    try:
        here = measure_code(unpack(packed)[0], declared)
    except NotImportable as error:
        return [f"its imports ({error.reason})"]
    return different_modules(packed, here.packed)


def different_modules(packed: bytes, other: bytes) -> list[str]:
    """Modules that two `CodeSize.packed` do not share."""
    sources, others = unpack(packed)[1], unpack(other)[1]
    return sorted(name for name in sources.keys() | others.keys() if sources.get(name) != others.get(name))


def installed_version(name: str) -> str:
    """Version of an installed package; MISSING where there is no package of that name."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return MISSING


def reference_machine() -> dict[str, str]:
    """What the number takes for granted: interpreter, packages and hardware that run the decoder."""
    versions = {name: installed_version(name) for name in ("torch", "deepspeed", "numpy", "sentencepiece")}
    cuda = torch.cuda.is_available()
    return {
        "python": platform.python_version(),
        **{name: version for name, version in versions.items() if version != MISSING},
        "system": f"{platform.system()} {platform.machine()}",
        "processor": torch.cuda.get_device_name() if cuda else f"CPU, {torch.backends.cpu.get_cpu_capability()}",
    }
