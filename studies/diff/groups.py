"""Documents grouped by where they come from: the value of a field of their records, or the file that they are in."""

import numpy as np

from data.documents import make_printable, open_source
from data.errors import UsageError
from train.config import DataConfig

# Groups documents by their files.
FILE = "file"
# A field with longer values is a text, and no name of a group.
LONGEST_BYTES = 200


def group_documents(data: DataConfig, by: str, documents: int) -> tuple[tuple[str, ...], np.ndarray]:
    """The names of the groups, and the group of each document [documents].

    `by` is FILE or a field of the records of `data.source`, which is read once more. Raises UsageError where the source
    has no files or no such field, or where its values are too long for names.
    """
    source = open_source(data.source, data.field if by == FILE else by, data.split)
    if by == FILE and not source.files:
        raise UsageError(f"--by {FILE}: {data.source} is no folder, glob or list of files; name a field of its records")
    groups, found, value = dict[str, int](), list[int](), b""
    for chunk, ends, place in source.placed():
        if by != FILE:
            value += chunk
            if len(value) > LONGEST_BYTES:
                raise UsageError(
                    f"--by {by}: document {len(found) + 1:,} of {data.source} has more than {LONGEST_BYTES} bytes "
                    f"there; name a field with short values, or `{FILE}` for the files of a folder"
                )
        if ends:
            name = source.files[place.file] if by == FILE else value.decode(errors="backslashreplace")
            found.append(groups.setdefault(make_printable(name) or "(empty)", len(groups)))
            value = b""
    if len(found) != documents:
        raise UsageError(f"--by {by}: {data.source} has {len(found):,} documents there, and the runs {documents:,}")
    return tuple(groups), np.array(found)
