"""Score files that a finished run has not seen, with its frozen model, beside what its own corpus took in training.

    python launch/evaluate.py held-out runs/mine FILE...
    python launch/evaluate.py held-out runs/mine FILE --window 128 --threshold 0.05

Each file is one document, read from its first byte to its last without learning: bits per byte, its end included.

A file that the run was trained on would tell nothing, so the run's corpus is searched first: which bytes of FILE lie in
a stretch of --window bytes or more that occurs in the corpus, byte by byte? Above the share --threshold the file is
refused, with the first such place. --contaminated scores it all the same, and says so. The corpus is found among the
prepared ones (data.cache_dir of the run) by its SHA-256, or read again from data.source, or from --corpus; it must be
the run's to the byte. What a warm-started run's parameters had seen before is searched too. Exit status 2: bad
arguments, or a file was refused; nothing was scored.
"""

import argparse
import hashlib
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from archive.warm_start import seen_before
from data.documents import Chunks, open_source
from data.errors import UsageError
from data.shards import MANIFEST, TokenShards, read_manifest, restore_tokenizer
from data.streams import publish
from eval.curve import load_curve
from eval.schema import Corpus, finished_report
from studies.held_out.overlap import Overlap, Windows
from studies.scoring import connect_alone, held_out_bits
from train.command_line import CONFIG_FILE, load_config
from train.config import DataConfig
from train.engine import disconnect
from train.frozen import load_frozen

CHUNK_TOKENS = 1 << 18
# Of a place that is quoted.
QUOTED_BYTES = 48


def held_out_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="run.dir of a finished run")
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="is read as one document of bytes")
    overlap_arguments(parser)


def overlap_arguments(parser: argparse.ArgumentParser) -> None:
    """What the search for contamination takes."""
    parser.add_argument(
        "--window", type=int, default=64, metavar="BYTES",
        help="shortest stretch in common with the corpus that counts as seen, 8 or more (default: 64)",
    )  # fmt: skip
    parser.add_argument(
        "--threshold", type=float, default=0.01, metavar="SHARE",
        help="refuse a file of which more than this share was seen, 0 to 1 (default: 0.01)",
    )  # fmt: skip
    parser.add_argument("--contaminated", action="store_true", help="score it all the same, and say so")
    parser.add_argument(
        "--corpus", metavar="SOURCE", help="where the corpus is, as data.source says it (default: where the run had it)"
    )


def held_out(
    run: Path, files: list[Path], window: int, threshold: float, contaminated: bool, corpus: str | None
) -> None:
    """Raises UsageError for what is wrong with the arguments, and for a file that the run has seen."""
    report, curve = finished_report(run), load_curve(run / "curve.csv")
    config, model, tokenizer = load_frozen(run)
    overlaps = refuse_seen_by([run], corpus, files, window, threshold, contaminated)
    place = connect_alone(config.engine.threads)
    scores = [held_out_bits(file, config, model, tokenizer, place) for file in files]
    disconnect()
    widest = max(24, *(len(str(file)) for file in files))
    publish(f"\n{'':<{widest}}{'bytes':>15}{'bits/byte':>11}{'seen':>9}")
    for file, bits, overlap in zip(files, scores, overlaps, strict=True):
        verdict = "  CONTAMINATED: not held out" if overlap.share > threshold else ""
        rate = bits / overlap.text_bytes
        publish(f"{file!s:<{widest}}{overlap.text_bytes:>15,}{rate:>11.4f}{overlap.share:>9.2%}{verdict}")
    if len(files) > 1:
        all_bytes, seen_bytes = (sum(getattr(o, name) for o in overlaps) for name in ("text_bytes", "seen_bytes"))
        publish(f"{'all':<{widest}}{all_bytes:>15,}{sum(scores) / all_bytes:>11.4f}{seen_bytes / all_bytes:>9.2%}")
    corpus_bytes, length = report.corpus.bytes, report.description_length
    publish(f"{'in training, its corpus':<{widest}}{corpus_bytes:>15,}{length.data_bits_per_byte:>11.4f}")
    publish(f"{'  the last tenth of that':<{widest}}{corpus_bytes // 10:>15,}{curve.last_rate():>11.4f}")
    publish(f"{'  and with code and all':<{widest}}{'':>15}{length.bits_per_byte:>11.4f}")


def refuse_seen_by(
    runs: list[Path], given: str | None, files: list[Path], window: int, threshold: float, contaminated: bool
) -> list[Overlap]:
    """As refuse_seen, of all that any of the runs were trained on, or their first parameters had been: of each file,
    the largest overlap. A corpus that several have seen is searched once; `given` is the first run's."""
    searched: dict[str, list[Overlap]] = {}
    for run in runs:
        own = (finished_report(run).corpus, load_config(run / CONFIG_FILE).data)
        for trained, data in [own, *((seen["corpus"], seen["data"]) for seen in seen_before(run))]:
            if trained.sha256 not in searched:
                source = None if searched else given
                found = refuse_seen(trained, data, source, files, window, threshold, contaminated)
                searched[trained.sha256] = found
    by_file = zip(*searched.values(), strict=True)
    return [max(overlaps, key=lambda overlap: overlap.share) for overlaps in by_file]


def refuse_seen(
    trained: Corpus,
    data: DataConfig,
    given: str | None,
    files: list[Path],
    window: int,
    threshold: float,
    contaminated: bool,
) -> list[Overlap]:
    """What each of the files has in common with the corpus that a run was `trained` on.

    Raises UsageError if that is more than `threshold` of a file, unless `contaminated` files are welcome; if a file is
    too short to tell; and if the corpus is not to be had.
    """
    if window < 8 or not 0 <= threshold <= 1:
        raise UsageError(f"--window {window} and --threshold {threshold}: take 8 bytes or more, and a share of 0 to 1")
    searches = []
    for file in files:
        if not file.is_file() or file.stat().st_size < window:
            raise UsageError(f"{file} is no file of {window:,} bytes or more: too short to tell if it was seen")
        searches.append(Windows(file.read_bytes(), window))
    name, chunks = corpus_chunks(trained, data, given)
    digest = hashlib.sha256()
    with tqdm(total=trained.bytes, unit="B", unit_scale=True, desc="searching the corpus", leave=False) as bar:
        for chunk, ends in chunks:
            digest.update(chunk)
            for search in searches:
                search.look(chunk, ends)
            bar.update(len(chunk))
    if digest.hexdigest() != trained.sha256:
        raise UsageError(
            f"{name} has SHA-256 {digest.hexdigest()[:16]} and the run's corpus {trained.sha256[:16]}: it is not "
            "what the run was trained on; name that with --corpus SOURCE"
        )
    overlaps = [search.overlap() for search in searches]
    for file, search, overlap in zip(files, searches, overlaps, strict=True):
        if overlap.share > threshold and not contaminated:
            start = overlap.text_offset
            quoted = search.text[start : start + min(window, QUOTED_BYTES)].tobytes()
            raise UsageError(
                f"{overlap.share:.2%} of {file} is in the run's corpus, in stretches of {window} bytes or more, the "
                f"first at byte {start:,} (byte {overlap.corpus_offset:,} of the corpus): {quoted!r}...; more than "
                f"{threshold:.2%} is refused: take other text, or --contaminated to score it as what it is"
            )
    return overlaps


def corpus_chunks(trained: Corpus, data: DataConfig, given: str | None) -> tuple[str, Chunks]:
    """Name and bytes of the corpus: from `given`, or as tokens under data.cache_dir, or from data.source.

    Raises UsageError where there is nothing to read. Whether it is the corpus has to be seen from its bytes.
    """
    if given is not None:
        return given, open_source(given, data.field, data.split).chunks()
    for path in sorted(Path(data.cache_dir).expanduser().glob(f"*/{MANIFEST}")):
        if trained.sha256.encode() in path.read_bytes():
            return str(path.parent), prepared_chunks(path.parent)
    try:
        return data.source, open_source(data.source, data.field, data.split).chunks()
    except UsageError as error:
        raise UsageError(
            f"the run's corpus {trained.name} (SHA-256 {trained.sha256[:16]}) is neither in {data.cache_dir} nor "
            f"where it was ({error}): nobody can tell what the run has seen; name it with --corpus SOURCE"
        ) from None


def prepared_chunks(directory: Path) -> Iterator[tuple[bytes, bool]]:
    """(bytes, whether a document ends with them) of a prepared corpus, in order."""
    manifest = read_manifest(directory)
    tokenizer, tokens = restore_tokenizer(manifest.tokenizer), TokenShards(directory, manifest)
    for start in range(0, len(tokens), CHUNK_TOKENS):
        part = tokens.read(start, min(start + CHUNK_TOKENS, len(tokens)))
        ends = (part == tokenizer.end_of_document).nonzero()[0] + 1
        for first, stop in zip([0, *ends], [*ends, len(part)], strict=True):
            yield tokenizer.decode(part[first:stop]), stop in ends
