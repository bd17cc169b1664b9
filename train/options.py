"""Every option that a configuration has: what it may hold, and how a person is told so.

`python -m train.options > docs/options.md` writes the reference.
"""

import ast
import difflib
import inspect
import math
import re
import reprlib
from collections.abc import Iterable
from dataclasses import MISSING, Field, fields
from typing import Any, Literal, get_args, get_origin

import yaml

from data.errors import UsageError
from train.config import Config, Range

SHORT = reprlib.Repr()
SHORT.maxlevel, SHORT.maxstring, SHORT.maxother = 3, 200, 200


class Texts(yaml.BaseLoader):
    """YAML whose values stay the text that stands there, and null: what a text means depends on the field."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        if len(found) < len(node.value):
            raise yaml.constructor.ConstructorError(None, None, "a key stands there twice", node.start_mark)
        return found


Texts.add_implicit_resolver("tag:yaml.org,2002:null", re.compile("^(~|null|Null|NULL|)$"), ["~", "n", "N", ""])
Texts.add_constructor("tag:yaml.org,2002:null", lambda *_: None)


def sections() -> dict[str, type]:
    return {entry.name: entry.type for entry in fields(Config)}  # type: ignore[misc]


def options() -> dict[str, Field[Any]]:
    """All fields by their names, as `model.width`."""
    return {f"{name}.{entry.name}": entry for name, kind in sections().items() for entry in fields(kind)}


def did_you_mean(wrong: object, known: Iterable[str]) -> str:
    """A question to put behind a message, if one of the `known` words looks like the wrong one; else nothing."""
    found = difflib.get_close_matches(str(wrong), known, 1)
    return f". Did you mean {found[0]}?" if found else ""


def read_value(name: str, raw: Any) -> Any:
    """What field `name` holds if it is given `raw`: text, as it stands on a command line or in a YAML file, or a plain
    value. Raises UsageError unless it is of the field's kind and in its range."""
    entry: Any = options()[name]
    if raw is None:
        raise UsageError(f"{name} is null: give it a value, or leave it out to take its default")
    try:
        value = _read(entry.type, raw)
    except (ValueError, OverflowError, RecursionError, yaml.YAMLError):
        choices = [str(choice) for choice in get_args(entry.type)] if get_origin(entry.type) is Literal else []
        guess = did_you_mean(raw, choices)
        raise UsageError(f"{name} is {SHORT.repr(raw)}: it must be {kind_text(entry)}{guess}") from None
    refuse_outside(name, entry, value)
    return value


def _read(kind: Any, raw: Any) -> Any:
    """`raw` as a value of this type. Raises ValueError if it is none."""
    text = raw if isinstance(raw, str) else None
    if kind is str and text is not None:
        return text
    if get_origin(kind) is list:
        if text is not None and kind == list[str] and not text.startswith("["):
            raw = re.split(r"[\s,]+", text.strip()) if text.strip() else []
        elif text is not None:
            raw = yaml.load(text, Texts)
        if isinstance(raw, list):
            return [_read(get_args(kind)[0], part) for part in raw]
    if get_origin(kind) is Literal:
        for choice in get_args(kind):
            if str(choice) == text or (choice == raw and type(choice) is type(raw)):
                return choice
    if kind is bool:
        if isinstance(raw, bool):
            return raw
        if text is not None and text.lower() in ("true", "false"):
            return text.lower() == "true"
    if kind is int and (type(raw) is int or (text is not None and re.fullmatch(r"[+-]?\d[\d_]*", text, re.ASCII))):
        return int(raw)
    if kind is float and (text is not None or (isinstance(raw, (int, float)) and not isinstance(raw, bool))):
        value = float(raw)
        if math.isfinite(value):
            return value
    raise ValueError


def refuse_outside(name: str, entry: Field[Any], value: Any) -> None:
    """Raise UsageError unless `value` is in the field's range."""
    allowed: Any = entry.metadata.get("range")
    if isinstance(value, list):
        if entry.type == list[list[int]]:
            if not all(value):
                raise UsageError(f"{name} [] must be different numbers from {allowed.low:,} to {allowed.high:,}")
            for part in value:
                refuse_numbers(name, allowed, part)
        elif allowed:
            refuse_numbers(name, allowed, value)
    elif allowed and value not in allowed:
        raise UsageError(f"{name} is {value}: take {allowed}")
    elif isinstance(value, str):
        if entry.metadata.get("not_empty") and not value.strip():
            raise UsageError(f"{name} is {value!r}: give it a value, or leave it out to take its default")
        if "\0" in value:
            raise UsageError(f"{name} is {value!r}: text with a NUL is no name of anything; leave it out")


def refuse_numbers(name: str, allowed: Range, numbers: list[int]) -> None:
    """Raise UsageError unless the numbers are different and in the range."""
    if any(number not in allowed for number in numbers) or len(set(numbers)) < len(numbers):
        raise UsageError(
            f"{name} {SHORT.repr(numbers)} must be different numbers from {allowed.low:,} to {allowed.high:,}"
        )


def kind_text(entry: Field[Any]) -> str:
    """What a field holds, in words."""
    kind: Any = entry.type
    if get_origin(kind) is Literal:
        *most, last = map(str, get_args(kind))
        return f"{', '.join(most)} or {last}"
    names: dict[Any, str] = {
        str: "text", bool: "true or false", int: "a whole number", float: "a number", list[str]: "a list of text",
        list[int]: "a list of whole numbers, as [1,2,3]", list[list[int]]: "lists of whole numbers, as [[3],[1,2,6]]",
    }  # fmt: skip
    return names[kind]


def range_text(entry: Field[Any]) -> str:
    """What a field may hold, in words: its kind and its range."""
    kind, allowed = kind_text(entry), entry.metadata.get("range")
    if allowed is None:
        return f"{kind}, not empty" if entry.metadata.get("not_empty") else kind
    return f"{kind}, {'each ' if isinstance(default_of(entry), list) else ''}{allowed}"


def default_of(entry: Any) -> Any:
    return entry.default_factory() if entry.default is MISSING else entry.default


def default_text(entry: Field[Any]) -> str:
    """A default as it would stand on a command line."""
    value = default_of(entry)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"'{value}'" if not value or " " in value else value
    return str(value).replace(" ", "")


def explanations(kind: type) -> dict[str, str]:
    """The text under each field of a dataclass, in one line."""
    (tree,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for entry, text in zip(tree.body, tree.body[1:], strict=False):
        match entry, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(words))):
                found[name] = " ".join(words.split())
    return found


def option_lines() -> Iterable[tuple[str, str, list[tuple[str, Field[Any], str]]]]:
    """Of each section: its name, what it is about, and its fields with their names and explanations."""
    for section, kind in sections().items():
        texts = explanations(kind)
        listed = [(f"{section}.{entry.name}", entry, texts[entry.name]) for entry in fields(kind)]
        yield section, (kind.__doc__ or "").strip(), listed


def reference() -> str:
    """All options as a page of Markdown."""
    lines = [
        "# Options",
        "",
        "Every field of a run's configuration, as launch/train.py, launch/compress.py and `--config` take it.",
        "`--model.width 96` on a command line is `model: {width: 96}` in a file. Written by `python -m train.options`.",
    ]
    for section, about, listed in option_lines():
        lines += ["", f"## {section}", "", about, "", "| option | default | takes | |", "|---|---|---|---|"]
        for name, entry, text in listed:
            cells = (f"`--{name}`", f"`{default_text(entry)}`", range_text(entry), text.replace("|", "\\|"))
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(reference(), end="")
