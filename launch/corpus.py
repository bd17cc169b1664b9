"""The corpus of a run: prepared, measured, and held against what the run began with."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from data.errors import UsageError
from data.files import refuse_long_name
from data.prepare import PreparedCorpus, prepare
from data.tokenizer import Tokenizer
from eval.baselines import Baselines, cached_baselines
from eval.code_size import code_identity, foreign_modules, measure_code, unpack
from eval.reference_codes import ReferenceCodes, cached_codes, reference_codes
from train.command_line import CONFIG_FILE, MAY_CHANGE
from train.config import BYTE_SYMBOLS, Config, DataConfig
from train.engine import Place
from train.run import LOCK_FILE

# In a run directory: the packed code that the run began with.
CODE_FILE = "code.lzma"


def prepared(data: DataConfig, progress: bool) -> PreparedCorpus:
    """The corpus that `data` names, as tokens. Raises UsageError if it cannot be."""
    return prepare(
        source=data.source,
        field=data.field,
        split=data.split,
        tokenizer=data.tokenizer,
        vocabulary=data.vocabulary,
        tokenizer_sample_bytes=data.tokenizer_sample_bytes,
        cache_dir=data.cache_dir,
        workers=data.workers,
        progress=progress,
    )


def prepare_corpus(config: Config, place: Place, extra: dict[str, Any]) -> PreparedCorpus:
    """The corpus as tokens; `extra` are the user's DeepSpeed keys.

    Raises UsageError if the corpus cannot be prepared, or if the run directory is another run's.
    """
    run_dir = Path(config.run.dir)
    if any("\ud800" <= character <= "\udfff" for character in str(run_dir)):
        raise UsageError(f"run.dir {run_dir} is not UTF-8, and TensorBoard writes no files in such: name another")
    refuse_long_name(run_dir)
    # Rank 0 alone looks: by the time that others get here, it may have written there itself.
    # A run that died before it had a configuration left nothing that could be resumed, or that is worth keeping.
    stillborn = (run_dir / LOCK_FILE).exists() and not (run_dir / CONFIG_FILE).exists()
    if place.rank == 0 and not config.run.resume and not stillborn and run_dir.exists() and any(run_dir.iterdir()):
        raise UsageError(f"run.dir {run_dir} is not empty: name a new one, or add --run.resume to go on with its run")
    if place.rank == 0 and config.run.resume:
        refuse_other_code(run_dir, config.run.reference_packages)
        refuse_other_settings(run_dir, config, told(config, None, extra))
    # On a host that does not share rank 0's cache, all is prepared again.
    corpus = prepared(config.data, progress=int(os.environ["LOCAL_RANK"]) == 0)
    if place.rank == 0:
        if config.run.resume:
            refuse_other_settings(run_dir, config, told(config, corpus.tokenizer, extra))
        # Minutes for a large corpus, and cached: better now than while other ranks wait in a collective.
        count(corpus)
        if config.run.baselines:
            measure(corpus)
    return corpus


def identity(corpus: PreparedCorpus) -> dict[str, str]:
    """SHA-256 of all that a resumed run must find as it was."""
    shards = "".join(shard.sha256 for shard in corpus.manifest.shards)
    tokenizer = corpus.tokenizer.encoding
    return {
        "corpus": corpus.manifest.sha256,
        "tokenizer": hashlib.sha256(tokenizer).hexdigest(),
        "token stream": hashlib.sha256(shards.encode()).hexdigest(),
    }


def told(config: Config, tokenizer: Tokenizer | None, extra: dict[str, Any]) -> dict[str, Any]:
    """The configuration that a decoder is told, with the user's DeepSpeed keys in it: what measure_code takes. Before
    there is a tokenizer, nothing about it."""
    values = config.to_dict()
    values["engine"]["deepspeed_config"] = extra
    if tokenizer is None:
        del values["data"]["tokenizer"]
    elif tokenizer.vocabulary == BYTE_SYMBOLS:
        # Also where a corpus gives no piece: a model of bytes has contexts of words, which its decoder needs.
        values["data"]["tokenizer"] = "bytes"
    return values


def refuse_other_settings(run_dir: Path, config: Config, values: dict[str, Any]) -> None:
    """Raise UsageError if a decoder would be told other `values` than when the run began, which its packed code says,
    whatever file or option they are from now."""
    begun = by_name("", unpack((run_dir / CODE_FILE).read_bytes())[0])
    # As they come back from JSON.
    now = by_name("", json.loads(json.dumps(values)))
    keys = "engine.deepspeed_config."
    for name in {**begun, **now}:
        section = name.split(".")[0]
        here = section in ("model", "train", "engine") or (name == "data.tokenizer" and name in now)
        if here and name not in MAY_CHANGE and begun.get(name) != now.get(name):
            was, is_now = (json.dumps(one[name]) if name in one else "not set" for one in (begun, now))
            where = config.engine.deepspeed_config if name.startswith(keys) else str(run_dir / CONFIG_FILE)
            raise UsageError(
                f"{name} was {was} when the run began and is {is_now} now, by {where or 'no file'} or an option: put "
                "it back, or start a new run"
            )


def by_name(prefix: str, tree: dict[str, Any]) -> dict[str, Any]:
    """The values of nested dictionaries by their dotted names."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        found |= by_name(f"{prefix}{name}.", value) if isinstance(value, dict) else {prefix + name: value}
    return found


def refuse_other_code(run_dir: Path, declared: list[str]) -> None:
    """Raise UsageError unless the run was begun by this code, as far as a decoder needs it."""
    path = run_dir / CODE_FILE
    if not path.exists():
        raise UsageError(f"{run_dir} does not say with what code it began: start a new run")
    begun = path.read_bytes()
    if foreign := foreign_modules(begun, declared):
        here = measure_code(unpack(begun)[0], declared)
        raise UsageError(
            f"{run_dir} was begun by code {code_identity(begun)[:16]} and here is {code_identity(here.packed)[:16]}, "
            f"which differs in {', '.join(foreign)}: go on with the code that began it, or start a new run"
        )


def measure(corpus: PreparedCorpus) -> Baselines:
    """The usual compressors on the corpus' own bytes."""
    manifest = corpus.manifest
    return cached_baselines(corpus.directory, manifest.sha256, corpus.read, manifest.bytes, progress=True)


def count(corpus: PreparedCorpus) -> ReferenceCodes:
    """The codes whose length is known by counting, on the corpus' own bytes."""
    manifest = corpus.manifest
    codes = cached_codes(corpus.directory, manifest.sha256, corpus.read, manifest.bytes)
    return reference_codes(codes, manifest.tokens, corpus.tokenizer.vocabulary)
