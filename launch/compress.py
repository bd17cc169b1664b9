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

from train.help import help_text

POSITIONALS = {
    "file": "What to compress, byte for byte: a file, a folder or glob of files, http(s) URLs; or else a data.source.",
    "archive": "Where to write the archive; must not exist. The run's report goes to run.dir, by default ARCHIVE.run.",
}
entry.answer_help(__name__, lambda: help_text(__doc__ or "", POSITIONALS))
entry.measure_ahead(__name__)

import shutil

from archive.encoding import EncodingSource
from archive.pins import refuse_unpinned
from archive.writing import BLOCKS, byte_source, store, write_coded
from data.documents import make_printable, open_source
from data.errors import UsageError
from data.files import refuse_long_name
from data.names import pack_names
from data.streams import publish_help
from eval.books import Books
from train.choice import Chooser
from train.command_line import parse_named, read_deepspeed_config, refuse_text
from train.config import Config
from train.engine import disconnect
from train.launched import is_rank_0
from train.run import Run, corpus_source, join_ranks, prepare_corpus, resume_remedy
from train.run_dir import CHECKPOINTS

# The code term alone is larger, so no model can help.
SURELY_STORED_BYTES = 8192


# Options of launch/train.py that do nothing here.
OWNED = {"data.source": "name what is compressed as FILE"}
OWNED_BY_FILES = dict.fromkeys(("data.field", "data.split"), "FILE is taken byte for byte; leave it out")


def main(arguments: list[str]) -> int:
    return entry.exit_status(lambda: start(arguments))


def start(arguments: list[str]) -> None:
    entry.refuse_owned(arguments, OWNED, "launch/compress.py")
    with publish_help():
        config, named, given = parse_named(__doc__ or "", arguments, POSITIONALS, default_dir, named_source)
    if byte_source(named["file"]).startswith("raw:"):
        entry.refuse_owned(arguments, OWNED_BY_FILES, "launch/compress.py")
    entry.pin(config.engine.portable)
    compress(config, named, Chooser(given))


def named_source(named: dict[str, str]) -> str:
    return byte_source(named["file"])


def default_dir(named: dict[str, str]) -> str:
    archive = Path(named["archive"])
    # A run directory's name has to be UTF-8 (eval/begun.py).
    return str(archive.with_name(make_printable(archive.name) + ".run")) if archive.name else ""


def compress(config: Config, named: dict[str, str], chooser: Chooser) -> None:
    """Raises UsageError for what is wrong with the arguments, RunFailed or OSError for what goes wrong later."""
    data_source, archive = byte_source(named["file"]), Path(named["archive"])
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
    if config.engine.compile == "auto":
        # Compilers choose kernels by measuring them, so the two directions could differ.
        config.engine.compile = "off"
    documents = open_source(data_source, config.data.field, config.data.split)
    if documents.tokens and documents.tokens.records:
        raise UsageError(
            f"{named['file']} has its ids in records, and its files do not follow from those: save the ids with "
            "numpy.save and compress tokens:FILE.npy, or compress the files themselves without tokens:"
        )
    pack_names(documents.names)
    if documents.expected_bytes is not None and documents.expected_bytes <= SURELY_STORED_BYTES:
        if is_rank_0():
            for note in documents.notes:
                print(f"onepass: {note}", file=sys.stderr)
            store(documents, archive)
        return

    run_dir = Path(config.run.dir)
    with join_ranks(config, extra, resume_remedy, chooser) as session:
        books = Books(session, choice=chooser.choice)
        corpus = prepare_corpus(session)
        books.measure(corpus)
        source = EncodingSource(corpus_source(session, corpus, {}), run_dir / BLOCKS, session.place)
        with Run(session, corpus.tokenizer, source) as run:
            outcome = books.follow(run)
            if books.kept:
                write_coded(archive, session, corpus, books.code, outcome)
                for done in (CHECKPOINTS, BLOCKS):
                    shutil.rmtree(run_dir / done, ignore_errors=True)
                books.close(outcome)
    disconnect()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
