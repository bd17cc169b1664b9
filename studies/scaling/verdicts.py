"""Which of two things is shorter, and whether the runs show it: the one verdict of all tables, pages, files and charts.

The data term is measured with noise: another seed, or other text of the same kind, gives another one. The other terms
are exact. So a difference of totals has the interval of its data term, moved by what the other terms differ in.

Where there are several seeds, the interval is Student's, from the pooled spread of the seeds. With one seed each it is
from the corpus: both runs code the same bytes in the same order, so code lengths are paired over parts of the corpus,
and their differences drawn again in blocks (H. Künsch, "The Jackknife and the Bootstrap for General Stationary
Observations", 1989; scipy.stats.bootstrap draws single values only). It leaves out what another seed would change.
Of runs that kept the cost of every token, the parts are the lanes, as in studies/diff: each has the whole course of
learning. Of others, they are chunks of the order of coding, and the interval is too wide where a run leads early and
falls behind later.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import t as student

from eval.curve import Curve
from studies.diff.evidence import LEAST_BLOCKS, LEVEL, half_width_bits, sum_blocks
from studies.diff.power import Needed, seed_spread, seeds_needed, times_needed
from studies.scaling.kept import all_lane_bits, interval_bits, paired
from studies.scaling.laws import Interval
from studies.scaling.lines import Line, SeedGroup
from train.nats import SUMS_FILE

SAMPLES = 2000
# Fewer chunks say nothing of their own spread; more are not independent any more.
LEAST_CHUNKS, MOST_CHUNKS = 8, 64
EXACT = ("code", "tokenizer", "side")
NOT_DISTINGUISHABLE = "not distinguishable"


@dataclass(frozen=True)
class Verdict:
    """`first` beside `second` in one term, "data" or "total". The difference is first less second.

    `interval_bits` is its 95 % interval and `interval_from` says what that comes from; without one, why there is none.
    `decider` is the term that makes the measured difference what it is; empty if nobody can say which.
    """

    term: str
    first: str
    second: str
    difference_bits: float
    interval_bits: Interval | None
    interval_from: str
    decider: str

    @property
    def shorter(self) -> str:
        """The name of the shorter one; empty where the runs do not show which it is."""
        if self.interval_bits is None or self.interval_bits[0] <= 0 <= self.interval_bits[1]:
            return ""
        return self.first if self.difference_bits < 0 else self.second

    @property
    def word(self) -> str:
        """What `first` is: "shorter", "longer" or "not distinguishable"."""
        if not self.shorter:
            return NOT_DISTINGUISHABLE
        return "shorter" if self.shorter == self.first else "longer"

    @property
    def text(self) -> str:
        """ "longer", "not distinguishable", "shorter: code decides", "not distinguishable; code decides the sign"."""
        if self.decider not in EXACT:
            return self.word
        return f"{self.word}{f': {self.decider} decides' if self.shorter else f'; {self.decider} decides the sign'}"

    @property
    def span(self) -> str:
        """The difference in bytes and its interval: "+136 (−80 to +353)"."""
        difference = bytes_text(self.difference_bits)
        if self.interval_bits is None:
            return difference
        low, high = self.interval_bits
        return f"{difference} ({bytes_text(low)} to {bytes_text(high)})"

    def csv_columns(self) -> dict[str, Any]:
        """As columns of a CSV file, whose names begin with the term."""
        low, high = self.interval_bits or ("", "")
        values = {"difference_bits": self.difference_bits, "low_bits": low, "high_bits": high}
        values |= {"verdict": self.word, "decider": self.decider, "interval_from": self.interval_from}
        return {f"{self.term}_{name}": value for name, value in values.items()}

    def json_values(self) -> dict[str, Any]:
        return vars(self) | {"shorter": self.shorter or None, "verdict": self.word}


@dataclass(frozen=True)
class Standing:
    """All groups beside the one with the shortest mean total: a data and a total verdict for each of the others."""

    shortest: SeedGroup
    others: list[tuple[SeedGroup, Verdict, Verdict]]

    def sentences(self) -> list[str]:
        """What the runs show of the shortest, in words."""
        if not self.others:
            return []
        found = [f"{self.shortest.name} has the shortest total measured."]
        for name in ("data term", "total"):
            words: dict[str, list[str]] = {}
            for group, data, total in self.others:
                words.setdefault((total if name == "total" else data).word, []).append(group.name)
            # The verdicts are those of the others: what is shorter or longer than the shortest.
            parts = {"longer than that of": "shorter", f"{NOT_DISTINGUISHABLE} from": NOT_DISTINGUISHABLE}
            said = [f"{part} {list_names(words[word])}" for part, word in parts.items() if word in words]
            found.append(f"Its {name} is {' and '.join(said) or 'shorter than every other'}.")
        for term in EXACT:
            if names := [group.name for group, _, total in self.others if total.decider == term]:
                found.append(f"Beside {list_names(names)}, {term} decides.")
        return found

    def tie(self, run: str) -> str:
        """What a headline that names a run of the shortest cell adds: ", not distinguishable from b", or nothing."""
        tied = [group.name for group, _, total in self.others if not total.shorter]
        of_shortest = any(one.name == run for one in self.shortest.runs)
        return f", {NOT_DISTINGUISHABLE} from {list_names(tied, 2)}" if tied and of_shortest else ""

    def needed(self) -> list[str]:
        """What it would take to tell the shortest from those that it is not distinguishable from, in words."""
        groups = [self.shortest, *(group for group, _, _ in self.others)]
        corpus_bytes, spread = self.shortest.runs[0].report.corpus.bytes, seed_spread(group.seeds() for group in groups)
        found = []
        for group, data, _ in self.others:
            if not data.shorter and (text := need(group, self.shortest, spread).text(corpus_bytes)):
                found.append(f"{group.name}: {text}")
        if not found:
            return []
        return ["To tell these data terms from the shortest's in 80 % of cases, if they differ as measured:", *found]

    def method(self) -> list[str]:
        """What the intervals are worth, in words."""
        sources = dict.fromkeys(data.interval_from for _, data, _ in self.others)
        found = [f"The 95 % intervals are from {'; '.join(sources)}."]
        if any("one seed each" in source for source in sources):
            found.append("Where there is one seed each, another seed may move a difference by more than its interval.")
        return [*found, "Each interval is for one pair: of twenty pairs that are equal, one seems to differ by chance."]


def standing_of(lines: Iterable[Line]) -> Standing:
    """Each group of the lines beside the one of the shortest mean total, shortest first.

    Runs of one seed and one configuration differ in their code or their machine, so each of them is a group.
    """
    groups: list[SeedGroup] = []
    for group in (group for line in lines for group in line.groups):
        repeated = len(group.seeds()) < len(group.runs)
        groups += [SeedGroup(run.name, [run]) for run in group.runs] if repeated else [group]
    shortest, *others = sorted(groups, key=lambda group: group.mean("total_bits"))
    return Standing(shortest, [(group, *compare(group, shortest)) for group in others])


def compare(first: SeedGroup, second: SeedGroup) -> tuple[Verdict, Verdict]:
    """Of the data term and of the total."""
    apart = {term: first.mean(f"{term}_bits") - second.mean(f"{term}_bits") for term in ("data", *EXACT)}
    return verdicts(first.name, second.name, apart.pop("data"), apart, *difference_half_width(first, second))


def verdicts(
    first: str,
    second: str,
    data_bits: float,
    exact_bits: dict[str, float],
    half_width: float | None,
    interval_from: str,
) -> tuple[Verdict, Verdict]:
    """Of the data term and of the total, from their differences in bits and the half width of the interval."""

    def of(term: str, difference: float, decider: str) -> Verdict:
        interval = None if half_width is None else (difference - half_width, difference + half_width)
        return Verdict(term, first, second, difference, interval, interval_from, decider)

    data = of("data", data_bits, "data")
    rest_bits = sum(exact_bits.values())
    total_bits = data_bits + rest_bits
    decider = "data" if data.shorter else ""
    # The exact terms decide where they outweigh a data term that shows nothing, or the opposite.
    if rest_bits * total_bits > 0 and (
        data_bits * total_bits <= 0 or (not data.shorter and abs(rest_bits) > abs(data_bits))
    ):
        decider = max(exact_bits, key=lambda term: exact_bits[term] * np.sign(total_bits))
    return data, of("total", total_bits, decider)


def difference_half_width(first: SeedGroup, second: SeedGroup) -> tuple[float | None, str]:
    """Half of the 95 % interval of the difference of two groups' mean data bits, and where it comes from; None and the
    reason where there is nothing to estimate it from."""
    seeds = first.seeds(), second.seeds()
    counts = [len(values) for values in seeds]
    freedom = sum(counts) - 2
    if freedom:
        pooled = np.sqrt(sum(((values - values.mean()) ** 2).sum() for values in seeds) / freedom)
        error = pooled * np.sqrt(1 / counts[0] + 1 / counts[1])
        return float(student.ppf((1 + LEVEL) / 2, freedom) * error), f"{counts[0]} and {counts[1]} seeds"
    one, other = first.runs[0], second.runs[0]
    kept, same_bytes = all_lane_bits([one, other]), paired(one, other)
    if kept is not None and kept.shape[1] >= LEAST_BLOCKS:
        blocks = sum_blocks(kept[0] - kept[1])
        half = half_width_bits(blocks)
        return None if half is None else float(half), f"{len(blocks)} lanes, one seed each"
    differences = chunk_differences(one.curve, other.curve, same_bytes)
    if len(differences) < LEAST_CHUNKS:
        return None, f"nothing: one seed each, and curves of fewer than {LEAST_CHUNKS} points in common"
    same = "" if same_bytes else " that are not the same bytes"
    return bootstrap_half_width(differences), f"{len(differences)} chunks of the corpus{same}, one seed each"


def need(first: SeedGroup, second: SeedGroup, seed_part: float | None) -> Needed:
    """What it takes to tell two groups apart, where a seed's data bits vary by this part of them."""
    one, other = first.runs[0], second.runs[0]
    difference = first.mean("data_bits") - second.mean("data_bits")
    seeds = None if seed_part is None else seeds_needed(difference, seed_part * second.mean("data_bits"))
    times = None
    if paired(one, other) and all((run.directory / SUMS_FILE).exists() for run in (one, other)):
        times = times_needed(interval_bits(one.directory) - interval_bits(other.directory))
    return Needed(seeds, times)


def chunk_differences(first: Curve, second: Curve, paired: bool) -> np.ndarray:
    """Data bits of first less second in each of `MOST_CHUNKS` contiguous chunks or fewer of the order of coding, which
    are as long as their points allow: float64 [chunks]. `paired` curves are cut where both have a point."""
    ends = np.intersect1d(first.coded_bytes, second.coded_bytes) if paired else np.zeros(0)
    count = min(MOST_CHUNKS, len(first.coded_bytes), len(second.coded_bytes), len(ends) if paired else MOST_CHUNKS)
    wanted = first.coded_bytes[-1] * np.arange(1, count + 1) / count
    cuts = np.unique(ends[np.abs(ends - wanted[:, None]).argmin(1)]) if paired else wanted
    bits = [
        np.interp(cuts, np.append(0, curve.coded_bytes), np.append(0, curve.data_bits)) for curve in (first, second)
    ]
    return np.diff(bits[0] - bits[1], prepend=0)


def bootstrap_half_width(differences: np.ndarray) -> float:
    """Half of the 95 % interval of the sum of `differences` [chunks], by drawing them again in blocks. Deterministic.

    The blocks' spread is enlarged as in a t distribution, because there are few of them.
    """
    chunks = len(differences)
    length = round(chunks ** (1 / 3))
    blocks = chunks / length
    generator = np.random.default_rng(0)
    starts = generator.integers(0, chunks - length + 1, size=(SAMPLES, int(np.ceil(blocks))))
    drawn = (starts[..., None] + np.arange(length)).reshape(SAMPLES, -1)[:, :chunks]
    error = differences[drawn].sum(1).std() * np.sqrt(blocks / (blocks - 1))
    return float(student.ppf((1 + LEVEL) / 2, blocks - 1) * error)


def bytes_text(bits: float) -> str:
    """Bits as bytes with a sign: "+1,234", "−80"."""
    return f"{bits / 8:+,.0f}".replace("-", "−")


def list_names(names: list[str], most: int = 4) -> str:
    """ "a, b and 3 others"."""
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} others"
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
