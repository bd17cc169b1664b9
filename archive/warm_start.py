"""A run that begins with the parameters of another one, run.warm_start, instead of random ones.

A decoder has to be given them, so they are charged in full: byte planes of fp32 through xz, the shortest of what
benchmarks/not_gameable.py compares. Those bytes stay in the new run.dir, and the run begins with what they unpack to.
Tables of context mixing do not come along: they begin empty, as the optimiser and the lanes' states do.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import TypeAdapter
from torch import distributed as dist
from typing_extensions import TypedDict

from archive.weights import pack, parameters, unpack
from data.errors import UsageError
from data.files import read_json, write_file
from data.prepare import PreparedCorpus
from eval.schema import Corpus, finished_report
from model.lm import LanguageModel
from train.config import Config, DataConfig
from train.engine import Place
from train.frozen import load_frozen
from train.meta import meta_model
from train.ranks import after_rank_0, from_rank_0
from train.run import Run, Session

# In a run directory: the parameters that it began with, and what they had been trained on.
PARAMETERS_FILE = "warm_start.bin"
SEEN_FILE = "warm_start.json"
SEEN_LIMIT_BYTES = 1 << 20


class Seen(TypedDict):
    """A corpus that a run's first parameters had been trained on, and the settings that it was read with."""

    corpus: Corpus
    data: DataConfig


# pydantic checks it; typing has no TypedDict that it takes before Python 3.12.
_SEEN = TypeAdapter(list[Seen])


@dataclass(frozen=True)
class WarmStart:
    """The parameters that a run begins with, packed, and what they had seen; both on rank 0 alone."""

    packed: bytes
    seen: list[Seen]
    sha256: str

    def begin(self, run: Run, session: Session) -> None:
        """Make them the parameters that `run` begins with, unless it is resumed. Every rank calls it."""
        if session.place.rank == 0 and not session.config.run.resume:
            self.keep(Path(session.config.run.dir))
        if run.first_step == 0:
            self.put(run.learner.model, session.place)

    def keep(self, run_dir: Path) -> None:
        """Write both to a run directory."""
        seen = [{"corpus": one["corpus"].model_dump(), "data": asdict(one["data"])} for one in self.seen]
        write_file(run_dir / PARAMETERS_FILE, self.packed)
        write_file(run_dir / SEEN_FILE, json.dumps(seen, indent=1).encode())

    def put(self, model: LanguageModel, place: Place) -> None:
        """Make them the parameters of `model`, on every rank."""
        tensors = unpack(self.packed) if place.rank == 0 else []
        with torch.no_grad():
            for index, parameter in enumerate(model.parameters()):
                if place.rank == 0:
                    parameter.copy_(torch.from_numpy(tensors[index]))
                if place.world_size > 1:
                    dist.broadcast(parameter, 0)


def warm_start(session: Session, corpus: PreparedCorpus) -> WarmStart | None:
    """What the run is to begin with, or began with if it is resumed; None is chance. Every rank must call it.

    Raises UsageError if those parameters are not to be had, or do not fit.
    """
    config, place = session.config, session.place
    if not config.run.warm_start:
        return None

    def read() -> tuple[bytes, list[Seen]]:
        if place.rank:
            return b"", []
        if config.run.resume:
            path = Path(config.run.dir) / PARAMETERS_FILE
            if not path.exists():
                raise UsageError(f"{path}, which the run began with, is gone: restore it or start a new run")
            return path.read_bytes(), seen_before(path.parent)
        return packed_parameters(config, corpus)

    packed, seen = after_rank_0(place, "warm start", read)
    return WarmStart(packed, seen, from_rank_0(place, "warm start's sha256", hashlib.sha256(packed).hexdigest()))


def packed_parameters(config: Config, corpus: PreparedCorpus) -> tuple[bytes, list[Seen]]:
    """The parameters of the finished run in config.run.warm_start, and all that they have seen."""
    folder = Path(config.run.warm_start)
    report = finished_report(folder)
    before, model, tokenizer = load_frozen(folder)
    if tokenizer.encoding != corpus.tokenizer.encoding or tokenizer.kind != corpus.tokenizer.kind:
        theirs, ours = (f"{one.kind}, {one.vocabulary:,} tokens" for one in (tokenizer, corpus.tokenizer))
        raise UsageError(
            f"run.warm_start {folder} has another tokenizer ({theirs}) than {config.data.source} has here ({ours}): "
            "its parameters mean other tokens; pieces come from the corpus, --data.tokenizer bytes is one for all"
        )
    tensors = parameters(model)
    wanted = meta_model(config.model, tokenizer.vocabulary)
    refuse_other_shapes(tensors, {name: tuple(one.shape) for name, one in wanted.named_parameters()}, folder)
    seen = [Seen(corpus=report.corpus, data=before.data), *seen_before(folder)]
    return pack(tensors, "fp32", 0, frozenset()), seen


def refuse_other_shapes(found: Mapping[str, np.ndarray], wanted: Mapping[str, tuple[int, ...]], folder: Path) -> None:
    """Raise UsageError unless the parameters of the run in `folder` are those of this run by name and shape."""
    for name in [*wanted, *found]:
        ours, theirs = wanted.get(name, "none"), found[name].shape if name in found else "none"
        if ours != theirs:
            raise UsageError(
                f"run.warm_start {folder} has {name} {theirs} and this run {ours}: give both the same model options"
            )


def seen_before(run_dir: Path) -> list[Seen]:
    """All corpora that the first parameters of the run in `run_dir` had been trained on; of a cold start, none."""
    path = run_dir / SEEN_FILE
    seen: list[Seen] = read_json(path, _SEEN, SEEN_LIMIT_BYTES) if path.exists() else []
    return seen
