"""Bytes are bytes: pictures, sound, source code, DNA and languages, by Onepass and by coders that were made for them.

    python benchmarks/modalities.py FOLDER [--only NAME,...] [--configs default,...] [options of launch/train.py]
    python benchmarks/modalities.py --table

FOLDER is where benchmarks/modality_corpora.py makes the corpora, which this does first. Appends a row a corpus and
coder to benchmarks/results/modalities.csv; the second form prints what is there as the table of a note in research/.
All
coders get the same content: specialised ones the files that a corpus is made of, their sizes added up, the others the
files one after the other. Ours are totals, the decoder's code included; theirs are without.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)
from launch import entry

entry.begin(__name__)

import csv
import datetime
import subprocess
import tempfile

from PIL import Image

from benchmarks.defaults import measure
from benchmarks.modality_corpora import file_name, make
from benchmarks.result_rows import appended, commit
from eval.baselines import measure_baselines

RESULTS = ROOT / "benchmarks" / "results" / "modalities.csv"
COLUMNS = ["date", "commit", "corpus", "bytes", "coder", "coded_bytes", "data_bytes", "elapsed_secs", "options"]
CONFIGS = {"default": ["--run.budget_minutes=3"], "bytes": ["--config=configs/bytes.yaml"]}
# What fits a kind of data: added to the options of "bytes".
# Rows of the pictures are 512 bytes and 3 x 512, a pixel of colour is three bytes, a sample of sound two.
SUITED: dict[str, list[str]] = {
    "gray pictures": [
        "--model.ngram_orders=[1,2,3]",
        "--model.ngram_words=0",
        "--model.ngram_lags=[[512],[1,512],[512,1024],[1,512,513],[1,511,512],[1,2,512]]",
    ],
    "colour picture": [
        "--model.ngram_orders=[1,2,3]",
        "--model.ngram_words=0",
        "--model.ngram_lags=[[3],[1536],[3,1536],[3,6],[1,3],[1,3,1536],[1,2,3,1536]]",
    ],
    "speech": [
        "--model.ngram_orders=[1,2,3,4]",
        "--model.ngram_words=0",
        "--model.ngram_lags=[[2],[2,4],[1,2,4],[2,4,6],[1,3],[4]]",
    ],
    "DNA": ["--model.ngram_orders=[1,2,3,4,6,8,11,12,14,16,18,20,24]"],
}
GENERAL = ("xz-9e", "brotli-11", "ppmd")


def png(source: Path, folder: Path) -> int:
    """The smaller of optipng's and zopflipng's."""
    plain, first, second = (folder / f"{name}.png" for name in ("plain", "optipng", "zopflipng"))
    Image.open(source).save(plain)
    subprocess.run(["optipng", "-quiet", "-clobber", "-o7", "-out", first, plain], check=True)
    subprocess.run(["zopflipng", "-y", "-m", plain, second], check=True, stdout=subprocess.DEVNULL)
    return min(path.stat().st_size for path in (first, second))


def webp(source: Path, folder: Path) -> int:
    packed = folder / "packed.webp"
    Image.open(source).convert("RGB").save(packed, lossless=True, quality=100, method=6)
    return packed.stat().st_size


def jxl(source: Path, folder: Path) -> int:
    packed = folder / "packed.jxl"
    subprocess.run(["cjxl", "--quiet", "-d", "0", "-e", "9", source, packed], check=True)
    return packed.stat().st_size


def flac(source: Path, folder: Path) -> int:
    """With the WAV's own header kept, so that it comes back byte for byte."""
    packed, back = folder / "packed.flac", folder / "back.wav"
    keep = ["--silent", "--force", "--keep-foreign-metadata"]
    subprocess.run(["flac", *keep, "-8", "-e", "-p", "--no-padding", source, "-o", packed], check=True)
    subprocess.run(["flac", *keep, "-d", packed, "-o", back], check=True)
    assert back.read_bytes() == source.read_bytes()
    return packed.stat().st_size


SPECIAL = {
    "gray pictures": {"png": png, "webp": webp, "jpeg xl": jxl},
    "colour picture": {"png": png, "webp": webp, "jpeg xl": jxl},
    "speech": {"flac": flac},
}


def others(corpus: str, folder: Path) -> dict[str, float]:
    """Sizes by specialised and by general coders."""
    content = (folder / f"{file_name(corpus)}.bin").read_bytes()
    sizes: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for name, coder in SPECIAL.get(corpus, {}).items():
            sizes[name] = sum(coder(path, Path(temporary)) for path in sorted((folder / file_name(corpus)).iterdir()))
    general = measure_baselines(lambda: iter([content]), len(content)).sizes
    return sizes | {name: general[name] for name in GENERAL}


def rows() -> list[dict[str, str]]:
    with RESULTS.open(newline="") as file:
        return list(csv.DictReader(file))


def table() -> str:
    """The latest row of each corpus and coder, in Markdown: bytes, the smallest in bold.

    Of ours, the data term and bits a byte are those of the best.
    """
    latest: dict[str, dict[str, int]] = {}
    lengths: dict[str, int] = {}
    data: dict[tuple[str, str], int] = {}
    for row in rows():
        latest.setdefault(row["corpus"], {})[row["coder"]] = int(row["coded_bytes"])
        lengths[row["corpus"]] = int(row["bytes"])
        data[row["corpus"], row["coder"]] = int(row["data_bytes"] or 0)
    special = ("png", "webp", "jpeg xl", "flac")
    ours = [name for name in ("default", "bytes", "suited") if any(name in sizes for sizes in latest.values())]
    named = {"default": "the defaults", "bytes": "bytes.yaml", "suited": "suited"}
    lines = [["corpus", "bytes", *map(named.__getitem__, ours), "of it data", "bits/byte", "specialised", *GENERAL]]
    lines.append(["---", *["---:"] * (len(lines[0]) - 1)])
    for corpus, sizes in latest.items():
        best = min(sizes.values())
        told = {name: f"**{size:,}**" if size == best else f"{size:,}" for name, size in sizes.items()}
        theirs = "<br>".join(f"{name} {told[name]}" for name in special if name in told)
        our_best = min((name for name in ours if name in sizes), key=sizes.__getitem__)
        rate = 8 * sizes[our_best] / lengths[corpus]
        cells = [told.get(name, "") for name in ours]
        general = [told[name] for name in GENERAL]
        cells += [f"{data[corpus, our_best]:,}", f"{rate:.3f}", theirs]
        lines.append([corpus, f"{lengths[corpus]:,}", *cells, *general])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    parser = entry.Parser(alone=False, description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--only", default="", help="comma-separated corpora; all if left out")
    parser.add_argument("--configs", default="others,default,bytes,suited", help="which rows, comma-separated")
    parser.add_argument("--table", action="store_true")
    options, rest = parser.parse_known_args()
    if options.table:
        entry.publish(table())
        return
    names = make(options.folder)
    about_all = {"date": datetime.date.today().isoformat(), "commit": commit()}
    with appended(RESULTS, COLUMNS) as write:
        for config in options.configs.split(","):
            for corpus in options.only.split(",") if options.only else names:
                path = (options.folder / f"{file_name(corpus)}.bin").absolute()
                about = about_all | {"corpus": corpus, "bytes": str(path.stat().st_size)}
                if config == "others":
                    for coder, size in others(corpus, options.folder).items():
                        write(about | {"coder": coder, "coded_bytes": size})
                elif config != "suited" or corpus in SUITED:
                    given = CONFIGS["bytes"] + SUITED[corpus] if config == "suited" else CONFIGS[config]
                    found = measure(f"raw:{path}", corpus, [*given, *rest])
                    sizes = {"coded_bytes": found["total_bytes"], "data_bytes": found["data_bytes"]}
                    told = {"elapsed_secs": found["elapsed_secs"], "options": " ".join([*given, *rest])}
                    write(about | {"coder": config} | sizes | told)
                entry.publish(f"{config} {corpus} {rows()[-1]}")


if __name__ == "__main__":
    sys.exit(entry.exit_status(main))
