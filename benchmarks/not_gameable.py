"""Ways to make the number smaller than it is, tried: a note in research/ says what each is charged.

    python benchmarks/not_gameable.py KJV_FILE --dir FOLDER [--only runs,code,...] [options of launch/train.py]

KJV_FILE is the text of data.source kjv (data.documents.open_source("kjv") has its bytes). Appends rows to
benchmarks/results/not_gameable.csv. `runs` are real runs of launch/train.py, in FOLDER, where finished ones are found
again. `code` is a decoder that holds the corpus, `outside` one whose block is imported from a package. `pieces` are
tokenizers of which one piece is the corpus, or each piece a line of it, under the counts of data/tokenizer.py without
its limit of 16 bytes. `packing` compares lossless coders of a checkpoint's fp32 parameters.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)
from launch import entry

entry.begin(__name__)

import bz2
import datetime
import inspect
import json
import lzma
import math
import shutil
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import zstandard

import data.tokenizer
from archive.coder import PRECISION_BITS
from archive.weights import Adaptive, pack, parameters, to_bytes
from benchmarks.result_rows import appended, commit
from data.bpe import draws
from eval.code_size import measure_code
from train.config import Config, ModelConfig
from train.frozen import load_frozen

RESULTS = ROOT / "benchmarks" / "results" / "not_gameable.csv"
COLUMNS = ["date", "commit", "what", "corpus", "bytes", "data_bytes", "code_bytes", "tokenizer_bytes"]
COLUMNS += ["warm_start_bytes", "total_bytes", "options"]
SMALL_BYTES, LARGE_BYTES = 300_000, 500_000
BYTES = ["--data.tokenizer=bytes"]
TINY = [*BYTES, "--model.width=32", "--model.ngram_orders=[]"]


def row(what: str, corpus: str, corpus_bytes: int, terms: dict[str, float], options: str = "") -> None:
    """Print a row and append it. `terms` are in bytes."""
    fields = {f"{name}_bytes": round(size) for name, size in terms.items()}
    found: dict[str, str | int] = {
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "what": what,
        "corpus": corpus,
    }
    found |= {"bytes": corpus_bytes, **fields, "options": options}
    with appended(RESULTS, COLUMNS) as write:
        write(found)
    entry.publish(f"{what} {corpus} {fields} {options}")


def runs(text: bytes, folder: Path, given: list[str]) -> None:
    """Honest runs, warm starts, a corpus given twice, vocabularies that hold more and more of the corpus."""
    pieces = {
        "first": text[:LARGE_BYTES], "second": text[LARGE_BYTES : 2 * LARGE_BYTES], "small": text[:SMALL_BYTES],
        "twice": 2 * text[:SMALL_BYTES],
    }  # fmt: skip
    for name, content in pieces.items():
        (folder / f"{name}.txt").write_bytes(content)
    plan: list[tuple[str, str, str, str, list[str]]] = [
        ("honest", "kjv", "kjv", "", []),
        ("warm from itself", "kjv", "kjv-warm", "kjv", []),
        ("honest", "small", "small", "", []),
        ("given twice", "twice", "twice", "", []),
        ("honest", "small", "small-8192", "", ["--data.vocabulary=8192"]),
        ("honest", "small", "small-32768", "", ["--data.vocabulary=32768"]),
        ("honest", "second", "second-tiny", "", TINY),
        ("honest", "first", "first-tiny", "", TINY),
        ("warm from another", "first", "first-tiny-warm", "second-tiny", TINY),
        ("warm from itself", "first", "first-tiny-itself", "first-tiny", TINY),
        ("honest", "second", "second-bytes", "", BYTES),
        ("honest", "first", "first-bytes", "", BYTES),
        ("warm from another", "first", "first-bytes-warm", "second-bytes", BYTES),
    ]
    for what, corpus, name, before, options in plan:
        run_dir, source = folder / name, corpus if corpus == "kjv" else str(folder / f"{corpus}.txt")
        if not (run_dir / "report.json").exists():
            fixed = [f"--data.source={source}", f"--data.cache_dir={folder}/cache", f"--run.dir={run_dir}"]
            fixed += ["--run.baselines=false", "--run.budget_minutes=0"]
            fixed += [f"--run.warm_start={folder / before}"] if before else []
            subprocess.run([sys.executable, "launch/train.py", *fixed, *given, *options], cwd=ROOT, check=True)
        report = json.loads((run_dir / "report.json").read_text())
        length = report["description_length"]
        terms = {term: length[f"{term}_bits"] / 8 for term in ("data", "code", "tokenizer", "total")}
        terms["warm_start"] = length.get("warm_start_bits", 0.0) / 8
        row(what, corpus, report["corpus"]["bytes"], terms, " ".join([*given, *options]))


def code(text: bytes) -> None:
    """The decoder with a module that holds the corpus."""
    config = Config().to_dict()
    config["engine"] |= {"deepspeed_config": {}, "precision": "fp32", "threads": 1}
    for name, part in (("small", text[:SMALL_BYTES]), ("kjv", text)):
        for how, literal in (
            ("as text", repr(part)),
            ("as xz", repr(lzma.compress(part, preset=9 | lzma.PRESET_EXTREME))),
        ):
            with tempfile.TemporaryDirectory() as temporary:
                root = Path(temporary)
                for room in ("archive", "data", "model", "train"):
                    shutil.copytree(ROOT / room, root / room)
                (root / "model" / "memory.py").write_text(f"CORPUS = {literal}\n")
                module = root / "model" / "lm.py"
                module.write_text(module.read_text() + "\nfrom model.memory import CORPUS\nassert CORPUS\n")
                sys.path.insert(0, temporary)
                code_bytes = measure_code(config).code_bits / 8
                sys.path.remove(temporary)
            # Its data term: nothing, at best.
            terms = {"data": 0.0, "code": code_bytes, "tokenizer": 0.0, "total": code_bytes}
            row(f"corpus in the code, {how}", name, len(part), terms)


def outside() -> None:
    """A block whose code lies in somebody's package: kept here, imported from there, declared away."""
    config = Config(model=ModelConfig("gated_delta", ngram_orders=[])).to_dict()
    config["engine"] |= {"deepspeed_config": {}, "precision": "fp32", "threads": 1}
    with tempfile.TemporaryDirectory() as temporary:
        root, package = Path(temporary, "project"), Path(temporary, "packages", "somebody")
        for room in ("archive", "data", "eval", "model", "train"):
            shutil.copytree(ROOT / room, root / room)
        before = sys.path[:]
        sys.path[:0] = [str(root), str(package.parent)]
        code_bytes = {"block kept in the project": measure_code(config).code_bits / 8}
        package.mkdir(parents=True)
        block = root / "model" / "blocks" / "gated_delta.py"
        shutil.copy(block, package / "blocks.py")
        (package / "__init__.py").touch()
        block.write_text("from somebody.blocks import GatedDelta\n")
        code_bytes["block imported from a package"] = measure_code(config).code_bits / 8
        code_bytes["the package declared away"] = measure_code(config, ["somebody"]).code_bits / 8
        sys.path[:] = before
    for what, term in code_bytes.items():
        row(what, "none", 0, {"code": term})


def pieces(text: bytes) -> None:
    """A vocabulary that holds the whole corpus, or each of its lines, as one piece."""
    part = text[:SMALL_BYTES]
    for what, across in (("the corpus is one piece", True), ("each line is one piece", False)):
        joins, left = grammar(part, across)
        tokenizer_bytes, vocabulary = charge(joins), 257 + len(joins)
        # As an untrained model codes them, and the end of the document.
        data_bytes = (left + 1) * math.log2(vocabulary) / 8
        terms = {"data": data_bytes, "tokenizer": tokenizer_bytes, "total": data_bytes + tokenizer_bytes, "code": 0.0}
        row(what, "small", len(part), terms, f"{len(joins)} joins, {left} tokens; total without code")


def grammar(content: bytes, across: bool) -> tuple[list[tuple[int, int]], int]:
    """Joins (left, right) of tokens, from frequent pairs up to one token in all, or one a line unless `across`; and how
    many tokens are left. Of pairs that repeat, those go first that do most often (Larsson & Moffat 2000, Re-Pair)."""
    tokens = np.frombuffer(content, np.uint8).astype(np.int64)
    joins: list[tuple[int, int]] = []
    ends = [byte == 10 for byte in range(256)]
    while True:
        free = np.ones(len(tokens) - 1, bool) if across else ~np.array(ends)[tokens[:-1]]
        keys = tokens[:-1] << 20 | tokens[1:]
        if not free.any():
            return joins, len(tokens)
        found, counts = np.unique(keys[free], return_counts=True)
        order = np.argsort(-counts, kind="stable")
        if counts.max() > 1:
            order = order[counts[order] > 1][: max(1, len(order) // 200)]
        used: set[int] = set()
        numbers: dict[int, int] = {}
        for key in found[order].tolist():
            pair = (key >> 20, key & 0xFFFFF)
            if used.isdisjoint(pair):
                used.update(pair)
                numbers[key] = 256 + len(joins)
                joins.append(pair)
                ends.append(ends[pair[1]])
        places, last = [], -2
        for place in np.flatnonzero(free & np.isin(keys, list(numbers))).tolist():
            if place - last > 1:
                places.append(place)
                last = place
        tokens[places] = [numbers[key] for key in keys[places].tolist()]
        tokens = np.delete(tokens, np.array(places) + 1)
        if len(tokens) == 1:
            return joins, 1


def charge(joins: list[tuple[int, int]]) -> float:
    """Bytes of the joins under the counts of data.tokenizer.grow_pieces, without its limit to a piece's length."""
    source = inspect.getsource(data.tokenizer.grow_pieces)
    assert source.count("len(piece) < 16") == 1
    unlimited: dict = {"np": np, "Callable": None}
    exec("from __future__ import annotations\n" + source.replace("len(piece) < 16", "True"), unlimited)
    names = [bytes([byte]) for byte in range(256)]
    for left, right in joins:
        names.append(names[left] + names[right])
    choices, bits = choose(names, joins), 0.0

    def draw(weights: np.ndarray) -> int:
        nonlocal bits
        index = next(choices)
        bits += math.log2(weights.sum() / weights[index])
        return index

    assert set(unlimited["grow_pieces"](draw)) == set(names)
    return bits / 8


def choose(names: list[bytes], joins: list[tuple[int, int]]) -> Iterator[int]:
    """What grow_pieces has to draw, in turn: each piece is joined in one way alone."""
    partners: dict[tuple[int, bytes], list[bytes]] = defaultdict(list)
    for left, right in joins:
        partners[0, names[left]].append(names[right])
        partners[1, names[right]].append(names[left])
    yield from draws(partners, longest=None)


def packing(folder: Path) -> None:
    """A checkpoint's parameters by lossless coders."""
    for name in ("kjv", "first-tiny"):
        tensors = parameters(load_frozen(folder / name)[1])
        raw = b"".join(tensor.astype("<f4").tobytes() for tensor in tensors.values())
        planes = b"".join(to_bytes(key, tensor, "fp32") for key, tensor in tensors.items())
        together = np.frombuffer(raw, np.uint8).reshape(-1, 4).T
        xz = lambda content: len(lzma.compress(content, preset=9 | lzma.PRESET_EXTREME))  # noqa: E731
        zstd = lambda content: len(zstandard.ZstdCompressor(level=22).compress(content))  # noqa: E731
        counts = [Adaptive(256).shares(plane.astype(np.int64)) for plane in together]
        sizes = {
            "as it is": len(raw), "xz": xz(raw), "zstd": zstd(raw), "planes of each tensor, xz": xz(planes),
            "planes of all, xz": xz(together.tobytes()), "planes of all, zstd": zstd(together.tobytes()),
            "planes of all, bzip2": len(bz2.compress(together.tobytes(), 9)),
            "planes of all, adaptive counts": sum(map(coded_bytes, counts)),
            "archive.weights.pack, which is charged": len(pack(tensors, "fp32", 0, frozenset())),
        }  # fmt: skip
        for how, size in sizes.items():
            row(f"packing: {how}", name, len(raw), {"warm_start": size})


def coded_bytes(shares: np.ndarray) -> float:
    """What symbols of these starts and widths [N, 2] come to."""
    return float((PRECISION_BITS - np.log2(shares[:, 1])).sum() / 8)


def main() -> None:
    parser = entry.Parser(alone=False, description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--only", default="runs,code,outside,pieces,packing")
    options, rest = parser.parse_known_args()
    text, only = options.corpus.read_bytes(), options.only.split(",")
    options.dir.mkdir(parents=True, exist_ok=True)
    if "runs" in only:
        runs(text, options.dir.absolute(), rest)
    if "code" in only:
        code(text)
    if "outside" in only:
        outside()
    if "pieces" in only:
        pieces(text)
    if "packing" in only:
        packing(options.dir)


if __name__ == "__main__":
    sys.exit(entry.exit_status(main))
