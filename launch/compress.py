"""Compress a file: train over it for one epoch and write the archive whose size is the description length.

deepspeed launch/compress.py FILE ARCHIVE                   launch/decompress.py ARCHIVE FILE brings it back
deepspeed launch/compress.py 'FOLDER/**/*.txt' ARCHIVE      and many files under their names
deepspeed launch/compress.py FILE ARCHIVE --run.resume      go on after a kill

Every option of launch/train.py works here too.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
from launch import entry

entry.begin(__name__)

import re
import shutil

from archive.encoding import EncodingSource, coded_frames
from archive.format import open_archive, stored_frames, write_archive
from archive.info import info
from archive.machine import machine_packages
from archive.pins import refuse_unpinned
from data.documents import Source, open_source, printable
from data.errors import UsageError
from data.files import refuse_long_name
from data.lanes import Lanes
from data.names import pack_names
from data.prepare import PreparedCorpus
from data.streams import publish, publishing
from eval.books import Books
from eval.code_size import CodeSize, code_identity
from train.command_line import parse_named, read_deepspeed_config, refuse_text
from train.config import Config
from train.engine import disconnect
from train.launched import is_rank_0
from train.run import Outcome, Run, Session, corpus_source, joined, prepare_corpus, resume_remedy
from train.run_dir import CHECKPOINTS

POSITIONALS = {
    "file": "What to compress, byte for byte: a file, a folder or glob of files, http(s) URLs; or else a data.source.",
    "archive": "Where to write the archive; must not exist. The run's report goes to run.dir, by default ARCHIVE.run.",
}
BLOCKS = "blocks"
# The code term alone is larger, so no model can help.
SURELY_STORED_BYTES = 8192


# Options of launch/train.py that do nothing here.
OWNED = {"data.source": "name what is compressed as FILE"}
OWNED_BY_FILES = dict.fromkeys(("data.field", "data.split"), "FILE is taken byte for byte; leave it out")


def main(arguments: list[str]) -> int:
    return entry.exit_status(lambda: start(arguments))


def start(arguments: list[str]) -> None:
    entry.refuse_owned(arguments, OWNED, "launch/compress.py")
    with publishing():
        config, named = parse_named(__doc__ or "", arguments, POSITIONALS, default_dir)
    if bytes_of(named["file"]).startswith("raw:"):
        entry.refuse_owned(arguments, OWNED_BY_FILES, "launch/compress.py")
    entry.pin(config.engine.portable)
    compress(config, named)


def default_dir(named: dict[str, str]) -> str:
    archive = Path(named["archive"])
    # A run directory's name has to be UTF-8.
    return str(archive.with_name(printable(archive.name) + ".run")) if archive.name else ""


def compress(config: Config, named: dict[str, str]) -> None:
    """Raises UsageError for what is wrong with the arguments, RunFailed or OSError for what goes wrong later."""
    data_source, archive = bytes_of(named["file"]), Path(named["archive"])
    if config.run.resume and config.data.source != data_source:
        raise UsageError(f"{config.run.dir} compresses {config.data.source}, not {data_source}: name that one")
    config.data.source = data_source
    if config.run.warm_start:
        raise UsageError(
            f"run.warm_start {config.run.warm_start}: an archive holds no parameters to begin with; leave it out, as "
            "they are longer than what they save (docs/the-number.md)"
        )
    extra = read_deepspeed_config(config.engine.deepspeed_config)
    refuse_text(extra)
    refuse_unpinned(config.engine.portable)
    for path in (archive, Path(config.run.dir)):
        refuse_long_name(path)
    if archive.exists():
        raise UsageError(f"{archive} exists: name another archive, or remove it")
    if not archive.parent.is_dir():
        raise UsageError(f"{archive.parent} is no folder, so {archive.name} cannot be written there: make it first")
    documents = open_source(data_source, config.data.field, config.data.split)
    pack_names(documents.names)
    if documents.expected_bytes is not None and documents.expected_bytes <= SURELY_STORED_BYTES:
        if is_rank_0():
            for note in documents.notes:
                print(f"onepass: {note}", file=sys.stderr)
            store(documents, archive)
        return

    run_dir = Path(config.run.dir)
    with joined(config, extra, resume_remedy) as session:
        books = Books(session)
        corpus = prepare_corpus(session)
        books.measure(corpus)
        source = EncodingSource(corpus_source(session, corpus, {}), run_dir / BLOCKS, session.place)
        with Run(session, corpus.tokenizer, source) as run:
            outcome = books.follow(run)
            if books.kept:
                write(archive, session, corpus, books.code, outcome)
                for done in (CHECKPOINTS, BLOCKS):
                    shutil.rmtree(run_dir / done, ignore_errors=True)
                books.close(outcome)
    disconnect()


def write(archive: Path, session: Session, corpus: PreparedCorpus, code: CodeSize, outcome: Outcome) -> None:
    """Write the archive of what was coded, or of the documents as they are where that is shorter."""
    config, manifest, names = session.config, corpus.manifest, pack_names(corpus.source.names)
    about = {
        "method": "model",
        "corpus": {name: getattr(manifest, name) for name in ("name", "bytes", "documents", "tokens")},
        "code": code_identity(code.packed),
    }
    lanes = Lanes(manifest.tokens, config.train.lanes, config.train.segment_tokens)
    frames = coded_frames(
        about, lanes, config.engine.threads, session.place.world_size, corpus.tokenizer, code.packed,
        Path(config.run.dir) / BLOCKS, manifest.sha256, outcome.data_bits,
        machine_packages(code, config.run.reference_packages), names,
    )  # fmt: skip
    write_archive(archive, frames)
    if archive.stat().st_size > manifest.bytes + len(names):
        archive.unlink()
        store(corpus.source, archive)
    else:
        publish(info(open_archive(archive)) + "\n")


def bytes_of(file: str) -> str:
    """The data.source of what is to come back byte for byte: files as they are, whatever their names say."""
    path = Path(file).expanduser()
    if not file or (not path.exists() and (file == "kjv" or file.startswith(("hf:", "raw:")))):
        return file
    return f"raw:{file if re.match('https?://', file) else path.absolute()}"


def store(source: Source, archive: Path) -> None:
    """Write an archive that holds the documents as they are."""
    chunks = [(len(chunk), ends) for chunk, ends in source.chunks()]
    counts = {"bytes": sum(length for length, _ in chunks), "documents": sum(ends for _, ends in chunks), "tokens": 0}
    header = {"method": "stored", "corpus": {"name": source.name, **counts}}
    write_archive(archive, stored_frames(header, source.chunks(), source.names))
    print("onepass: no model makes a shorter description than the corpus itself: stored as it is", file=sys.stderr)
    publish(info(open_archive(archive)) + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
