"""Files that appear whole or not at all, and their checksums."""

import hashlib
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import TypeAdapter, ValidationError

from data.errors import UsageError


def write_file(path: Path, content: bytes) -> None:
    """Write `content` to `path`, as new_file does."""
    with new_file(path) as file:
        file.write(content)


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write, under a temporary name beside `path`. At the end of the block it is synced to disk, renamed to
    `path`, and the folder is synced. If the block raises, it is removed and `path` stays as it was."""
    temporary = temporary_beside(path)
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_json(path: Path, shape: TypeAdapter[Any], limit_bytes: int) -> Any:
    """Read a JSON file as what `shape` describes.

    Raises UsageError, one line naming file and field, when it is larger than `limit_bytes` or of another shape.
    """
    with path.open("rb") as stream:
        content = stream.read(limit_bytes + 1)
    if len(content) > limit_bytes:
        raise UsageError(f"{path} is larger than {limit_bytes:,} bytes, the most such a file can be: it is damaged")
    try:
        return shape.validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = "".join(f"{part}." for part in first["loc"]).removesuffix(".[key].").removesuffix(".")
        message = first["msg"].removeprefix("Value error, ")
        raise UsageError(f"{path}: {place}: {message}" if place else f"{path}: {message}") from None


def temporary_beside(path: Path) -> Path:
    """A hidden name, this process's own on all hosts, for what becomes `path`. Short, as that may have the longest
    name."""
    name = path.name if len(os.fsencode(path.name)) < 100 else hashlib.sha256(os.fsencode(path.name)).hexdigest()[:32]
    return path.with_name(f".{name}.{socket.gethostname()[:64]}.{os.getpid()}.tmp")


def refuse_long_name(path: Path) -> None:
    """Raise UsageError if the name of `path` is too long for its file system."""
    folder = next(parent for parent in path.absolute().parents if parent.is_dir())
    length, limit = len(os.fsencode(path.name)), os.pathconf(folder, "PC_NAME_MAX")
    if length > limit:
        raise UsageError(f"{path.name} has {length} bytes, and names in {folder} have {limit} at most: shorten it")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def output_file(text: str) -> Path:
    """The type of an option for a file that is written after the work: its folder has to exist before."""
    path = Path(text)
    if path.is_dir():
        raise UsageError("it is a folder. Name a file")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"{path.parent} is no folder. Make it first")
    return path
