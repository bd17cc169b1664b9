"""Scores of files that a run has not seen, and the search for what it has seen."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from archive.warm_start import seen_before
from data.documents import Chunks, open_source
from data.errors import UsageError
from data.output import token_chunks
from data.shards import MANIFEST, TokenShards, read_manifest, restore_tokenizer
from data.streams import publish
from eval.curve import load_curve
from eval.schema import Corpus, finished_report
from studies.held_out.options import HeldOut, Search
from studies.held_out.overlap import Overlap, Passage, Strings, Windows
from studies.scoring import connect_alone, held_out_bits
from train.command_line import CONFIG_FILE, load_config
from train.config import DataConfig
from train.frozen import load_frozen

CHUNK_TOKENS = 1 << 18
# Of a place that is quoted.
QUOTED_BYTES = 48
# The longest passages in common that are shown.
SHOWN = 5


def search_all(options: Search, runs: list[Path], files: list[Path]) -> list[Overlap]:
    """Of each file the largest overlap, as `search` finds it, with what any of the runs was trained on, or its
    first parameters were. A corpus that several have seen is searched once; `corpus` is the first run's."""
    searched: dict[str, list[Overlap]] = {}
    for run in runs:
        own = (finished_report(run).corpus, load_config(run / CONFIG_FILE).data)
        for trained, data in [own, *((seen["corpus"], seen["data"]) for seen in seen_before(run))]:
            if trained.sha256 not in searched:
                found = search(options, trained, data, None if searched else options.corpus, files)
                searched[trained.sha256] = found
    by_file = zip(*searched.values(), strict=True)
    return [max(overlaps, key=lambda overlap: overlap.share) for overlaps in by_file]


def search(options: Search, trained: Corpus, data: DataConfig, given: str | None, files: list[Path]) -> list[Overlap]:
    """What each of the files has in common with the corpus that a run was `trained` on.

    Raises UsageError if that is more than the threshold, unless contaminated files are welcome; if a file is too
    short to tell; and if the corpus cannot be read.
    """
    if options.window < 8 or not 0 <= options.threshold <= 1:
        raise UsageError(
            f"--window {options.window} and --threshold {options.threshold}: take 8 bytes or more, and a share of 0 to "
            "1"
        )
    if options.boilerplate < 0 or options.boilerplate == 1:
        raise UsageError(f"--boilerplate {options.boilerplate} would leave nothing: take 2 or more, or 0 to count all")
    searches = []
    for file in files:
        if not file.is_file() or file.stat().st_size < options.window:
            raise UsageError(f"{file} is no file of {options.window:,} bytes or more: too short to tell if it was seen")
        searches.append(Windows(file.read_bytes(), options.window))
    show_corpus(trained, data, given, searches)
    overlaps = [windows.overlap() for windows in searches]
    if options.boilerplate and any(overlap.passages for overlap in overlaps):
        found = [n for n, overlap in enumerate(overlaps) if overlap.passages]
        strings = [Strings(searches[n].text, overlaps[n]) for n in found]
        show_corpus(trained, data, given, strings)
        for n, part in zip(found, strings, strict=True):
            overlaps[n] = part.sort_out(options.window, options.boilerplate)
    for file, windows, overlap in zip(files, searches, overlaps, strict=True):
        show_passages(file, windows.text, overlap)
        if overlap.share > options.threshold and not options.contaminated:
            first = overlap.passages[0]
            raise UsageError(
                f"{overlap.share:.2%} of {file} is in the run's corpus, in stretches of {options.window} bytes or "
                f"more, the first at byte {first.text_offset:,} (byte {first.corpus_offset:,} of the corpus): "
                f"{quote(windows.text, first)!r}...; more than {options.threshold:.2%} is refused: take other text, "
                "or --contaminated to score it as what it is"
            )
    return overlaps


def execute(options: HeldOut) -> None:
    """Raises UsageError for what is wrong with the arguments, and for a file that the run has seen."""
    report, curve, frozen = (
        finished_report(options.run),
        load_curve(options.run / "curve.csv"),
        load_frozen(options.run),
    )
    overlaps = search_all(options, [options.run], options.files)
    with connect_alone(frozen[0].engine.threads) as place:
        scores = [held_out_bits(file, frozen, place) for file in options.files]
    widest = max(24, *(len(str(file)) for file in options.files))

    def show(name: str, size_bytes: int, rate: float, more: str = "") -> None:
        publish(f"{name:<{widest}}{size_bytes:>15,}{rate:>11.4f}{more}")

    publish(f"\n{'':<{widest}}{'bytes':>15}{'bits/byte':>11}{'seen':>9}{'boilerplate':>13}")
    for file, bits, overlap in zip(options.files, scores, overlaps, strict=True):
        verdict = "  CONTAMINATED: not held out" if overlap.share > options.threshold else ""
        repeated = f"{overlap.boilerplate_bytes / overlap.text_bytes:>13.2%}"
        show(str(file), overlap.text_bytes, bits / overlap.text_bytes, f"{overlap.share:>9.2%}{repeated}{verdict}")
    if len(options.files) > 1:
        all_bytes, seen_bytes = (sum(getattr(o, name) for o in overlaps) for name in ("text_bytes", "seen_bytes"))
        show("all", all_bytes, sum(scores) / all_bytes, f"{seen_bytes / all_bytes:>9.2%}")
    corpus_bytes, length = report.corpus.bytes, report.description_length
    show("in training, its corpus", corpus_bytes, length.data_bits_per_byte)
    show("  the last tenth of that", corpus_bytes // 10, curve.last_rate())
    publish(f"{'  and with code and all':<{widest}}{'':>15}{length.bits_per_byte:>11.4f}")


def quote(text: np.ndarray, passage: Passage) -> bytes:
    """The start of a passage."""
    start = passage.text_offset
    return text[start : start + min(passage.size_bytes, QUOTED_BYTES)].tobytes()


def show_passages(file: Path, text: np.ndarray, overlap: Overlap) -> None:
    """Print the longest passages that count as seen."""
    if not overlap.passages:
        return
    publish(
        f"\n{overlap.seen_bytes:,} bytes of {file} are in the corpus. The longest passages:\n"
        f"{'bytes':>9}{'at byte':>15}{'of the corpus':>18}"
    )
    for passage in sorted(overlap.passages, key=lambda passage: -passage.size_bytes)[:SHOWN]:
        size, here, there = passage.size_bytes, passage.text_offset, passage.corpus_offset
        publish(f"{size:>9,}{here:>15,}{there:>18,}  {quote(text, passage)!r}")


def show_corpus(trained: Corpus, data: DataConfig, given: str | None, searches: Sequence[Windows]) -> None:
    """Let each search look at the whole corpus. Raises UsageError unless it is what the run was trained on."""
    name, chunks = open_corpus(trained, data, given)
    digest = hashlib.sha256()
    with tqdm(total=trained.bytes, unit="B", unit_scale=True, desc="searching the corpus", leave=False) as bar:
        for chunk, ends in chunks:
            digest.update(chunk)
            for windows in searches:
                windows.look(chunk, ends)
            bar.update(len(chunk))
    if digest.hexdigest() != trained.sha256:
        raise UsageError(
            f"{name} has SHA-256 {digest.hexdigest()[:16]} and the run's corpus {trained.sha256[:16]}: it is not what "
            "the run was trained on; name that with --corpus SOURCE"
        )


def open_corpus(trained: Corpus, data: DataConfig, given: str | None) -> tuple[str, Chunks]:
    """Name and bytes of the corpus: from `given`, or as tokens under data.cache_dir, or from data.source.

    Raises UsageError where there is nothing to read. Whether it is the corpus has to be seen from its bytes.
    """
    if data.source.startswith("tokens:"):
        raise UsageError(
            f"the run's corpus {trained.name} is ids of token files, and no file of text can be compared with it or "
            "scored: take a run over the text"
        )
    if given is not None:
        return given, open_source(given, data.field, data.split).chunks()
    for path in sorted(Path(data.cache_dir).expanduser().glob(f"*/{MANIFEST}")):
        if trained.sha256.encode() in path.read_bytes():
            return str(path.parent), read_prepared(path.parent)
    try:
        return data.source, open_source(data.source, data.field, data.split).chunks()
    except UsageError as error:
        raise UsageError(
            f"the run's corpus {trained.name} (SHA-256 {trained.sha256[:16]}) is neither in {data.cache_dir} nor "
            f"where it was ({error}): nobody can tell what the run has seen; name it with --corpus SOURCE"
        ) from None


def read_prepared(directory: Path) -> Iterator[tuple[bytes, bool]]:
    """(bytes, whether a document ends with them) of a prepared corpus, in order."""
    manifest = read_manifest(directory)
    tokenizer, tokens = restore_tokenizer(manifest.tokenizer, directory), TokenShards(directory, manifest)
    for start in range(0, len(tokens), CHUNK_TOKENS):
        yield from token_chunks(tokens.read(start, min(start + CHUNK_TOKENS, len(tokens))), tokenizer)
