"""The code term: what is stripped, what is kept, which modules count, and that the packed decoder opens again."""

import lzma
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from project_files import PROJECT_FILES, ROOT

from data.tokenizer import Tokenizer
from eval.canonical import canonical_tree, written
from eval.code_size import (
    CodeSize,
    canonical_text,
    code_identity,
    decoder_values,
    foreign_modules,
    measure_code,
    reference_machine,
    unpack,
)
from model.lm import LanguageModel
from model.registry import BLOCKS
from train.config import Config, DataConfig, EngineConfig, ModelConfig, TrainConfig

PLAIN = Config(DataConfig("secret.txt", tokenizer="bytes"), ModelConfig("attention", ngram_orders=[]))


def canonical_source(source: str) -> str:
    return written(canonical_tree(source))


@pytest.fixture(scope="module")
def plain() -> CodeSize:
    return measure_code(PLAIN.to_dict())


def run(source: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(compile(source, "canonical", "exec"), names)
    return names


def test_modules_that_only_some_configurations_import_are_charged_to_those() -> None:
    """Nobody lists them: building the model and the learner imports them."""
    everything = Config(
        DataConfig(tokenizer="bytes"),
        ModelConfig(block=" ".join(BLOCKS), depth=len(BLOCKS)),
        train=TrainConfig(replay=1),
        engine=EngineConfig(zero_stage=1),
    )
    charged = measure_code(everything.to_dict()).modules
    asked = {"model/words.py", "train/replay.py", "train/zero_muon.py"}
    late = {"model/mixing.py", *asked} | {f"model/blocks/{name}.py" for name in BLOCKS}
    assert late <= set(charged)
    assert not late & set(measure_code(PLAIN.to_dict()).modules) - {"model/blocks/attention.py"}
    default = measure_code(Config().to_dict()).modules
    assert "model/mixing.py" in default
    assert not asked & set(default)


def test_kernels_are_charged_where_they_are_on_and_for_the_parts_that_have_them() -> None:
    config = Config(model=ModelConfig("gru attention"), engine=EngineConfig(kernels="on"))
    sources = unpack(measure_code(config.to_dict()).packed)[1]
    ours = {path.removeprefix("model/cuda/"): text for path, text in sources.items() if path.startswith("model/cuda/")}
    assert set(ours) == {"__init__.py", "attention.py", "cudnn.py", "gru.py", "lm.py", "mixing.py"}
    assert (
        "def attend(" in ours["attention.py"] and "def steps(" in ours["gru.py"] and "def count(" in ours["mixing.py"]
    )
    assert "def choose_" not in sources["train/cuda.py"] and "train/graphs.py" not in sources
    without = unpack(measure_code(Config(model=ModelConfig("gru attention")).to_dict()).packed)[1]
    assert not [path for path in without if "cuda" in path]
    # What the reference has is the same.
    assert without["model/mixing.py"] == sources["model/mixing.py"]


@pytest.mark.parametrize(("pieces", "words"), [([], True), ([b"ab"], False)])
def test_a_corpus_without_one_piece_has_a_model_of_bytes(pieces: list[bytes], words: bool) -> None:
    config, tokenizer = Config(DataConfig(tokenizer="bpe")), Tokenizer("bpe", b"", [bytes([n]) for n in range(256)])
    tokenizer.pieces.extend([*pieces, b""])
    mixing = LanguageModel(config.model, tokenizer.vocabulary).mixing
    assert mixing is not None
    assert (mixing.contexts.words is not None) == words
    assert ("model/words.py" in measure_code(decoder_values(config, tokenizer, {})).modules) == words


def test_comments_docstrings_and_bare_strings_go_and_the_rest_behaves_the_same() -> None:
    source = '''"""Module."""
from __future__ import annotations
from dataclasses import dataclass  # why

@dataclass
class Point:
    """Doc."""
    x: int = 1
    """Field text."""
    label: str = "# not a comment"

class Empty(Exception):
    """Only words."""

def nothing():
    """Only words."""

def branch(flag):
    if flag:
        "a string and no more"
    else:
        return f"{flag!r:>6}"

async def later():
    try:
        "try"
    finally:
        "finally"
'''
    canonical = canonical_source(source)
    for gone in ("Module.", "Doc.", "Field text.", "Only words.", "why", "a string and no more", '"try"', "finally'"):
        assert gone not in canonical
    assert canonical.startswith("from __future__ import annotations;")
    names = run(canonical)
    assert names["Point"](2).x == 2
    assert names["Point"]().label == "# not a comment"
    assert issubclass(names["Empty"], Exception)
    assert names["nothing"]() is None
    assert (names["branch"](True), names["branch"](False)) == (None, " False")


def test_annotations_and_what_only_they_need_go_and_dataclass_fields_stay() -> None:
    source = """
from __future__ import annotations
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
import json, os.path
from train.loop import anything

if TYPE_CHECKING:
    from somewhere import Else

class Module:
    declared: Else
    size: int = 3

    def double(self, x: Else, *rest: Any, by: int = 2, **more: Any) -> Else:
        twice: int = x * by
        later: Any
        later = os.path.sep
        return twice

@dataclass
class Point:
    x: int
    y: int = 2
"""
    canonical = canonical_source(source)
    for gone in ("if TYPE_CHECKING", "Else", ": Any", "declared", "later:"):
        assert gone not in canonical
    assert "from train.loop import anything" in canonical
    names = run(canonical.replace(";from train.loop import anything", ""))
    assert names["Module"]().double(5, 1, by=3, z=0) == 15
    assert names["Module"].size == 3
    assert names["Point"](1) == names["Point"](1, 2)
    assert canonical_source("def f() -> None:\n    x: int\n") == "def f():pass\n"


def test_only_spaces_stay_that_tokens_need_and_strings_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    source = (
        "@cache\ndef f():\n    if 1:\n        x = 2\n        return x\n    else:\n        while 1:\n            pass\n"
    )
    assert canonical_source(source) == "@cache\ndef f():\n if 1:x=2;return x\n else:\n  while 1:pass\n"
    source = "x = (5 .real if not 'a  b' in [ 1 ]\n  else -  x1 . y)\n\n\ny = f'{x !r}  : {x:>  5}'\n"
    assert canonical_source(source) == "x=5 .real if not'a  b'in[1]else-x1.y;y=f'{x!r}  : {x:>  5}'\n"
    source = 'def f(x):\n    return f"""{x}\n    y"""\n'
    assert run(canonical_source(source))["f"](1) == "1\n    y"
    # Python 3.11 renders such a string on one line; another version may not.
    monkeypatch.setattr("ast.unparse", lambda tree: source)
    assert run(canonical_source(source))["f"](1) == "1\n    y"


@pytest.mark.parametrize("path", PROJECT_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_project_module_has_a_canonical_form(path: Path) -> None:
    canonical = canonical_source(path.read_text(encoding="utf-8"))
    compile(canonical, str(path), "exec")
    assert canonical_source(canonical) == canonical


def test_the_term_is_the_length_of_a_stream_that_holds_code_and_configuration(plain: CodeSize) -> None:
    config, sources = unpack(plain.packed)
    values = PLAIN.to_dict()
    # Blocks do not pay for networks.
    assert values["model"].pop("network") == ""
    assert config == {name: values[name] for name in ("model", "train", "engine")} | {"data": {"tokenizer": "bytes"}}
    assert "secret.txt" not in str(config)
    assert list(sources) == plain.modules == sorted(plain.modules)
    assert plain.module_bytes == {name: len(source.encode()) for name, source in sources.items()}
    assert plain.source_bytes == sum((ROOT / name).stat().st_size for name in plain.modules)
    assert plain.canonical_bytes == len(lzma.decompress(plain.packed))
    assert (plain.xz_bytes, plain.code_bits) == (len(plain.packed), 8 * len(plain.packed))
    assert plain.uncharged == {}


def test_a_damaged_packed_decoder_is_refused(plain: CodeSize) -> None:
    packed = plain.packed
    for damaged in (packed[:-8], packed + b"\0", b"", packed[:40] + bytes([packed[40] ^ 1]) + packed[41:]):
        with pytest.raises(ValueError, match="damaged"):
            unpack(damaged)
    deep = lzma.compress(b"[" * 200_000, format=lzma.FORMAT_ALONE)
    with pytest.raises(ValueError, match="damaged"):
        unpack(deep)
    with pytest.raises(ValueError, match="does not end within 10 bytes"):
        unpack(packed, limit_bytes=10)
    outside = lzma.compress(b"{}\x00../evil.py\x00x = 1\n", format=lzma.FORMAT_ALONE)
    with pytest.raises(ValueError, match="no module's path"):
        unpack(outside)


def test_the_decoder_of_a_default_run_needs_neither_reports_nor_metrics(tmp_path: Path) -> None:
    """Our own modules, from the packed stream alone: they import in an empty directory, and nothing else is ours."""
    code = measure_code(Config().to_dict())
    assert {name.split("/")[0] for name in code.modules} <= {"archive", "data", "model", "train"}
    assert {"train/loop.py", "archive/coder.py", "data/tokenizer.py", "model/registry.py"} <= set(code.modules)
    assert not {"archive/format.py", "archive/encoding.py", "train/run.py"} & set(code.modules)
    assert "def encode" not in unpack(code.packed)[1]["archive/coder.py"]
    for name, source in unpack(code.packed)[1].items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(source)
    program = "import archive.decoding, sys; print(sys.modules['train.loop'].__file__)"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith(str(tmp_path / "train/loop.py"))


def test_identity_and_foreign_modules_depend_on_what_is_reached_and_on_nothing_else(
    plain: CodeSize, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for room in ("archive", "data", "model", "train"):
        shutil.copytree(ROOT / room, tmp_path / room)
    monkeypatch.syspath_prepend(tmp_path)
    lanes, loop = tmp_path / "data/lanes.py", tmp_path / "train/loop.py"
    lanes.write_text('"""Other words."""\n' + lanes.read_text() + "\n\ndef idle():\n    return 1  # nobody asks\n")
    assert "full, rest = divmod(" in lanes.read_text()
    lanes.write_text(re.sub(r"\bfull\b", "complete", lanes.read_text()))
    assert foreign_modules(plain.packed) == []
    assert code_identity(measure_code(PLAIN.to_dict() | {"train": {**PLAIN.to_dict()["train"], "seed": 7}}).packed) == (
        code_identity(plain.packed)
    )
    lanes.write_text(
        lanes.read_text().replace("return -(-self.tokens // self.lanes)", "return self.tokens // self.lanes")
    )
    loop.write_text(loop.read_text().replace("lanes.progress(step)", "lanes.progress(step + 1)"))
    assert foreign_modules(plain.packed) == ["data/lanes.py", "train/loop.py"]


def test_code_that_cannot_even_run_the_configuration_is_other_code(plain: CodeSize) -> None:
    config, sources = unpack(plain.packed)
    config["model"]["block"] = "of_a_later_release"
    packed = lzma.compress(canonical_text(config, sources).encode(), format=lzma.FORMAT_ALONE)
    (difference,) = foreign_modules(packed)
    assert difference == "its imports (unknown block 'of_a_later_release')"


def test_the_reference_machine_is_named() -> None:
    machine = reference_machine()
    assert {"python", "torch", "deepspeed", "numpy", "sentencepiece", "system", "processor"} == set(machine)
    assert machine["torch"].startswith("2.")
