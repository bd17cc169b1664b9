"""Coding with the frozen model of a finished run.

This is the other meaning of lossless compression with a language model: both sides hold the trained model, and nothing
is learned on the way. Both sizes are told: with the model shared, and with the model charged in full.
"""

import argparse
import tempfile
from pathlib import Path

import torch
import zstandard

from archive.encoding import EncodingSource, coded_frames, coded_header
from archive.format import end_content, open_archive, write_archive
from archive.machine import refuse_other_machine
from archive.restoring import RestorableDecoding
from data.errors import RunFailed, UsageError
from data.files import output_file
from data.lanes import Lanes
from data.output import token_chunks, write_documents
from data.streams import publish
from eval.code_size import decoder_values, measure_code
from model.lm import LanguageModel
from studies.scoring import connect_alone, one_pass, source_of, tokenize
from train.engine import disconnect
from train.frozen import load_frozen, model_identity


def encode_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="is read")
    parser.add_argument("archive", type=output_file, help="is written; must not exist")
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="RUN", help="run.dir of a finished run")


def decode_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("archive", type=Path, help="is read")
    parser.add_argument("file", type=output_file, help="is written; must not exist")
    parser.add_argument(
        "--checkpoint", type=Path, required=True, metavar="RUN", help="run.dir of the run that wrote it"
    )


def encode(file: Path, archive: Path, checkpoint: Path) -> None:
    """Raises UsageError for what is wrong with the arguments."""
    if archive.exists():
        raise UsageError(f"{archive} exists: name another archive, or remove it")
    config, model, tokenizer = load_frozen(checkpoint)
    place = connect_alone(config.engine.threads)
    name, tokens, end = tokenize(file, tokenizer)
    lanes = Lanes(len(tokens), config.train.lanes, config.train.segment_tokens)
    about = {
        "method": "fixed",
        "corpus": {"name": name, "bytes": end.bytes, "documents": end.documents, "tokens": len(tokens)},
        "code": "",
        "model": model_identity(model),
    }
    with tempfile.TemporaryDirectory(prefix="onepass-") as temporary:
        folder = Path(temporary)
        coding = EncodingSource(source_of(tokens, lanes, end.sha256), folder, place)
        data_bits = one_pass(config, model, tokenizer, lanes, coding, place, end.bytes)
        threads = torch.get_num_threads()
        header = coded_header(about, lanes, tokenizer, 1, threads, {})
        footer = end_content(end.sha256, data_bits)
        write_archive(archive, coded_frames(header, tokenizer, b"", folder, b"", footer))
    tell(archive, end.bytes, model, measure_code(decoder_values(config, tokenizer, {})).xz_bytes)
    disconnect()


def decode(file: Path, archive: Path, checkpoint: Path) -> None:
    """Raises UsageError for what is wrong with the arguments, RunFailed for an archive that does not decode."""
    if file.exists():
        raise UsageError(f"{file} exists: name another file, or remove it")
    opened = open_archive(archive)
    header = opened.header
    if header["method"] != "fixed":
        raise UsageError(f"{archive} was not written with a fixed model: give it to launch/decompress.py")
    config, model, tokenizer = load_frozen(checkpoint)
    if (identity := model_identity(model)) != header["model"]:
        raise UsageError(
            f"{archive} was written with model {header['model'][:16]}, {checkpoint} holds {identity[:16]}: name the "
            "run that wrote it"
        )
    if header["threads"] != config.engine.threads:
        raise UsageError(
            f"{archive} was written with threads {header['threads']} and here it is {config.engine.threads}"
        )
    refuse_other_machine(header)
    place = connect_alone(header["threads"])
    lanes = Lanes(header["corpus"]["tokens"], header["lanes"], header["segment_tokens"])
    with tempfile.TemporaryDirectory(prefix="onepass-") as folder:
        source = RestorableDecoding(opened, lanes, place, Path(folder, "tokens"))
        try:
            one_pass(config, model, tokenizer, lanes, source, place, header["corpus"]["bytes"])
        except UsageError as error:
            raise RunFailed(f"{archive}: {error}") from error
        write_documents(token_chunks(source.tokens, tokenizer), file, True, opened.sha256)
    publish(f"{file}: {header['corpus']['bytes']:,} bytes, SHA-256 {opened.sha256} as it was")
    disconnect()


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
        publish(f"{name:24}{size:14,} bytes{per_byte}")
