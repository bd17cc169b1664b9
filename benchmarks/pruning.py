"""What pruning costs and saves: runs of six layers, pruned in stages by `launch/evaluate.py prune`.

    python benchmarks/pruning.py ENWIK8 DEUTEROCANON FOLDER [NAME ...]

ENWIK8 is a plain file: its first 3,000,000 bytes are a corpus, the 200,000 after them are held out. DEUTEROCANON is
what benchmarks/deuterocanon.py writes, whose first 200,000 bytes are held out from the King James Bible. Runs, files
and pictures go to FOLDER; a run that is finished there is not trained again, and one that is pruned is not pruned
again. Writes all rows to benchmarks/results/pruning.csv: a row a model, and a row for each of its two-part codes.
Each NAME is one of PRUNED; without names, all of them are run. Held-out text and corpus rates: the note in research/.
"""

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "pruning.csv"
CORPUS_BYTES, HELD_OUT_BYTES = 3_000_000, 200_000
TRAIN = [
    "launch/train.py", "--config=configs/architectures.yaml", "--model.depth=6", "--model.width=64",
    "--model.head_width=8", "--model.ngram_orders=[]", "--data.vocabulary=1024", "--engine.threads=1",
    "--run.baselines=false",
]  # fmt: skip
PRUNE = ["--remove=0.2,0.4,0.6", "--corpus_lanes=2", "--points=5,4,3"]
# What is pruned: the run's corpus and blocks, and options of prune.
PRUNED = {
    "kjv-attention": ("kjv", "attention", []),
    "enwik-attention": ("enwik", "attention", []),
    "enwik-hybrid": ("enwik", "gru attention", []),
    "enwik-ssd": ("enwik", "ssd", ["--remove=0.2,0.4", "--points=4"]),
    "enwik-attention-retrained": ("enwik", "attention", ["--retrain_steps=50", "--remove=0.2,0.4", "--points=4"]),
}
COLUMNS = ["run", "by", "removed", "parameters", "weight_bytes", "peak_bytes", "state_bytes", "segment_ms"]
COLUMNS += ["segment_whole_ms", "token_ms", "token_whole_ms", "point", "coded_bytes", "held_out_bits_per_byte"]
COLUMNS += ["corpus_bits_per_byte", "two_part_bytes", "kept"]


def call(*arguments: str | Path) -> None:
    subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, check=True)


def rows(name: str, written: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each model in fp32, then its coded forms; at last what half of each place alone costs."""
    found = []
    for stage in written["stages"]:
        (segment, segment_whole), (token, token_whole) = stage["segment_secs"], stage["step_secs"]
        about = {"run": name, "by": stage["method"], "removed": f"{stage['removed']:.4f}"}
        found.append(about | {
            "parameters": stage["parameters"], "weight_bytes": stage["memory_bytes"],
            "peak_bytes": stage["peak_bytes"], "state_bytes": stage["state_bytes"],
            "segment_ms": f"{1e3 * segment:.2f}", "segment_whole_ms": f"{1e3 * segment_whole:.2f}",
            "token_ms": f"{1e3 * token:.3f}", "token_whole_ms": f"{1e3 * token_whole:.3f}", "point": "fp32",
            "held_out_bits_per_byte": f"{stage['held_out_bits']:.4f}",
            "corpus_bits_per_byte": f"{stage['corpus_bits']:.4f}",
            "kept": " ".join(f"{share:.3f}" for share in stage["left"]),
        })  # fmt: skip
        for coded in stage["coded"]:
            found.append(about | {
                "point": coded["point"], "coded_bytes": coded["weight_bytes"],
                "held_out_bits_per_byte": f"{coded['held_out_bits']:.4f}",
                "two_part_bytes": round(coded["total_bytes"]),
            })  # fmt: skip
    whole_bits = written["stages"][0]["held_out_bits"]
    for half in written["halves"]:
        found.append({
            "run": name, "by": f"half of layer {half['layer']}'s {half['kind']}", "point": "fp32",
            "held_out_bits_per_byte": f"{whole_bits + half['more_bits']:.4f}",
        })  # fmt: skip
    return found


def main(enwik8: Path, deuterocanon: Path, folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with enwik8.open("rb") as file:
        corpus, held_out = file.read(CORPUS_BYTES), file.read(HELD_OUT_BYTES)
    for name, content in (
        ("enwik", corpus), ("enwik-new", held_out), ("kjv-new", deuterocanon.read_bytes()[:HELD_OUT_BYTES])
    ):  # fmt: skip
        if not (folder / name).exists():
            (folder / name).write_bytes(content)
    for name in names:
        source, block, options = PRUNED[name]
        run, written = folder / name.removesuffix("-retrained"), folder / f"{name}.json"
        if not (run / "report.json").exists():
            source_option = "kjv" if source == "kjv" else folder / source
            places = [f"--data.source={source_option}", f"--data.cache_dir={folder / 'cache'}", f"--run.dir={run}"]
            call(*TRAIN, f"--model.block={block}", *places)
        if not written.exists():
            call(
                "launch/evaluate.py", "prune", run, f"--held_out={folder / f'{source}-new'}", *PRUNE, *options,
                f"--png={folder / f'pruning-{name}'}", f"--json={written}",
            )  # fmt: skip
    with RESULTS.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for name in PRUNED:
            if (folder / f"{name}.json").exists():
                writer.writerows(rows(name, json.loads((folder / f"{name}.json").read_text())))


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(*(Path(argument).resolve() for argument in sys.argv[1:4]), sys.argv[4:] or list(PRUNED))
