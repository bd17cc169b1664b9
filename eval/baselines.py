"""What ordinary compressors make of the same bytes: the numbers a description length has to beat.

One pass over the corpus feeds all compressors, side by side in threads (each of them releases the interpreter lock),
so memory stays flat, and brotli, the slowest, sets the time.
"""

import bz2
import importlib.metadata
import lzma
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import repeat
from typing import get_args

import brotli
import pyppmd
import zstandard
from tqdm import tqdm

from eval.measured import LIMIT_BYTES, CorpusBytes, MeasuredSizes, first_blocks, remember
from eval.schema import Baseline

NAMES = get_args(Baseline)
MEASUREMENT = 1  # raise it when a compressor's settings change: cached sizes of another measurement are not used


def measure_baselines(
    chunks: Callable[[], Iterator[bytes]], total_bytes: int, limit_bytes: int = LIMIT_BYTES, progress: bool = False
) -> MeasuredSizes:
    """Compress the bytes that `chunks()` yields; of a corpus beyond `limit_bytes`, its first `limit_bytes`.

    Raises UsageError when the source yields another number of bytes than `total_bytes`.
    """
    wanted_bytes = min(total_bytes, limit_bytes)
    compressors = _compressors(wanted_bytes)
    sizes = dict.fromkeys(NAMES, 0)
    bar = tqdm(total=wanted_bytes, desc="baselines", unit="B", unit_scale=True, leave=False, disable=not progress)
    with ThreadPoolExecutor(len(compressors)) as threads, bar:

        def compress(name: str, block: bytes) -> None:
            sizes[name] += len(compressors[name][0](block))
            bar.update(len(block) / len(compressors))

        def finish(name: str) -> None:
            sizes[name] += len(compressors[name][1]())

        # All move in step with the slowest: queues would gain nothing, since it never waits for the others.
        for block in first_blocks(chunks(), total_bytes, limit_bytes):
            list(threads.map(compress, compressors, repeat(block)))
        list(threads.map(finish, compressors))
    scale = total_bytes / max(wanted_bytes, 1)
    return MeasuredSizes({name: round(sizes[name] * scale) for name in NAMES}, wanted_bytes, total_bytes)


def cached_baselines(corpus: CorpusBytes, progress: bool = False) -> MeasuredSizes:
    """`measure_baselines`, remembered in baselines.json for this corpus and these package versions."""
    versions = {name: importlib.metadata.version(name) for name in ("brotli", "pyppmd", "zstandard")}
    how = {"measurement": MEASUREMENT, "versions": versions | {"zlib": zlib.ZLIB_RUNTIME_VERSION}}
    return remember(corpus, "baselines", how, MeasuredSizes, partial(measure_baselines, progress=progress))


def _compressors(wanted_bytes: int) -> dict[str, tuple[Callable[[bytes], bytes], Callable[[], bytes]]]:
    """(compress a block, finish) of every compressor, the slowest first so that its thread starts first."""
    # memLevel 9 is what the gzip program has; Python's gzip module uses 8, which costs 0.06 % on the King James Bible.
    gzip = zlib.compressobj(9, zlib.DEFLATED, 31, 9)
    bzip2 = bz2.BZ2Compressor(9)
    xz = lzma.LZMACompressor(preset=9 | lzma.PRESET_EXTREME)
    # Given the size, zstd has a window over the whole corpus, up to 128 MiB, and tables no larger than needed.
    zstd_parameters = zstandard.ZstdCompressionParameters.from_level(22, source_size=wanted_bytes)
    zstd = zstandard.ZstdCompressor(compression_params=zstd_parameters).compressobj(size=wanted_bytes)
    ppmd = pyppmd.Ppmd8Encoder(6 if wanted_bytes <= 5_000_000 else 8, 256 << 20)
    brotli_11 = brotli.Compressor(quality=11, lgwin=24)
    return {
        "brotli-11": (brotli_11.process, brotli_11.finish),
        "zstd-22": (zstd.compress, zstd.flush),
        "xz-9e": (xz.compress, xz.flush),
        "ppmd": (ppmd.encode, ppmd.flush),
        "gzip-9": (gzip.compress, gzip.flush),
        "bzip2-9": (bzip2.compress, bzip2.flush),
    }
