"""Options: what each may hold, how a person is told, and what comes back from a file that they were saved in."""

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from dist import ROOT
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from train.command_line import CONFIG_FILE, check, load_config, parse_config, parse_named, save_config
from train.config import Config, DataConfig, EngineConfig, ModelConfig, RunConfig
from train.options import OPTIONS, SECTIONS, range_text, read_tree, reference, takes_text


def refusal(*arguments: str) -> str:
    """The one line that is said against `arguments`; it speaks of no Python type."""
    with pytest.raises(ValueError) as caught:
        parse_config("", list(arguments))
    message = str(caught.value)
    assert "\n" not in message
    for word in ("typing", "Literal", "<class", "Config", "NoneType", "Namespace"):
        assert word not in message
    return message


def test_every_field_declares_what_it_may_hold() -> None:
    for name, schema in OPTIONS.items():
        while schema["type"] == "array":
            schema = schema["items"]
        assert "enum" in schema or schema["type"] in ("string", "boolean") or range_text(schema), name
        assert takes_text(OPTIONS[name]), name


NUMBERS = {name: schema for name, schema in OPTIONS.items() if range_text(schema)}


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_outside_its_range_is_refused_with_the_range(name: str) -> None:
    text, part = "{}", NUMBERS[name]
    while part["type"] == "array":
        text, part = text.replace("{}", "[{}]"), part["items"]
    lowest, highest = part.get("minimum"), part.get("maximum")
    beyond = [lowest - 1 if lowest is not None else part["exclusiveMinimum"]]
    if highest is not None or "exclusiveMaximum" in part:
        beyond.append(highest + 1 if highest is not None else part["exclusiveMaximum"])
    for number in beyond:
        message = refusal(f"--{name}={text.replace('{}', str(number))}")
        assert name in message
        assert range_text(NUMBERS[name]) in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--model.expansion -1", "model.expansion is -1.0: take 0 to 1,024"),
        ("--model.expansion 0.001", "model.expansion 0.001 of model.width 128 is no channel"),
        ("--model.block=", "model.block is ''"),
        ("--engine.threads -1", "engine.threads is -1: take 0 to 1,024"),
        ("--train.lanes 1000000000", "train.lanes is 1000000000: take 1 to 1,048,576"),
        ("--train.seed 99999999999999999999999", "train.seed is 99999999999999999999999: take 0 to"),
        ("--train.final_fraction -1", "train.final_fraction is -1.0: take 0 to 1"),
        ("--engine.gradient_clipping -1", "engine.gradient_clipping is -1.0: take 0 or more"),
        ("--train.momentum 1.5", "train.momentum is 1.5: take 0 or more and less than 1"),
        ("--train.beta2 2", "train.beta2 is 2.0: take 0 or more and less than 1"),
        ("--train.matrix_lr 1e400", "train.matrix_lr is '1e400'"),
        ("--train.matrix_lr nan", "train.matrix_lr is 'nan': it must be a number"),
        ("--model.width wide", "model.width is 'wide': it must be a whole number"),
        ("--model.width 1.5", "model.width is '1.5': it must be a whole number"),
        ("--engine.zero_stage 4", "engine.zero_stage is '4': it must be 0, 1, 2 or 3"),
        ("--engine.portable=perhaps", "engine.portable is 'perhaps': it must be true or false"),
        ("--model.ngram_orders 3", "model.ngram_orders is '3': it must be a list of whole numbers, as [1,2,3]"),
        (
            "--train.segment_tokens long",
            "'long': it must be a whole number or a schedule of them, as 16@0,32@0.1,64@0.5",
        ),
        ("--train.segment_tokens 0", "train.segment_tokens is '0': take 1 to 1,048,576"),
        ("--train.segment_tokens 16@0.5", "train.segment_tokens is '16@0.5': its fractions must begin with 0 and grow"),
        ("--train.segment_tokens 16@0,8@1", "train.segment_tokens is '16@0,8@1': its fractions must begin with 0"),
        ("--train.replay 1 --train.segment_tokens 4@0,16385@0.5", "16,384 or fewer, not 16,385"),
        ("--model.ngram_lags [3]", "it must be lists of whole numbers, as [[3],[1,2,6]]"),
        # What was meant.
        ("--model.widht 3", "unknown option --model.widht. Did you mean --model.width?"),
        ("--width 3", "unknown option --width. Did you mean --model.width?"),
        ("--train.width 3", "unknown option --train.width. Did you mean --model.width?"),
        ("--modle.block gru", "unknown option --modle.block. Did you mean --model.block?"),
        ("--print-config", "Did you mean --print_config?"),
        ("--xyzzy.plugh 3", "unknown option --xyzzy.plugh: --help lists all"),
        ("--model.block atention", "Did you mean attention?"),
        ("--train.optimizer adam", "train.optimizer is 'adam': it must be muon or adamw. Did you mean adamw?"),
        ("--data.tokenizer bpee", "Did you mean bpe?"),
        # What lacks its value, or is too much.
        ("--model.width", "--model.width lacks its value: give a whole number, 1 to 1,048,576"),
        ("--model.width --model.depth 2", "--model.width lacks its value"),
        ("x", "unexpected argument 'x'"),
    ],
)
def test_what_is_wrong_is_said_with_its_remedy(arguments: str, message: str) -> None:
    assert message in refusal(*arguments.split(" "))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modle: {width: 3}", "unknown section 'modle'. Did you mean model?"),
        ("model: {widht: 3}", "unknown key 'widht' in section model. Did you mean width?"),
        ("model: {lanes: 3}", "unknown key 'lanes' in section model. Did you mean train.lanes?"),
        ("model: {1: 3}", "unknown key '1' in section model: take block, depth"),
        ("model: 3", "section model must hold fields"),
        ("model: {width: 3, width: 4}", "twice"),
        ("model: {width: }", "model.width is null"),
        ("data: {source: ~}", "data.source is null"),
        ("train: {lanes: 0}", "train.lanes is 0"),
        ("[1]", "sections"),
        ("a: &a [*a]", "no YAML"),
        ('data: {source: "\\0"}', "NUL"),
    ],
)
def test_what_is_wrong_in_a_file_is_said_with_its_name(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(text)
    said = refusal(f"--config={tmp_path / 'my.yaml'}")
    assert message in said
    assert "my.yaml" in said


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model.width", 3.0),
        ("model.width", True),
        ("model.ngram_orders", [2.0]),
        ("model.ngram_orders", {"a": 1}),
        ("train.momentum", False),
        ("train.segment_tokens", 8.0),
        ("train.segment_tokens", [8, 16]),
        ("train.matrix_lr", math.inf),
        ("engine.portable", 1),
        ("engine.zero_stage", True),
        ("data.source", 1),
    ],
)
def test_a_plain_value_of_another_kind_is_refused(name: str, value: Any) -> None:
    """As an archive may hold it."""
    section, field = name.split(".")
    with pytest.raises(ValueError, match=rf"{name} is .*: it must be"):
        read_tree({section: {field: value}})


def test_options_stand_over_files_and_later_ones_over_earlier_ones(tmp_path: Path) -> None:
    for name, text in {"a": "model: {width: 32, depth: 3}", "b": "model: {width: 64}"}.items():
        (tmp_path / name).write_text(text)
    given = ["--train.lanes=8", f"--config={tmp_path / 'a'}", "--config", str(tmp_path / "b"), "--train.lanes", "4"]
    config = parse_config("", [*given, "--local_rank=0"])
    assert (config.model.width, config.model.depth, config.train.lanes) == (64, 3, 4)


def test_a_bare_flag_is_true_and_takes_no_file_for_its_value() -> None:
    named = {"file": "What.", "archive": "Where."}
    config, values, _ = parse_named(
        "", ["--engine.portable", "f", "--run.baselines", "false", "a"], named, lambda _: "d"
    )
    assert config.engine.portable
    assert not config.run.baselines
    assert values == {"file": "f", "archive": "a"}
    with pytest.raises(ValueError, match=r"ARCHIVE is missing: Where\."):
        parse_named("", ["f"], named, lambda _: "d")


def test_a_configuration_that_was_not_parsed_is_held_to_the_ranges_too() -> None:
    check(Config())
    with pytest.raises(ValueError, match=r"model\.width is -8: take 1 to 1,048,576"):
        check(Config(model=ModelConfig(width=-8)))


def test_a_list_of_names_goes_on_to_the_next_option() -> None:
    config = parse_config("", ["--run.reference_packages", "a", "b", "--model.depth=1"])
    assert config.run.reference_packages == ["a", "b"]
    named = {"file": "What."}
    config, values, _ = parse_named("", ["--run.reference_packages", "a,b", "f"], named, lambda _: "d")
    assert (config.run.reference_packages, values) == (["a", "b"], {"file": "f"})
    assert parse_config("", ["--run.reference_packages=[a, b]"]).run.reference_packages == ["a", "b"]


def test_the_printed_configuration_is_read_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = [
        "--model.width=96",
        "--train.segment_tokens=16@0,32@.5",
        "--model.ngram_lags=[[3],[1,2]]",
        "--data.source=1e8",
        "--train.table_lr=1e-5",
    ]
    for names in ({}, {"file": "What.", "archive": "Where."}):
        with pytest.raises(SystemExit) as exit_:
            parse_named("", [*wanted, "--print_config"], names, lambda _: "d")
        assert exit_.value.code == 0
        out, err = capsys.readouterr()
        assert err == ""
        (tmp_path / "my.yaml").write_text(out)
        assert parse_config("", [f"--config={tmp_path / 'my.yaml'}"]) == parse_config("", wanted)
    assert yaml.safe_load(out)["data"]["source"] == "1e8"


def test_help_names_every_field_with_its_range_and_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        parse_named("What it does.", ["--help"], {"file": "What."}, lambda _: "d")
    assert exit_.value.code == 0
    out, err = capsys.readouterr()
    assert err == ""
    text = " ".join(out.split())
    assert "What it does." in text
    assert "typing" not in text
    for name, schema in OPTIONS.items():
        described = text.split(f" --{name} ")[1].split(" --")[0]
        assert f"Takes {takes_text(schema)}; default " in described, name
        assert len(described.split(" Takes ")[0].split()) >= 3, name


def test_the_reference_of_options_is_up_to_date() -> None:
    """After a change: python -m train.options > docs/options.md"""
    assert (ROOT / "docs/options.md").read_text() == reference()


@pytest.mark.parametrize(
    "text",
    ["1e8", "12", "0x1f", "true", "null", "~", "a\x85b", "caf\udce9.txt", "2020-01-01", "1:30", ".inf", "#a", "a: b"],
)
def test_any_name_is_saved_so_that_a_run_can_be_resumed(text: str, tmp_path: Path) -> None:
    run_dir = str(tmp_path / "run")
    config = parse_config("", [f"--data.source={text}", f"--run.dir={run_dir}"])
    assert config.data.source == text
    (tmp_path / "run").mkdir()
    save_config(config, tmp_path / "run" / CONFIG_FILE)
    assert load_config(tmp_path / "run" / CONFIG_FILE) == config
    assert parse_config("", [f"--run.dir={run_dir}", "--run.resume"]).data == config.data


text_fields = [
    name
    for name, schema in OPTIONS.items()
    if schema["type"] == "string" and "enum" not in schema and name != "model.block"
]
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=[]), min_size=1).filter(str.strip)


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(text_fields), text=texts)
@example("run.dir", "1e8")
@example("data.field", "\ud83d\ude00")
def test_every_text_comes_back_from_the_file_that_it_was_saved_in(tmp_path: Path, name: str, text: str) -> None:
    section, field = name.split(".")
    config = Config()
    setattr(getattr(config, section), field, text)
    save_config(config, tmp_path / CONFIG_FILE)
    assert load_config(tmp_path / CONFIG_FILE) == config
    # Other programs read the same there.
    assert yaml.safe_load((tmp_path / CONFIG_FILE).read_text())[section][field] == text


def test_what_a_reader_would_find_otherwise_is_not_saved(tmp_path: Path) -> None:
    config = Config(run=RunConfig(dir="a\0b"))
    with pytest.raises(ValueError, match="NUL"):
        save_config(config, tmp_path / CONFIG_FILE)
    config = Config(engine=EngineConfig(precision="fp64"), data=DataConfig())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="precision"):
        save_config(config, tmp_path / CONFIG_FILE)
    assert not (tmp_path / CONFIG_FILE).exists()
    assert list(SECTIONS) == ["data", "model", "train", "engine", "run"]
