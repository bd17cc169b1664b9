"""What the default is for a corpus: fields that the user has not given, by the size of the corpus, a look at its head,
and the minutes that the run may take.

The choice is the same on all machines, because it measures nothing on them. A decoder gets the configuration that
results, so this file is not charged. How it was found: research/2026-11-29-one-default-for-any-corpus.md.
"""

import json
import re
import sys
from collections.abc import Collection
from dataclasses import asdict, dataclass
from math import ceil, floor, inf, log2
from typing import Any, NamedTuple

import numpy as np

from data.documents import open_source
from data.errors import UsageError
from train.command_line import contradictions
from train.config import Config, ModelConfig
from train.engine import Place
from train.options import DEFAULTS, read_tree
from train.ranks import from_rank_0

HEAD_BYTES = 1 << 18
# A corpus whose size nobody states is read so far, to see whether it ends.
COUNTED_BYTES = 1 << 23
# Who gives one of these has chosen.
BY_HAND = {"data.tokenizer", "data.vocabulary", "model.ngram_orders", "model.network", "run.warm_start"}

# Fields that differ from the defaults. BYTES is what configs/bytes.yaml has, WIDEST what configs/enwik7.yaml has.
Fields = dict[str, Any]
PIECES: Fields = {
    "model.width": 160,
    # Pieces before the last one; long pieces and those of the lane, which say what the text at hand is about: notes on
    # contexts in research/.
    "model.ngram_lags": [[2], [2, 3], [3, 4]],
    "model.ngram_highest": [[1, 16], [1, 128]],
    "model.ngram_local": [0, 1, 2, 3],
    "train.segment_tokens": "16@0,32@0.02,64@0.3",
}
MANY_PIECES: Fields = {"data.vocabulary": 4096} | PIECES
BYTES: Fields = {
    "data.tokenizer": "bytes",
    "model.width": 96,
    "model.ngram_orders": [1, 2, 3, 4, 5, 6, 8, 12],
    "model.ngram_lags": [[2], [2, 3]],
    "model.ngram_local": [1, 2, 3],
    "model.ngram_words": 6,
    "model.ngram_embeddings": [2, 3, 0],
}
WIDE = BYTES | {"model.width": 160, "train.segment_tokens": "16@0,32@0.05,64@0.3"}
WIDEST = BYTES | {
    "model.width": 256,
    "model.ngram_rows_log2": 24,
    "train.segment_tokens": "16@0,32@0.01,64@0.1",
}
# A short corpus needs updates at its start: research/2026-11-30-whose-counts.md.
SHORT = BYTES | {"train.segment_tokens": "8@0,16@0.1,32@0.4"}
SAMPLES = BYTES | {"model.ngram_orders": [1, 2, 3], "model.ngram_words": 0, "model.ngram_embeddings": [2, 3]}


# Of the epoch. What comes later gains little by replay: research/2026-11-29-where-replay-pays.md.
MOST_REPLAY = 0.7


class Setting(NamedTuple):
    """What can be chosen: for corpora of so many bytes or more, and of fewer than so many, these fields. A million
    bytes take so many minutes of two cores, of an AMD EPYC or for plain text of an Intel Xeon, and so many more where
    the whole epoch has replay: none, where replay gains less than its code."""

    least_bytes: float
    below_bytes: float
    minutes: float
    replay_minutes: float
    fields: Fields

    def replayed(self, minutes: float) -> float:
        """The part of the epoch, in whole tenths, that can have replay if a million bytes may take so many minutes."""
        tenths = floor(10 * (minutes - self.minutes) / self.replay_minutes + 1e-9) if self.replay_minutes else 0
        return min(max(tenths / 10, 0.0), MOST_REPLAY)

    def all_minutes(self, replayed: float) -> float:
        """Of a million bytes, if so much of the epoch has replay."""
        return self.minutes + replayed * self.replay_minutes


# For each kind of corpus, the shortest description first. Plain text too short for these is taken for other data.
LADDERS: dict[str, list[Setting]] = {
    "plain text of few words": [
        # From so many bytes on, twice as many pieces save more than they take.
        Setting(4_000_000, inf, 0.55, 0.55, MANY_PIECES),
        # Below so many, no pieces have learned enough.
        Setting(700_000, 4_000_000, 0.55, 0.55, PIECES),
    ],
    "plain text of many words": [
        Setting(4_000_000, inf, 0.55, 0.55, MANY_PIECES),
        Setting(1_500_000, 4_000_000, 0.55, 0.55, PIECES),
    ],
    "text, code or other data": [
        Setting(3_000_000, inf, 2.8, 3.2, WIDEST),
        Setting(300_000, inf, 1.3, 1.5, WIDE),
        Setting(300_000, inf, 0.85, 0.7, BYTES),
        Setting(0, 300_000, 1.0, 0.0, SHORT),
    ],
    "samples": [Setting(0, inf, 0.85, 0.0, SAMPLES)],
}
FEW_WORDS, MANY_WORDS, DATA, OF_SAMPLES = LADDERS
# Spaces between letters in a byte of plain text: more than this are in Bibles, fewer in all else that was looked at.
PLAIN_SPACES = 0.115
# Different words in a word of the head: English Bibles have less, a Spanish one has more.
FEW = 0.14
# Entropy of single bytes: samples of several bytes have more, most programs less.
SAMPLES_BITS = 5.5
# Where the head has samples, their differences are counted over so much of it.
DIFFERENCES_BYTES = 1 << 16


@dataclass(frozen=True)
class Choice:
    """The `fields` that were chosen for a corpus of `bytes` (None: nobody states how many) of a `kind`, where the run
    may take so many minutes and would take about `expected_minutes` on the machine of LADDERS."""

    bytes: int | None
    kind: str
    budget_minutes: float
    expected_minutes: float | None
    fields: Fields


def choose(corpus_bytes: int | None, head: bytes, budget_minutes: float, given: Collection[str]) -> Choice:
    """The setting with the shortest description among those that take at most `budget_minutes` with replay, or else the
    fastest, with as much replay as fits, for a corpus of `corpus_bytes` that begins with `head`; without the fields
    that are `given`."""
    kind, suited = describe(head)
    size = COUNTED_BYTES if corpus_bytes is None else corpus_bytes
    # Where nobody says how many bytes there are, replay could take any time.
    allowed = budget_minutes / corpus_bytes * 1e6 if corpus_bytes else 0.0
    ladder = settings(kind, size) or settings(DATA, size)
    setting = next((one for one in ladder if one.replayed(allowed) == MOST_REPLAY), ladder[-1])
    replayed = setting.replayed(allowed)
    fields = setting.fields | suited | ({"train.replay": f"1@0,0@{replayed}"} if replayed else {})
    fields.setdefault("model.ngram_rows_log2", rows_log2(size, fields))
    fields = {name: value for name, value in fields.items() if name not in given}
    minutes = None if corpus_bytes is None else size / 1e6 * setting.all_minutes(replayed)
    return Choice(corpus_bytes, kind, budget_minutes, minutes, fields)


def settings(kind: str, size: int) -> list[Setting]:
    """Those for a kind of corpus of `size` bytes."""
    return [one for one in LADDERS[kind] if one.least_bytes <= size < one.below_bytes]


def rows_log2(size: int, fields: Fields) -> int:
    """Rows of each context's table: about two for five bytes, or two for a piece of three bytes, which may take four;
    2^24 of sixteen contexts take four gigabytes."""
    wanted = size * (2 / 5 if "data.tokenizer" in fields else 2 / 3)
    return min(max(ceil(log2(wanted + 1)), ModelConfig.ngram_rows_log2), 24)


def describe(head: bytes) -> tuple[str, Fields]:
    """The kind of what begins with `head`, and the fields that suit it alone."""
    if found := strides(head):
        return OF_SAMPLES, {"model.ngram_lags": lags(*found)}
    spaces = len(re.findall(rb"(?<=[a-z\x80-\xff]) (?=[a-z\x80-\xff])", head))
    if spaces <= PLAIN_SPACES * len(head):
        return DATA, {}
    words = head.split()
    return FEW_WORDS if len({*words}) < FEW * len(words) else MANY_WORDS, {}


def strides(head: bytes) -> list[int]:
    """Bytes of a sample, and of a row of samples, as far as `head` has such: at these distances, bytes differ by less
    than at others. Their differences have to have less entropy than bytes that follow a known one; where a sample is a
    byte, that is hardly possible, and a bit less than single bytes is enough."""
    values = np.frombuffer(head, np.uint8).astype(np.int64)
    alone = entropy_bits(values)
    after_another = entropy_bits(256 * values[:-1] + values[1:]) - alone
    values = values[:DIFFERENCES_BYTES]

    def nearest(distances: range) -> tuple[float, int]:
        differences = ((entropy_bits((values[d:] - values[:-d]) % 256), d) for d in distances)
        return min(differences, default=(9.0, 0))

    bits, sample = nearest(range(1, 9))
    limit = alone - 1 if sample == 1 else after_another if alone > SAMPLES_BITS else 0.0
    if bits > limit:
        return []
    bits, row = nearest(range(9, min(8192, len(values) // 4)))
    # Samples that are near each other differ little, too.
    return [sample, row] if bits < limit and row >= 32 else [sample]


def entropy_bits(values: np.ndarray) -> float:
    """Of the frequencies of whole numbers."""
    counts = np.bincount(values)
    shares = counts[counts > 0] / len(values)
    return float(-(shares * np.log2(shares)).sum())


def lags(sample: int, row: int = 0) -> list[list[int]]:
    """Contexts of the bytes in samples before, and in the row above, for model.ngram_lags."""
    twice = 2 * sample
    if sample == 1 and not row:
        sets = [{2}, {3}, {1, 3}, {2, 4}]
    elif not row:
        sets = [{sample}, {sample, twice}, {1, sample, twice}, {sample, twice, 3 * sample}, {1, sample + 1}, {twice}]
    elif sample == 1:
        sets = [{row}, {1, row}, {row, 2 * row}, {1, row, row + 1}, {1, row - 1, row}, {1, 2, row}]
    else:
        sets = [
            {sample},
            {row},
            {sample, row},
            {sample, 2 * sample},
            {1, sample},
            {1, sample, row},
            {1, 2, sample, row},
        ]
    return [list(one) for one in dict.fromkeys(tuple(sorted(one)) for one in sets)]


def read_head(config: Config) -> tuple[int | None, bytes]:
    """Bytes of the corpus, None where nobody states them and they are many, and those at its head. Raises UsageError if
    it cannot be read."""
    source = open_source(config.data.source, config.data.field, config.data.split)
    head, read_bytes = b"", 0
    for chunk, _ in source.chunks():
        head += chunk[: HEAD_BYTES - len(head)]
        read_bytes += len(chunk)
        if len(head) == HEAD_BYTES and (source.expected_bytes is not None or read_bytes > COUNTED_BYTES):
            return source.expected_bytes, head
    return read_bytes, head


class Chooser:
    """Changes the fields of a configuration that are not among the `given` ones, and keeps what it chose. Without
    `given`, it changes nothing."""

    def __init__(self, given: Collection[str] | None = None):
        self.given = given
        self.choice: Choice | None = None

    def __call__(self, config: Config, place: Place) -> Config:
        """`config` with what rank 0 chose. That is nothing if the corpus cannot be read, as its preparation will say,
        or if the choice contradicts what is given."""
        by_hand = self.given is None or BY_HAND & {*self.given} or config.data.source.startswith("tokens:")
        if by_hand or not config.run.budget_minutes or config.run.resume:
            return config
        found = from_rank_0(place, "choice", self.find(config) if place.rank == 0 else "")
        if not found:
            return config
        choice = Choice(**json.loads(found))
        tree = config.to_dict()
        for name, value in choice.fields.items():
            section, _, field = name.partition(".")
            tree[section][field] = value
        chosen = read_tree(tree)
        if any(contradictions(chosen)):
            return config
        self.choice = choice
        if place.rank == 0:
            print(f"onepass: chosen {choice_words(choice)}", file=sys.stderr)
        return chosen

    def find(self, config: Config) -> str:
        """The choice as JSON, empty if the corpus cannot be read."""
        assert self.given is not None
        # Recorded graphs were seen to replay on no GPU yet.
        unfit = {"train.replay"} if config.engine.graphs == "on" else set()
        try:
            found = choose(*read_head(config), config.run.budget_minutes, {*self.given} | unfit)
        except UsageError:
            return ""
        return json.dumps(asdict(found))


def choice_words(choice: Any) -> str:
    """What was chosen, and for what, in a line. `choice` has the fields of Choice."""
    size = f"more than {COUNTED_BYTES:,}" if choice.bytes is None else f"{choice.bytes:,}"
    longer = choice.expected_minutes is None or choice.expected_minutes > choice.budget_minutes
    short = ", the fastest, which takes longer" if longer else ""
    different = [f"{name} {value}" for name, value in choice.fields.items() if value != DEFAULTS[name]]
    fields = ", ".join(different) or "the defaults of all options"
    return f"for {size} bytes of {choice.kind} in {choice.budget_minutes:g} minutes{short}: {fields}"
