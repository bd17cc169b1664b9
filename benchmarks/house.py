"""How large the house is, and how far one walks in it: lines by room, longest files and functions, hops and climbs.

    python benchmarks/house.py [--no_walk]

The walk runs launch/train.py over the project's LICENSE with a small model, and watches every call. A hop is a step
from one file to another on the way from `train` to the loop, `one_epoch`. A file is visited by the configuration if one
of its functions takes it: an argument named `config`, a `Config` or a section of it, or a `Session`, which holds it. A
climb is such a call from a room into one that stands above it (launch, studies, archive, eval, train, model, data).
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
from launch import ROOMS, entry

entry.begin(__name__)

import argparse
import ast
import itertools
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from types import FrameType
from typing import Any

import launch.train
from data.streams import publish
from train.command_line import parse_config
from train.config import Config
from train.run import Session

ROOT = Path(__file__).resolve().parents[1]
CARRIERS = (Config, Session, *{type(section) for section in vars(Config()).values()})
SMALL = [
    "--model.block=attention", "--model.width=16", "--model.head_width=8", "--model.depth=1",
    "--model.ngram_orders=[1]", "--data.tokenizer=bytes", "--train.lanes=4", "--run.baselines=false",
    "--run.checkpoint_secs=0",
]  # fmt: skip


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0]


def our_file(frame: FrameType) -> Path | None:
    """The file of ours whose function a frame runs."""
    path = Path(frame.f_code.co_filename)
    return path if path.is_relative_to(ROOT) and room_of(path) in ROOMS else None


def our_frames(frame: FrameType | None) -> Iterator[tuple[Path, str]]:
    """File and name of our functions, from this frame to those that called it."""
    while frame is not None:
        if path := our_file(frame):
            yield path, frame.f_code.co_name
        frame = frame.f_back


def functions(path: Path) -> list[tuple[int, str, int]]:
    """(lines, name, parameters) of each function of a file."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            arguments = node.args
            parameters = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
            number = len([one for one in parameters if one.arg not in ("self", "cls")])
            found.append(((node.end_lineno or 0) - node.lineno + 1, f"{path.relative_to(ROOT)}: {node.name}", number))
    return found


class Walk:
    """Watches calls between our own functions."""

    def __init__(self) -> None:
        self.hops: list[str] = []
        self.visited: set[Path] = set()
        self.climbs: set[str] = set()

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        path = our_file(frame) if event == "call" else None
        if path is None:
            return
        code = frame.f_code
        if code.co_name == "one_epoch" and not self.hops:
            names = [f"{file.relative_to(ROOT)}: {name}" for file, name in our_frames(frame) if name != "<lambda>"]
            self.hops = names[: names.index("launch/train.py: train") + 1][::-1]
        arguments = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        if any(name == "config" or isinstance(frame.f_locals.get(name), CARRIERS) for name in arguments):
            self.visited.add(path)
            caller, _ = next(our_frames(frame.f_back), (path, ""))
            if ROOMS.index(room_of(path)) < ROOMS.index(room_of(caller)):
                self.climbs.add(f"{caller.relative_to(ROOT)} -> {path.relative_to(ROOT)}: {code.co_name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no_walk", action="store_true", help="count lines alone")
    options = parser.parse_args()
    files = {room: sorted((ROOT / room).rglob("*.py")) for room in ROOMS}
    lines = {path: len(path.read_text().splitlines()) for paths in files.values() for path in paths}
    rows = [f"{'room':<10}{'files':>7}{'lines':>8}"]
    for room, paths in files.items():
        rows.append(f"{room:<10}{len(paths):>7}{sum(lines[path] for path in paths):>8,}")
    core = sum(count for path, count in lines.items() if room_of(path) != "studies")
    rows += [
        f"{'all':<10}{len(lines):>7}{sum(lines.values()):>8,}",
        f"{'core':<10}{'':>7}{core:>8,} (without studies)",
    ]
    rows.append("longest files: " + ", ".join(
        f"{path.relative_to(ROOT)} {lines[path]}" for path in sorted(lines, key=lambda path: -lines[path])[:8]
    ))  # fmt: skip
    found = [function for path in lines for function in functions(path)]
    rows.append("longest functions: " + ", ".join(f"{name} {count}" for count, name, _ in sorted(found)[-6:][::-1]))
    most = sorted(found, key=lambda function: -function[2])[:6]
    rows.append("most parameters: " + ", ".join(f"{name} {number}" for _, name, number in most))
    if not options.no_walk:
        walk = Walk()
        with tempfile.TemporaryDirectory(prefix="onepass-house-") as folder:
            where = [f"--data.source={ROOT / 'LICENSE'}", f"--data.cache_dir={folder}/cache", f"--run.dir={folder}/run"]
            config = parse_config("", [*where, *SMALL])
            with redirect_stdout(sys.stderr):
                sys.setprofile(walk)
                launch.train.train(config)
                sys.setprofile(None)
        files_passed = [name for name, _ in itertools.groupby(hop.split(":")[0] for hop in walk.hops)]
        rows.append(f"hops from train to the loop: {len(files_passed) - 1}: " + " -> ".join(walk.hops))
        rows.append(f"files that the configuration visits: {len(walk.visited)}; climbs: {len(walk.climbs)}")
        rows += [f"  {climb}" for climb in sorted(walk.climbs)]
    publish("\n".join(rows))


if __name__ == "__main__":
    main()
