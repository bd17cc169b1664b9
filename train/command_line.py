"""From the command line to a checked configuration: defaults < file < options."""

import json
import shutil
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from data.errors import UsageError
from data.files import write_file
from model.registry import BLOCKS
from train.config import Config, DataConfig, from_dict
from train.options import (
    Texts,
    default_text,
    did_you_mean,
    option_lines,
    options,
    range_text,
    read_value,
    refuse_outside,
    sections,
)

CONFIG_FILE = "config.yaml"
MAX_CONFIG_BYTES = 1 << 20
# What a resumed run may have otherwise than it began: neither bits nor code depend on it.
MAY_CHANGE = ("data.cache_dir", "data.workers", "engine.timeout_secs")
# Of section run, what it may not.
BEGUN_WITH = ("warm_start", "reference_packages")

OWNED_KEYS = {
    "train_batch_size": "train.lanes",
    "train_micro_batch_size_per_gpu": "train.lanes and train.accumulation",
    "gradient_accumulation_steps": "train.accumulation",
    "gradient_clipping": "engine.gradient_clipping",
    "optimizer": "train.optimizer",
    "scheduler": "train.flat_fraction and train.final_fraction",
    "fp16": "engine.precision",
    "bf16": "engine.precision",
    "torch_autocast": "engine.precision",
    "zero_optimization.stage": "engine.zero_stage",
}

OTHER_OPTIONS = {
    "--config FILE": "YAML file of sections data, model, train, engine and run; options stand over it.",
    "--print_config": "Print the resolved configuration, as --config takes it, and stop.",
    "--help": "Print this, and stop.",
}
# Set by launchers.
SILENT = "local_rank"


@dataclass(frozen=True)
class Given:
    """A command line, taken apart."""

    values: dict[str, str]
    """Text of each field that it names, as `model.width`."""
    files: list[str]
    """What --config names, in order."""
    positionals: list[str]
    asked: set[str]
    """Of `help` and `print_config`, what is there."""


def take_apart(arguments: list[str], several: bool) -> Given:
    """Raises UsageError for an option that there is not, or that lacks its value. `several` says that a list of names
    goes on to the next option, as `--run.reference_packages a b`."""
    known, found, rest = options(), Given({}, [], [], set()), [*arguments]
    while rest:
        argument = rest.pop(0)
        if argument in ("-h", "--help"):
            found.asked.add("help")
        elif argument == "--print_config":
            found.asked.add("print_config")
        elif argument.startswith("--"):
            name, equals, value = argument[2:].partition("=")
            if name not in known and name not in ("config", SILENT):
                # Often it is the section alone that is missing or wrong.
                same = [f"--{other}" for other in known if other.split(".")[1] == name.rpartition(".")[2]]
                words = [f"--{other}" for other in (*known, "config", "print_config", "help")]
                guess = f". Did you mean {same[0]}?" if same else did_you_mean(f"--{name}", words)
                raise UsageError(f"unknown option --{name}{guess or ': --help lists all'}")
            kind = known[name].type if name in known else str
            if not equals and kind is bool:
                # A bare flag means true.
                value = rest.pop(0) if rest and rest[0].lower() in ("true", "false") else "true"
            elif not equals:
                if not rest or (rest[0].startswith("--")):
                    raise UsageError(f"--{name} lacks its value: give {value_text(name)}")
                value = rest.pop(0)
                while several and kind == list[str] and rest and not rest[0].startswith("--"):
                    value += f",{rest.pop(0)}"
            if name == "config":
                found.files.append(value)
            elif name != SILENT:
                found.values[name] = value
        else:
            found.positionals.append(argument)
    return found


def value_text(name: str) -> str:
    """What an option takes, in words."""
    known = options()
    return range_text(known[name]) if name in known else "a file's name" if name == "config" else "a number"


def parse_config(description: str, arguments: list[str]) -> Config:
    """The configuration that `arguments` ask for. A resumed run starts from the one saved in its directory.

    Raises UsageError with one line for what is unknown, ill-typed or contradictory, SystemExit after --help or
    --print_config.
    """
    return parse_named(description, arguments, {}, lambda named: "")[0]


def parse_named(
    description: str, arguments: list[str], positionals: dict[str, str], default_dir: Callable[[dict[str, str]], str]
) -> tuple[Config, dict[str, str]]:
    """The same for a command with `positionals`, names with their help, and their values, from which `default_dir`
    makes run.dir if it is not given."""
    given = take_apart(arguments, several=not positionals)
    if "help" in given.asked:
        print(help_text(description, positionals))
        raise SystemExit(0)
    if len(given.positionals) > len(positionals):
        raise UsageError(f"unexpected argument {given.positionals[len(positionals)]!r}: options begin with --")
    named = dict(zip(positionals, given.positionals, strict=False))
    if missing := [name for name in positionals if name not in named]:
        if "print_config" not in given.asked:
            raise UsageError(f"{missing[0].upper()} is missing: {positionals[missing[0]]}")
        named |= dict.fromkeys(missing, "")
    values: dict[str, Any] = {}
    for file in given.files:
        values |= read_file(Path(file))
    values |= {name: read_value(name, text) for name, text in given.values.items()}
    run_dir = values.get("run.dir") or (default_dir(named) if given.positionals else "")
    if values.get("run.resume"):
        saved = Path(run_dir) / CONFIG_FILE
        if not run_dir or not saved.exists():
            raise UsageError(f"run.dir {run_dir!r} holds no run to resume: give the directory of one")
        before = load_config(saved)
        values = read_file(saved) | values
        refuse_changes(before, to_config(values), saved)
    config = to_config(values)
    config.run.dir = run_dir
    check(config)
    text = config_text(config)
    if "print_config" in given.asked:
        print(text, end="")
        raise SystemExit(0)
    return config, named


def read_file(path: Path) -> dict[str, Any]:
    """The fields that a YAML file sets, as {"model.width": 96}. Raises UsageError if it is no configuration."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}): name a YAML file of options") from None
    if len(content) > MAX_CONFIG_BYTES:
        raise UsageError(f"{path} has more than {MAX_CONFIG_BYTES:,} bytes, the most a configuration can have")
    try:
        return read_text(content)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


def read_text(content: bytes | str) -> dict[str, Any]:
    """The same of a file's content."""
    try:
        tree = yaml.load(content, Texts)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UsageError(f"it is no YAML: {' '.join(str(error).split())}") from None
    return {name: read_value(name, raw) for name, raw in flat({} if tree is None else tree).items()}


def flat(tree: Any) -> dict[str, Any]:
    """Sections of fields as fields by name. Raises UsageError for sections or fields that there are not."""
    known, kinds, found = options(), sections(), {}
    if not isinstance(tree, dict):
        raise UsageError(f"it must consist of the sections {', '.join(kinds)}")
    for section, entries in tree.items():
        if section not in kinds:
            raise UsageError(
                f"unknown section {section!r}{did_you_mean(section, kinds) or ': take ' + ', '.join(kinds)}"
            )
        if not isinstance(entries, dict):
            raise UsageError(f"section {section} must hold fields; leave it out to take all defaults")
        for name, raw in entries.items():
            if f"{section}.{name}" not in known:
                here = [entry.name for entry in fields(kinds[section])]
                elsewhere = [other for other in known if other.split(".")[1] == name]
                guess = f". Did you mean {elsewhere[0]}?" if elsewhere else did_you_mean(name, here)
                raise UsageError(f"unknown key {name!r} in section {section}{guess or ': take ' + ', '.join(here)}")
            found[f"{section}.{name}"] = raw
    return found


def to_config(values: dict[str, Any]) -> Config:
    """The configuration of these fields, and of defaults."""
    tree: dict[str, dict[str, Any]] = {section: {} for section in sections()}
    for name, value in values.items():
        section, _, field = name.partition(".")
        tree[section][field] = value
    config: Config = from_dict(tree)
    return config


def help_text(description: str, positionals: dict[str, str]) -> str:
    """All that can be asked for, as wide as the terminal."""
    width = min(shutil.get_terminal_size().columns, 120)

    def entry(name: str, text: str) -> str:
        return f"  {name}\n" + textwrap.fill(text, width, initial_indent=6 * " ", subsequent_indent=6 * " ")

    words = " ".join(["", *(name.upper() for name in positionals)])
    lines = [f"usage: {Path(sys.argv[0]).name}{words} [--SECTION.FIELD VALUE]...", "", description.strip(), ""]
    lines += [entry(name.upper(), text) for name, text in positionals.items()]
    lines += [entry(name, text) for name, text in OTHER_OPTIONS.items()]
    for section, about, listed in option_lines():
        lines += ["", f"{section}: {about}"]
        for name, field, text in listed:
            lines.append(entry(f"--{name}", f"{text} Takes {range_text(field)}; default {default_text(field)}."))
    return "\n".join(lines)


def recorded_config(values: dict[str, Any]) -> tuple[Config, dict[str, Any]]:
    """The configuration that an archive carries, which is not trusted, and the user's DeepSpeed keys.

    Raises UsageError for what no run could have recorded.
    """
    try:
        extra = values["engine"].pop("deepspeed_config")
        fields = flat({name: values[name] for name in sections() if name in values})
        config = to_config({name: read_value(name, raw) for name, raw in fields.items()})
    except (ArithmeticError, LookupError, TypeError, AttributeError, UsageError) as error:
        raise UsageError(f"the recorded configuration is damaged: {' '.join(str(error).split())}") from None
    check(config)
    refuse_text(extra)
    return config, extra


def refuse_text(extra: Any) -> None:
    """Raise UsageError if DeepSpeed keys hold text: it could name files, which is not for an archive to do."""
    if isinstance(extra, dict):
        for value in extra.values():
            refuse_text(value)
    elif not isinstance(extra, (bool, int, float, type(None))):
        raise UsageError(f"engine.deepspeed_config holds {extra!r}: only numbers, true and false can be archived")


def refuse_changes(before: Config, after: Config, saved: Path) -> None:
    """Raise UsageError if a resumed run would go on with other settings than it began with."""
    old, new = before.to_dict(), after.to_dict()
    for name in options():
        section, _, field = name.partition(".")
        was, is_now = old[section][field], new[section][field]
        if was != is_now and name not in MAY_CHANGE and (section != "run" or field in BEGUN_WITH):
            raise UsageError(
                f"{name} was {was!r} in {saved} and is now {is_now!r}: a resumed run keeps what it began with; "
                "start a new run to change it"
            )


def load_config(path: Path) -> Config:
    """The configuration that save_config wrote. Raises UsageError if it is not one."""
    return to_config(read_file(path))


class _Dumper(yaml.SafeDumper):
    """Lists in one line; text that some reader takes for a number in quotes."""


def _text_node(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    try:
        float(text)
    except ValueError:
        return dumper.represent_scalar("tag:yaml.org,2002:str", text)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="'")


_Dumper.add_representer(str, _text_node)
_Dumper.add_representer(
    list, lambda dumper, value: dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=True)
)


def config_text(config: Config) -> str:
    """A configuration as YAML, shown to be what a reader finds there. Raises UsageError if it cannot be kept so."""
    text: str = yaml.dump(config.to_dict(), Dumper=_Dumper, sort_keys=False, allow_unicode=False, width=1 << 20)
    found, wanted = to_config(read_text(text)).to_dict(), config.to_dict()
    for section, entries in wanted.items():
        for name, value in entries.items():
            if found[section][name] != value:
                raise UsageError(f"{section}.{name} {value!r} cannot be saved in {CONFIG_FILE}: name it otherwise")
    return text


def save_config(config: Config, path: Path) -> None:
    """Write the resolved configuration, to be read by --config or by resuming."""
    write_file(path, config_text(config).encode())


def read_deepspeed_config(path: str) -> dict[str, Any]:
    """The user's own DeepSpeed keys. Raises UsageError if they cannot be read, or are ours to set."""
    if not path:
        return {}
    try:
        keys = json.loads(Path(path).read_text())
    except (OSError, RecursionError, ValueError) as error:
        raise UsageError(f"engine.deepspeed_config {path} cannot be read: {error}") from None
    if not isinstance(keys, dict):
        raise UsageError(f"engine.deepspeed_config {path} is not a JSON object")
    try:
        json.dumps(keys, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise UsageError(f"engine.deepspeed_config {path} holds half a character: write it as text") from None
    stage = keys.get("zero_optimization", {})
    if not isinstance(stage, dict):
        raise UsageError(f"engine.deepspeed_config {path}: zero_optimization is not a JSON object")
    for key, ours in OWNED_KEYS.items():
        if key in keys or (key == "zero_optimization.stage" and "stage" in stage):
            raise UsageError(f"engine.deepspeed_config sets {key!r}, which Onepass sets from {ours}: remove it there")
    return keys


def check(config: Config) -> None:
    """Raise UsageError on values outside their ranges, or that contradict each other, before any work is done."""
    model, train, engine = config.model, config.train, config.engine
    for name, entry in options().items():
        section, _, field = name.partition(".")
        refuse_outside(name, entry, getattr(getattr(config, section), field))
    for block in model.block.split():
        # What has a colon is somebody else's.
        if block not in BLOCKS and ":" not in block:
            guess = did_you_mean(block, BLOCKS)
            raise UsageError(f"model.block {block!r} is unknown: take names from {', '.join(sorted(BLOCKS))}{guess}")
    if model.expand * model.width < 1:
        raise UsageError(f"model.expand {model.expand} of model.width {model.width} is no channel: take a larger one")
    if model.expansion and round(model.expansion * model.width) < 1:
        raise UsageError(
            f"model.expansion {model.expansion} of model.width {model.width} is no channel: take a larger one, or 0 "
            "for no MLP"
        )
    if config.data.tokenizer == "bytes" and config.data.vocabulary != DataConfig.vocabulary:
        raise UsageError(f"data.vocabulary {config.data.vocabulary} is for pieces: add --data.tokenizer bpe")
    orders = model.ngram_orders
    if model.ngram_lags and not orders:
        raise UsageError("model.ngram_lags need context mixing: give model.ngram_orders, too")
    if orders and (strange := sorted({*model.ngram_embeddings} - {0, *orders})):
        raise UsageError(f"model.ngram_embeddings {strange} are none of model.ngram_orders {orders}, nor 0 for words")
    if config.run.warm_start and engine.zero_stage > 0:
        raise UsageError(
            f"run.warm_start needs whole parameters and engine.zero_stage {engine.zero_stage} keeps parts of copies: "
            "take --engine.zero_stage 0"
        )
    if train.replay and train.segment_tokens > 1 << 14:
        raise UsageError(f"train.replay needs train.segment_tokens of 16,384 or fewer, not {train.segment_tokens:,}")
    if train.lanes % train.accumulation:
        raise UsageError(f"train.lanes {train.lanes} is not a multiple of train.accumulation {train.accumulation}")
    if train.optimizer == "muon" and engine.zero_stage > 0:
        raise UsageError(
            f"train.optimizer muon needs whole matrices and engine.zero_stage {engine.zero_stage} cuts them: "
            "take --train.optimizer adamw or --engine.zero_stage 0"
        )
