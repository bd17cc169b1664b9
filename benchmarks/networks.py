"""Networks of transformers beside blocks of ours, with equal parameters, on the start of the default corpus.

    python benchmarks/networks.py [--bytes 300000] [--seeds 0] [any option of launch/train.py]

All cells of one launch/sweep.py, whose first network gives the number of parameters without tables. Appends a row a
cell to benchmarks/results/networks.csv: the terms in bytes, the library's code, which is not charged, and seconds of
one thread. Data bytes do not depend on what else the machine does; seconds do. A few minutes.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)
from launch import entry

entry.begin(__name__)

import datetime
import subprocess
import tempfile

from benchmarks.result_rows import appended, commit
from data.documents import open_source
from eval.schema import Report, load_report
from model.registry import display_name

RESULTS = ROOT / "benchmarks" / "results" / "networks.csv"
# Mamba-2 has no MLP whose size we could choose, and so comes first: four layers of it, and two of the others.
SMALL_STATE = "n_groups=1,state_size=16,chunk_size=32"
CELLS = (
    f"transformers:mamba2,num_hidden_layers=4,{SMALL_STATE}",
    "transformers:bamba,attn_layer_indices=[1],mamba_d_state=16,mamba_chunk_size=32",
    "transformers:llama",
    "attention",
    "ssd",
    "ssd attention",
)
FIXED = ["--data.vocabulary=1024", "--train.lanes=8", "--engine.threads=1", "--run.baselines=false"]
COLUMNS = ["commit", "date", "bytes", "network", "seed", "width", "depth", "expansion", "parameters"]
COLUMNS += ["data_bytes", "code_bytes", "library_own_bytes", "library_bytes", "elapsed_secs"]


def row_of(report: Report) -> dict[str, object]:
    assert report.config is not None
    model, length, code = report.model, report.description_length, report.network_code
    return {
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
        "bytes": report.corpus.bytes,
        "network": model.block,
        "seed": report.config["train"]["seed"],
        "width": model.width,
        "depth": model.depth,
        "expansion": round(report.config["model"]["expansion"], 3),
        "parameters": model.parameters,
        "data_bytes": round(length.data_bits / 8),
        "code_bytes": round(length.code_bits / 8),
        "library_own_bytes": code.own_xz_bytes if code else 0,
        "library_bytes": code.xz_bytes if code else 0,
        "elapsed_secs": round(report.cost.elapsed_secs, 1),
    }


def main() -> int:
    parser = entry.Parser(alone=False, description=__doc__)
    parser.add_argument("--bytes", type=int, default=300_000, help="length of the prefix that is used")
    parser.add_argument("--seeds", default="0", help="values of train.seed, by commas")
    options, given = parser.parse_known_args()
    with tempfile.TemporaryDirectory(prefix="onepass-") as folder, appended(RESULTS, COLUMNS) as write:
        source = Path(folder, "kjv")
        source.write_bytes(b"".join(chunk for chunk, _ in open_source("kjv").chunks())[: options.bytes])
        grid = [f"--dir={folder}/runs", f"--blocks={','.join(CELLS)}", "--widths=64", f"--seeds={options.seeds}"]
        grid += [f"--data.source={source}", f"--data.cache_dir={folder}/cache", "--jobs=1"]
        command = [sys.executable, "launch/sweep.py", *grid, *FIXED, *given]
        status = subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.DEVNULL).returncode
        for path in sorted(Path(folder, "runs").glob("*/report.json")):
            row = row_of(load_report(path))
            write(row)
            name = display_name(str(row["network"]))
            entry.publish(f"{name:<16}{row['parameters']:>9,} parameters {row['data_bytes']:>9,} bytes of data")
    return status


if __name__ == "__main__":
    sys.exit(entry.exit_status(main))
