"""The code term: what is stripped, what is kept, which modules count, and that the packed decoder opens again."""

import ast
import lzma
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from data.tokenizer import Tokenizer
from eval.canonical import canonical_source
from eval.code_size import (
    ROOT,
    code_identity,
    decoder_modules,
    foreign_modules,
    measure_code,
    reference_machine,
    unpack,
)
from launch.corpus import told
from model.lm import LanguageModel
from model.registry import BLOCKS
from train.config import Config, DataConfig, ModelConfig, TrainConfig

CONFIG: dict[str, Any] = {
    "data": {"source": "secret.txt", "tokenizer": "bytes"},
    "model": {"block": "first second first", "ngram_orders": []},
    "train": {"seed": 0},
    "engine": {"precision": "fp32"},
    "run": {"dir": "runs/x"},
}
PROJECT_FILES = sorted(path for path in ROOT.glob("[!.]*/**/*.py") if "site-packages" not in path.parts)


def run(source: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(compile(source, "canonical", "exec"), names)
    return names


def test_modules_that_are_imported_late_are_charged_too() -> None:
    """What is imported within functions, as only some configurations need it, the fresh interpreter has to be told."""
    everything = Config(
        DataConfig(tokenizer="bytes"), ModelConfig(block=" ".join(BLOCKS)), train=TrainConfig(replay=1)
    ).to_dict()
    charged, plain = decoder_modules(everything), decoder_modules(Config(model=ModelConfig(ngram_orders=[])).to_dict())
    late = set()
    for name in charged:
        for function in ast.walk(ast.parse((ROOT / name).read_text())):
            if isinstance(function, ast.FunctionDef):
                imports = [node.module for node in ast.walk(function) if isinstance(node, ast.ImportFrom)]
                late |= {f"{module.replace('.', '/')}.py" for module in imports if module}
    late = {name for name in late if (ROOT / name).exists()}
    assert late == {"model/mixing.py", "model/words.py", "train/replay.py"}
    assert late <= set(charged)
    assert not late & set(plain)
    assert "model/words.py" not in decoder_modules(Config().to_dict())


@pytest.mark.parametrize(("pieces", "words"), [([], True), ([b"ab"], False)])
def test_a_corpus_without_one_piece_has_a_model_of_bytes(pieces: list[bytes], words: bool) -> None:
    config, tokenizer = Config(DataConfig(tokenizer="bpe")), Tokenizer("bpe", b"", [bytes([n]) for n in range(256)])
    tokenizer.pieces.extend([*pieces, b""])
    mixing = LanguageModel(config.model, tokenizer.vocabulary).mixing
    assert mixing is not None
    assert (mixing.contexts.words is not None) == words
    assert ("model/words.py" in decoder_modules(told(config, tokenizer, {}))) == words


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
    assert canonical.startswith("from __future__ import annotations\n")
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
    for gone in ("TYPE_CHECKING", "Else", "Any", "json", "declared", "later:"):
        assert gone not in canonical
    assert "from train.loop import anything" in canonical
    names = run(canonical.replace("from train.loop import anything\n", ""))
    assert names["Module"]().double(5, 1, by=3, z=0) == 15
    assert names["Module"].size == 3
    assert names["Point"](1) == names["Point"](1, 2)
    assert "__future__" not in canonical_source(
        "from __future__ import annotations\ndef f(x: int) -> Nobody: return x\n"
    )
    assert canonical_source("def f() -> None:\n    x: int\n") == "def f():\n pass\n"


def test_indentation_is_one_space_unless_a_string_would_change(monkeypatch: pytest.MonkeyPatch) -> None:
    assert canonical_source("def f():\n    if 1:\n        return 2\n") == "def f():\n if 1:\n  return 2\n"
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


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project like ours, with a module that nobody imports, a noisy one, and packages installed below its root."""
    files = {
        "train/loop.py": 'import helper  # comes from a virtual environment\nimport train.parts\nprint("noise")\n',
        "train/parts.py": '"""Words."""\nx = 1\n',
        "train/decoding.py": "import data.tokenizer, train.loop\n",
        "train/unused.py": "x = 1\n",
        "data/tokenizer.py": "",
        "model/__init__.py": "",
        "model/registry.py": "def load_block(name):\n    __import__(f'model.blocks.{name}')\n",
        "model/blocks/first.py": "a = 1\n",
        "model/blocks/second.py": "b = 2\n",
        "model/blocks/third.py": "c = 3\n",
        "model/mixing.py": "d = 4\n",
        ".venv/lib/site-packages/helper.py": "",
    }
    for name, source in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(source)
    return tmp_path


@pytest.fixture
def installed(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", str(project / ".venv/lib/site-packages"))
    return project


EXPECTED = [
    "data/tokenizer.py",
    "model/__init__.py",
    "model/blocks/first.py",
    "model/blocks/second.py",
    "model/registry.py",
    "train/decoding.py",
    "train/loop.py",
    "train/parts.py",
]


def test_exactly_the_imported_modules_count(installed: Path) -> None:
    assert decoder_modules(CONFIG, installed) == EXPECTED
    with_prior = CONFIG | {"model": {"block": "third", "ngram_orders": [1]}}
    assert {"model/blocks/third.py", "model/mixing.py"} <= set(decoder_modules(with_prior, installed))
    assert "model/blocks/first.py" not in decoder_modules(with_prior, installed)


def test_the_term_is_the_length_of_a_stream_that_holds_code_and_configuration(installed: Path) -> None:
    code = measure_code(CONFIG, installed)
    config, sources = unpack(code.packed)
    assert config == {name: CONFIG[name] for name in ("model", "train", "engine")} | {"data": {"tokenizer": "bytes"}}
    assert sources == {name: canonical_source((installed / name).read_text()) for name in EXPECTED}
    assert code.modules == EXPECTED
    assert code.module_bytes["train/parts.py"] == len("x = 1\n")
    assert code.source_bytes == sum((installed / name).stat().st_size for name in EXPECTED)
    assert code.canonical_bytes == len(lzma.decompress(code.packed))
    assert (code.xz_bytes, code.code_bits) == (len(code.packed), 8 * len(code.packed))


def test_a_decoder_that_does_not_import_fails_with_its_reason(installed: Path) -> None:
    (installed / "train/parts.py").write_text("import no_such_package\n")
    with pytest.raises(RuntimeError, match="No module named 'no_such_package'"):
        measure_code(CONFIG, installed)


def test_a_damaged_packed_decoder_is_refused(installed: Path) -> None:
    packed = measure_code(CONFIG, installed).packed
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
    assert {name.split("/")[0] for name in code.modules} <= {"data", "model", "train"}
    assert {"train/loop.py", "data/coder.py", "data/tokenizer.py", "model/registry.py"} <= set(code.modules)
    assert not {"data/archive.py", "data/encoder.py", "train/run.py"} & set(code.modules)
    for name, source in unpack(code.packed)[1].items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(source)
    program = "import train.decoding, sys; print(sys.modules['train.loop'].__file__)"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith(str(tmp_path / "train/loop.py"))


def test_identity_and_foreign_modules_depend_on_code_and_on_nothing_else(installed: Path) -> None:
    packed = measure_code(CONFIG, installed).packed
    assert foreign_modules(packed, installed) == []
    (installed / "train/parts.py").write_text('"""Other words."""\nx  =  1  # the same\n')
    assert foreign_modules(packed, installed) == []
    assert code_identity(measure_code(CONFIG | {"train": {"seed": 7}}, installed).packed) == code_identity(packed)
    (installed / "train/parts.py").write_text("x = 2\n")
    (installed / "data/tokenizer.py").unlink()
    assert foreign_modules(packed, installed) == ["data/tokenizer.py", "train/parts.py"]
    (installed / "data/tokenizer.py").write_text("")
    assert code_identity(measure_code(CONFIG, installed).packed) != code_identity(packed)


def test_the_reference_machine_is_named() -> None:
    machine = reference_machine()
    assert {"python", "torch", "deepspeed", "numpy", "sentencepiece", "system", "processor"} == set(machine)
    assert machine["torch"].startswith("2.")
