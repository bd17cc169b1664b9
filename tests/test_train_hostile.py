"""Files that a run reads back, altered at will: a clear refusal or a sound value, never a traceback from the depths."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from studies.scaling.runs import load_settings, read_sweep
from train.checkpoint import POINTER, read_pointer
from train.command_line import load_config, parse_config, read_deepspeed_config
from train.config import Config

Read = Callable[[Path], Any]

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["../x", "", "1e400"])
values = st.recursive(scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=9), v, max_size=3))
paths = [(section, name) for section, fields in Config().to_dict().items() for name in fields]
slow_to_build = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def refusal(read: Read, path: Path) -> str:
    """What `read` says against a file; nothing if it takes it. Whatever else it raises fails the test."""
    try:
        read(path)
    except ValueError as error:
        return str(error)
    return ""


@slow_to_build
@given(place=st.sampled_from(paths), value=values)
@example(place=("model", "width"), value=10**40)
@example(place=("train", "lanes"), value=float("nan"))
@example(place=("model", "block"), value={"ssd": 1})
def test_an_altered_configuration_is_read_or_refused_in_a_line(
    tmp_path: Path, place: tuple[str, str], value: Any
) -> None:
    tree: dict[str, Any] = Config().to_dict()
    tree[place[0]][place[1]] = value
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(tree, allow_unicode=False), encoding="utf-8")
    for read in (load_config, load_settings, lambda path: parse_config("", [f"--config={path}"])):
        assert "\n" not in refusal(read, path)


@slow_to_build
@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
@example(b"")
@example(b"\xff\xfe")
@example(b"a: &a [*a, *a]")
@example(b"{" * 2000)
@example(b"!!python/object/apply:os.system ['false']")
def test_what_is_no_configuration_is_refused_in_a_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    for read in (load_config, load_settings, lambda path: parse_config("", [f"--config={path}"])):
        assert "\n" not in refusal(read, path)


POINTER_FIELDS = {
    "tag": "step-1",
    "step": 1,
    "world_size": 1,
    "elapsed_secs": 1.0,
    "tokens": 1,
    "bytes": 1,
    "files": {},
}
SWEEP_FIELDS = {"format": 1, "cells": 2, "side_bits": 1.0, "names": ["a", "b"]}


@slow_to_build
@given(name=st.sampled_from(list(POINTER_FIELDS)), value=values)
@example(name="files", value={"../../../etc/passwd": "0"})
@example(name="step", value=float("inf"))
def test_an_altered_pointer_is_read_or_refused_by_name(tmp_path: Path, name: str, value: Any) -> None:
    (tmp_path / POINTER).write_text(json.dumps({**POINTER_FIELDS, name: value}))
    found = refusal(read_pointer, tmp_path)
    assert not found or str(tmp_path / POINTER) in found


@slow_to_build
@given(name=st.sampled_from(list(SWEEP_FIELDS)), value=values)
def test_an_altered_sweep_is_read_or_refused_by_name(tmp_path: Path, name: str, value: Any) -> None:
    path = tmp_path / "sweep.json"
    path.write_text(json.dumps({**SWEEP_FIELDS, name: value}))
    found = refusal(read_sweep, path)
    assert not found or str(path) in found


@slow_to_build
@given(st.binary(max_size=99) | values.map(lambda value: json.dumps(value).encode()))
@example(b"[" * 10_000)
@example(b'{"zero_optimization": 3}')
@example(b'{"zero_optimization": "stage"}')
@example(b'{"train_batch_size": null}')
def test_any_deepspeed_file_is_an_object_or_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ds.json"
    path.write_bytes(content)
    found = refusal(lambda path: read_deepspeed_config(str(path)), path)
    assert not found or str(path) in found or "deepspeed_config" in found


def test_the_readers_take_what_is_sound(tmp_path: Path) -> None:
    (tmp_path / POINTER).write_text(json.dumps(POINTER_FIELDS))
    assert read_pointer(tmp_path) == {name: value for name, value in POINTER_FIELDS.items() if name != "files"}
    (tmp_path / "sweep.json").write_text(json.dumps(SWEEP_FIELDS))
    assert read_sweep(tmp_path / "sweep.json").names == ["a", "b"]
    (tmp_path / "ds.json").write_text('{"zero_optimization": {"overlap_comm": true}}')
    assert read_deepspeed_config(str(tmp_path / "ds.json"))["zero_optimization"] == {"overlap_comm": True}
    with pytest.raises(ValueError, match="cannot be read"):
        read_deepspeed_config(str(tmp_path / "absent.json"))
