"""The shards of a corpus, made one after the other.

A shard is a file of the tokens of so many batches, or, if the corpus is streamed, of a row about each of them. A file
beside it says, once it is whole, what it holds and where it ends. So a shard that is there is never made again.
"""

import contextlib
import hashlib
from collections.abc import Callable, Generator
from dataclasses import asdict
from itertools import chain, islice
from pathlib import Path

from pydantic import NonNegativeInt, TypeAdapter
from pydantic.dataclasses import dataclass

from data.batches import Position, encode_source
from data.documents import Source
from data.errors import UsageError
from data.files import file_sha256, new_file, read_json, write_file
from data.shards import INDEX, MANIFEST, STRICT, Manifest, Shard, restore_tokenizer
from data.streamed import index_row

# Of a corpus that fills its batches, 64 MiB.
SHARD_BATCHES = 64
MAX_NOTE_BYTES = 1 << 16


@dataclass(frozen=True)
class Plan:
    """How the shards of a corpus are made: `batches` make a shard, by so many `workers` (0: one a core); `tokenizer` is
    what data.tokenizer says; `streamed` shards hold rows about batches, for so many `readers`."""

    workers: int
    batches: int
    tokenizer: str
    streamed: bool
    readers: int

    @property
    def manifest(self) -> str:
        """The name of the manifest."""
        return INDEX if self.streamed else MANIFEST

    @property
    def stem(self) -> str:
        """What the names of shards begin with."""
        return "index" if self.streamed else "tokens"

    def name(self, number: int) -> str:
        """The name of a shard, without its suffix."""
        return f"{self.stem}-{number:05d}"


@dataclass(frozen=True, config=STRICT)
class Note:
    """What the file beside a shard says: the shard, the bytes that were escaped in it (data/file_encoder.py), and the
    position at its end."""

    shard: Shard
    escaped: NonNegativeInt
    end: Position


def read_note(directory: Path, name: str) -> Note | None:
    """The note of a shard, if it is there and the shard as it says."""
    with contextlib.suppress(OSError, UsageError):
        note: Note = read_json(directory / f"{name}.json", TypeAdapter(Note), MAX_NOTE_BYTES)
        if note.shard.file == f"{name}.bin" and file_sha256(directory / note.shard.file) == note.shard.sha256:
            return note
    return None


def make_shards(
    directory: Path, source: Source, journal: Manifest, plan: Plan, mine: Callable[[int], bool] = lambda shard: True
) -> Generator[tuple[Position, bool]]:
    """Make the shards that are not there yet, of those that are `mine`. Yield the position after each batch of the
    source, and whether it ends a shard.

    Raises UsageError if the source is not what it was when the shards that are there were made.
    """
    notes: dict[int, Note] = {}
    for path in directory.glob(f"{plan.stem}-*.json"):
        number = int(path.stem.rpartition("-")[2])
        if note := read_note(directory, plan.name(number)):
            notes[number] = note

    def wanted(batch: int) -> bool:
        return batch // plan.batches not in notes and mine(batch // plan.batches)

    tokenizer = restore_tokenizer(journal.tokenizer, directory)
    changed = UsageError(f"data.source {source.name} was changed while it was being prepared; run again")
    encoded = encode_source(source, tokenizer, wanted, plan.workers, plan.tokenizer)
    with contextlib.closing(encoded):
        for number, first in enumerate(encoded):
            end = Position()
            with contextlib.ExitStack() as stack:
                path = directory / f"{plan.name(number)}.bin"
                file = stack.enter_context(new_file(path)) if wanted(number * plan.batches) else None
                digest, tokens, escaped = hashlib.sha256(), 0, 0
                for work, found in chain([first], islice(encoded, plan.batches - 1)):
                    if end.batches:
                        yield end, False
                    end = work.position
                    if file and found:
                        content = index_row(work, found).data if plan.streamed else found.tokens.data
                        file.write(content)
                        digest.update(content)
                        tokens += len(found.tokens)
                        escaped += found.escaped
            if file:
                note = Note(Shard(path.name, tokens, digest.hexdigest()), escaped, end)
                write_file(path.with_suffix(".json"), TypeAdapter(Note).dump_json(note))
            elif number in notes and notes.pop(number).end != end:
                raise changed
            yield end, True
    if notes:
        raise changed


def collect_shards(directory: Path, journal: Manifest, plan: Plan, ends: list[Position]) -> Manifest:
    """The manifest of the shards that end at these positions. Raises UsageError for one that ends elsewhere, or is not
    there."""
    shards, escaped = [], 0
    for number, end in enumerate(ends):
        path = directory / f"{plan.name(number)}.json"
        note: Note = read_json(path, TypeAdapter(Note), MAX_NOTE_BYTES)
        if note.end != end:
            raise UsageError(f"{directory / note.shard.file} was made of another data.source; delete {directory}")
        shards.append(note.shard)
        escaped += note.escaped
    values = asdict(journal) | asdict(ends[-1] if ends else Position())
    tokens = sum(shard.tokens for shard in shards)
    return Manifest(**values | {"shards": shards, "tokens": tokens, "escaped": escaped})


def remove_notes(directory: Path, plan: Plan, shards: int) -> None:
    """Remove what is beside the shards, which the manifest has, and what hosts that helped have left."""
    notes = (directory / f"{plan.name(number)}.json" for number in range(shards))
    for path in (*notes, *directory.glob("host-*.lock"), *directory.glob(".*.tmp")):
        path.unlink(missing_ok=True)
