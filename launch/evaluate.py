"""What a finished run knows of other data.

python launch/evaluate.py encode FILE ARCHIVE --checkpoint RUN    code a file with the frozen model of a run
python launch/evaluate.py decode ARCHIVE FILE --checkpoint RUN    bring it back, given the same run

This is the other meaning of lossless compression with a language model: both sides hold the trained model, and nothing
is learned on the way. Both sizes are told: with the model shared, and with the model charged in full.
"""

import os
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])
os.environ.setdefault("GOMP_SPINCOUNT", "5000")  # see launch/train.py

import argparse
import tempfile
import time

import numpy as np
import torch
import zstandard

from data.archive import open_archive, write_archive
from data.batches import Position, encode_source
from data.documents import open_source
from data.lanes import Lanes
from data.output import token_chunks, write_documents
from data.tokenizer import Tokenizer
from eval.code_size import measure_code
from launch.coded_archive import coded_frames
from launch.decompress import refuse_other_machine
from launch.train import exit_status
from model.lm import LanguageModel
from train.config import Config
from train.encoding import EncodingSource
from train.engine import Place, connect, disconnect
from train.frozen import FrozenLearner, load_frozen, model_identity
from train.ledger import Ledger
from train.loop import TokenSource, one_epoch
from train.progress import Progress
from train.restoring import RestorableDecoding
from train.run import CorpusSource, RunFailed


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (first, second) in {"encode": ("file", "archive"), "decode": ("archive", "file")}.items():
        command = commands.add_parser(name, help=f"{first.upper()} to {second.upper()}")
        command.add_argument(first, type=Path, help="is read")
        command.add_argument(second, type=Path, help="is written; must not exist")
        command.add_argument("--checkpoint", type=Path, required=True, metavar="RUN", help="run.dir of a finished run")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    work = {"encode": encode, "decode": decode}[options.command]
    return exit_status(lambda: work(options.file, options.archive, options.checkpoint))


def encode(file: Path, archive: Path, run_dir: Path) -> None:
    """Raises ValueError for what is wrong with the arguments."""
    if archive.exists():
        raise ValueError(f"{archive} exists: name another archive, or remove it")
    config, model, tokenizer = load_frozen(run_dir)
    place = connect_alone(config.engine.threads)
    source = open_source(f"raw:{file}")
    end, parts = Position(), [np.empty(0, np.uint32)]
    for position, part in encode_source(source, tokenizer, Position(), 1, lambda _: None):
        end = position
        parts.append(part.astype(np.uint32))
    tokens = np.concatenate(parts)
    lanes = Lanes(len(tokens), config.train.lanes, config.train.segment_tokens)
    about = {
        "method": "fixed",
        "corpus": {"name": source.name, "bytes": end.bytes, "documents": end.documents, "tokens": len(tokens)},
        "code": "",
        "model": model_identity(model),
    }
    read = lambda start, stop: tokens[start:stop].astype(np.int64)  # noqa: E731
    with tempfile.TemporaryDirectory(prefix="onepass-") as name:
        folder = Path(name)
        coding = EncodingSource(CorpusSource(lanes, lanes.share(0, 1), read, {"corpus": end.sha256}), folder, place)
        data_bits = run(config, model, tokenizer, lanes, coding, place, end.bytes)
        threads = torch.get_num_threads()
        write_archive(archive, coded_frames(about, lanes, threads, 1, tokenizer, b"", folder, end.sha256, data_bits))
    told = config.to_dict()
    told["engine"]["deepspeed_config"] = {}
    tell(archive, end.bytes, model, measure_code(told).xz_bytes)
    disconnect(place)


def decode(file: Path, path: Path, run_dir: Path) -> None:
    """Raises ValueError for what is wrong with the arguments, RunFailed for an archive that does not decode."""
    if file.exists():
        raise ValueError(f"{file} exists: name another file, or remove it")
    archive = open_archive(path)
    header = archive.header
    if header["method"] != "fixed":
        raise ValueError(f"{path} was not written with a fixed model: give it to launch/decompress.py")
    config, model, tokenizer = load_frozen(run_dir)
    if (identity := model_identity(model)) != header["model"]:
        raise ValueError(
            f"{path} was written with model {header['model'][:16]}, {run_dir} holds {identity[:16]}: name the run that "
            "wrote it"
        )
    if header["threads"] != config.engine.threads:
        raise ValueError(f"{path} was written with threads {header['threads']} and here it is {config.engine.threads}")
    refuse_other_machine(header)
    place = connect_alone(header["threads"])
    lanes = Lanes(header["corpus"]["tokens"], header["lanes"], header["segment_tokens"])
    with tempfile.TemporaryDirectory(prefix="onepass-") as folder:
        source = RestorableDecoding(archive, lanes, place, Path(folder, "tokens"))
        try:
            run(config, model, tokenizer, lanes, source, place, header["corpus"]["bytes"])
        except ValueError as error:
            raise RunFailed(f"{path}: {error}") from error
        write_documents(token_chunks(source.tokens, tokenizer), file, True, archive.sha256)
    print(f"{file}: {header['corpus']['bytes']:,} bytes, SHA-256 {archive.sha256} as it was")
    disconnect(place)


def connect_alone(threads: int) -> Place:
    if int(os.environ.get("WORLD_SIZE", 1)) != 1:
        raise ValueError("a fixed model is run by one process: start it with python")
    return connect(threads, timeout_secs=1800)


def run(
    config: Config,
    model: LanguageModel,
    tokenizer: Tokenizer,
    lanes: Lanes,
    source: TokenSource,
    place: Place,
    corpus_bytes: int,
) -> float:
    """One pass over `source` without learning. Returns the bits it took by the parallel form."""
    learner = FrozenLearner(config, model, tokenizer.end_of_document, lanes.lanes, place)
    ledger = Ledger(lanes.lanes, np.array([len(piece) for piece in tokenizer.pieces]), place)
    start = time.monotonic()
    with Progress(corpus_bytes, 0, 0.0, shown=True) as progress:
        for _ in one_epoch(learner, lanes, source, ledger):
            bits, coded_tokens, coded_bytes = ledger.totals()
            progress.show(bits, coded_bytes, coded_tokens / (time.monotonic() - start))
    return ledger.totals()[0]


def tell(archive: Path, corpus_bytes: int, model: LanguageModel, code_bytes: int) -> None:
    """Print both accountings."""
    shared = archive.stat().st_size
    packer = zstandard.ZstdCompressor(level=12)
    model_bytes = sum(
        len(packer.compress(tensor.cpu().contiguous().view(torch.uint8).numpy().data))
        for tensor in model.state_dict().values()
    )
    charged = shared + model_bytes + code_bytes
    rows = {
        "corpus": corpus_bytes,
        "archive, model shared": shared,
        "model, zstd": model_bytes,
        "code": code_bytes,
        "archive, model charged": charged,
    }
    for name, size in rows.items():
        per_byte = f"{8 * size / corpus_bytes:10.4f} bits/byte" if corpus_bytes else ""
        print(f"{name:24}{size:14,} bytes{per_byte}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
