"""From the command line to a checked configuration: defaults < file < dotted overrides."""

import json
import math
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser, Namespace, set_parsing_settings

from data.errors import UsageError
from data.files import write_file
from train.config import Config, DataConfig, EngineConfig, ModelConfig, RunConfig, TrainConfig, from_dict

CONFIG_FILE = "config.yaml"
# What the parser lets through from a hostile file: an alias of itself, numbers that no float holds.
FROM_YAML = (RecursionError, OverflowError)
FLAGS = ("--run.resume", "--engine.portable")
MAX_LAG = 1 << 16
SECTIONS = {"data": DataConfig, "model": ModelConfig, "train": TrainConfig, "engine": EngineConfig, "run": RunConfig}


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


def build_parser(
    description: str, default_file: Path | None = None, positionals: dict[str, str] | None = None
) -> ArgumentParser:
    """The parser of all fields of Config and of `positionals`, which are names with their help.

    `default_file` stands between the defaults and --config.
    """
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    files: list[str | PathLike[str]] = [default_file] if default_file else []
    parser = ArgumentParser(description=description, default_config_files=files, exit_on_error=False)
    parser.add_argument("--config", action="config", help="YAML file of sections data, model, train, engine and run.")
    parser.add_argument("--local_rank", type=int, default=0, help="Set by launchers; no need to give it.")
    for name, text in (positionals or {}).items():
        parser.add_argument(name, type=str, help=text)
    for name, kind in SECTIONS.items():
        parser.add_class_arguments(kind, name)
    return parser


def parse_config(description: str, arguments: list[str]) -> Config:
    """The configuration that `arguments` ask for. A resumed run starts from the one saved in its directory.

    Raises UsageError with one line for what is unknown, ill-typed or contradictory.
    """
    return parse_named(description, arguments, {}, lambda named: "")[0]


def parse_named(
    description: str, arguments: list[str], positionals: dict[str, str], default_dir: Callable[[dict[str, str]], str]
) -> tuple[Config, dict[str, str]]:
    """The same for a command with `positionals`, and their values, from which `default_dir` makes run.dir if it is not
    given."""
    # A bare flag means true.
    arguments = [f"{a}=true" if a in FLAGS and b not in ("true", "false") else a
                 for a, b in zip(arguments, [*arguments[1:], ""], strict=False)]  # fmt: skip
    try:
        parsed = build_parser(description, None, positionals).parse_args(arguments)
        named = {name: parsed[name] for name in positionals}
        run_dir = parsed.run.dir or default_dir(named)
        if parsed.run.resume:
            saved = Path(run_dir) / CONFIG_FILE
            if not run_dir or not saved.exists():
                raise UsageError(f"run.dir {run_dir!r} holds no run to resume: give the directory of one")
            before = load_config(saved)
            parsed = build_parser(description, saved, positionals).parse_args(arguments)
            refuse_changes(before, to_config(parsed), saved)
        config = to_config(parsed)
    except (ArgumentError, *FROM_YAML) as error:
        raise UsageError(" ".join(str(error).split())) from None
    config.run.dir = run_dir
    check(config)
    return config, named


def recorded_config(values: dict[str, Any]) -> tuple[Config, dict[str, Any]]:
    """The configuration that an archive carries, which is not trusted, and the user's DeepSpeed keys.

    Raises UsageError for what no run could have recorded.
    """
    try:
        extra = values["engine"].pop("deepspeed_config")
        parsed = build_parser("").parse_object({name: values.get(name, {}) for name in SECTIONS})
        config = to_config(parsed)
    except (ArgumentError, ArithmeticError, LookupError, TypeError, AttributeError) as error:
        raise UsageError(f"the configuration is none: {' '.join(str(error).split())}") from None
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


def to_config(parsed: Namespace) -> Config:
    """The configuration that was parsed. Raises UsageError for what the parser lets through: a section that holds no
    fields, a field that is null or not finite."""
    tree = {}
    for section in SECTIONS:
        if not isinstance(parsed[section], Namespace):
            raise UsageError(
                f"section {section} is {parsed[section]!r}: it must hold fields; leave it out to take all defaults"
            )
        tree[section] = parsed[section].as_dict()
        for name, value in tree[section].items():
            if value is None or (isinstance(value, float) and not math.isfinite(value)):
                raise UsageError(f"{section}.{name} is {value!r}: give it a value, or leave it out to take its default")
    return from_dict(tree)


def refuse_changes(before: Config, after: Config, saved: Path) -> None:
    """Raise UsageError if a resumed run would go on with other settings than it began with."""
    old, new = before.to_dict(), after.to_dict()
    for section in ("data", "model", "train", "engine"):
        for name, value in old[section].items():
            if new[section][name] != value and name not in ("cache_dir", "workers", "timeout_secs"):
                raise UsageError(
                    f"{section}.{name} was {value!r} in {saved} and is now {new[section][name]!r}: a resumed run "
                    "keeps its configuration; start a new run to change it"
                )
    if before.run.warm_start != after.run.warm_start:
        raise UsageError(
            f"run.warm_start was {before.run.warm_start!r} in {saved} and is now {after.run.warm_start!r}: a run "
            "begins once; start a new run to begin with other parameters"
        )


def load_config(path: Path) -> Config:
    """The configuration that save_config wrote. Raises UsageError if it is not one."""
    try:
        return to_config(build_parser("", path).parse_args([]))
    except (ArgumentError, *FROM_YAML) as error:
        raise UsageError(f"{path}: {' '.join(str(error).split())}") from None


def save_config(config: Config, path: Path) -> None:
    """Write the resolved configuration, to be read by --config or by resuming."""
    parser = build_parser("")
    namespace = Namespace(**{name: Namespace(**values) for name, values in config.to_dict().items()})
    write_file(path, parser.dump(namespace, skip_validation=True).encode())


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
    stage = keys.get("zero_optimization", {})
    if not isinstance(stage, dict):
        raise UsageError(f"engine.deepspeed_config {path}: zero_optimization is not a JSON object")
    for key, ours in OWNED_KEYS.items():
        if key in keys or (key == "zero_optimization.stage" and "stage" in stage):
            raise UsageError(f"engine.deepspeed_config sets {key!r}, which Onepass sets from {ours}: remove it there")
    return keys


def check(config: Config) -> None:
    """Raise UsageError on values that contradict each other or cannot work, before any work is done."""
    model, train, engine = config.model, config.train, config.engine
    positive = {
        "model.depth": model.depth, "model.width": model.width, "model.head_width": model.head_width,
        "model.conv": model.conv, "model.expand": model.expand * model.width,
        "model.window": model.window, "train.lanes": train.lanes,
        "train.segment_tokens": train.segment_tokens, "train.accumulation": train.accumulation,
        "run.log_steps": config.run.log_steps, "run.keep_checkpoints": config.run.keep_checkpoints,
        "data.tokenizer_sample_bytes": config.data.tokenizer_sample_bytes, "engine.timeout_secs": engine.timeout_secs,
    }  # fmt: skip
    for name, value in positive.items():
        if value < 1:
            raise UsageError(f"{name} is {value}: it must be 1 or more")
    if config.data.tokenizer == "bytes" and config.data.vocabulary != DataConfig.vocabulary:
        raise UsageError(f"data.vocabulary {config.data.vocabulary} is for pieces: add --data.tokenizer bpe")
    if not 0 <= model.state <= 4096:
        raise UsageError(f"model.state is {model.state}: take 1 to 4,096, or 0 for what the block's paper does")
    if model.depth > 4096 or model.width > 1 << 20:
        raise UsageError(f"model.depth {model.depth} and model.width {model.width}: take at most 4,096 and 1,048,576")
    orders = model.ngram_orders
    if any(not 1 <= order <= 64 for order in orders) or len(set(orders)) < len(orders):
        raise UsageError(f"model.ngram_orders {orders} must be different numbers from 1 to 64")
    for lags in model.ngram_lags:
        if not lags or any(not 1 <= lag <= MAX_LAG for lag in lags) or len(set(lags)) < len(lags):
            raise UsageError(f"model.ngram_lags {lags} must be different distances from 1 to {MAX_LAG:,}")
    if model.ngram_lags and not orders:
        raise UsageError("model.ngram_lags need context mixing: give model.ngram_orders, too")
    if not 0 <= model.ngram_words <= 4:
        raise UsageError(f"model.ngram_words is {model.ngram_words}: take 0 to 4")
    if orders and (strange := sorted({*model.ngram_embeddings} - {0, *orders})):
        raise UsageError(f"model.ngram_embeddings {strange} are none of model.ngram_orders {orders}, nor 0 for words")
    if not 2 <= model.ngram_rows_log2 <= 30:
        raise UsageError(f"model.ngram_rows_log2 is {model.ngram_rows_log2}: take 2 to 30")
    if config.run.warm_start and engine.zero_stage > 0:
        raise UsageError(
            f"run.warm_start needs whole parameters and engine.zero_stage {engine.zero_stage} keeps parts of copies: "
            "take --engine.zero_stage 0"
        )
    if not 0 <= train.flat_fraction < 1:
        raise UsageError(f"train.flat_fraction is {train.flat_fraction}: it must be in [0, 1)")
    if not 0 <= train.replay <= 64:
        raise UsageError(f"train.replay is {train.replay}: take 0 to 64")
    if train.replay and train.segment_tokens > 1 << 14:
        raise UsageError(f"train.replay needs train.segment_tokens of 16,384 or fewer, not {train.segment_tokens:,}")
    if train.lanes % train.accumulation:
        raise UsageError(f"train.lanes {train.lanes} is not a multiple of train.accumulation {train.accumulation}")
    if train.optimizer == "muon" and engine.zero_stage > 0:
        raise UsageError(
            f"train.optimizer muon needs whole matrices and engine.zero_stage {engine.zero_stage} cuts them: "
            "take --train.optimizer adamw or --engine.zero_stage 0"
        )
