"""Whose code is charged: ours and anybody's, however it was installed, but not that of the reference machine."""

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path
from typing import Any

import pytest
from dist import ROOT

from data.errors import RunFailed, UsageError
from eval.code_size import CodeSize, measure_code, unpack
from eval.decoder_imports import Ahead, NotImportable, search_path
from eval.late_imports import refuse_late_imports
from train.config import Config, DataConfig, ModelConfig

# .ci/run repeats all of this with fresh interpreters.
pytestmark = pytest.mark.starts


@pytest.fixture
def fresh_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter that looks at imports is a new one, not forked."""
    monkeypatch.setattr("eval.decoder_imports.subprocess", subprocess)


PLAIN = Config(DataConfig(tokenizer="bytes"), ModelConfig("attention", ngram_orders=[])).to_dict()
GATED = '''"""A block that somebody keeps in a package of their own."""
import json
import math

import torch
from torch import nn

from model.layers import parameter
from outside.tables import ROWS


class GatedConv(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.weight = parameter(torch.randn(config.width, config.width), "matrix")
        self.rows = ROWS

    def init_state(self, batch):
        return (torch.zeros(batch, 1),)

    def forward(self, x, state):
        from outside.kernels import gate

        return gate(x @ self.weight), state

    def nobody_calls_this(self):
        return json.dumps(math.pi)
'''
PACKAGE = {
    "outside/__init__.py": "from .gated import GatedConv\nfrom .spare import Spare\n",
    "outside/gated.py": GATED,
    "outside/kernels.py": "def gate(x):\n    return x * x.sigmoid()\n",
    "outside/tables.py": "ROWS = [1, 2, 3]\n",
    "outside/spare.py": "class Spare:\n    pass\n",
}


def measured(block: str, *declared: str) -> CodeSize:
    """The code of the configuration whose attention is `block`, a file that stands in its place."""
    return measure_code(PLAIN | {"model": {**PLAIN["model"], "block": block}}, declared)


def test_an_interpreter_that_was_started_ahead_finds_what_a_new_one_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_interpreter: None
) -> None:
    monkeypatch.setattr("eval.decoder_imports.AHEAD", [ahead := Ahead()])
    written(tmp_path, PACKAGE)
    # Only now, as a run's own folder is.
    monkeypatch.syspath_prepend(tmp_path)
    ours, theirs = measured("attention"), measured("outside:GatedConv")
    with pytest.raises(UsageError, match=r"reference_packages names no_such_package"):
        measured("attention", "no_such_package")
    with pytest.raises(NotImportable, match="unknown block 'nosuch'"):
        measured("nosuch")
    # Somebody asks who is killed before the answer comes, or in the middle of it.
    assert ahead.process.stdin and ahead.process.stdout
    asked = json.dumps(["of-a-dead-one", PLAIN, "meta", [], search_path()])
    ahead.process.stdin.write(f"{asked}\n{asked}\n")
    ahead.process.stdin.flush()
    ahead.process.stdout.read(1000)
    # Its answers do not depend on what it was asked before.
    assert measured("attention") == ours
    ahead.process.kill()
    with pytest.raises(NotImportable, match="its interpreter ended"):
        measured("attention")
    assert measured("attention") == ours
    assert measured("outside:GatedConv") == theirs


@pytest.mark.parametrize("block", ["outside:GatedConv", "outside.gated:GatedConv"])
def test_a_block_is_charged_that_its_own_package_imports_too(
    block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, PACKAGE)
    monkeypatch.syspath_prepend(tmp_path)
    sources = unpack(measured(block).packed)[1]
    assert "class GatedConv" in sources["outside/gated.py"]
    assert {"outside/kernels.py", "outside/tables.py"} <= sources.keys()
    assert "outside/spare.py" not in sources


def written(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project that has a block `attention` of one import, and the package that it is in, both first on the path."""
    written(tmp_path / "outside", PACKAGE)
    for room in ("archive", "data", "model", "train", "eval"):
        subprocess.run(["cp", "-r", str(ROOT / room), str(tmp_path)], check=True)
    (tmp_path / "model/blocks/attention.py").write_text("from outside import GatedConv as Attention\n")
    monkeypatch.syspath_prepend(tmp_path / "outside")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("fresh_interpreter")
def test_code_from_outside_is_charged_as_if_it_were_written_here(project: Path) -> None:
    code = measured("attention")
    sources = unpack(code.packed)[1]
    assert sources["outside/__init__.py"] == "from.gated import GatedConv\n"
    assert "nobody_calls_this" not in sources["outside/gated.py"]
    assert "import json" not in sources["outside/gated.py"]
    assert sources["outside/kernels.py"] == "def gate(x):return x*x.sigmoid()\n"
    assert sources["outside/tables.py"] == "ROWS=[1,2,3]\n"
    assert "outside/spare.py" not in sources
    assert code.uncharged == {}
    inside = GATED.replace("GatedConv", "Attention").replace("from outside.kernels", "from model.kernels")
    written(project, {
        "model/blocks/attention.py": inside.replace("from outside.tables", "from model.tables"),
        "model/kernels.py": PACKAGE["outside/kernels.py"], "model/tables.py": PACKAGE["outside/tables.py"],
    })  # fmt: skip
    # Names of files and one more import are all that differs.
    assert 0 <= code.xz_bytes - measured("attention").xz_bytes < 60


def test_what_is_declared_is_named_and_not_charged(project: Path) -> None:
    code = measured("attention", "outside")
    assert not [name for name in code.modules if name.startswith("outside")]
    assert code.uncharged == {"outside": "of unknown version"}
    assert "from outside import GatedConv as Attention" in unpack(code.packed)[1]["model/blocks/attention.py"]
    written(project / "outside", {"outside-1.5.dist-info/METADATA": "Name: Outside\nVersion: 1.5\n"})
    written(project / "outside", {"outside-1.5.dist-info/top_level.txt": "outside\n"})
    assert measured("attention", "outside").uncharged == {"Outside": "1.5"}
    with pytest.raises(UsageError, match=r"run.reference_packages names no-such-package, which is not installed"):
        measured("attention", "no-such-package")


@pytest.mark.usefixtures("fresh_interpreter")
def test_what_a_declared_package_imports_is_its_own(project: Path) -> None:
    """Also in a fresh interpreter, where the module that watches imports is the program."""
    written(project / "outside", {"needed/__init__.py": "SCALE = 2\n"})
    gated = (project / "outside/outside/gated.py").read_text()
    (project / "outside/outside/gated.py").write_text(f"import needed\n{gated}")
    assert "needed/__init__.py" in measured("attention").modules
    assert "needed/__init__.py" not in measured("attention", "outside").modules


def test_a_compiled_extension_cannot_be_charged_and_is_named(project: Path) -> None:
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    source = project / "fast.c"
    source.write_text(
        "#include <Python.h>\n"
        'static struct PyModuleDef fast = {PyModuleDef_HEAD_INIT, "fast", NULL, -1, NULL};\n'
        "PyMODINIT_FUNC PyInit_fast(void) { return PyModule_Create(&fast); }\n"
    )
    library = project / "outside" / "outside" / f"fast{suffix}"
    include = f"-I{sysconfig.get_path('include')}"
    subprocess.run(["gcc", "-shared", "-fPIC", include, str(source), "-o", str(library)], check=True)
    tables = project / "outside/outside/tables.py"
    tables.write_text("import outside.fast\nROWS = [1, 2, 3]\n")
    code = measured("attention")
    assert code.uncharged == {"outside": "of unknown version"}
    assert "outside/tables.py" in code.modules


@pytest.mark.parametrize("how", ["importlib.import_module('outside.' + 'tables').ROWS", "__import__('tables_' + 'of')"])
def test_modules_that_are_imported_by_computed_names_are_charged(project: Path, how: str) -> None:
    written(project / "outside", {"tables_of.py": "NUMBERS = [7, 8, 9]\n"})
    gated = GATED.replace("self.rows = ROWS", f"self.rows = {how}").replace("import json", "import importlib")
    written(project / "outside", {"outside/gated.py": gated.replace("from outside.tables import ROWS\n", "")})
    text = "".join(unpack(measured("attention").packed)[1].values())
    assert ("[1,2,3]" in text) or ("[7,8,9]" in text)


def test_words_that_the_program_reads_of_itself_are_charged(project: Path) -> None:
    secret = "the corpus could stand in a docstring"
    tables = project / "outside/outside/tables.py"
    tables.write_text(f'"""{secret}"""\nROWS = [1, 2, 3]\n')
    assert secret not in "".join(unpack(measured("attention").packed)[1].values())
    tables.write_text(f'"""{secret}"""\nROWS = [__doc__]\n')
    assert secret in "".join(unpack(measured("attention").packed)[1].values())


def test_an_import_while_the_run_learns_comes_too_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, {"too_late.py": "x = 1\n", "block_of_mine.py": "def forward(name):\n    __import__(name)\n"})
    monkeypatch.syspath_prepend(tmp_path)
    from block_of_mine import forward  # type: ignore[import-not-found]

    with refuse_late_imports(["block_of_mine.py"], []):
        forward("json")
        forward("block_of_mine")
        with pytest.raises(RunFailed, match="block_of_mine imports too_late while the run learns"):
            forward("too_late")
    with refuse_late_imports(["block_of_mine.py"], ["too_late"]):
        forward("too_late")


def test_a_decoder_that_does_not_import_fails_with_its_reason(project: Path) -> None:
    (project / "outside/outside/tables.py").write_text("import no_such_package\n")
    with pytest.raises(RuntimeError, match="No module named 'no_such_package'"):
        measured("attention")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's wheel, built from a copy of what git would give away, without .git."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "a checkout"
    names = ["archive", "data", "eval", "launch", "model", "studies", "train", "pyproject.toml", "README.md", "LICENSE"]
    source.mkdir()
    subprocess.run(["cp", "-r", *(str(ROOT / name) for name in names), str(source)], check=True)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", str(folder), str(source)]
    subprocess.run(build, check=True)
    return next(folder.glob("*.whl"))


def report_of(path: list[Path], folder: Path) -> dict[str, Any]:
    """Code term and modules that an interpreter with this path finds, started in `folder`."""
    program = (
        "import json, sys\nfrom eval.code_size import measure_code\nimport eval.code_size\n"
        "code = measure_code(json.loads(sys.argv[1]))\n"
        "print(json.dumps([eval.code_size.__file__, code.packed.hex(), code.modules]))"
    )
    import json

    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path))}
    command = [sys.executable, "-c", program, json.dumps(PLAIN)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    where, packed, modules = json.loads(done.stdout)
    return {"where": where, "packed": packed, "modules": modules}


def test_the_code_term_is_the_same_however_the_project_is_installed(wheel: Path, tmp_path: Path) -> None:
    here = measured("attention")
    # As `pip install --target`, into a folder that has torch and all else, as site-packages does; by a link.
    site = tmp_path / "site packages"
    site.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.lower().startswith(("onepass", "__editable__")):
            (site / entry.name).symlink_to(entry)
    with zipfile.ZipFile(wheel) as file:
        file.extractall(site)
    link = tmp_path / "linked here"
    link.symlink_to(site)
    empty = tmp_path / "elsewhere"
    empty.mkdir()
    for path in ([link], [wheel]):
        found = report_of(path, empty)
        assert found["where"].startswith(str(path[0]))
        assert found["modules"] == here.modules
        assert bytes.fromhex(found["packed"]) == here.packed


@pytest.mark.parametrize("name", ["model.py", "data/__init__.py"])
def test_a_module_that_hides_one_of_ours_is_named(tmp_path: Path, name: str) -> None:
    written(tmp_path, {name: "", "mine.py": "from launch.entry import exit_status\n"})
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(tmp_path / "mine.py")], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert f"{tmp_path / name} hides the package {name.split('.')[0].split('/')[0]!r} of Onepass" in last
    assert "rename it" in last
