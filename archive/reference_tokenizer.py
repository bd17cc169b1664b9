"""A tokenizer that is part of the reference machine. Its archive names the file and does not hold the pieces, so that
whoever decodes supplies the file."""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from archive.format import Archive, write_archive
from archive.frames import read_frames
from archive.machine import TOKENIZER
from data.describe import tokenizer_of
from data.errors import UsageError
from data.file_encoder import usable_pieces
from data.tokenizer_files import read_tokenizer_file

# SHA-256 of the file, the first half of that of the description, and the name of the file.
WRITTEN = re.compile("([0-9a-f]{64}) ([0-9a-f]{32}) (.+)", re.DOTALL)


def declared_tokenizer(entry: dict[str, Any]) -> dict[str, str]:
    """What an archive's header says of the tokenizer in a manifest's `entry`, among its machine."""
    return {TOKENIZER: f"{entry['file_sha256']} {entry['sha256'][:32]} {entry['file']}"}


def needed_tokenizer(archive: Archive) -> tuple[str, str, str] | None:
    """Of the file that decoding needs: its SHA-256, half of that of its description, and its name. None if the archive
    holds all. Raises UsageError if it says neither."""
    text = archive.header.get("machine", {}).get(TOKENIZER)
    if text is None:
        return None
    if archive.header["tokenizer"] != "file" or not (found := WRITTEN.fullmatch(text)):
        raise UsageError(f"{archive.path}: its reference tokenizer is {text!r:.100}, which names no file")
    return found[1], found[2], found[3]


def supply_tokenizer(archive: Archive, name: str | None) -> Archive:
    """The archive with the description of the tokenizer in file `name`. Describing a large one takes up to a minute.

    Raises UsageError if the archive needs a file and this is not that file, or if it needs none.
    """
    needed = needed_tokenizer(archive)
    if needed is None:
        if name is not None:
            raise UsageError(f"{archive.path} holds its tokenizer, so --tokenizer {name} has no effect: leave it out")
        return archive
    sha256, described, file_name = needed
    if name is None:
        raise UsageError(f"{archive.path} needs the tokenizer {file_name!r} (SHA-256 {sha256}): add --tokenizer FILE")
    file = read_tokenizer_file(name, "--tokenizer")
    if file.sha256 != sha256:
        problem = f"its SHA-256 is {file.sha256}, and {archive.path} needs {file_name!r} with {sha256}"
        raise file.error(problem, "give that file")
    tokenizer = tokenizer_of(usable_pieces(file, file.open()))
    if hashlib.sha256(tokenizer.encoding).hexdigest()[:32] != described:
        problem = f"its pieces are described in another way than when {archive.path} was written"
        raise file.error(problem, "take the versions of Onepass and of the tokenizer's package that wrote the archive")
    return replace(archive, encoding=tokenizer.encoding)


@contextmanager
def whole_archive(archive: Archive) -> Iterator[Path]:
    """Path of an archive that holds the tokenizer of `archive`: a copy if the file itself holds none."""
    if needed_tokenizer(archive) is None:
        yield archive.path
        return
    with TemporaryDirectory(prefix="onepass-") as folder, archive.path.open("rb") as file:
        path = Path(folder, "archive")
        write_archive(path, ((kind, archive.encoding if kind == b"T" else part) for kind, part in read_frames(file)))
        yield path
