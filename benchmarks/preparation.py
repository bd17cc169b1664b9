"""What preparing a corpus costs: MB/s a core, peak memory and bytes on disk, by size and by form of the corpus.

    python benchmarks/preparation.py [--enwik8 ../shared/corpora/enwik8.xz] [--corpora raw] [--megabytes 100,1000]

The corpora are the first 10 MB of enwik8 up to enwik8 ten times over: raw, as .jsonl.gz, and as .parquet, a row
group a MiB. Larger ones are folders of hard links to a file of 1 GB. Every preparation runs in processes of its own,
watched from outside: `prepared` stores tokens, `indexed` is data.stream's counting, and `read` reads what was indexed
once through, as 16 lanes. MB/s a core counts the CPU seconds of all processes, reading, hashing and learning the pieces
included; workers start only for corpora of 32 MiB and more. Appends rows to benchmarks/results/preparation.csv.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)
from launch import entry

entry.begin(__name__)

import contextlib
import gzip
import itertools
import json
import lzma
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pyarrow
import pyarrow.parquet

from benchmarks.result_rows import appended, commit

MIB = 1 << 20
RESULTS = ROOT / "benchmarks" / "results" / "preparation.csv"
COLUMNS = ["commit", "corpus", "tokenizer", "form", "megabytes", "seconds", "mb_per_sec", "mb_per_core_sec"]
COLUMNS += ["peak_process_mib", "peak_all_mib", "stored_bytes"]
CHILD = """
import sys
sys.path.insert(0, {root!r})
from data.lanes import Lanes
from data.prepare import prepare
corpus = prepare(**{options!r})
lanes = Lanes(len(corpus.tokens), 16, 4096)
for step in range(lanes.steps if {read} else 0):
    lanes.targets(step, range(16), corpus.tokens.read)
"""


def repeat(enwik8: Path, total_bytes: int) -> Iterator[bytes]:
    """Yield enwik8 again and again, a MiB at a time, until it is total_bytes."""
    while total_bytes:
        with lzma.open(enwik8) as file:
            while total_bytes and (chunk := file.read(min(MIB, total_bytes))):
                total_bytes -= len(chunk)
                yield chunk


def write_corpus(path: Path, chunks: Iterator[bytes]) -> None:
    """Write the chunks as one raw file, or as records of 4 KiB in the form that the suffix names."""
    if path.suffix == ".parquet":
        schema = pyarrow.schema({"text": pyarrow.binary()})
        with pyarrow.parquet.ParquetWriter(path, schema, use_dictionary=False) as writer:
            for chunk in chunks:
                column = pyarrow.array(cut_records(chunk), pyarrow.binary())
                writer.write_batch(pyarrow.record_batch([column], schema=schema))
    elif path.suffix == ".gz":
        with gzip.open(path, "wb", compresslevel=1) as file:
            for chunk in chunks:
                texts = (text.decode("latin-1") for text in cut_records(chunk))
                file.writelines(json.dumps({"text": text}).encode() + b"\n" for text in texts)
    else:
        with path.open("wb") as file:
            file.writelines(chunks)


def cut_records(chunk: bytes) -> list[bytes]:
    """The chunk in pieces of 4 KiB."""
    return [chunk[start : start + 4096] for start in range(0, len(chunk), 4096)]


def measure(source: str, tokenizer: str, form: str, cache: Path, options: Any) -> dict[str, Any]:
    """Prepare in another process, watch it and its workers, and return a row of the table."""
    given = {"source": source, "tokenizer": tokenizer, "vocabulary": options.vocabulary, "workers": options.workers}
    given |= {"cache_dir": str(cache), "stream": form != "prepared"}
    started = time.perf_counter()
    script = CHILD.format(root=str(ROOT), options=given, read=form == "read")
    child = psutil.Popen([sys.executable, "-c", script])
    peak_bytes = peak_process_bytes = 0
    cpu_secs: dict[int, float] = {}
    while child.poll() is None:
        resident = []
        for process in [child, *child.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                resident.append(process.memory_info().rss)
                cpu_secs[process.pid] = sum(process.cpu_times()[:2])
        peak_bytes = max(peak_bytes, sum(resident))
        peak_process_bytes = max(peak_process_bytes, *resident, 0)
        time.sleep(0.02)
    elapsed_secs = time.perf_counter() - started
    if child.returncode:
        sys.exit(f"preparing {source} failed")
    [manifest] = cache.glob("*/manifest.json" if form == "prepared" else "*/index.json")
    megabytes = json.loads(manifest.read_bytes())["bytes"] / 1e6
    return {
        "commit": commit(),
        "corpus": Path(source).name,
        "tokenizer": tokenizer,
        "form": form,
        "megabytes": f"{megabytes:.0f}",
        "seconds": f"{elapsed_secs:.1f}",
        "mb_per_sec": f"{megabytes / elapsed_secs:.1f}",
        "mb_per_core_sec": f"{megabytes / sum(cpu_secs.values()):.1f}",
        "peak_process_mib": f"{peak_process_bytes / MIB:.0f}",
        "peak_all_mib": f"{peak_bytes / MIB:.0f}",
        "stored_bytes": sum(file.stat().st_size for file in manifest.parent.iterdir()),
    }


def main() -> None:
    parser = entry.Parser(description=__doc__)
    parser.add_argument("--enwik8", type=Path, default=ROOT.parent / "shared" / "corpora" / "enwik8.xz")
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--corpora", default="raw,x.jsonl.gz,x.parquet", help="of these, by commas")
    parser.add_argument("--megabytes", default="10,100,1000", help="sizes, by commas; above 1000 by thousands")
    parser.add_argument("--tokenizers", default="bytes,bpe", help="of these, or files, by commas")
    parser.add_argument("--forms", default="prepared,indexed,read", help="of these, by commas; indexed before read")
    options = parser.parse_args()
    entry.publish("  ".join(COLUMNS))
    with appended(RESULTS, COLUMNS) as write:
        for name, megabytes in itertools.product(options.corpora.split(","), map(int, options.megabytes.split(","))):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / name
                write_corpus(path, repeat(options.enwik8, min(megabytes, 1000) * 1_000_000))
                if megabytes > 1000:
                    path = Path(folder) / f"folder-of-{name}"
                    path.mkdir()
                    for number in range(megabytes // 1000):
                        (path / f"{number:03d}-{name}").hardlink_to(Path(folder) / name)
                for tokenizer in options.tokenizers.split(","):
                    for form in options.forms.split(","):
                        row = measure(
                            str(path), tokenizer, form, Path(folder) / "cache" / Path(tokenizer).name, options
                        )
                        write(row)
                        entry.publish("  ".join(map(str, row.values())))


if __name__ == "__main__":
    sys.exit(entry.exit_status(main))
