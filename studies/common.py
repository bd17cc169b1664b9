"""What all studies share: how they describe their commands, and the figures that they write.

A study is a folder. Its options.py has a dataclass for each command, whose fields are `argument`s and `option`s, and
whose docstring is its line of help; the docstring of the module is their --help. Its command.py has `execute(options)`,
which does the work. launch/evaluate.py has a line for each command.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from dataclasses import MISSING, field, fields
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, get_args

from data.files import output_file, write_file
from eval.plots import picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def argument(help: str, **settings: Any) -> Any:
    """A field of a command that is given by its place. `settings` are those of argparse's add_argument."""
    return field(metadata={"help": help, **settings})


def option(help: str, default: Any = MISSING, **settings: Any) -> Any:
    """A field that is given as --NAME, and has to be given if it has no default. Of those with the same `group`, one
    may be given."""
    required = {"required": True} if default is MISSING else {"default": default}
    return field(default=default, metadata={"flag": True, "help": help, **required, **settings})


def file_option(help: str, metavar: str = "FILE") -> Any:
    """An option that names a file to write."""
    return option(help, None, type=output_file, metavar=metavar)


def png_option() -> Any:
    return file_option("write NAME-light.png, NAME-dark.png and NAME.pdf", "NAME")


def add_arguments(parser: argparse.ArgumentParser, command: type) -> None:
    """Let `parser` take what the fields of `command`, a dataclass, describe: text is read as a field's type says."""
    groups: dict[str, Any] = {}
    for one in fields(command):
        settings = dict(one.metadata)
        name = f"--{one.name}" if settings.pop("flag", False) else one.name
        kinds = [kind for kind in get_args(one.type) or (one.type,) if kind is not NoneType]
        settings = {"action": "store_true"} | settings if bool in kinds else {"type": kinds[0]} | settings
        group = settings.pop("group", "")
        if group and group not in groups:
            groups[group] = parser.add_mutually_exclusive_group()
        groups.get(group, parser).add_argument(name, **settings)


def execute(options: Any) -> None:
    """Do what the options of a command ask for. What that takes is imported now: --help comes without."""
    importlib.import_module(type(options).__module__.removesuffix("options") + "command").execute(options)


def write_figures(path: Path | None, draw: Callable[..., Figure], *arguments: Any) -> None:
    """Write what `draw(*arguments, theme)` draws, if a path was given."""
    if path:
        for name, content in picture(draw, *arguments).files(path.name, "-light").items():
            write_file(path.with_name(name), content)
