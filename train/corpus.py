"""The corpus of a run: its preparation, what identifies it, and the source of tokens that reads it."""

import hashlib
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from data.errors import UsageError
from data.lanes import Lanes
from data.prepare import Job, PreparedCorpus, locate, prepare
from train.config import DataConfig
from train.engine import local_ranks
from train.loop import Learner, TokenSource


class ResumableSource(TokenSource, Protocol):
    """A source of tokens whose progress can be put in a checkpoint: tensors and plain values."""

    lanes: Lanes

    def state(self) -> dict[str, Any]: ...

    def restore(self, step: int, state: dict[str, Any]) -> None: ...


class CorpusSource:
    """Training: the tokens of a prepared corpus, read with `read(start, stop)`."""

    def __init__(self, lanes: Lanes, share: range, read: Callable[[int, int], np.ndarray], identity: dict[str, str]):
        """`identity` holds the SHA-256 of what must not change on the way, such as the corpus, by name."""
        self.lanes, self.share, self.read, self.identity = lanes, share, read, identity

    def segment(self, step: int, learner: Learner) -> np.ndarray:
        return self.lanes.targets(step, self.share, self.read)

    def state(self) -> dict[str, Any]:
        return {"identity": self.identity}

    def restore(self, step: int, state: dict[str, Any]) -> None:
        for name in {**self.identity, **state["identity"]}:
            before, now = state["identity"].get(name), self.identity.get(name)
            if before != now:
                raise UsageError(
                    f"the {name} had SHA-256 {before} when the run began and has {now} now: put it back, or start "
                    "a new run"
                )


def prepare_data(data: DataConfig, progress: bool, hosts: int = 1) -> PreparedCorpus:
    """The corpus that `data` names, as tokens. Of so many `hosts`, this is the one in charge (data/shared_making.py).
    Raises UsageError if it cannot be."""
    return prepare(**options_of(data), progress=progress, hosts=hosts)


def locate_data(data: DataConfig) -> Job:
    """What prepare_data would do, or has done. Raises UsageError."""
    return locate(**options_of(data))


def options_of(data: DataConfig) -> dict[str, Any]:
    """What data/prepare.py is to know of a DataConfig."""
    names = (
        "source", "field", "split", "tokenizer", "vocabulary", "tokenizer_sample_bytes", "token_ids", "cache_dir",
        "workers", "stream",
    )  # fmt: skip
    return {name: getattr(data, name) for name in names} | {"readers": local_ranks()}


def identify(corpus: PreparedCorpus) -> dict[str, str]:
    """SHA-256 of all that a resumed run must find as it was."""
    shards = "".join(shard.sha256 for shard in corpus.manifest.shards)
    tokenizer = corpus.tokenizer.encoding
    return {
        "corpus": corpus.manifest.sha256,
        "tokenizer": hashlib.sha256(tokenizer).hexdigest(),
        "token stream": hashlib.sha256(shards.encode()).hexdigest(),
    }
