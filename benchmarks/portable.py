"""Archives of one processor decoded by another that lacks its newest instructions, and what --engine.portable costs.

    apt-get install qemu-user
    python benchmarks/portable.py [--bytes 60000] [--cpu EPYC-Milan] [any option of launch/compress.py]

Writes an archive of the first bytes of the King James Bible with --engine.portable and one without, on this processor.
Each is decoded here, and by the processor --cpu, which qemu-user emulates: EPYC-Milan has AVX2, and no AVX-512. The
environment is an archive's (archive/pins.py), so decompress.py has no reason to start again outside the emulation.
Appends a row for each to benchmarks/results/portable.csv: sizes, instruction sets as PyTorch sees them, whether the
bytes came back, and CPU seconds. Emulation takes about thirty times as long.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)
from launch import entry

entry.begin(__name__)

import datetime
import os
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Sequence

import torch

from archive.pins import PINS
from benchmarks.ladder import cpu_secs
from benchmarks.result_rows import appended, commit
from data.documents import open_source
from data.errors import UsageError
from train.cost import device_name

RESULTS = ROOT / "benchmarks" / "results" / "portable.csv"
COLUMNS = ["commit", "date", "device", "torch", "portable", "bytes", "archive_bytes", "written_with", "train_cpu_secs",
           "read_by", "read_with", "came_back", "read_cpu_secs"]  # fmt: skip
SEEN = "import torch; print(torch.backends.cpu.get_cpu_capability())"
HERE = "this processor"


def run(command: Sequence[str], pins: bool) -> tuple[int, str, float]:
    """Status, the last line that a command prints, and its CPU seconds. `pins` are those of a portable archive."""
    environment = {name: value for name, value in os.environ.items() if name not in PINS} | (PINS if pins else {})
    paths = [str(ROOT), sysconfig.get_path("purelib")]
    before = cpu_secs()
    done = subprocess.run(
        command, env=environment | {"PYTHONPATH": os.pathsep.join(paths)}, cwd=ROOT, check=False, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    secs = cpu_secs() - before
    lines = [line for line in done.stdout.splitlines() if line.strip() and not line.startswith("qemu-x86_64: warning")]
    return done.returncode, lines[-1] if lines else "", secs


def main() -> None:
    parser = entry.Parser(alone=False, description=__doc__)
    parser.add_argument("--bytes", type=int, default=60_000, help="of the corpus")
    parser.add_argument("--cpu", default="EPYC-Milan", help="an emulated processor, of qemu-x86_64 -cpu help")
    options, rest = parser.parse_known_args()
    if not shutil.which("qemu-x86_64"):
        raise UsageError("there is no qemu-x86_64 here: apt-get install qemu-user")
    # The emulator starts a program itself, not a link to it.
    python = str(Path(sys.executable).resolve())
    readers = {HERE: [python], f"qemu {options.cpu}": ["qemu-x86_64", "-cpu", options.cpu, python]}
    text = b"".join(chunk for chunk, _ in open_source("kjv").chunks())[: options.bytes]
    stamp = [commit(), datetime.date.today().isoformat(), device_name(torch.device("cpu")), torch.__version__]
    with tempfile.TemporaryDirectory() as name, appended(RESULTS, COLUMNS) as write:
        folder = Path(name)
        (folder / "corpus").write_bytes(text)
        for portable in (True, False):
            archive = folder / f"portable-{portable}"
            made = run(
                [python, "launch/compress.py", str(folder / "corpus"), str(archive), "--engine.threads", "1",
                 "--engine.portable", str(portable).lower(), *rest], portable,
            )  # fmt: skip
            if made[0]:
                raise UsageError(f"launch/compress.py ended with status {made[0]}: {made[1]}")
            for reader, program in readers.items():
                back = folder / "back"
                back.unlink(missing_ok=True)
                status, said, secs = run([*program, "launch/decompress.py", str(archive), str(back)], portable)
                came = status == 0 and back.read_bytes() == text
                seen = [run([*start, "-c", SEEN], portable)[1] for start in (readers[HERE], program)]
                row = [*stamp, portable, len(text), archive.stat().st_size, seen[0], f"{made[2]:.0f}", reader, seen[1],
                       came, f"{secs:.0f}"]  # fmt: skip
                write(dict(zip(COLUMNS, row, strict=True)))
                entry.publish(f"portable {portable}, written with {seen[0]}, read by {reader} with {seen[1]}: {said}")


if __name__ == "__main__":
    sys.exit(entry.exit_status(main))
