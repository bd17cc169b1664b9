"""The pictures of docs/gallery.md: a report page, a comparison page and TensorBoard, as Chromium draws them.

    python benchmarks/gallery.py [--bytes 300000] [--chromium chromium] [any option of launch/sweep.py]

Sweeps two blocks over two widths and two seeds on the start of the default corpus, and opens what the sweep wrote.
Needs the program chromium, and writes docs/gallery-NAME.png, and benchmarks/results/gallery.csv, a row a run. Five
minutes on two cores.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)
from launch import entry

entry.begin(__name__)

import shutil
import subprocess
import sysconfig
import tempfile
import time
import urllib.request

from data.documents import open_source
from data.errors import RunFailed, UsageError
from train.ranks import free_port

GRID = ["--blocks=attention,ssd", "--widths=32,64", "--seeds=0,1", "--model.ngram_orders=[1,2,3]"]
FIXED = ["--data.vocabulary=1024", "--train.lanes=8", "--engine.threads=1", "--jobs=2"]
WAIT_SECS = 60
RESULTS = ROOT / "benchmarks" / "results" / "gallery.csv"


def take_picture(chromium: str, address: str, name: str, width: int, height: int, settle_ms: int) -> None:
    """Write docs/gallery-NAME.png of a page after `settle_ms` of its own time."""
    path = ROOT / "docs" / f"gallery-{name}.png"
    command = [chromium, "--headless", "--no-sandbox", "--hide-scrollbars", "--disable-gpu"]
    command += [f"--virtual-time-budget={settle_ms}", f"--window-size={width},{height}", f"--screenshot={path}"]
    done = subprocess.run([*command, address], check=False, capture_output=True, text=True, timeout=300)
    if done.returncode or not path.exists():
        raise RunFailed(f"{chromium} drew no picture of {address}: {done.stderr.strip()[-300:]}")
    print(f"wrote {path}", file=sys.stderr)


def wait_for(address: str) -> None:
    """Until a server answers. Raises RunFailed if it does not."""
    for _ in range(10 * WAIT_SECS):
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise RunFailed(f"{address} did not answer within {WAIT_SECS} seconds")


def main() -> int:
    parser = entry.Parser(alone=False, description=__doc__)
    parser.add_argument("--bytes", type=int, default=300_000, help="length of the prefix that is used")
    parser.add_argument("--chromium", default="chromium", help="the browser's program")
    options, given = parser.parse_known_args()
    if not shutil.which(options.chromium):
        raise UsageError(f"there is no program {options.chromium}: install Chromium, or name it with --chromium")
    with tempfile.TemporaryDirectory(prefix="onepass-") as folder:
        runs, source = Path(folder, "runs"), Path(folder, "kjv")
        source.write_bytes(b"".join(chunk for chunk, _ in open_source("kjv").chunks())[: options.bytes])
        place = [f"--dir={runs}", f"--data.source={source}", f"--data.cache_dir={folder}/cache"]
        command = [sys.executable, "launch/sweep.py", *place, *GRID, *FIXED, *given]
        if status := subprocess.run(command, cwd=ROOT, check=False).returncode:
            return status
        take_picture(options.chromium, f"file://{runs}/ssd-64/report.html", "report", 900, 1400, 2000)
        take_picture(options.chromium, f"file://{runs}/comparison.html", "comparison", 1000, 1500, 2000)
        port = free_port()
        program = str(Path(sysconfig.get_path("scripts"), "tensorboard"))
        server = subprocess.Popen([program, f"--logdir={runs}", f"--port={port}"], stderr=subprocess.DEVNULL)
        try:
            wait_for(f"http://localhost:{port}/data/runs")
            address = f"http://localhost:{port}/"
            take_picture(options.chromium, f"{address}#custom_scalars", "tensorboard", 1400, 1250, 20_000)
            take_picture(options.chromium, f"{address}#hparams", "hparams", 1700, 480, 20_000)
        finally:
            server.terminate()
            server.wait()
        shutil.copy(runs / "comparison.csv", RESULTS)
    return 0


if __name__ == "__main__":
    sys.exit(entry.exit_status(main))
