"""Coding with the frozen model of a finished run."""

import hashlib
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
import zstandard

from archive.encoding import EncodingSource, coded_frames, coded_header
from archive.format import Archive, end_content, open_archive, write_archive
from archive.machine import refuse_other_machine
from archive.reference_tokenizer import declared_tokenizer, needed_tokenizer
from archive.restoring import RestorableDecoding
from data.errors import RunFailed, UsageError
from data.lanes import Lanes
from data.output import token_chunks, write_documents
from data.shards import describe_tokenizer
from data.streams import publish
from data.tokenizer import Tokenizer
from data.tokenizer_files import read_tokenizer_file
from eval.code_size import decoder_values, measure_code
from model.lm import LanguageModel
from studies.fixed_model.options import Decode, Encode
from studies.scoring import connect_alone, one_pass, source_of, tokenize
from train.frozen import load_frozen, model_identity


def execute(options: Encode | Decode) -> None:
    if isinstance(options, Encode):
        encode(options)
    else:
        decode(options)


def encode(options: Encode) -> None:
    """Raises UsageError for what is wrong with the arguments."""
    if options.archive.exists():
        raise UsageError(f"{options.archive} exists: name another archive, or remove it")
    frozen = config, model, tokenizer = load_frozen(options.checkpoint)
    with (
        connect_alone(config.engine.threads) as place,
        tempfile.TemporaryDirectory(prefix="onepass-") as temporary,
    ):
        name, tokens, end = tokenize(options.file, tokenizer, config.data.tokenizer)
        lanes = Lanes(len(tokens), config.train.lanes, config.train.segment_tokens)
        about = {
            "method": "fixed",
            "corpus": {"name": name, "bytes": end.bytes, "documents": end.documents, "tokens": len(tokens)},
            "code": "",
            "model": model_identity(model),
        }
        folder, threads = Path(temporary), torch.get_num_threads()
        coding = EncodingSource(source_of(tokens, lanes, end.sha256), folder, place)
        data_bits = one_pass(frozen, lanes, coding, place, end.bytes)
        held, packages = tokenizer, {}
        if config.run.reference_tokenizer:
            used = read_tokenizer_file(config.data.tokenizer)
            entry = describe_tokenizer(tokenizer) | {"file": used.path.name, "file_sha256": used.sha256}
            held, packages = replace(tokenizer, encoding=b""), declared_tokenizer(entry)
        header = coded_header(about, lanes, held, 1, threads, packages)
        footer = end_content(end.sha256, data_bits)
        write_archive(options.archive, coded_frames(header, held, b"", folder, b"", footer))
    code_bytes = measure_code(decoder_values(config, tokenizer, {})).xz_bytes
    uncharged_bytes = len(tokenizer.encoding) - len(held.encoding)
    publish_sizes(end.bytes, options.archive.stat().st_size, packed_bytes(model), code_bytes, uncharged_bytes)


def decode(options: Decode) -> None:
    """Raises UsageError for what is wrong with the arguments, RunFailed for an archive that does not decode."""
    if options.file.exists():
        raise UsageError(f"{options.file} exists: name another file, or remove it")
    opened = open_archive(options.archive)
    header = opened.header
    if header["method"] != "fixed":
        raise UsageError(f"{options.archive} was not written with a fixed model: give it to launch/decompress.py")
    frozen = config, model, tokenizer = load_frozen(options.checkpoint)
    if (identity := model_identity(model)) != header["model"]:
        raise UsageError(
            f"{options.archive} was written with model {header['model'][:16]}, {options.checkpoint} holds "
            f"{identity[:16]}: name the run that wrote it"
        )
    refuse_other_tokenizer(opened, options.checkpoint, tokenizer)
    if header["threads"] != config.engine.threads:
        raise UsageError(
            f"{options.archive} was written with threads {header['threads']} and here it is {config.engine.threads}"
        )
    refuse_other_machine(header)
    corpus = header["corpus"]
    lanes = Lanes(corpus["tokens"], header["lanes"], header["segment_tokens"])
    with connect_alone(header["threads"]) as place, tempfile.TemporaryDirectory(prefix="onepass-") as folder:
        source = RestorableDecoding(opened, lanes, place, Path(folder, "tokens"))
        try:
            one_pass(frozen, lanes, source, place, corpus["bytes"])
        except UsageError as error:
            raise RunFailed(f"{options.archive}: {error}") from error
        write_documents(token_chunks(source.tokens, tokenizer), options.file, True, opened.sha256)
    publish(f"{options.file}: {corpus['bytes']:,} bytes, SHA-256 {opened.sha256} as it was")


def refuse_other_tokenizer(archive: Archive, run: Path, tokenizer: Tokenizer) -> None:
    """Raise UsageError unless the tokenizer of `run` is the one that an archive names in place of holding it."""
    needed, described = needed_tokenizer(archive), hashlib.sha256(tokenizer.encoding).hexdigest()
    if needed and not described.startswith(needed[1]):
        raise UsageError(
            f"{archive.path} was written with the tokenizer {needed[2]!r}, and {run} has another one: name the run "
            "that wrote it"
        )


def packed_bytes(model: LanguageModel) -> int:
    """What the model takes by zstd, tensor by tensor."""
    packer = zstandard.ZstdCompressor(level=12)
    tensors = (tensor.cpu().contiguous().view(torch.uint8).numpy() for tensor in model.state_dict().values())
    return sum(len(packer.compress(tensor.data)) for tensor in tensors)


def publish_sizes(
    corpus_bytes: int, archive_bytes: int, model_bytes: int, code_bytes: int, uncharged_bytes: int
) -> None:
    """Print both sizes, and that of a tokenizer that is part of the reference machine."""
    rows = {
        "corpus": corpus_bytes,
        "archive, model shared": archive_bytes,
        "model, zstd": model_bytes,
        "code": code_bytes,
        "archive, model charged": archive_bytes + model_bytes + code_bytes,
    }
    if uncharged_bytes:
        rows["tokenizer, not charged"] = uncharged_bytes
    for name, size in rows.items():
        per_byte = f"{8 * size / corpus_bytes:10.4f} bits/byte" if corpus_bytes else ""
        publish(f"{name:24}{size:14,} bytes{per_byte}")
