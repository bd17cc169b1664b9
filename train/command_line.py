"""From the command line to a checked configuration: defaults < file < options."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import JsonValue, TypeAdapter, ValidationError

from data.errors import UsageError
from data.files import write_file
from data.lanes import longest_segment
from data.tokenizer_files import KINDS
from train.config import Config, DataConfig, flatten
from train.help import help_text
from train.networks import position_problems
from train.options import (
    OPTIONS,
    SECTIONS,
    Texts,
    did_you_mean,
    kind_text,
    read_tree,
    same_name,
    takes_text,
)
from train.own_blocks import add_import_dir, block_problems, find_own_blocks

CONFIG_FILE = "config.yaml"
MAX_CONFIG_BYTES = 1 << 20
# What may change when a run is resumed: neither bits nor code depend on it.
MAY_CHANGE = ("data.cache_dir", "data.workers", "engine.timeout_secs")
# What may not change of section run.
BEGUN_WITH = ("run.warm_start", "run.reference_packages", "run.reference_tokenizer")

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
# Loggers of DeepSpeed (train/monitors.py), and the packages that they need. What is coded does not depend on them.
MONITOR_PACKAGES = {"comet": "comet_ml", "csv_monitor": "", "tensorboard": "", "wandb": "wandb"}
JSON_OBJECT = TypeAdapter(dict[str, JsonValue])

# Of options that are no fields, what they take; launchers set local_rank.
OTHER_VALUES = {"config": "a file's name", "local_rank": "a number"}
Tree = dict[str, dict[str, Any]]


def take_apart(arguments: list[str], several: bool) -> tuple[Tree, list[str], list[str], set[str]]:
    """A command line as the texts of fields by section, the files that --config names, positionals, and which of `help`
    and `print_config` are there. With `several`, a list of names goes on to the next option, as in
    `--run.reference_packages a b`.

    Raises UsageError for an unknown option, or one without its value.
    """
    tree: Tree = {section: {} for section in SECTIONS}
    files: list[str] = []
    positionals: list[str] = []
    asked, rest = set(), [*arguments]
    while rest:
        argument = rest.pop(0)
        if argument in ("-h", "--help", "--print_config"):
            asked.add("print_config" if argument == "--print_config" else "help")
            continue
        if not argument.startswith("--"):
            positionals.append(argument)
            continue
        name, equals, value = argument[2:].partition("=")
        kind = kind_text(OPTIONS[name]) if name in OPTIONS else OTHER_VALUES.get(name)
        if kind is None:
            # Often only the section is missing or wrong.
            words = [f"--{other}" for other in (*OPTIONS, "config", "print_config", "help")]
            guess = same_name(name.rpartition(".")[2], "--") or did_you_mean(f"--{name}", words)
            raise UsageError(f"unknown option --{name}{guess or ': --help lists all'}")
        if not equals and kind == "true or false":
            # A bare flag means true.
            value = rest.pop(0) if rest and rest[0].lower() in ("true", "false") else "true"
        elif not equals:
            if not rest or rest[0].startswith("--"):
                takes = takes_text(OPTIONS[name]) if name in OPTIONS else kind
                raise UsageError(f"--{name} lacks its value: give {takes}")
            value = rest.pop(0)
            while several and kind == "a list of text" and rest and not rest[0].startswith("--"):
                value += f",{rest.pop(0)}"
        if name in OPTIONS:
            section, _, entry = name.partition(".")
            tree[section][entry] = value
        elif name == "config":
            files.append(value)
    return tree, files, positionals, asked


def parse_config(description: str, arguments: list[str]) -> Config:
    """The configuration that `arguments` ask for. A resumed run starts from the one saved in its directory.

    Raises UsageError with one line for what is unknown, ill-typed or contradictory, SystemExit after --help or
    --print_config.
    """
    return parse_given(description, arguments)[0]


def parse_given(description: str, arguments: list[str]) -> tuple[Config, frozenset[str]]:
    """The same, and the names of the fields that are given, by options or by files: the others may be chosen for the
    corpus (train/choice.py)."""
    config, _, given = parse_named(description, arguments, {}, lambda named: "")
    return config, given


def parse_named(
    description: str,
    arguments: list[str],
    positionals: dict[str, str],
    default_dir: Callable[[dict[str, str]], str],
    source: Callable[[dict[str, str]], str] | None = None,
) -> tuple[Config, dict[str, str], frozenset[str]]:
    """The same for a command with `positionals`, names with their help: the configuration, their values, and the
    fields that are given. From the values, `default_dir` makes run.dir if it is not given, and `source` the data.source
    of a new run."""
    given, files, words, asked = take_apart(arguments, several=not positionals)
    if "help" in asked:
        print(help_text(description, positionals))
        raise SystemExit(0)
    if len(words) > len(positionals):
        raise UsageError(f"unexpected argument {words[len(positionals)]!r}: options begin with --")
    named = dict(zip(positionals, words, strict=False))
    if missing := [name for name in positionals if name not in named]:
        if "print_config" not in asked:
            raise UsageError(f"{missing[0].upper()} is missing: {positionals[missing[0]]}")
        named |= dict.fromkeys(missing, "")
    tree = merge(*(read_file(Path(file)) for file in files), given)
    config = find_own_blocks(read_tree(tree))
    run_dir = config.run.dir or (default_dir(named) if words else "")
    if config.run.resume:
        saved = Path(run_dir) / CONFIG_FILE
        if not run_dir or not saved.exists():
            raise UsageError(f"run.dir {run_dir!r} holds no run to resume: give the directory of one")
        config = find_own_blocks(read_tree(merge(read_file(saved), tree)))
        refuse_changes(load_config(saved), config, saved)
    elif source and words:
        # One that names nothing is refused by what opens it.
        config.data.source = source(named) or config.data.source
    config.run.dir = run_dir
    check(config)
    text = config_text(config)
    if "print_config" in asked:
        print(text, end="")
        raise SystemExit(0)
    return config, named, frozenset(flatten(tree))


def merge(*trees: Tree) -> Tree:
    """The fields of all trees, by section; those of later trees replace those of earlier ones."""
    merged: Tree = {section: {} for section in SECTIONS}
    for tree in trees:
        for section, fields in tree.items():
            merged[section] |= fields
    return merged


def read_file(path: Path) -> Tree:
    """The fields that a YAML file sets, by section. Raises UsageError if it is no configuration."""
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


def read_text(content: bytes | str) -> Tree:
    """The same of a file's content."""
    try:
        tree = yaml.load(content, Texts)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UsageError(f"it is no YAML: {' '.join(str(error).split())}") from None
    tree = {} if tree is None else tree
    read_tree(tree)
    return tree


def recorded_config(values: dict[str, Any]) -> tuple[Config, dict[str, Any]]:
    """The configuration that an archive carries, which is not trusted, and the user's DeepSpeed keys.

    Raises UsageError for what no run could have recorded.
    """
    try:
        extra = values["engine"].pop("deepspeed_config")
        # It is that of the tokenizer, which the archive holds.
        values["data"].pop("vocabulary", None)
        # Nothing in an archive may say where modules are imported from.
        config = read_tree({section: values[section] for section in SECTIONS if section in values and section != "run"})
    except (ArithmeticError, LookupError, TypeError, AttributeError, UsageError) as error:
        raise UsageError(f"the recorded configuration is damaged: {' '.join(str(error).split())}") from None
    check(config)
    refuse_text(extra)
    return config, extra


def refuse_text(extra: Any) -> None:
    """Raise UsageError if DeepSpeed keys hold text: it could name files, which an archive must not."""
    if isinstance(extra, dict):
        for value in extra.values():
            refuse_text(value)
    elif not isinstance(extra, (bool, int, float, type(None))):
        raise UsageError(f"engine.deepspeed_config holds {extra!r}: only numbers, true and false can be archived")


def refuse_changes(before: Config, after: Config, saved: Path) -> None:
    """Raise UsageError if a resumed run would go on with other settings than it began with."""
    old, new = flatten(before.to_dict()), flatten(after.to_dict())
    for name, was in old.items():
        if was != new[name] and name not in MAY_CHANGE and (not name.startswith("run.") or name in BEGUN_WITH):
            raise UsageError(
                f"{name} was {was!r} in {saved} and is now {new[name]!r}: a resumed run keeps what it began with; "
                "start a new run to change it"
            )


def load_config(path: Path) -> Config:
    """The configuration that save_config wrote, whose blocks can now be imported. Raises UsageError if it is not
    one."""
    config = read_tree(read_file(path))
    add_import_dir(config)
    return config


def yaml_text(value: Any) -> str:
    """A field's value in a line of YAML. Text that some reader could take for anything else is in quotes."""
    if isinstance(value, list):
        return f"[{', '.join(map(yaml_text, value))}]"
    quoted = isinstance(value, str) and not re.fullmatch(r"[A-Za-z_/~][\w ./+-]*", value, re.ASCII)
    text: str = yaml.safe_dump(value, default_style="'" if quoted else None, width=1 << 20)
    return text.removesuffix("...\n").strip()


def config_text(config: Config) -> str:
    """A configuration as YAML, shown to be what a reader finds there. Raises UsageError if it cannot be kept so."""
    lines = []
    for section, fields in config.to_dict().items():
        lines += [f"{section}:", *(f"  {name}: {yaml_text(value)}" for name, value in fields.items())]
    text = "\n".join([*lines, ""])
    found = flatten(read_tree(read_text(text)).to_dict())
    for name, value in flatten(config.to_dict()).items():
        if found[name] != value:
            raise UsageError(f"{name} {value!r} cannot be saved in {CONFIG_FILE}: name it otherwise")
    return text


def save_config(config: Config, path: Path) -> None:
    """Write the resolved configuration, to be read by --config or by resuming."""
    write_file(path, config_text(config).encode())


def read_deepspeed_keys(path: str) -> dict[str, Any]:
    """All keys of the user's DeepSpeed file. Raises UsageError if they cannot be read."""
    if not path:
        return {}
    try:
        return JSON_OBJECT.validate_json(Path(path).read_bytes())
    except (OSError, ValidationError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise UsageError(f"engine.deepspeed_config {path} cannot be read: {reason}") from None


def read_deepspeed_config(path: str) -> dict[str, Any]:
    """The user's own DeepSpeed keys, without those of loggers. Raises UsageError if they cannot be read, or are ours to
    set."""
    keys = {name: value for name, value in read_deepspeed_keys(path).items() if name not in MONITOR_PACKAGES}
    zero = keys.get("zero_optimization", {})
    if not isinstance(zero, dict):
        raise UsageError(f"engine.deepspeed_config {path}: zero_optimization is not a JSON object")
    for key, ours in OWNED_KEYS.items():
        if key in keys or (key == "zero_optimization.stage" and "stage" in zero):
            raise UsageError(f"engine.deepspeed_config sets {key!r}, which Onepass sets from {ours}: remove it there")
    return keys


def check(config: Config) -> None:
    """Raise UsageError on values outside their ranges, or that contradict each other, before any work is done."""
    read_tree(config.to_dict())
    for contradiction in contradictions(config):
        raise UsageError(contradiction)


def contradictions(config: Config) -> Iterator[str]:
    """What is wrong with values that are each in their range, in a line each."""
    model, train, stage = config.model, config.train, config.engine.zero_stage
    if "|" in model.block and not model.network:
        yield from mixture_problems(config)
    yield from block_problems(model)
    if model.network:
        yield from position_problems(config)
    if model.expand * model.width < 1:
        yield f"model.expand {model.expand} of model.width {model.width} is no channel: take a larger one"
    if model.expansion and round(model.expansion * model.width) < 1:
        size = f"model.expansion {model.expansion} of model.width {model.width}"
        yield f"{size} is no channel: take a larger one, or 0 for no MLP"
    if config.data.tokenizer == "bytes" and config.data.vocabulary != DataConfig.vocabulary:
        yield f"data.vocabulary {config.data.vocabulary} is for pieces: add --data.tokenizer bpe"
    yield from token_problems(config.data)
    if config.run.reference_tokenizer and config.data.source.startswith("tokens:"):
        yield "run.reference_tokenizer has no effect on token files, which need no tokenizer: leave it out"
    own = config.data.tokenizer
    # An archive says that its tokenizer came from a file, not from which.
    if own not in (*KINDS, "file", "tokens") and not Path(own).expanduser().exists():
        yield f"data.tokenizer is {own!r}: it must be bytes, bpe or the name of a file{did_you_mean(own, KINDS)}"
    if own not in KINDS:
        for name in ("vocabulary", "tokenizer_sample_bytes"):
            if (value := getattr(config.data, name)) != getattr(DataConfig, name):
                file = f"and data.tokenizer {own} has its own pieces"
                yield f"data.{name} {value} is for pieces that are learned, {file}: leave it out"
    elif config.run.reference_tokenizer:
        learned = "its pieces come from the corpus" if own == "bpe" else "it costs nothing"
        yield f"run.reference_tokenizer declares a file, and data.tokenizer is {own} ({learned}): leave it out"
    orders = model.ngram_orders
    for name in ("ngram_lags", "ngram_highest", "ngram_local"):
        if getattr(model, name) and not orders:
            yield f"model.{name} needs context mixing: give model.ngram_orders, too"
    if orders and (far := [pair for pair in model.ngram_highest if pair[0] > max(orders)]):
        yield f"model.ngram_highest {far} begins beyond the longest of model.ngram_orders, {max(orders)}: begin nearer"
    if orders and (strange := sorted({*model.ngram_embeddings} - {0, *orders})):
        yield f"model.ngram_embeddings {strange} are none of model.ngram_orders {orders}, nor 0 for words"
    if config.engine.compile == "on" and stage == 3:
        yield "engine.compile on does not work with engine.zero_stage 3: take --engine.compile auto"
    if config.run.warm_start and stage:
        parts = f"run.warm_start needs whole parameters and engine.zero_stage {stage} keeps parts of copies"
        yield f"{parts}: take --engine.zero_stage 0"
    if config.run.record_spans and config.run.keep_nats == "off":
        yield "run.record_spans keeps states to verify nats by, and run.keep_nats is off: leave one of them out"
    longest = longest_segment(train.segment_tokens)
    if train.replay and longest > 1 << 14:
        yield f"train.replay needs train.segment_tokens of 16,384 or fewer, not {longest:,}"
    if train.lanes % train.accumulation:
        yield f"train.lanes {train.lanes} is not a multiple of train.accumulation {train.accumulation}"
    if train.optimizer == "muon" and stage and config.engine.gradient_clipping:
        late = f"engine.zero_stage {stage} would clip what train.optimizer muon has orthogonalised"
        yield f"{late}: take --engine.gradient_clipping 0, --train.optimizer adamw or --engine.zero_stage 0"


def mixture_problems(config: Config) -> Iterator[str]:
    """What is wrong with a model.block of several models, in a line each."""
    block, train = config.model.block, config.train
    members = [re.fullmatch(r"([^@]*[^@\s])\s*(@\s*[1-9]\d{0,6})?\s*", member) for member in block.split("|")]
    if not all(members):
        yield f"model.block {block!r}: give each model's blocks, and where it has a width of its own @WIDTH after them"
        return
    if train.optimizer == "adamw" and any(member and member[2] for member in members):
        yield f"model.block {block!r}: train.optimizer adamw has one width for all, so leave @WIDTH out, or take muon"


def token_problems(data: DataConfig) -> Iterator[str]:
    """What is wrong with the options of data for its source, in a line each."""
    of_ids = data.source.startswith("tokens:")
    for name in ("vocabulary", "tokenizer_sample_bytes") if of_ids else ("token_ids", "end_token"):
        if (value := getattr(data, name)) != getattr(DataConfig, name):
            problem = f"has no effect on data.source {data.source}, whose ids are given: leave it out"
            remedy = "is for token files: name them as --data.source tokens:SOURCE"
            yield f"data.{name} {value} {problem if of_ids else remedy}"
    if of_ids and data.tokenizer == "bytes":
        yield f"data.tokenizer bytes has no effect on data.source {data.source}, whose ids are given: leave it out"
