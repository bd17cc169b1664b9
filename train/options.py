"""Every option of a configuration: what it may hold, in words, and what is wrong with a value that it may not hold. All
of it comes from the JSON schema that pydantic derives from train/config.py.

`python -m train.options > docs/options.md` writes the reference.
"""

import difflib
import json
import re
import reprlib
from collections.abc import Iterable, Iterator
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from data.errors import UsageError
from train.config import Config, flatten

Schema = dict[str, Any]
CONFIG: TypeAdapter[Config] = TypeAdapter(Config)
_TREE = CONFIG.json_schema()
SECTIONS: dict[str, Schema] = {
    name: _TREE["$defs"][part["$ref"].rpartition("/")[2]] for name, part in _TREE["properties"].items()
}
# All fields by their names, as `model.width`.
OPTIONS: dict[str, Schema] = {
    f"{section}.{name}": field for section, part in SECTIONS.items() for name, field in part["properties"].items()
}
DEFAULTS = flatten(Config().to_dict())
# Bounds in a schema, and their words.
RANGES = {
    "": "",
    "minimum": "{:,} or more",
    "minimum maximum": "{:,} to {:,}",
    "minimum exclusiveMaximum": "{:,} or more and less than {:,}",
    "exclusiveMinimum maximum": "more than {:,} and at most {:,}",
}
OUTSIDE = ("greater_than", "greater_than_equal", "less_than", "less_than_equal")
SHORT = reprlib.Repr()
SHORT.maxlevel, SHORT.maxstring, SHORT.maxother = 3, 200, 200


class Texts(yaml.BaseLoader):
    """YAML whose values stay text, or null: what a text means depends on the field."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        if len(found) < len(node.value):
            raise yaml.constructor.ConstructorError(None, None, "it has a key twice", node.start_mark)
        return found


Texts.add_implicit_resolver("tag:yaml.org,2002:null", re.compile("^(~|null|Null|NULL|)$"), ["~", "n", "N", ""])
Texts.add_constructor("tag:yaml.org,2002:null", lambda *_: None)


def did_you_mean(wrong: object, known: Iterable[str]) -> str:
    """A question to add to a message if one of the `known` words is similar to the wrong one; otherwise empty."""
    found = difflib.get_close_matches(str(wrong), known, 1)
    return f". Did you mean {found[0]}?" if found else ""


def read_tree(tree: Any) -> Config:
    """The configuration of these sections of fields, and of defaults. A value may be text, as it stands on a command
    line or in a YAML file.

    Raises UsageError for an unknown section or field, and for a value of another kind or outside its range.
    """
    try:
        return CONFIG.validate_python(tree)
    except ValidationError as error:
        raise UsageError(complaint(error, tree)) from None


def complaint(errors: ValidationError, tree: Any) -> str:
    """The first of pydantic's `errors` against `tree`, in a line, with its remedy."""
    error = errors.errors(include_url=False)[0]
    where, kind, value = error["loc"], error["type"], error["input"]
    if kind in ("unexpected_keyword_argument", "invalid_key"):
        return unknown_key(*map(str, where))
    if kind == "dataclass_type" and where:
        return f"section {where[0]} must hold fields; leave it out to take all defaults"
    if kind == "dataclass_type":
        return f"it must consist of the sections {', '.join(SECTIONS)}"
    name, given = f"{where[0]}.{where[1]}", tree[where[0]][where[1]]
    schema = OPTIONS[name]
    if given is None:
        return f"{name} is null: give it a value, or leave it out to take its default"
    remedy, wrong = error["ctx"]["error"].args if kind == "value_error" else ("", value)
    if schema["type"] == "array" and kind in (*OUTSIDE, "too_short", "value_error"):
        numbers = SHORT.repr(given if kind in OUTSIDE else wrong)
        return f"{name} {numbers} must be {remedy or 'different numbers'} from {range_text(schema)}"
    if kind == "value_error":
        return f"{name} is {wrong!r}: {remedy}"
    if kind in OUTSIDE:
        return f"{name} is {value}: take {range_text(schema)}"
    guess = did_you_mean(given, map(str, schema.get("enum", [])))
    return f"{name} is {SHORT.repr(given)}: it must be {kind_text(schema)}{guess}"


def unknown_key(section: str, name: str | None = None) -> str:
    """The message for an unknown section, or an unknown field of a section."""
    if name is None:
        return f"unknown section {section!r}{did_you_mean(section, SECTIONS) or ': take ' + ', '.join(SECTIONS)}"
    here = SECTIONS[section]["properties"]
    guess = same_name(name) or did_you_mean(name, here) or f": take {', '.join(here)}"
    return f"unknown key {name!r} in section {section}{guess}"


def same_name(name: str, prefix: str = "") -> str:
    """The question of did_you_mean, for a field of this name in another section, if there is one."""
    found = [other for other in OPTIONS if other.partition(".")[2] == name]
    return f". Did you mean {prefix}{found[0]}?" if found else ""


def kind_text(schema: Schema) -> str:
    """What a field holds, in words."""
    if "enum" in schema:
        *most, last = map(str, schema["enum"])
        return f"{', '.join(most)} or {last}"
    kinds = {"string": "text", "boolean": "true or false", "integer": "a whole number", "number": "a number",
             "schedule": "a whole number or a schedule of them, as 16@0,32@0.1,64@0.5"}  # fmt: skip
    lists = {"string": "a list of text", "integer": "a list of whole numbers, as [1,2,3]",
             "array": "lists of whole numbers, as [[3],[1,2,6]]"}  # fmt: skip
    return lists[schema["items"]["type"]] if schema["type"] == "array" else kinds[schema["type"]]


def range_text(schema: Schema) -> str:
    """The numbers that a field, or each entry of a list, may hold, in words; empty if all."""
    if "items" in schema:
        return range_text(schema["items"])
    bounds = [name for name in ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum") if name in schema]
    return RANGES[" ".join(bounds)].format(*(schema[name] for name in bounds))


def takes_text(schema: Schema) -> str:
    """What a field may hold, in words: its kind and its range."""
    allowed = "not empty" if "minLength" in schema else range_text(schema)
    return f"{kind_text(schema)}, {'each ' if 'items' in schema else ''}{allowed}" if allowed else kind_text(schema)


def default_text(name: str) -> str:
    """A default, as on a command line."""
    value = DEFAULTS[name]
    if isinstance(value, str):
        return f"'{value}'" if not value or " " in value else value
    return json.dumps(value, separators=(",", ":"))


def option_lines() -> Iterator[tuple[str, str, list[tuple[str, str, str]]]]:
    """Of each section: its name, what it is about, and its fields: their names, what they take, their explanations."""
    for section, part in SECTIONS.items():
        listed = {f"{section}.{name}": schema for name, schema in part["properties"].items()}
        lines = [(name, takes_text(one), " ".join(one["description"].split())) for name, one in listed.items()]
        yield section, part["description"], lines


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
        for name, takes, text in listed:
            cells = (f"`--{name}`", f"`{default_text(name)}`", takes, text.replace("|", "\\|"))
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(reference(), end="")
