"""How long a run takes from its command to its first step, and other commands that should come at once.

    python benchmarks/starts.py [--root CHECKOUT] [--rounds 5] [--only NAME ...] [--out benchmarks/results/starts.csv]

The corpus is the embedded one, prepared before. The first step is done when curve.csv has its row; the run is stopped
then. `--root` measures another checkout, such as one of an earlier commit, with this machine as it is now. A row holds
the least and the median of the rounds, and the machine's load, which these seconds depend on.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])
from launch import entry

entry.begin(__name__)

import argparse
import os
import shutil
import signal
import statistics
import subprocess
import tempfile
import time

from benchmarks.result_rows import ROOT, appended

COLUMNS = ("what", "least_secs", "median_secs", "rounds", "load", "cores", "commit", "command")
DEEPSPEED = [sys.executable, "-m", "deepspeed.launcher.runner"]
TRAIN, LIMIT_SECS = "launch/train.py", 300.0


def first_step_secs(command: list[str], root: Path, run_dir: Path) -> float:
    """Seconds until the run that `command` starts has written its first row after the header, or a further one."""
    curve = run_dir / "curve.csv"
    lines = len(curve.read_bytes().splitlines()) if curve.exists() else 1
    start = time.monotonic()
    process = subprocess.Popen(command, cwd=root, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        while not curve.exists() or len(curve.read_bytes().splitlines()) <= lines:
            if process.poll() or time.monotonic() - start > LIMIT_SECS:
                raise RuntimeError(f"no step came of {' '.join(command)}")
            time.sleep(0.005)
        return time.monotonic() - start
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def whole_secs(command: list[str], root: Path) -> float:
    start = time.monotonic()
    subprocess.run(command, cwd=root, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.monotonic() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=ROOT, help="checkout to measure")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="of what a row is of, as 'train --help'")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/starts.csv")
    options = parser.parse_args()
    root = options.root.resolve()
    git = ["git", "-C", str(root), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, check=True, capture_output=True, text=True).stdout.strip()
    with tempfile.TemporaryDirectory() as folder, appended(options.out, COLUMNS) as write:
        given = [TRAIN, f"--data.cache_dir={folder}/cache", "--run.log_steps=1", "--run.checkpoint_secs=0.01"]
        begun = Path(folder, "begun")
        # Prepares the corpus, and leaves a checkpoint.
        prepare = [sys.executable, *given, f"--run.dir={begun}", "--run.stop_after_steps=2"]
        subprocess.run(prepare, cwd=root, check=True, stderr=subprocess.DEVNULL)
        new, resumed = Path(folder, "new"), Path(folder, "resumed")
        resume = [TRAIN, f"--run.dir={resumed}", "--run.resume", "--run.stop_after_steps=0"]
        starts = {
            "first step, python": ([sys.executable, *given, f"--run.dir={new}"], new),
            "first step, deepspeed": ([*DEEPSPEED, *given, f"--run.dir={new}"], new),
            "first step, resumed": ([sys.executable, *resume], resumed),
        }
        helps = ("train", "sweep", "report", "report diff", "evaluate", "evaluate held-out", "check_block")
        commands = {f"{name} --help": [f"launch/{name.split()[0]}.py", *name.split()[1:], "--help"] for name in helps}
        for what in options.only or (*starts, *commands):
            secs = []
            for _ in range(options.rounds):
                shutil.rmtree(new, ignore_errors=True)
                shutil.rmtree(resumed, ignore_errors=True)
                shutil.copytree(begun, resumed)
                if what in starts:
                    secs.append(first_step_secs(starts[what][0], root, starts[what][1]))
                else:
                    secs.append(whole_secs([sys.executable, *commands[what]], root))
            row = {"what": what, "least_secs": f"{min(secs):.2f}", "median_secs": f"{statistics.median(secs):.2f}"}
            row |= {"rounds": options.rounds, "load": f"{os.getloadavg()[0]:.1f}", "cores": os.cpu_count()}
            write(row | {"commit": commit, "command": f"python benchmarks/starts.py --rounds {options.rounds}"})
            print(row, file=sys.stderr)


if __name__ == "__main__":
    main()
