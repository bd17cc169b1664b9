"""The figure of docs/your-architecture.md: the block of that page beside two of ours, by the page's own command.

    python benchmarks/own_block.py [--bytes 300000] [any option of launch/sweep.py]

Takes the code of the block and the sweep from the page, and trains on the start of the default corpus. Writes
benchmarks/results/own_block.csv, a row a run, and docs/own-block-light.png and -dark.png. A
quarter of an hour on two cores.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)
from launch import entry

entry.begin(__name__)

import re
import shlex
import shutil
import subprocess
import tempfile

from data.documents import open_source
from data.errors import RunFailed

PAGE = ROOT / "docs" / "your-architecture.md"
RESULTS = ROOT / "benchmarks" / "results" / "own_block.csv"
FIXED = ["--data.vocabulary=1024", "--train.lanes=8", "--engine.threads=1", "--run.baselines=false", "--jobs=2"]


def read_page(page: str) -> tuple[str, str, list[str]]:
    """The name of the block's file, its code, and the arguments of the sweep."""
    section = page.split("## From an empty file to a figure")[1].split("\n## ")[0]
    code = re.search(r"```python\n# (\w+\.py)\n(.*?)```", section, re.DOTALL)
    sweep = re.search(r"^    python launch/sweep\.py (.*)$", section, re.MULTILINE)
    if not code or not sweep:
        raise RunFailed(f"{PAGE.name} has no block or no sweep any more")
    return code[1], code[2], shlex.split(sweep[1])


def main() -> int:
    parser = entry.Parser(alone=False, description=__doc__)
    parser.add_argument("--bytes", type=int, default=300_000, help="length of the prefix that is used")
    options, given = parser.parse_known_args()
    name, code, sweep = read_page(PAGE.read_text())
    with tempfile.TemporaryDirectory(prefix="onepass-") as folder:
        Path(folder, name).write_text(code)
        source = Path(folder, "kjv")
        source.write_bytes(b"".join(chunk for chunk, _ in open_source("kjv").chunks())[: options.bytes])
        place = [f"--dir={folder}/runs", f"--data.source={source}", f"--data.cache_dir={folder}/cache"]
        command = [sys.executable, str(ROOT / "launch/sweep.py"), *sweep, *place, *FIXED, *given]
        status = subprocess.run(command, cwd=folder, check=False).returncode
        if not status:
            shutil.copy(Path(folder, "runs", "scaling.csv"), RESULTS)
            for page, theme in (("", "light"), ("-dark", "dark")):
                shutil.copy(Path(folder, "runs", f"scaling{page}.png"), PAGE.parent / f"own-block-{theme}.png")
    return status


if __name__ == "__main__":
    sys.exit(entry.exit_status(main))
