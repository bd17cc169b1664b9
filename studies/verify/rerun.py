"""A span of a run, run again from the state before it, beside what the run kept: the nats of every token, and the state
after it.

Shapes: `R` lanes of all ranks, `T` time.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import keystr, tree_flatten_with_path

from archive.warm_start import WarmStart
from data.errors import RunFailed
from studies.verify.spans import Span, read_kept, refuted
from train.checkpoint import explain_misfit, load_checkpoint, save_checkpoint
from train.corpus import CorpusSource
from train.engine import Place
from train.ledger import Ledger
from train.loop import Learner, one_epoch
from train.nats import KeptNats
from train.run import Session
from train.saved_engine import LossScaler, load_saved

MODEL_FILE = "mp_rank_00_model_states.pt"


@dataclass(frozen=True)
class Tolerance:
    """What may differ. Of a token: nats. Of a span's bits, and of a tensor of the state by its norm: a part. Zeros ask
    for every bit of every file."""

    token_nats: float
    span_part: float
    state_part: float

    @property
    def exact(self) -> bool:
        return not self.token_nats


EXACT = Tolerance(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Token:
    """A token of the corpus by its index, and its nats as they were kept and as they come out here."""

    index: int
    kept: float
    again: float


@dataclass
class Checked:
    """A span beside what was kept of it: `tokens` of which `differing` have not the same bits, by `largest` nats at
    most; nats in all; the first token, in the order of coding, that differs by more than it may; and what is wrong with
    the state after it, or nothing. `state_part` is the largest difference of a tensor."""

    span: Span
    tokens: int = 0
    differing: int = 0
    largest: float = 0.0
    kept_nats: float = 0.0
    again_nats: float = 0.0
    first: Token | None = None
    state: str = ""
    state_part: float = 0.0
    secs: float = 0.0


class Comparing(Ledger):
    """A ledger that compares the nats it is given with those `kept`. Every rank must make the same calls; rank 0
    compares."""

    def __init__(
        self, rows: int, token_bytes: np.ndarray, place: Place, kept: KeptNats, checked: Checked, allowed: Tolerance
    ):
        super().__init__(rows, token_bytes, place)
        self.kept, self.checked, self.allowed, self.step = kept, checked, allowed, checked.span.start

    def add(self, nats: Tensor, targets: np.ndarray) -> None:
        super().add(nats, targets)
        block = self.place.gather(nats.contiguous()).numpy(force=True).astype(np.float32)  # [R, T]
        if self.place.rank == 0:
            self.compare(block)
        self.step += 1

    def compare(self, block: np.ndarray) -> None:
        checked, wrong = self.checked, []
        for lane, row in enumerate(block):
            first, last = self.kept.lanes.span(self.step, lane)
            kept, again = self.kept.nats[first:last], row[: last - first]
            checked.tokens += len(kept)
            # Bits, so that one that is no number equals itself.
            checked.differing += int((kept.view(np.uint32) != again.view(np.uint32)).sum())
            checked.kept_nats += float(kept.sum(dtype=np.float64))
            checked.again_nats += float(again.sum(dtype=np.float64))
            gaps = np.abs(kept.astype(np.float64) - again)
            checked.largest = max(checked.largest, float(gaps.max(initial=0.0)))
            # What is no number is never within.
            for place in np.flatnonzero(~(gaps <= self.allowed.token_nats))[:1].tolist():
                wrong.append((place, Token(first + place, float(kept[place]), float(again[place]))))
        if wrong and not checked.first:
            checked.first = min(wrong, key=lambda pair: pair[0])[1]


def new_learner(session: Session, vocabulary: int, start: int, warm: WarmStart | None) -> Learner:
    """As it was before the first step."""
    learner = Learner(session.config, vocabulary, start, session.place, session.extra)
    if warm:
        warm.put(learner.model, session.place)
    return learner


def run_again(
    span: Span, learner: Learner, source: CorpusSource, kept: KeptNats, token_bytes: np.ndarray, allowed: Tolerance,
    scratch: Path,
) -> Checked:  # fmt: skip
    """Run `span` again with a new learner, and compare. Every rank calls it; what it returns is known to rank 0.

    `scratch` is an empty folder that all ranks share.
    """
    began, checked = time.monotonic(), Checked(span)
    ledger = Comparing(learner.rows, token_bytes, learner.place, kept, checked, allowed)
    if span.before:
        try:
            with refuted():
                _, _, state = load_checkpoint(span.before, learner, ledger, any_world=True)
                source.restore(span.start, state)
        except RunFailed as error:
            # It is the same on every rank.
            checked.state = str(error)
            return checked
    for done in one_epoch(learner, source.lanes, source, ledger, span.start):
        if done == span.stop:
            break
    if span.after:
        save_checkpoint(scratch, learner, ledger, source.state(), span.stop, 0.0, keep=1)
        if learner.place.rank == 0:
            compare_states(span.after, scratch, checked, allowed)
    checked.secs = time.monotonic() - began
    return checked


def compare_states(kept: Path, again: Path, checked: Checked, allowed: Tolerance) -> None:
    """Say in `checked` what a state that was kept has that did not come out again."""
    try:
        there, here = read_kept(kept), read_kept(again)
        counts = [f"{one['tokens']:,} tokens and {one['bytes']:,} bytes" for one in (there, here)]
        folders = kept / Path(there["tag"]).name, again / here["tag"]
        with refuted(), explain_misfit(kept):
            if counts[0] != counts[1]:
                found = f"{counts[0]} coded, and here {counts[1]}"
            elif allowed.exact:
                found = first_other_bit(*folders)
            else:
                found = first_far_tensor(*folders, checked, allowed)
    except RunFailed as error:
        checked.state = str(error)
        return
    if found:
        checked.state = f"the state after it, {kept}, is not what comes out again: {found}"


def first_other_bit(kept: Path, again: Path) -> str:
    """The first thing in the files of a state that has not the same bits."""
    files, ours = (sorted(file.relative_to(folder) for file in folder.rglob("*.pt")) for folder in (kept, again))
    if files != ours:
        return f"the files {', '.join(map(str, files))}, and here {', '.join(map(str, ours))}"
    for file in files:
        before, now = (flat(load_saved(str(folder / file))) for folder in (kept, again))
        if wrong := [name for name in {**before, **now} if not same(before.get(name), now.get(name))]:
            return f"{file}: {wrong[0]}" + (f" and {len(wrong) - 1} more" if wrong[1:] else "")
    return ""


def first_far_tensor(kept: Path, again: Path, checked: Checked, allowed: Tolerance) -> str:
    """The first of a state's parameters and tables that differs by more than it may."""
    before, now = (load_saved(str(folder / MODEL_FILE))["module"] for folder in (kept, again))
    found = ""
    for name, tensor in now.items():
        if name not in before or before[name].shape != tensor.shape:
            return f"{name}, which is not there or has another shape"
        norm = float(tensor.double().norm())
        part = float((before[name].double() - tensor.double()).norm()) / norm if norm else 0.0
        checked.state_part = max(checked.state_part, part)
        if not part <= allowed.state_part and not found:
            found = f"{name}, by {part:.2g} of its norm"
    return found


def flat(saved: Any) -> dict[str, Any]:
    """Tensors and plain values of a saved file by their place in it."""
    return {keystr(path): leaf for path, leaf in tree_flatten_with_path(saved)[0]}


def same(a: Any, b: Any) -> bool:
    """Whether two values have the same bits."""
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        # DeepSpeed's loss scaler has no equality of its own.
        return type(a) is type(b) and (a == b or (isinstance(a, LossScaler) and vars(a) == vars(b)))
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return torch.equal(a.contiguous().flatten().view(torch.uint8), b.contiguous().flatten().view(torch.uint8))


def refuse_different(checked: Checked, allowed: Tolerance, place_of: Any) -> None:
    """Raise RunFailed for the first thing in a span that is not as it was kept. `place_of(index)` is a token's first
    byte."""
    span, token = checked.span, checked.first
    where = f"span {span.number} (steps {span.start} to {span.stop})"
    if token:
        raise RunFailed(
            f"{where}: token {token.index:,}, at byte {place_of(token.index):,} of the corpus, is kept with "
            f"{token.kept:.9g} nats and takes {token.again:.9g} when it is run again"
        )
    if not abs(checked.kept_nats - checked.again_nats) <= allowed.span_part * checked.again_nats:
        raise RunFailed(
            f"{where}: its tokens are kept with {checked.kept_nats:.9g} nats and take {checked.again_nats:.9g} when "
            "they are run again"
        )
    if checked.state:
        raise RunFailed(f"{where}: {checked.state}")
