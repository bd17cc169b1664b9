"""Which files a folder or glob names: each real file once, in order. What is left out gets a note.

Links are followed, to folders too. A link to a file or folder that is read anyway, as in a loop, is left out. A link to
nothing, a pipe, or a folder that cannot be entered is refused by name, because its bytes would be missing. Folders and
wildcards leave out what Onepass itself writes (runs, prepared corpora).
"""

import fnmatch
import functools
import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from data.errors import UsageError

# The first bytes of an archive, whatever its format (archive/frames.py).
ARCHIVE_MAGIC = b"ONEPASS"
WILDCARD = re.compile(r"[*?\[]")
# A folder with all files of one set is a run (launch/train.py), an unfinished decompression, a prepared corpus, or the
# description of a tokenizer.
OUTPUTS = [
    {"config.yaml", "code.lzma"},
    {"archive.sha256", ".lock"},
    {"manifest.json", "tokens-00000.bin"},
    {"journal.json", "tokens-00000.bin"},
    {"index.json", "index-00000.bin"},
    {"journal.json", "index-00000.bin"},
    {"onepass-description.bin"},
]
# A run that failed at once left only some of these, and always the first.
STILLBORN = [".lock", "environment.json", "corpus.json", "tokenizer.bin", "code.lzma", "choice.json"]
# Beside runs: what launch/report.py and launch/sweep.py write.
COMPARISONS = re.compile(r"sweep\.json|tensorboard|(comparison|scaling)(-\w+)*\.(html|csv|json|png)")


class Listing:
    """The files that `given`, a folder or a glob, names.

    `root` is the folder where the documents' names begin, `paths` are the files in order, `notes` are lines for a
    person. Raises UsageError, which names `source`, for what cannot be read.
    """

    def __init__(self, given: Path, source: str):
        self._source = source
        self._real_folder = functools.cache(os.path.realpath)
        self._repeated: set[Path] = set()
        self._outputs: set[Path] = set()
        folders: list[Path] = []
        try:
            if given.is_dir():
                self.root = given
                found = [folder / entry.name for folder, entries in self._walk(given, "") for entry in entries]
            else:
                wild = [number for number, part in enumerate(given.parts) if WILDCARD.search(part)]
                self.root = Path(*given.parts[: wild[0]])
                found = [*self._match([self.root], given.parts[wild[0] :])] if self.root.is_dir() else []
                if "**" not in given.parts:
                    folders = [path for path in found if path.is_dir()]
            self.paths = self._real_files(found)
        except OSError as error:
            raise self._refusal(error.filename or given, f"cannot be read ({error.strerror})") from error
        entered = {folder for path in self.paths for folder in path.parents} if folders else set()
        self.notes = [
            *self._note(self._repeated, "a link leads there to what is read already"),
            *self._note(self._outputs, "Onepass wrote it"),
            *self._note({*folders} - entered, "it is a folder, and the glob names no file in it"),
        ]

    def _refusal(self, path: "Path | str", what: str) -> UsageError:
        return UsageError(f"data.source {self._source!r}: {path} {what}: remove it, or name the files that you mean")

    def _note(self, paths: set[Path], what: str) -> Iterator[str]:
        if paths:
            more = f" (and {len(paths) - 1:,} more)" if len(paths) > 1 else ""
            yield f"data.source {self._source!r} leaves out {min(paths)}{more}: {what}"

    def _real_files(self, found: Iterable[Path]) -> list[Path]:
        """The regular files, each real one once. If several paths lead to it, one without a link is kept."""
        paths = []
        for path in dict.fromkeys(found):
            status = path.lstat()
            link = stat.S_ISLNK(status.st_mode)
            if link:
                try:
                    status = path.stat()
                except OSError as error:
                    raise self._refusal(path, f"is a link to nothing ({path.readlink()})") from error
            if stat.S_ISDIR(status.st_mode):
                continue
            if not stat.S_ISREG(status.st_mode):
                raise self._refusal(path, "is not a regular file and cannot be read twice")
            parent = self._real_folder(path.parent)
            real = os.path.realpath(path) if link else str(Path(parent, path.name))
            straight = str(Path(self._real_folder(self.root), path.relative_to(self.root)))
            paths.append((real != straight, path, real))
        files: dict[str, Path] = {}
        for _, path, real in sorted(paths):
            if files.setdefault(real, path) != path:
                self._repeated.add(path)
        return sorted(files.values())

    def _entries(self, folder: Path) -> list[os.DirEntry[str]]:
        """What is in a folder, in the order of names, without the output of Onepass."""
        with os.scandir(folder) as scanned:
            entries = sorted(scanned, key=lambda entry: entry.name)
        outputs = {entry.name for entry in entries if _is_folder(entry) and _is_output(folder / entry.name)}
        if not outputs:
            return entries
        beside = {f"{name}.lock" for name in outputs}
        # Archives are known by the runs beside them, which launch/compress.py names after them.
        beside |= {e.name for e in entries if f"{e.name}.run" in outputs and _is_archive(folder / e.name)}
        ours = {e.name for e in entries if e.name in outputs | beside or COMPARISONS.fullmatch(e.name)}
        self._outputs |= {folder / name for name in ours}
        return [entry for entry in entries if entry.name not in ours]

    def _walk(self, root: Path, hidden: str) -> Iterator[tuple[Path, list[os.DirEntry[str]]]]:
        """Yield every folder at or below root, each real one once, and what is in it. Links are followed last, so that
        a folder gets a name without links if it has one. Folders whose names begin with `hidden` (if not empty) are not
        entered."""
        entered: set[str] = set()
        waiting, links = [root], list[Path]()
        while waiting or links:
            folder = waiting.pop() if waiting else links.pop(0)
            real = self._real_folder(folder)
            if real in entered:
                self._repeated.add(folder)
                continue
            entered.add(real)
            entries = self._entries(folder)
            yield folder, entries
            for entry in entries:
                if _is_folder(entry) and not (hidden and entry.name.startswith(hidden)):
                    (links if entry.is_symlink() else waiting).append(folder / entry.name)

    def _match(self, folders: list[Path], parts: tuple[str, ...]) -> Iterator[Path]:
        """What the parts of a glob name below any of the folders. As in a shell, wildcards skip hidden names."""
        part, *rest = parts
        if part == "**":
            while rest[:1] == ["**"]:
                rest = rest[1:]
            inner = dict.fromkeys(folder for start in folders for folder, _ in self._walk(start, "."))
            yield from self._match([*inner], (*rest,) or ("*",))
            return
        found: list[Path] = []
        for folder in folders:
            if WILDCARD.search(part):
                names = fnmatch.filter([entry.name for entry in self._entries(folder)], part)
                found += [folder / name for name in names if part[0] == "." or name[0] != "."]
            elif os.path.lexists(folder / part):
                found.append(folder / part)
        yield from self._match([path for path in found if path.is_dir()], (*rest,)) if rest else found


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder, or a link to one. A loop of links is not."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _is_archive(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(ARCHIVE_MAGIC)) == ARCHIVE_MAGIC


def _is_output(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        names = {entry.name for entry in entries}
    stillborn = STILLBORN[0] in names and names <= set(STILLBORN)
    return stillborn or any(output <= names for output in OUTPUTS)
