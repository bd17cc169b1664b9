"""The code term: how many bytes the program takes that turns the coded data back into the corpus.

Charged are the project modules that a decoder of the run imports, found by importing them in a fresh interpreter, and
the configuration that the decoder obeys. Comments, docstrings, annotations and layout are not (eval/canonical.py).
Python and the installed packages are the reference machine, named by `reference_machine` and not charged.
"""

import hashlib
import importlib.metadata
import json
import lzma
import platform
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from data.errors import UsageError
from eval.canonical import canonical_source

ROOT = Path(__file__).resolve().parents[1]

# Results leave by a descriptor of their own, since an imported package may print. A project module lies where its name
# says, which tells it from the modules of a virtual environment kept below the root.
_IMPORT_PROGRAM = """
import json, os, sys
result = os.fdopen(os.dup(1), "w"); os.dup2(2, 1)
root, config = sys.argv[1], json.loads(sys.argv[2])
sys.path[0] = root
import train.decoding
from model.registry import load_block
from data.errors import UsageError
for name in config["model"]["block"].split():
    load_block(name)
if config["model"]["ngram_orders"]:
    import model.mixing
    if config["model"].get("ngram_words") and config["data"]["tokenizer"] == "bytes":
        import model.words
if config["train"].get("replay"):
    import train.replay
files = []
for name, module in list(sys.modules.items()):
    stem = os.path.join(root, *name.split("."))
    if getattr(module, "__file__", None) in (stem + ".py", os.path.join(stem, "__init__.py")):
        files.append(module.__file__)
json.dump(sorted(os.path.relpath(file, root) for file in files), result)
"""


@dataclass(frozen=True)
class CodeSize:
    """A decoder's program, measured.

    `packed` is the one xz stream (.lzma container) whose length is the code term; `unpack` opens it.
    `module_bytes` says how long each module's canonical source is, before compression.
    """

    module_bytes: dict[str, int]
    source_bytes: int
    canonical_bytes: int
    packed: bytes

    @property
    def modules(self) -> list[str]:
        return list(self.module_bytes)

    @property
    def xz_bytes(self) -> int:
        return len(self.packed)

    @property
    def code_bits(self) -> float:
        return 8.0 * len(self.packed)


def measure_code(config: dict[str, Any], root: Path = ROOT) -> CodeSize:
    """Measure the program that decodes a run of this resolved configuration. Takes as long as the imports: seconds.

    Raises RuntimeError when the decoder's modules cannot be imported.
    """
    sources = {name: (root / name).read_text(encoding="utf-8") for name in decoder_modules(config, root)}
    canonical = {name: canonical_source(source) for name, source in sources.items()}
    module_bytes = {name: len(source.encode()) for name, source in canonical.items()}
    text = canonical_text(config, canonical).encode()
    # The .lzma container has the shortest header; text is better off without position bits.
    filters = [{"id": lzma.FILTER_LZMA1, "preset": 9 | lzma.PRESET_EXTREME, "pb": 0}]
    packed = lzma.compress(text, format=lzma.FORMAT_ALONE, filters=filters)
    return CodeSize(module_bytes, sum(len(source.encode()) for source in sources.values()), len(text), packed)


def decoder_modules(config: dict[str, Any], root: Path = ROOT) -> list[str]:
    """Paths, relative to `root` and sorted, of the project modules that a decoder of this configuration imports."""
    command = [sys.executable, "-c", _IMPORT_PROGRAM, str(root), json.dumps(config)]
    run = subprocess.run(command, check=False, cwd=root, capture_output=True, text=True)
    if run.returncode:
        reason = (run.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(
            f"the decoder's modules cannot be imported from {root}, so the code term is unknown: {reason}"
        )
    return json.loads(run.stdout)


def canonical_text(config: dict[str, Any], canonical: dict[str, str]) -> str:
    """What a decoder is told: its configuration as JSON, then path and canonical source of each module.

    NUL, which neither JSON nor Python source can hold, stands between them.
    """
    told = {name: config[name] for name in ("model", "train", "engine")} | {
        "data": {"tokenizer": config["data"]["tokenizer"]}
    }
    parts = [json.dumps(told, sort_keys=True, separators=(",", ":"), ensure_ascii=False)]
    for name, source in canonical.items():
        parts += [name, source]
    return "\0".join(parts)


def unpack(packed: bytes, limit_bytes: int = 16 << 20) -> tuple[dict[str, Any], dict[str, str]]:
    """Configuration and {path: canonical source} from `CodeSize.packed`, which is not trusted.

    Raises UsageError when it is damaged, larger than `limit_bytes` once expanded, or names a path outside its root.
    """
    decompressor = lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=256 << 20)
    try:
        text = decompressor.decompress(packed, max_length=limit_bytes).decode()
        if not decompressor.eof or decompressor.unused_data:
            raise UsageError(f"it does not end within {limit_bytes:,} bytes, or something follows it")
        config, *rest = text.split("\0")
        sources = dict(zip(rest[::2], rest[1::2], strict=True))
        if strange := [name for name in sources if not re.fullmatch(r"(\w+/)*\w+\.py", name)]:
            raise UsageError(f"{strange[0]!r} is no module's path")
        return json.loads(config), sources
    except (lzma.LZMAError, ValueError, RecursionError) as error:
        raise UsageError(f"the packed decoder is damaged: {error}") from None


def code_identity(packed: bytes) -> str:
    """SHA-256 of the canonical sources in `CodeSize.packed`, in hexadecimal, whatever the configuration."""
    sources = unpack(packed)[1]
    return hashlib.sha256(json.dumps(sources, sort_keys=True).encode()).hexdigest()


def foreign_modules(packed: bytes, root: Path = ROOT) -> list[str]:
    """Modules of `CodeSize.packed` that the project at `root` lacks or has otherwise; layout and comments are free."""
    same = lambda path, source: path.is_file() and canonical_source(path.read_text("utf-8")) == canonical_source(source)  # noqa: E731
    return [name for name, source in unpack(packed)[1].items() if not same(root / name, source)]


def reference_machine() -> dict[str, str]:
    """What the number takes for granted: interpreter, packages and hardware that run the decoder."""
    installed = {package.name: package.version for package in importlib.metadata.distributions()}
    packages = ("torch", "deepspeed", "numpy", "sentencepiece")
    cuda = torch.cuda.is_available()
    return {
        "python": platform.python_version(),
        **{name: installed[name] for name in packages if name in installed},
        "system": f"{platform.system()} {platform.machine()}",
        "processor": torch.cuda.get_device_name() if cuda else f"CPU, {torch.backends.cpu.get_cpu_capability()}",
    }
