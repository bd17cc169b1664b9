"""The check of a finished run: what is compared, printed and written (options.py says how to ask for it)."""

import json
import math
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from archive.pins import refuse_unpinned
from archive.warm_start import warm_start
from data.errors import UsageError
from data.files import write_file
from data.prepare import PreparedCorpus
from data.streams import publish
from eval.layout import duration, lay_out
from eval.schema import finished_report
from studies.verify.claims import Claims, check_claims, check_model, check_rates, other_machine, read_claims
from studies.verify.options import Verify
from studies.verify.rerun import EXACT, Checked, Tolerance, new_learner, refuse_different, run_again
from studies.verify.spans import Span, draw, find_spans, missed
from train.command_line import CONFIG_FILE, load_config, read_deepspeed_config
from train.config import Config
from train.cost import Cost
from train.engine import Place, disconnect
from train.loop import Learner
from train.optim import rate_scale
from train.ranks import after_rank_0, from_rank_0
from train.run import corpus_source, explain_memory, join_ranks, leave_out_compiler, prepare_corpus

# Of a span's bits and of a parameter, elsewhere than on the run's machine.
SPAN_PART, STATE_PART = 1e-4, 0.01
CHUNK_TOKENS = 1 << 20


@dataclass(frozen=True)
class Verdict:
    """What was found: which spans there are, which were drawn by which seed and run again, and what is not as it was
    where the run was made."""

    claims: Claims
    spans: list[Span]
    seed: int
    checked: list[Checked]
    elsewhere: list[str]
    allowed: Tolerance

    @property
    def tokens(self) -> int:
        return sum(one.tokens for one in self.checked)

    @property
    def secs(self) -> float:
        return sum(one.secs for one in self.checked)


def is_portable(run: Path) -> bool:
    """Whether the run's instruction sets are pinned, which PyTorch has to find when it is loaded."""
    finished_report(run)
    return load_config(run / CONFIG_FILE).engine.portable


def execute(options: Verify, stay: bool = False) -> None:
    """Several ranks `stay` connected, as in launch.train.train.

    Raises UsageError for what cannot be verified, RunFailed for what is wrong with the run.
    """
    claims = read_claims(options.run)
    config = run_config(options, claims)
    refuse_unpinned(config.engine.portable)
    extra = read_deepspeed_config(config.engine.deepspeed_config)
    with join_ranks(config, extra, lambda config: "Start all ranks again") as session, explain_memory():
        place = session.place
        refuse_regrouping(claims, place)
        corpus = prepare_corpus(session)
        spans = find_spans(options.run, claims.kept.lanes.steps)
        after_rank_0(place, "claims", lambda: None if place.rank else check_claims(claims, corpus, spans, extra))
        if place.rank == 0:
            publish(claims_text(claims, spans))
        warm = warm_start(session, corpus)
        source = corpus_source(session, corpus, {"warm start": warm.sha256} if warm else {})
        if config.engine.kernels == "off":
            leave_out_compiler()
        # Rank 0's entropy.
        drawn_by = secrets.randbits(64) if options.seed is None else options.seed
        seed = int(from_rank_0(place, "seed", str(drawn_by)))
        chosen = draw(spans, options.spans or max(1, len(spans) // 100), seed)
        elsewhere = other_machine(claims, place)
        allowed = Tolerance(options.tolerance, SPAN_PART, STATE_PART) if elsewhere else EXACT
        token_bytes = np.array([len(piece) for piece in corpus.tokenizer.pieces])
        checked = []
        for number, span in enumerate(chosen):
            tokenizer = corpus.tokenizer
            learner = new_learner(session, tokenizer.vocabulary, tokenizer.end_of_document, warm)
            if number == 0:
                check_learner(claims, learner)
            with shared_scratch(options.scratch, place) as scratch:
                checked.append(run_again(span, learner, source, claims.kept, token_bytes, allowed, scratch))
    if place.world_size == 1 or not stay:
        disconnect()
    if place.rank == 0:
        conclude(options, Verdict(claims, spans, seed, checked, elsewhere, allowed), corpus, token_bytes)


def run_config(options: Verify, claims: Claims) -> Config:
    """The run's own, as for a run that goes on."""
    data = replace(claims.config.data, source=options.corpus or claims.config.data.source)
    return replace(claims.config, data=data, run=replace(claims.config.run, dir=str(options.run), resume=True))


def conclude(options: Verify, found: Verdict, corpus: PreparedCorpus, token_bytes: np.ndarray) -> None:
    publish(verdict_text(found))
    if options.json:
        write_file(options.json, json.dumps(as_json(found), indent=1).encode())

    def place_of(index: int) -> int:
        chunks = range(0, index, CHUNK_TOKENS)
        return sum(
            int(token_bytes[corpus.tokens.read(start, min(start + CHUNK_TOKENS, index))].sum()) for start in chunks
        )

    for one in found.checked:
        refuse_different(one, found.allowed, place_of)


def refuse_regrouping(claims: Claims, place: Place) -> None:
    """Raise UsageError where another number of ranks cannot load what the run's ranks saved."""
    world_size, stage = claims.report.cost.world_size, claims.config.engine.zero_stage
    if place.world_size != world_size and stage:
        raise UsageError(
            f"{claims.run_dir} was made by {world_size} ranks with engine.zero_stage {stage}, and this is a run of "
            f"{place.world_size}: start deepspeed --num_accelerators {world_size} launch/report.py verify"
        )


@contextmanager
def shared_scratch(parent: Path | None, place: Place) -> Iterator[Path]:
    """A new empty folder of all ranks, removed afterwards."""
    made = tempfile.mkdtemp(prefix="onepass-verify-", dir=parent) if place.rank == 0 else ""
    folder = Path(from_rank_0(place, "scratch", made))
    try:
        yield folder
    finally:
        # A rank that is ahead must not remove what another one writes: rank 0 is the last to need it.
        if place.rank == 0:
            shutil.rmtree(folder, ignore_errors=True)


def check_learner(claims: Claims, learner: Learner) -> None:
    """What the report says of the model, and the curve of learning rates. Every rank calls it."""
    lanes, cost = claims.kept.lanes, Cost(learner, claims.kept.lanes, 0.0)
    check_model(claims, cost.parameters, cost.parameters_non_embedding, 3.0 * cost.work()[0].flops)
    peak = learner.engine.optimizer.param_groups[0]["peak_lr"]
    steps = [int(row["step"]) for row in claims.rows]
    check_rates(claims, {step: peak * rate_scale(lanes.progress(step - 1), claims.config.train) for step in steps})


def claims_text(claims: Claims, spans: list[Span]) -> str:
    states = sum(span.after is not None for span in spans)
    return (
        f"{claims.run_dir}: report.json, curve.csv ({len(claims.rows):,} rows), nats.npy ({len(claims.kept.nats):,} "
        f"tokens), {states:,} kept state{'s' if states != 1 else ''}, the corpus and the code agree"
    )


def verdict_text(found: Verdict) -> str:
    """What the command prints after its work."""
    count, total = len(found.checked), len(found.spans)
    lines = [f"--seed {found.seed} draws {count:,} of {total:,} span{'s' if total != 1 else ''}", ""]
    rows = [("span", "steps", "tokens", "other bits", "largest, nats", "state after it", "s")]
    for one in found.checked:
        state = "differs" if one.state else "not kept" if not one.span.after else "the same"
        if found.elsewhere and one.span.after and not one.state:
            state = f"within {one.state_part:.1g}"
        numbers = f"{one.tokens:,}", f"{one.differing:,}", f"{one.largest:.2g}", state, f"{one.secs:.1f}"
        rows.append((f"{one.span.number}", f"{one.span.start:,} to {one.span.stop:,}", *numbers))
    lines += lay_out(rows, ">6", ">18", ">12", ">12", ">15", ">16", ">9")
    allowed = found.allowed
    lines.append("")
    if found.elsewhere:
        lines += [
            f"This is not the run's machine ({'; '.join(found.elsewhere)}). It may differ by {allowed.token_nats:g} "
            f"nats a token, {100 * allowed.span_part:g} % of a span and {100 * allowed.state_part:g} % of a parameter."
        ]
    tokens, report = len(found.claims.kept.nats), found.claims.report
    share = found.secs / report.cost.elapsed_secs
    lines.append(
        f"Run again: {100 * found.tokens / tokens:.3g} % of the tokens, in {duration(found.secs)}, "
        f"{100 * share:.3g} % of the run's time"
    )
    if count < total:
        chances = ", ".join(f"{missed(total, count, forged):.3g} if {forged:,}" for forged in forgeries(total))
        lines.append(f"Probability that such a draw shows no forged span: {chances} of the {total:,} are forged")
    return "\n".join(lines)


def forgeries(spans: int) -> list[int]:
    """How many forged spans it is said for: one, a tenth, a half of them."""
    return sorted({1, math.ceil(spans / 10), math.ceil(spans / 2)})


def as_json(found: Verdict) -> dict[str, object]:
    count, total = len(found.checked), len(found.spans)

    def span(one: Checked) -> dict[str, object]:
        place = {"number": one.span.number, "start_step": one.span.start, "stop_step": one.span.stop}
        return place | {name: value for name, value in asdict(one).items() if name != "span"}

    return {
        "format": 1,
        "run": str(found.claims.run_dir),
        "seed": found.seed,
        "spans": total,
        "elsewhere": found.elsewhere,
        "allowed": asdict(found.allowed),
        "tokens": len(found.claims.kept.nats),
        "tokens_again": found.tokens,
        "secs": found.secs,
        "run_secs": found.claims.report.cost.elapsed_secs,
        "missed": {str(forged): missed(total, count, forged) for forged in forgeries(total)},
        "checked": [span(one) for one in found.checked],
    }
