"""The help of commands that take a configuration. Imports no PyTorch: help comes at once."""

import shutil
import sys
import textwrap
from pathlib import Path

from model.registry import BLOCKS
from train.options import default_text, option_lines

OTHER_OPTIONS = {
    "--config FILE": "YAML file of sections data, model, train, engine and run; options override it.",
    "--print_config": "Print the resolved configuration, as --config takes it, and stop.",
    "--help": "Print this, and stop.",
}


def help_text(description: str, positionals: dict[str, str]) -> str:
    """All options, as wide as the terminal."""
    width = min(shutil.get_terminal_size().columns, 120)

    def entry(name: str, text: str) -> str:
        return f"  {name}\n" + textwrap.fill(text, width, initial_indent=6 * " ", subsequent_indent=6 * " ")

    words = " ".join(["", *(name.upper() for name in positionals)])
    lines = [f"usage: {Path(sys.argv[0]).name}{words} [--SECTION.FIELD VALUE]...", "", description.strip(), ""]
    lines += [entry(name.upper(), text) for name, text in positionals.items()]
    lines += [entry(name, text) for name, text in OTHER_OPTIONS.items()]
    for section, about, listed in option_lines():
        lines += ["", f"{section}: {about}"]
        more = {"model.block": f" There are {', '.join(BLOCKS)}."}
        lines += [
            entry(f"--{name}", f"{text}{more.get(name, '')} Takes {takes}; default {default_text(name)}.")
            for name, takes, text in listed
        ]
    return "\n".join(lines)
