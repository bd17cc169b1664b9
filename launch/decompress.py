"""Decompress an archive: re-run the training that wrote it, decoding each token before it is learned from.

python launch/decompress.py ARCHIVE FILE                    as many ranks as wrote it: deepspeed --num_accelerators N
python launch/decompress.py ARCHIVE FILE --resume           go on after a kill
python launch/decompress.py ARCHIVE FILE --tokenizer T      where the archive needs a tokenizer of yours
python launch/decompress.py ARCHIVE --info                  what the archive holds, and what its size is made of

The archive is verified from its first byte to its last before any work. A folder or glob comes back as the folder FILE,
with the files' names; documents without names become numbered files in it. Progress is kept in FILE.partial until FILE
is whole.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
from launch import entry

entry.begin(__name__)

import argparse
import os

from archive.format import Archive, documents_of, open_archive
from archive.pins import refuse_other_world
from data.errors import RunFailed, UsageError
from data.files import refuse_long_name
from data.names import open_output, refuse_long_paths
from data.output import write_documents
from data.streams import publish
from train.launched import is_rank_0

CHECKPOINT_SECS = 600.0


def main(arguments: list[str]) -> int:
    """Returns the exit status: 0 done, 1 damaged or not decodable here, 2 bad arguments, 128 + signal after a stop."""
    return entry.exit_status(lambda: decompress(parse(arguments)))


def parse(arguments: list[str]) -> argparse.Namespace:
    """Raises UsageError for what is wrong with the arguments alone, whatever the archive holds."""
    parser = entry.Parser(description=__doc__)
    parser.add_argument("archive", type=Path, help="what launch/compress.py wrote")
    parser.add_argument("file", type=Path, nargs="?", help="where the corpus goes; must not exist")
    parser.add_argument("--info", action="store_true", help="print what the archive holds, and stop")
    parser.add_argument("--joined", action="store_true", help="write several documents one after the other in one file")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in FILE.partial")
    parser.add_argument("--embedded", action="store_true", help="run the code that is in the archive, in a fresh "
                        "interpreter, instead of the installed project; only for archives that you trust")  # fmt: skip
    parser.add_argument(
        "--tokenizer", help="the tokenizer's file, of a run with run.reference_tokenizer; --info shows which"
    )
    parser.add_argument("--threads", type=int, help="CPU threads a rank; must be what the archive was written with")
    parser.add_argument(
        "--checkpoint_secs", type=float, help=f"seconds between checkpoints (default: {CHECKPOINT_SECS:g})"
    )
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    names = ("joined", "resume", "embedded", "threads", "checkpoint_secs", "tokenizer")
    given = [name for name in names if getattr(options, name) is not parser.get_default(name)]
    if options.info:
        if options.file or given:
            extra = f"--{given[0]}" if given else str(options.file)
            raise UsageError(f"--info decodes nothing, so {extra} has no effect: leave it out")
        return options
    if options.file is None:
        raise UsageError("FILE is missing: say where the corpus is to go, or ask for --info")
    unknown_there = [name for name in given if name in ("joined", "resume", "checkpoint_secs")]
    if options.embedded and unknown_there:
        raise UsageError(
            f"--embedded runs the archive's own code, which does not know --{unknown_there[0]}: leave it out"
        )
    if options.file.exists():
        raise UsageError(f"{options.file} exists: name another file, or remove it")
    if not options.file.absolute().parent.is_dir():
        raise UsageError(f"{options.file.parent} is no folder: make it first")
    refuse_long_name(options.file.with_name(options.file.name + ".partial"))
    return options


def decompress(options: argparse.Namespace) -> int:
    """Returns the exit status. Raises RunFailed or OSError for what is wrong with the archive or the machine."""
    try:
        archive = open_archive(options.archive)
        if options.info:
            from archive.info import info

            publish(info(archive))
            return 0
        refuse_long_paths(options.file, archive.names)
        status = 0
        if archive.header["method"] != "stored":
            status = rerun(archive, options)
        elif options.tokenizer is not None:
            raise UsageError(f"{archive.path} needs no tokenizer, so --tokenizer has no effect: leave it out")
        elif is_rank_0():
            with open_output(options.file, () if options.joined else archive.names) as output:
                alone = options.joined or archive.header["corpus"]["documents"] == 1
                write_documents(documents_of(archive), output, alone, archive.sha256)
    except UsageError as error:
        # Status 2 is for arguments that cannot work whatever the archive holds.
        raise RunFailed(str(error)) from error
    if status == 0 and is_rank_0():
        tell(archive, options.file)
    return status


def rerun(archive: Archive, options: argparse.Namespace) -> int:
    """Decode by training again. Raises UsageError or OSError for what is wrong with the archive or the machine."""
    header = archive.header
    if header["method"] == "fixed":
        raise UsageError(f"{archive.path} was written with a fixed model: give it to launch/evaluate.py decode")
    refuse_other_world(header, options.threads)
    # Before PyTorch is loaded, which looks at them just then.
    os.environ.update(header["pins"])
    from archive.machine import declared_packages, refuse_other_machine
    from archive.reference_tokenizer import supply_tokenizer, whole_archive
    from archive.rerun import rerun_installed, run_embedded
    from eval.code_size import foreign_modules, unpack
    from train.own_blocks import refuse_own_blocks

    refuse_other_machine(header)
    archive = supply_tokenizer(archive, options.tokenizer)
    values, sources = unpack(archive.program)
    if options.embedded:
        with open_output(options.file, archive.names) as output, whole_archive(archive) as whole:
            return run_embedded(sources, whole, output)
    refuse_own_blocks(values, archive.path)
    if foreign := foreign_modules(archive.program, declared_packages(header["machine"])):
        raise UsageError(
            f"{archive.path} was written by other code than is installed here (it differs in {', '.join(foreign)}): "
            "check out the version that wrote it, or, if you trust the archive, run its own code with --embedded"
        )
    single_file = single(archive, options.joined)
    secs = CHECKPOINT_SECS if options.checkpoint_secs is None else options.checkpoint_secs
    return rerun_installed(archive, options.file, single_file, options.resume, secs)


def single(archive: Archive, joined: bool) -> bool:
    """Whether the output is one file."""
    return joined or (archive.header["corpus"]["documents"] == 1 and not archive.names)


def tell(archive: Archive, file: Path) -> None:
    corpus = archive.header["corpus"]
    publish(
        f"{file}: {corpus['bytes']:,} bytes, documents: {corpus['documents']:,}, SHA-256 {archive.sha256} as archived"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
