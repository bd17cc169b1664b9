"""Archives on disk: of what a run coded, or of documents as they are where no model makes them shorter."""

import re
import sys
from dataclasses import replace
from pathlib import Path

from archive.encoding import coded_frames, coded_header
from archive.format import end_content, open_archive, stored_frames, write_archive
from archive.info import info
from archive.machine import machine_packages
from archive.reference_tokenizer import declared_tokenizer
from data.documents import Source
from data.lanes import Lanes
from data.names import pack_names
from data.prepare import PreparedCorpus
from data.streams import publish
from eval.code_size import CodeSize, code_identity
from train.run import Outcome, Session

# In a run's directory: the coded blocks, until the archive holds them.
BLOCKS = "blocks"


def byte_source(file: str) -> str:
    """The data.source of what is to come back byte for byte: files as they are, whatever their names say."""
    path = Path(file).expanduser()
    if not file or (not path.exists() and (file == "kjv" or file.startswith(("hf:", "raw:", "tokens:")))):
        return file
    return f"raw:{file if re.match('https?://', file) else path.absolute()}"


def write_coded(archive: Path, session: Session, corpus: PreparedCorpus, code: CodeSize, outcome: Outcome) -> None:
    """Write the archive of what a run coded, or of the documents as they are where that is shorter.

    The run has left its blocks in the folder BLOCKS of its directory. Prints what the archive's size is made of.
    """
    config, manifest, names = session.config, corpus.manifest, pack_names(corpus.source.names)
    about = {
        "method": "model",
        "corpus": {name: getattr(manifest, name) for name in ("name", "bytes", "documents", "tokens")},
        "code": code_identity(code.packed),
    }
    lanes = Lanes(manifest.tokens, config.train.lanes, config.train.segment_tokens)
    packages = machine_packages(code, config.run.reference_packages)
    tokenizer = corpus.tokenizer
    if config.run.reference_tokenizer:
        packages |= declared_tokenizer(manifest.tokenizer)
        tokenizer = replace(tokenizer, encoding=b"")
    header = coded_header(about, lanes, tokenizer, session.place.world_size, config.engine.threads, packages)
    end = end_content(manifest.sha256, outcome.data_bits)
    blocks = Path(config.run.dir) / BLOCKS
    write_archive(archive, coded_frames(header, tokenizer, code.packed, blocks, names, end))
    if archive.stat().st_size > manifest.bytes + len(names):
        archive.unlink()
        store(corpus.source, archive)
    else:
        publish(info(open_archive(archive)) + "\n")


def store(source: Source, archive: Path) -> None:
    """Write an archive that holds the documents as they are."""
    chunks = [(len(chunk), ends) for chunk, ends in source.chunks()]
    counts = {"bytes": sum(length for length, _ in chunks), "documents": sum(ends for _, ends in chunks), "tokens": 0}
    header = {"method": "stored", "corpus": {"name": source.name, **counts}}
    write_archive(archive, stored_frames(header, source.chunks(), source.names))
    print("onepass: no model makes a shorter description than the corpus itself: stored as it is", file=sys.stderr)
    publish(info(open_archive(archive)) + "\n")
