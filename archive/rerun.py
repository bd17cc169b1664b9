"""Decoding a verified archive: by training again with the installed project, or with the code in the archive."""

import lzma
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from archive.format import Archive
from archive.restoring import RestorableDecoding
from data.errors import RunFailed, Stopped, UsageError
from data.files import file_sha256, write_file
from data.lanes import Lanes
from data.names import open_output
from data.output import token_chunks, write_documents
from data.tokenizer import Tokenizer, load_tokenizer
from eval.code_size import unpack
from train.command_line import recorded_config
from train.config import Config, RunConfig
from train.engine import disconnect
from train.meta import refuse_giant
from train.run import Run, Session, join_ranks
from train.run_dir import CHECKPOINTS, last_good

# In FILE.partial: the SHA-256 of the archive that it is of.
MARK = "archive.sha256"


def rerun_installed(archive: Archive, file: Path, single: bool, resume: bool, checkpoint_secs: float) -> int:
    """Decode `archive` into `file`, or its folder. Returns the exit status.

    Raises UsageError for what is wrong with the archive, or if it does not decode on this machine.
    """
    header = archive.header
    partial = file.with_name(file.name + ".partial")
    if partial.exists() and not resume:
        raise UsageError(f"{partial} holds an unfinished decompression: add --resume to go on with it, or remove it")
    identity, mark = file_sha256(archive.path), partial / MARK
    if resume and partial.exists() and (not mark.exists() or mark.read_text() != identity):
        raise UsageError(f"{partial} is not of {archive.path}: name the archive that it is of, or remove it")
    config, extra = recorded_config(unpack(archive.program)[0])
    if (config.train.lanes, config.train.segment_tokens) != (header["lanes"], header["segment_tokens"]):
        raise UsageError(f"{archive.path}: header and configuration differ in lanes or segment_tokens")
    config.run = RunConfig(str(partial), resume, checkpoint_secs, keep_nats="off")
    try:
        tokenizer = load_tokenizer(header["tokenizer"], archive.encoding)
    except (IndexError, lzma.LZMAError):
        raise UsageError(f"{archive.path}: the tokenizer's encoding is damaged") from None
    refuse_giant(config.model, config.train, tokenizer.vocabulary, header["world_size"])
    config.engine.threads = header["threads"]
    with join_ranks(config, extra, resume_remedy) as session:
        if session.place.rank == 0:
            partial.mkdir(exist_ok=True)
            write_file(mark, identity.encode())
        return decode(archive, file, single, session, tokenizer)


def resume_remedy(config: Config) -> str:
    """What is left of a decompression that lost its ranks, and how to go on."""
    checkpoint = last_good(Path(config.run.dir) / CHECKPOINTS)
    return f"{checkpoint} Start all ranks again with the same command and --resume"


def decode(archive: Archive, file: Path, single: bool, session: Session, tokenizer: Tokenizer) -> int:
    """The same, once the ranks have met."""
    corpus, config, place = archive.header["corpus"], session.config, session.place
    partial = Path(config.run.dir)
    lanes = Lanes(corpus["tokens"], config.train.lanes, config.train.segment_tokens)
    source = RestorableDecoding(archive, lanes, place, partial / "tokens")
    try:
        with Run(session, tokenizer, source) as run:
            fixed_bytes = archive.path.stat().st_size - archive.part_bytes["payload"]
            run.go(None, 8 * fixed_bytes, corpus["bytes"])
    except (RunFailed, UsageError) as error:
        raise RunFailed(f"{archive.path}: {error}") from error
    except Stopped as stop:
        if place.rank == 0:
            print("onepass: stopped; go on with the same command and --resume", file=sys.stderr)
        return stop.status
    if place.rank == 0:
        with open_output(file, () if single else archive.names) as output:
            alone = corpus["documents"] == 1
            write_documents(token_chunks(source.tokens, tokenizer), output, single or alone, archive.sha256)
        shutil.rmtree(partial)
    disconnect()
    return 0


def run_embedded(sources: dict[str, str], archive: Path, output: Path) -> int:
    """Run the decoder that the archive carries, in a fresh interpreter that sees nothing of the installed project."""
    with tempfile.TemporaryDirectory(prefix="onepass-") as folder:
        for name, source in sources.items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source, encoding="utf-8")
        paths = [str(path.absolute()) for path in (archive, output)]
        # Archives of before 2026-11-28 have it in another place.
        decoder = "archive.decoding" if "archive/decoding.py" in sources else "train.decoding"
        command = [sys.executable, "-m", decoder, *paths]
        # Leaving by an exception ends the interpreter that was started, too.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        return subprocess.run(command, cwd=folder, check=False).returncode
