"""What launch/report.py verify costs, and how far a run is from itself on other machines.

    python benchmarks/verify_cost.py FILE DIR [--draw 4] [any option of launch/train.py]

Trains a run over FILE with a record, and verifies `--draw` spans of it as it was made; with PyTorch's plainest
instruction set; and by two ranks in place of one. Appends a row each to benchmarks/results/verify_cost.csv.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)
from launch import entry

entry.begin(__name__)

import datetime
import json
import os
import shutil
import subprocess

import torch

from benchmarks.result_rows import appended, commit
from data.errors import RunFailed
from eval.schema import finished_report
from train.cost import device_name
from train.run_dir import RECORD

RESULTS = ROOT / "benchmarks" / "results" / "verify_cost.csv"
COLUMNS = ["commit", "date", "device", "torch", "corpus", "options", "verified", "spans", "drawn", "tokens_percent",
           "secs_percent", "state_bytes", "differing_percent", "largest_nats", "largest_state_part"]  # fmt: skip
TWO_RANKS = ["deepspeed", "--num_accelerators", "2"]
PLACES: dict[str, tuple[list[str], dict[str, str]]] = {
    "as it was made": ([sys.executable], {}),
    "other instructions": ([sys.executable], {"ATEN_CPU_CAPABILITY": "default"}),
    "two ranks for one": (TWO_RANKS, {}),
}


def start(words: list[str], **env: str) -> None:
    done = subprocess.run(words, cwd=ROOT, check=False, capture_output=True, text=True, env=os.environ | env)
    if done.returncode:
        raise RunFailed(done.stderr[-2000:])


def main() -> None:
    parser = entry.Parser(alone=False, description=__doc__)
    parser.add_argument("file", type=Path, metavar="FILE", help="the corpus")
    parser.add_argument("folder", type=Path, metavar="DIR", help="where the run is kept while it is verified")
    parser.add_argument("--draw", type=int, default=4, help="spans that are run again")
    options, rest = parser.parse_known_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    run, found = options.folder / "run", options.folder / "found.json"
    given = [f"--data.source={options.file}", f"--data.cache_dir={options.folder / 'cache'}", f"--run.dir={run}"]
    start([sys.executable, "launch/train.py", *given, "--run.baselines=false", "--run.budget_minutes=0", *rest])
    report = finished_report(run)
    sizes = [sum(file.stat().st_size for file in state.rglob("*.pt")) for state in (run / RECORD).iterdir()]
    stamp = {"commit": commit(), "date": datetime.date.today().isoformat(), "torch": torch.__version__}
    stamp |= {"device": device_name(torch.device("cpu")), "corpus": f"{report.corpus.bytes} bytes"}
    with appended(RESULTS, COLUMNS) as write:
        for place, (program, env) in PLACES.items():
            words = ["launch/report.py", "verify", str(run), "--seed=0", f"--spans={options.draw}", f"--json={found}"]
            start([*program, *words], **env)
            result = json.loads(found.read_text())
            checked = result["checked"]
            row = stamp | {
                "options": " ".join(rest),
                "verified": place,
                "spans": result["spans"],
                "drawn": len(checked),
                "tokens_percent": f"{100 * result['tokens_again'] / result['tokens']:.2f}",
                "secs_percent": f"{100 * result['secs'] / result['run_secs']:.2f}",
                "state_bytes": max(sizes),
                "differing_percent": f"{100 * sum(one['differing'] for one in checked) / result['tokens_again']:.1f}",
                "largest_nats": f"{max(one['largest'] for one in checked):.2g}",
                "largest_state_part": f"{max(one['state_part'] for one in checked):.2g}",
            }
            write(row)
    shutil.rmtree(run)


if __name__ == "__main__":
    sys.exit(entry.exit_status(main))
