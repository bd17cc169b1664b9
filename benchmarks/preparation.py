"""What preparing a corpus costs: MB/s a core, and peak memory at 10 MB and at 1 GB.

    python benchmarks/preparation.py [--enwik8 ../shared/corpora/enwik8.xz] [--vocabulary 4096]

The corpora are the first 10 MB of enwik8 up to enwik8 ten times over: raw, as .jsonl.gz, and as .parquet, a row
group a MiB. Every preparation runs in processes of its own, watched from outside. MB/s a core counts the CPU seconds of
all of them, reading, hashing and learning the pieces included; workers start only for corpora of 32 MiB and more.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)
from launch import entry

entry.begin(__name__)

import contextlib
import gzip
import json
import lzma
import tempfile
import time
from collections.abc import Iterator

import psutil
import pyarrow
import pyarrow.parquet

MIB = 1 << 20
CHILD = "import sys; sys.path.insert(0, {root!r}); from data.prepare import prepare; prepare(*{arguments!r})"


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


def measure(path: Path, tokenizer: str, vocabulary: int, workers: int) -> str:
    """Prepare in another process, watch it and its workers, and return a line of the table."""
    with tempfile.TemporaryDirectory(dir=path.parent) as cache:
        arguments = [str(path), "text", "train", tokenizer, vocabulary, 100_000_000, cache, workers]
        started = time.perf_counter()
        child = psutil.Popen([sys.executable, "-c", CHILD.format(root=str(ROOT), arguments=arguments)])
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
            sys.exit(f"preparing {path} failed")
        [manifest] = Path(cache).glob("*/manifest.json")
        megabytes = json.loads(manifest.read_bytes())["bytes"] / 1e6
    return (
        f"{path.name:>10} {tokenizer:>9} {megabytes:5.0f} {elapsed_secs:7.1f} {megabytes / elapsed_secs:6.1f}"
        f" {megabytes / sum(cpu_secs.values()):11.1f} {peak_process_bytes / MIB:11.0f} {peak_bytes / MIB:7.0f}"
    )


def main() -> None:
    parser = entry.Parser(description=__doc__)
    parser.add_argument("--enwik8", type=Path, default=ROOT.parent / "shared" / "corpora" / "enwik8.xz")
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    entry.publish("                                                                peak memory, MiB")
    entry.publish("    corpus tokenizer    MB seconds   MB/s MB/s a core one process     all")
    for name, sizes in [("raw", [10, 100, 1000]), ("x.jsonl.gz", [10, 1000]), ("x.parquet", [10, 1000])]:
        for megabytes in sizes:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / name
                write_corpus(path, repeat(options.enwik8, megabytes * 1_000_000))
                for tokenizer in ("bytes", "bpe"):
                    entry.publish(measure(path, tokenizer, options.vocabulary, options.workers))


if __name__ == "__main__":
    sys.exit(entry.exit_status(main))
