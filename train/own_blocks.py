"""Blocks that users bring: `PACKAGE.MODULE:CLASS`, or `FOLDER/my_block.py:CLASS`, which becomes a module and the folder
that it is imported from, run.import_dir."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from data.errors import UsageError
from model.own_block import block_problem
from model.registry import BLOCKS, block_names
from train.config import Config, ModelConfig
from train.networks import PREFIX, network_problems, refuse_foreign_network, resolve_network
from train.options import did_you_mean


def find_own_blocks(config: Config) -> Config:
    """`config` with modules in place of files in model.block, and with an absolute run.import_dir, from which they can
    now be imported; and with model.network as train/networks.py has it.

    Raises UsageError for a file that cannot be imported by its name, and for files of several folders.
    """
    config = replace(config, model=resolve_network(config.model))
    folder = str(Path(config.run.import_dir).absolute()) if config.run.import_dir else ""
    names = []
    for name in [] if config.model.network else config.model.block.split():
        file, colon, kind = name.rpartition(":")
        if colon and (file.endswith(".py") or "/" in file):
            module, here = module_of(Path(file), name)
            if folder not in ("", here):
                raise UsageError(
                    f"model.block {name!r} is of {here}, and run.import_dir is {folder}: blocks of one run come from "
                    "one folder; keep them together, or in a package that is installed"
                )
            folder, name = here, f"{module}:{kind}"
        names.append(name)
    if folder and not Path(folder).is_dir():
        raise UsageError(f"run.import_dir {folder} is no folder: name the one that model.block's modules are in")
    block = " ".join(names) if any(":" in name for name in names) else config.model.block
    config = replace(config, model=replace(config.model, block=block), run=replace(config.run, import_dir=folder))
    add_import_dir(config)
    return config


def add_import_dir(config: Config) -> None:
    """Let modules be imported from run.import_dir, after all other places."""
    if config.run.import_dir:
        add_folder(config.run.import_dir)


def add_folder(folder: str) -> None:
    if folder not in sys.path:
        sys.path.append(folder)


def module_of(file: Path, name: str) -> tuple[str, str]:
    """A Python file as a module and the folder that it is imported from: the first one above it that is no package."""
    if not file.is_file() or file.suffix != ".py":
        raise UsageError(f"model.block {name!r}: {file} is no Python file; give FILE.py:CLASS, or PACKAGE.MODULE:CLASS")
    parts, folder = [file.stem], file.absolute().resolve().parent
    while (folder / "__init__.py").exists():
        parts, folder = [folder.name, *parts], folder.parent
    module = ".".join(parts)
    if strange := [part for part in parts if not part.isidentifier()]:
        raise UsageError(f"model.block {name!r}: {strange[0]!r} cannot be a module's name; rename it, as to my_block")
    add_folder(str(folder))
    try:
        spec = find_spec(module)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None or Path(spec.origin).resolve() != file.absolute().resolve():
        other = f" ({spec.origin})" if spec and spec.origin else ""
        raise UsageError(f"model.block {name!r}: {module} is the name of another module{other}; rename the file")
    return module, str(folder)


def block_problems(model: ModelConfig) -> Iterator[str]:
    """What is wrong with the names in model.block, and with what they name, in a line each."""
    if model.network:
        yield from network_problems(model)
        return
    for name in block_names(model.block):
        if name.startswith(PREFIX):
            yield f"model.block {name!r} is no block: a network of transformers is --model.network {name}"
        elif ":" in name:
            if problem := block_problem(name, model):
                hint = here_too(name) if problem.startswith("there is no module") else ""
                yield f"model.block {name!r}: {problem}{hint}"
        elif name not in BLOCKS:
            guess = did_you_mean(name, BLOCKS) or "; your own are FILE.py:CLASS or PACKAGE.MODULE:CLASS"
            yield f"model.block {name!r} is unknown: take names from {', '.join(sorted(BLOCKS))}{guess}"


def here_too(name: str) -> str:
    """A remedy to add for a module that the working directory has, where programs do not look for modules."""
    top = name.split(":")[0].split(".")[0]
    here = Path.cwd()
    found = top.isidentifier() and ((here / top).is_dir() or (here / f"{top}.py").is_file())
    return ". It is in this folder: add --run.import_dir ." if found and str(here) not in sys.path else ""


def refuse_own_blocks(values: Any, path: Path) -> None:
    """Raise UsageError if the model.block of an archive's configuration would choose what is imported here."""
    try:
        block, network = values["model"]["block"].split(), values["model"].get("network")
    except (AttributeError, LookupError, TypeError):
        raise UsageError(f"{path}: the recorded configuration is damaged: it names no block") from None
    if network:
        try:
            refuse_foreign_network(values["model"])
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from None
        return
    if own := [name for name in block if ":" in name]:
        raise UsageError(
            f"{path} was written with the block {own[0]}, which is not of this project, and no archive may choose what "
            "is imported: if you trust it, run the code that it carries with --embedded"
        )
