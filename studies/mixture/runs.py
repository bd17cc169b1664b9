"""Runs whose code lengths can be put together token by token, and what their programs take together."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.errors import UsageError
from data.lanes import Lanes
from eval.canonical import canonical_tree, written
from eval.code_size import pack, unpack
from eval.local_names import shorten_local_names
from studies.mixture import codes
from studies.scaling.runs import ComparedRun
from train.nats import SUMS_FILE, KeptNats, read_nats
from train.run_dir import CODE_FILE


@dataclass(frozen=True)
class Together:
    """`runs` that coded the same tokens in the same order, the shortest data term first, with their kept nats.

    `left_out` says of the others, by name, why they are not among them.
    """

    runs: list[ComparedRun]
    kept: list[KeptNats]
    left_out: dict[str, str]

    @property
    def lanes(self) -> Lanes:
        return self.kept[0].lanes

    def blocks(self) -> Iterator[np.ndarray]:
        """Nats [K, R, T] of each step, float64; NaN past the end of a lane."""
        lanes = self.lanes
        for step in range(lanes.steps):
            start, stop = lanes.segment(step)
            block = np.full((len(self.kept), lanes.lanes, stop - start), np.nan)
            for lane in range(lanes.lanes):
                first, last = lanes.span(step, lane)
                for row, one in zip(block[:, lane], self.kept, strict=True):
                    row[: last - first] = one.nats[first:last]
            yield block

    def coded_tokens(self) -> np.ndarray:
        """Tokens that are coded when each step ends [n]."""
        return np.cumsum([self.lanes.valid_tokens(step) for step in range(self.lanes.steps)])


def put_together(found: Sequence[ComparedRun]) -> Together:
    """The largest group of runs over one corpus that share tokens, lanes and segments. Raises UsageError if that is
    not two or more."""
    bare = [run for run in found if not (run.directory / SUMS_FILE).exists()]
    left_out = {run.name: "it kept no code lengths (run.keep_nats)" for run in bare}
    groups: dict[str, list[tuple[ComparedRun, KeptNats]]] = {}
    for run in found:
        if run.name not in left_out:
            kept = read_nats(run.directory)
            tokens = {name: value for name, value in run.settings.items() if name.startswith("data.")}
            groups.setdefault(repr((kept.lanes, run.tokenizer, tokens)), []).append((run, kept))
    chosen = max(groups.values(), key=lambda group: (len(group), -min(run.data_bits for run, _ in group)), default=[])
    chosen = sorted(chosen, key=lambda pair: pair[0].data_bits)
    for group in groups.values():
        if group[0] not in chosen:
            reason = f"it codes other tokens, or in another order, than {chosen[0][0].name}"
            left_out |= {run.name: reason for run, _ in group}
    if len(chosen) < 2:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise UsageError(
            f"it takes two runs over the same tokens, lanes and segments with kept code lengths, and there are "
            f"{len(chosen)} of {len(found)} ({reasons}): train with --run.keep_nats on"
        )
    return Together([run for run, _ in chosen], [kept for _, kept in chosen], left_out)


def program_bytes(directories: Sequence[Path]) -> int:
    """Bytes of one xz stream with the programs of all runs and of the codes that mix them. What two programs share
    costs nothing the second time: its path stands there alone."""
    parts: list[str] = []
    seen: dict[str, set[str]] = {}
    for directory in directories:
        path = directory / CODE_FILE
        if not path.exists():
            raise UsageError(f"{path} is missing, and nothing else says what program decodes this run")
        config, sources = unpack(path.read_bytes())
        parts.append(json.dumps(config, sort_keys=True, separators=(",", ":"), ensure_ascii=False))
        for name, source in sources.items():
            known = seen.setdefault(name, set())
            parts += [name, "" if source in known else source]
            known.add(source)
    tree = canonical_tree(Path(codes.__file__).read_text())
    shorten_local_names([tree])
    parts.append(written(tree))
    return len(pack("\0".join(parts)))
