"""Does the shorter description predict the better held-out loss? A study of one corpus and two files beside it.

    python benchmarks/generalisation.py ENWIK8 FOLDER

ENWIK8 is a plain file: its first 1,000,000 bytes are the corpus, the 200,000 after them are held out. So are the first
200,000 bytes of the modules of Python's standard library, one after the other in order of name. Runs, files and
pictures go to FOLDER; runs that are finished there are not trained again, and keep their scores. Writes all rows to
benchmarks/results/generalisation.csv, and prints the tables. a note in research/ says what came of it.
"""

import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "generalisation.csv"
# Of enwik8, the XML around each article recurs in stretches of 64 bytes; 256 is a copied paragraph (docs/held-out.md).
WINDOW = "--window=256"
CORPUS_BYTES, HELD_OUT_BYTES = 1_000_000, 200_000
SWEEP = [
    "launch/sweep.py", "--config=configs/architectures.yaml", "--jobs=1", "--engine.threads=1", "--vocabularies=1024",
    "--run.checkpoint_secs=600", "--run.keep_checkpoints=1",
]  # fmt: skip
# Blocks and widths; the first block's parameters are those that the others get.
GRIDS = [
    ("attention,ssd,s4d,rglru,lstm,gru,ssd attention", "32,64,96"),
    ("attention,gated_delta", "32"),
]


def call(*arguments: str | Path) -> None:
    subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, check=True)


def library() -> bytes:
    modules = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    return b"".join(module.read_bytes() for module in modules)[:HELD_OUT_BYTES]


def main(enwik8: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with enwik8.open("rb") as file:
        corpus, held_out = file.read(CORPUS_BYTES), file.read(HELD_OUT_BYTES)
    files = {"enwik6": corpus, "enwik8-next": held_out, "python-stdlib": library()}
    for name, content in files.items():
        if not (folder / name).exists():
            (folder / name).write_bytes(content)
    for blocks, widths in GRIDS:
        places = [f"--dir={folder / 'study'}", f"--data.source={folder / 'enwik6'}"]
        call(*SWEEP, f"--blocks={blocks}", f"--widths={widths}", *places, f"--data.cache_dir={folder / 'cache'}")
    tables = []
    for name in ("enwik8-next", "python-stdlib"):
        outputs = [f"--csv={folder / f'{name}.csv'}", f"--json={folder / f'{name}.json'}"]
        picture = f"--png={folder / f'generalisation-{name}'}"
        call("launch/evaluate.py", "generalisation", folder / "study", folder / name, WINDOW, *outputs, picture)
        tables.append((folder / f"{name}.csv").read_text().splitlines(keepends=True))
    RESULTS.write_text("".join([tables[0][0], *(line for table in tables for line in table[1:])]))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*(Path(argument).resolve() for argument in sys.argv[1:3]))
