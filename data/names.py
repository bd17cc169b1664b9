"""Names of documents: how an archive holds them, and how files get them back.

The content of an archive's N frame is one .lzma stream of all names, in the order of the documents, with NUL between
them. They are paths below the folder that was archived. An archive is not trusted: a path that leads out of the folder
is refused on reading.
"""

import lzma
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from data.errors import UsageError
from data.files import temporary_beside

MAX_CONTENT_BYTES = 32 << 20
MAX_TEXT_BYTES = 256 << 20
MAX_PART_BYTES, MAX_NAME_BYTES = 255, 4095


@cache
def pack_names(names: tuple[str, ...]) -> bytes:
    """The content of the N frame; empty without names. Raises UsageError for names that no reader would accept."""
    if not names:
        return b""
    _check(names)
    text = b"\0".join(map(os.fsencode, names))
    content = lzma.compress(text, lzma.FORMAT_ALONE, filters=[{"id": lzma.FILTER_LZMA1, "preset": 6, "pb": 0}])
    if len(text) > MAX_TEXT_BYTES or len(content) > MAX_CONTENT_BYTES:
        raise UsageError(f"the names of {len(names):,} documents take {len(text):,} bytes: archive the folder in parts")
    return content


def unpack_names(content: bytes, documents: int) -> tuple[str, ...]:
    """The names from the content of an N frame, which is not trusted. Raises UsageError."""
    inflater = lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=64 << 20)
    try:
        text = inflater.decompress(content, MAX_TEXT_BYTES)
    except (lzma.LZMAError, EOFError) as error:
        raise UsageError(f"it is not a .lzma stream: {error}") from None
    if not inflater.eof or inflater.unused_data:
        raise UsageError(f"its stream does not end with its frame, or takes more than {MAX_TEXT_BYTES:,} bytes")
    names = tuple(map(os.fsdecode, text.split(b"\0")))
    if len(names) != documents:
        raise UsageError(f"there are {len(names):,} names for {documents:,} documents")
    _check(names)
    return names


def _check(names: Sequence[str]) -> None:
    """Raise UsageError unless all names can be files below one folder, wherever it is."""
    folders: set[str] = set()
    for name in names:
        path = os.fsencode(name)
        parts = path.split(b"/")
        if {b"", b".", b".."} & {*parts} or max(map(len, parts)) > MAX_PART_BYTES or len(path) > MAX_NAME_BYTES:
            raise UsageError(f"{name!r:.80} is not a path below a folder")
        folder = name.rpartition("/")[0]
        while folder and folder not in folders:
            folders.add(folder)
            folder = folder.rpartition("/")[0]
    if len(set(names)) < len(names):
        twice = next(name for number, name in enumerate(names) if name in names[:number])
        raise UsageError(f"{twice!r:.80} is the name of two documents")
    if both := folders.intersection(names):
        raise UsageError(f"{min(both)!r:.80} is the name of a document and of a folder")


def refuse_long_paths(output: Path, names: Sequence[str]) -> None:
    """Raise UsageError if a path that open_output would make is too long for the system."""
    longest = max(names, key=lambda name: len(os.fsencode(name)), default="")
    if len(os.fsencode(temporary_beside(output.absolute()) / "named" / longest)) > MAX_NAME_BYTES:
        raise UsageError(f"{output} and {longest!r:.80} in it make too long a path: name a folder with a shorter one")


@contextmanager
def open_output(output: Path, names: Sequence[str]) -> Iterator[Path]:
    """The path to give to data.output.write_documents, which numbers its files. At the end of the block they get their
    names, and their folder appears as `output`, whole or not at all. Without names, the path is `output` itself."""
    if not names:
        yield output
        return
    staging = temporary_beside(output)
    staging.mkdir()
    try:
        numbered, named = staging / "numbered", staging / "named"
        yield numbered
        # A decoder in a process of its own may have failed, and left nothing.
        if numbered.exists():
            named.mkdir()
            for number, name in enumerate(names):
                target = named / name
                target.parent.mkdir(parents=True, exist_ok=True)
                if target.exists():
                    raise UsageError(f"{name!r:.80} and a name before it are one to this file system")
                (numbered / f"{number:08d}" if numbered.is_dir() else numbered).rename(target)
            os.sync()
            named.rename(output)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
