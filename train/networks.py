"""Whole networks of the transformers library, model.network: from what a user gives to the one form that a run keeps.

That form is transformers:JSON: the model_type, and the fields of its configuration that are not the library's defaults,
sizes and vocabulary's neighbours included. Nothing is downloaded, and no code runs that is not of the library.

| a field that is not given | comes from |
|---|---|
| hidden_size, num_hidden_layers | model.width, model.depth |
| num_attention_heads, num_key_value_heads | model.width / model.head_width |
| head_dim, mamba_d_head, mamba_head_dim | model.head_width |
| num_heads, mamba_n_heads, mamba_num_heads | what the network expands the width to, / model.head_width |
| intermediate_size, n_inner | model.expansion times model.width |
| any other | the library's default |
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from data.errors import UsageError
from data.lanes import WHOLE_LOGITS, longest_segment
from model.build import build_model
from train.config import BYTE_SYMBOLS, Config, ModelConfig
from train.launched import is_rank_0
from train.options import did_you_mean, read_tree

if TYPE_CHECKING:
    from train.loop import Learner

# As in model/network.py, before the library is imported.
os.environ["USE_HUB_KERNELS"] = "NO"

PREFIX = "transformers:"
MAX_FILE_BYTES = 1 << 20
# Sizes that follow from ours, and in which the same network of several widths differs.
SIZES = {
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "mamba_d_head"),
    *("mamba_head_dim", "num_heads", "mamba_n_heads", "mamba_num_heads", "intermediate_size", "n_inner"),
}
# Recurrences with heads of their own: the field of their number, that of their width, and that of the expansion.
RECURRENCES = (
    ("num_heads", "head_dim", "expand"),
    ("mamba_n_heads", "mamba_d_head", "mamba_expand"),
    ("mamba_num_heads", "mamba_head_dim", "expand"),
)
# Ours to set, or without an effect on training: what files of released models hold of it is passed over.
PASSED_OVER = {
    *("transformers_version", "architectures", "_name_or_path", "dtype", "torch_dtype", "return_dict", "vocab_size"),
    *("output_hidden_states", "output_attentions", "id2label", "label2id", "problem_type", "use_cache"),
    *("pad_token_id", "bos_token_id", "eos_token_id", "model_type", "is_encoder_decoder"),
}
# Fields of older files, which the library turns into newer ones.
OLDER = {"rope_theta", "rope_scaling", "partial_rotary_factor"}
# Of ModelConfig, what a network has in another way, or not at all.
EFFECTLESS = ("expand", "state", "conv", "logit_cap", "ngram_embeddings")


def resolve_network(model: ModelConfig) -> ModelConfig:
    """`model` with model.network in the form that a run keeps, its type as model.block, and the sizes that it has.

    Raises UsageError, in a line, for what is no network of the library or contradicts other fields.
    """
    if not model.network:
        return model
    default = ModelConfig()
    kind, given, source = read_network(model.network)
    if own := [name for name in EFFECTLESS if getattr(model, name) != getattr(default, name)]:
        raise UsageError(f"model.{own[0]} has no effect on model.network {source}: leave it out")
    if model.block not in (default.block, PREFIX + kind):
        raise UsageError(f"model.block {model.block!r} has no effect beside model.network {source}: leave one out")
    settings = make_settings(kind, given | open_sizes(model, kind, given), source)
    sizes = {"width": settings.hidden_size, "depth": settings.num_hidden_layers}
    if "num_attention_heads" in given or "head_dim" in given:
        head_width = getattr(settings, "head_dim", None) or settings.hidden_size // settings.num_attention_heads
        sizes["head_width"] = head_width
    if "intermediate_size" in given:
        sizes["expansion"] = settings.intermediate_size / settings.hidden_size
    for name, size in sizes.items():
        ours = getattr(model, name)
        if ours not in (size, getattr(default, name)):
            raise UsageError(
                f"model.{name} {ours:g} has no effect on model.network {source}, which has {size:g}: leave it out"
            )
    return replace(model, network=PREFIX + network_text(kind, settings), block=PREFIX + kind, **sizes)


def read_network(network: str) -> tuple[str, dict[str, Any], str]:
    """The model_type, the fields that are given, and what to call it in messages. Raises UsageError."""
    rest = network.removeprefix(PREFIX)
    if rest == network or not rest:
        raise UsageError(f"model.network {network!r} is of no library: give {PREFIX}TYPE or {PREFIX}FILE.json")
    if rest.startswith("{"):
        given = read_json(rest, "model.network")
        kind = check_kind(given.pop("model_type", None), "model.network")
        return kind, check_fields(kind, given, kind), kind
    name, _, more = rest.partition(",")
    given, left_out = {}, []
    kind = name
    if name.endswith(".json"):
        given = read_file(Path(name))
        if "auto_map" in given:
            raise UsageError(f"{name} names code of its own (auto_map): only types of the library itself can be used")
        kind = check_kind(given.get("model_type"), name)
        known = known_fields(kind).keys() | OLDER
        left_out = sorted(given.keys() - known - PASSED_OVER)
        kept = {field: value for field, value in given.items() if field in known}
        given = check_fields(kind, kept, name)
    elif "/" in name:
        raise UsageError(
            f"model.network {network!r}: nothing is downloaded, and no parameters are taken over: save the model's "
            f"config.json and give {PREFIX}config.json"
        )
    kind = check_kind(kind, "model.network")
    if left_out:
        say_once(f"{name}: {kind} has no {', '.join(left_out)}; left out")
    return kind, given | check_fields(kind, read_pairs(more), name), name


def read_file(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES)
    except OSError as error:
        raise UsageError(f"model.network: {path} cannot be read ({error.strerror}): name a config.json") from None
    return read_json(content.decode(errors="replace"), str(path))


def read_json(text: str, source: str) -> dict[str, Any]:
    try:
        values = json.loads(text, object_hook=untag)
    except (RecursionError, ValueError) as error:
        raise UsageError(f"{source} is no JSON ({error}): give a config.json as transformers saves it") from None
    if not isinstance(values, dict):
        raise UsageError(f"{source} is no JSON object: give a config.json as transformers saves it")
    return values


def untag(values: dict[str, Any]) -> Any:
    """Numbers that JSON lacks, as transformers writes them: {"__float__": "Infinity"}."""
    return float(values["__float__"]) if [*values] == ["__float__"] else values


def read_pairs(text: str) -> dict[str, Any]:
    """name=value,name=value. A value is JSON, or text without commas."""
    pairs, rest = {}, text
    while rest:
        name, equals, rest = rest.partition("=")
        if not equals or not name.isidentifier():
            raise UsageError(f"model.network: {name!r} is no field: write NAME=VALUE, by commas")
        try:
            value, end = json.JSONDecoder().raw_decode(rest)
            if rest[end : end + 1] not in ("", ","):
                raise ValueError
        except (RecursionError, ValueError):
            value, end = rest.partition(",")[0], len(rest.partition(",")[0])
        pairs[name], rest = value, rest[end + 1 :]
    return pairs


def check_kind(kind: Any, source: str) -> str:
    """`kind`, if it is a model_type of the library that predicts the next token."""
    if importlib.util.find_spec("transformers") is None:
        raise UsageError("model.network needs the transformers library: pip install 'onepass[transformers]'")
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    from transformers.utils import logging

    # Its notices are about kernels and parameters that we do not load.
    logging.set_verbosity_error()
    if kind is None:
        raise UsageError(f"{source} names no model_type: add one, such as llama")
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        guess = "" if kind in CONFIG_MAPPING else did_you_mean(kind, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
        raise UsageError(
            f"model.network: {kind!r} is no model_type of transformers that predicts the next token"
            f"{guess or ': take one of AutoModelForCausalLM, such as llama, mamba2 or bamba'}"
        )
    return str(kind)


def config_class(kind: str) -> Any:
    from transformers import CONFIG_MAPPING

    return CONFIG_MAPPING[kind]


def known_fields(kind: str) -> dict[str, str]:
    """The fields of a type's configuration that may be given, and what the library calls them in all types: n_embd of
    gpt2 is hidden_size."""
    cls = config_class(kind)
    own = {one.name: one.name for one in dataclasses.fields(cls) if not one.name.startswith("_")}
    common = {name: name for name, own_name in cls.attribute_map.items() if own_name in own}
    names = {own_name: name for name, own_name in cls.attribute_map.items() if own_name in own}
    return {name: known for name, known in (own | common | names).items() if name not in PASSED_OVER}


def check_fields(kind: str, given: dict[str, Any], source: str) -> dict[str, Any]:
    """`given`, by the library's common names. Raises UsageError for a field that the type lacks."""
    known = known_fields(kind)
    for name in given:
        if name in PASSED_OVER:
            raise UsageError(f"model.network {source}: {name} is not yours to set: leave it out")
        if name not in known and name not in OLDER:
            guess = did_you_mean(name, known) or f": it has {', '.join(sorted(known))}"
            raise UsageError(f"model.network {source}: {kind} has no field {name}{guess}")
    return {known.get(name, name): value for name, value in given.items()}


def open_sizes(model: ModelConfig, kind: str, given: dict[str, Any]) -> dict[str, Any]:
    """The sizes that a type has and that are not given, as the table above says."""
    fields, cls = {*known_fields(kind).values()}, config_class(kind)
    width = given.get("hidden_size", model.width)
    heads, rest = given.get("num_attention_heads"), 0
    if not isinstance(heads, int) or heads < 1:
        heads, rest = divmod(width, model.head_width)
    hidden = round(model.expansion * width)
    sizes = {"hidden_size": model.width, "num_hidden_layers": model.depth, "num_attention_heads": heads}
    sizes |= {"num_key_value_heads": heads, "head_dim": width // max(1, heads), "intermediate_size": hidden}
    sizes["n_inner"] = hidden
    for number, head, expand in RECURRENCES:
        if {number, head} <= fields:
            head_width = given.get(head, model.head_width)
            inner = int(given.get(expand, getattr(cls, expand, 1)) * width)
            rest = rest or inner % head_width
            sizes |= {head: head_width, number: inner // head_width}
    if rest:
        raise UsageError(f"model.head_width {model.head_width} does not divide model.width {width}: take one that does")
    return {name: size for name, size in sizes.items() if name in fields and name not in given}


def make_settings(kind: str, given: dict[str, Any], source: str) -> Any:
    """The library's configuration of a type, without dropout. Raises UsageError for values that it refuses."""
    names = known_fields(kind)
    try:
        settings = config_class(kind)(**given)
        noisy = {name: value for name, value in settings.to_dict().items() if is_noise(name, value)}
        if noisy:
            settings = config_class(kind)(**given | dict.fromkeys((names.get(name, name) for name in noisy), 0.0))
    except Exception as error:
        raise UsageError(
            f"model.network {source}: transformers refuses it ({' '.join(str(error).split())[:300]}): correct its "
            f"fields, as in {PREFIX}{kind},NAME=VALUE"
        ) from None
    if not all(isinstance(getattr(settings, name, None), int) for name in ("hidden_size", "num_hidden_layers")):
        raise UsageError(
            f"model.network {source}: {kind} does not say its hidden_size and num_hidden_layers; take the type of its "
            "text model, if there is one"
        )
    if noisy:
        found = ", ".join(f"{name} was {value:g}" for name, value in noisy.items())
        say_once(f"a decoder repeats every step, so {source} has no dropout: {found}")
    return settings


@cache
def say_once(line: str) -> None:
    """Print a line on stderr, however often a sweep resolves the same network."""
    if is_rank_0():
        print(f"onepass: {line}", file=sys.stderr)


def is_noise(name: str, value: Any) -> bool:
    """Whether it is a probability of dropout, of attention, layers or others, or the noise of a router."""
    return ("drop" in name or "jitter" in name) and type(value) in (int, float) and value > 0


def network_text(kind: str, settings: Any) -> str:
    """The JSON from which the library makes `settings`: sizes, and what is not its default."""
    names, whole, default = known_fields(kind), settings.to_dict(), config_class(kind)().to_dict()
    known = {names[name]: value for name, value in whole.items() if name in names}
    short = {names.get(n, n): v for n, v in whole.items() if n in names and (names[n] in SIZES or v != default[n])}
    found = short if config_class(kind)(**short).to_dict() == whole else known
    for name in [name for name in found if name not in SIZES]:
        # What the library derives from other fields.
        fewer = {other: value for other, value in found.items() if other != name}
        found = fewer if config_class(kind)(**fewer).to_dict() == whole else found
    return json.dumps({"model_type": kind, **found})


def describe_network(network: str) -> str:
    """What a network of a run has beside its type, its sizes and the library's defaults: "tie_word_embeddings true"."""
    try:
        fields = json.loads(network.removeprefix(PREFIX))
        return ", ".join(f"{n} {json.dumps(v)}" for n, v in fields.items() if n not in {*SIZES, "model_type"})
    except (AttributeError, RecursionError, ValueError):
        return network


def network_problems(model: ModelConfig) -> Iterator[str]:
    """What is wrong with a network in the form that a run keeps, in a line each."""
    kind = model.block.removeprefix(PREFIX)
    try:
        with torch.device("meta"):
            network: Any = build_model(model, BYTE_SYMBOLS).network
        tables = [network.get_input_embeddings(), network.get_output_embeddings()]
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        yield f"model.network {kind} cannot be built ({reason}): correct its fields, as in {PREFIX}{kind},NAME=VALUE"
        return
    if any(table is None or table.weight.shape[0] != BYTE_SYMBOLS for table in tables):
        yield (
            f"model.network {kind} does not take its vocabulary from vocab_size: take the type of its text model, if "
            f"there is one, such as {kind}_text"
        )


def position_problems(config: Config) -> Iterator[str]:
    """The same of its positions, which must do for a segment and the tokens before it."""
    most = getattr(make_kept(config.model.network), "max_position_embeddings", None)
    needed = config.model.window + longest_segment(config.train.segment_tokens)
    if isinstance(most, int) and most < needed:
        yield (
            f"model.network has {most:,} positions, and model.window {config.model.window} with train.segment_tokens "
            f"{config.train.segment_tokens} needs {needed:,}: shorten them, or add max_position_embeddings={needed}"
        )


def make_kept(network: str) -> Any:
    """The library's configuration of a network in the form that a run keeps."""
    fields = json.loads(network.removeprefix(PREFIX))
    return config_class(fields.pop("model_type"))(**fields)


@torch.no_grad()
def check_behaviour(learner: Learner) -> None:
    """Raise UsageError unless a network's predictions are the same each time, and depend on earlier tokens alone: that
    is what makes its number a description's. Every rank calls it, before the epoch."""
    model: Any = learner.model
    kind = type(model.network).__name__
    # With a large vocabulary less is enough: four rows of logits are there at once.
    length = min(longest_segment(learner.config.segment_tokens), max(8, WHOLE_LOGITS // (4 * model.vocabulary)))
    generator = torch.Generator().manual_seed(0)
    history = torch.randint(model.vocabulary, (1, model.context - 1 + length), generator=generator).repeat(4, 1)
    places = {1: length // 2, 2: length - 1}
    for row, place in places.items():
        history[row, place - length] = (history[row, place - length] + 1) % model.vocabulary
    try:
        seen = model(history.to(learner.place.device), model.init_state(4), None, True)[0].double()
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise UsageError(f"model.network: a forward pass of {kind} fails ({reason}): correct its fields") from error
    least = 1e-4 * (seen[0, -1] - seen[2, -1]).abs().max()
    if (seen[0] - seen[3]).abs().max() > least:
        raise UsageError(f"model.network: {kind} gives equal rows different outputs, and a decoder has to repeat them")
    for row, place in places.items():
        if (seen[0, :place] - seen[row, :place]).abs().amax(-1).gt(least).any():
            raise UsageError(
                f"model.network: {kind} sees later tokens, so its number would mean nothing: take a causal type, or "
                "add is_decoder=true if it has that field"
            )


def refuse_foreign_network(values: dict[str, Any]) -> None:
    """Raise UsageError if the `model` section of an archive's configuration names a network in a way that no run keeps:
    it may choose among the library's types, and nothing else."""
    model = read_tree({"model": values}).model
    if resolve_network(model) != model:
        raise UsageError(f"the recorded model.network {model.network!r} is not as a run keeps it")
