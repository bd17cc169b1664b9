"""What preparing a corpus costs: MB/s a core, and peak memory at 10 MB and at 1 GB.

    python benchmarks/preparation.py [--enwik8 ../shared/corpora/enwik8.xz] [--vocabulary 4096]

The corpora are the first 10 MB of enwik8 and enwik8 ten times over, raw, as .jsonl.gz and as .parquet with one row group.
Every preparation runs in a process of its own, so that its peak memory is its own. MB/s a core counts the CPU seconds of
all its processes, reading, hashing and learning the pieces included.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

import argparse
import gzip
import json
import lzma
import resource
import subprocess
import tempfile
import time
from collections.abc import Iterator

from data.prepare import prepare

MIB = 1 << 20


def repeated(enwik8: Path, total_bytes: int) -> Iterator[bytes]:
    """enwik8 over and over, in MiBs, total_bytes in all."""
    while total_bytes:
        with lzma.open(enwik8) as file:
            while total_bytes and (chunk := file.read(min(MIB, total_bytes))):
                total_bytes -= len(chunk)
                yield chunk


def write_corpus(path: Path, chunks: Iterator[bytes]) -> None:
    """Write the chunks as one raw file, or as records of 4 KiB in the form that the suffix names."""
    import pyarrow
    import pyarrow.parquet

    if path.suffix == ".parquet":
        schema = pyarrow.schema({"text": pyarrow.binary()})
        with pyarrow.parquet.ParquetWriter(path, schema, use_dictionary=False) as writer:
            records = [chunk[start : start + 4096] for chunk in chunks for start in range(0, len(chunk), 4096)]
            writer.write_table(pyarrow.table({"text": records}, schema), row_group_size=len(records))
    elif path.suffix == ".gz":
        with gzip.open(path, "wb", compresslevel=1) as file:
            for chunk in chunks:
                for start in range(0, len(chunk), 4096):
                    text = chunk[start : start + 4096].decode("latin-1")
                    file.write(json.dumps({"text": text}).encode() + b"\n")
    else:
        with path.open("wb") as file:
            file.writelines(chunks)


def measure(source: str, tokenizer: str, vocabulary: int, workers: int) -> None:
    """Prepare, in this process, and print its cost as JSON."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=Path(source).parent) as cache:
        manifest = prepare(source, "text", "train", tokenizer, vocabulary, cache_dir=cache, workers=workers).manifest
    elapsed_secs = time.perf_counter() - started
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cost = {
        "megabytes": manifest.bytes / 1e6,
        "tokens": manifest.tokens,
        "elapsed_secs": elapsed_secs,
        "cpu_secs": sum(usage.ru_utime + usage.ru_stime for usage in usages),
        "peak_mib": usages[0].ru_maxrss / 1024,
        "worker_peak_mib": usages[1].ru_maxrss / 1024,
    }
    print(json.dumps(cost))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--enwik8", type=Path, default=ROOT.parent / "shared" / "corpora" / "enwik8.xz")
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--measure", nargs=2, metavar=("SOURCE", "TOKENIZER"), help="used by this program itself")
    options = parser.parse_args()
    if options.measure:
        measure(*options.measure, options.vocabulary, options.workers)
        return
    print(f"{'corpus':>14} {'tokenizer':>9} {'MB':>6} {'seconds':>7} {'MB/s':>6} {'MB/s a core':>11} ", end="")
    print(f"{'peak MiB':>8} {'worker MiB':>10}")
    cases = [("raw", 100), ("raw", 10), ("raw", 1000), ("x.jsonl.gz", 10), ("x.jsonl.gz", 1000)]
    for name, megabytes in [*cases, ("x.parquet", 10), ("x.parquet", 1000)]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            write_corpus(path, repeated(options.enwik8, megabytes * 1_000_000))
            for tokenizer in ("bpe", "bytes"):
                settings = ["--vocabulary", str(options.vocabulary), "--workers", str(options.workers)]
                command = [sys.executable, __file__, *settings, "--measure", str(path), tokenizer]
                cost = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
                print(
                    f"{name:>14} {tokenizer:>9} {cost['megabytes']:6.0f} {cost['elapsed_secs']:7.1f}"
                    f" {cost['megabytes'] / cost['elapsed_secs']:6.1f} {cost['megabytes'] / cost['cpu_secs']:11.1f}"
                    f" {cost['peak_mib']:8.0f} {cost['worker_peak_mib']:10.0f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
