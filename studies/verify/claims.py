"""What a finished run claims, and whether its files agree with each other, with the corpus and with the code: all that
can be checked without running it again."""

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.errors import RunFailed, UsageError
from data.files import file_sha256
from data.names import pack_names
from data.prepare import PreparedCorpus
from eval.begun import refuse_other_code, refuse_other_settings
from eval.code_size import decoder_values, reference_machine
from eval.description_length import side_bits
from eval.provenance import describe_run
from eval.schema import Report, finished_report
from studies.verify.spans import Span, read_kept, refuted
from train.checkpoint import explain_misfit
from train.command_line import CONFIG_FILE, load_config
from train.config import Config
from train.engine import Place
from train.metrics import HEADER
from train.nats import NATS_FILE, SUMS_FILE, KeptNats, read_nats, read_sums, sum_bound, wrong_lanes

CURVE_FILE = "curve.csv"
# Sums of the same numbers in another order.
SAME = 1e-12


@dataclass(frozen=True)
class Claims:
    """A finished run as its files tell it. `rows` are those of curve.csv."""

    run_dir: Path
    config: Config
    report: Report
    kept: KeptNats
    rows: list[dict[str, float]]


def read_claims(run_dir: Path) -> Claims:
    """Raises UsageError for a folder that is no finished run with kept nats; RunFailed for files that contradict
    themselves."""
    report = finished_report(run_dir)
    for name in (SUMS_FILE, NATS_FILE, CURVE_FILE, CONFIG_FILE):
        if not (run_dir / name).exists():
            remedy = ": train it with --run.keep_nats on" if name in (SUMS_FILE, NATS_FILE) else ""
            raise UsageError(f"{run_dir} holds no {name}, and nothing can be verified without it{remedy}")
    config = load_config(run_dir / CONFIG_FILE)
    with refuted():
        kept = read_nats(run_dir)
    return Claims(run_dir, config, report, kept, list(read_curve(run_dir / CURVE_FILE)))


def read_curve(path: Path) -> Iterator[dict[str, float]]:
    with path.open(newline="", encoding="utf-8") as file:
        for number, row in enumerate(csv.DictReader(file), 1):
            try:
                found = {name: float(row[name]) for name in HEADER}
            except (KeyError, TypeError, ValueError):
                found = {}
            if not found or not all(map(math.isfinite, found.values())):
                raise RunFailed(f"{path}: row {number} has not a number for each of {', '.join(HEADER)}")
            yield found


def check_claims(claims: Claims, corpus: PreparedCorpus, spans: list[Span], extra: dict[str, Any]) -> None:
    """Raise RunFailed for the first thing that is not as the files say, UsageError if this is not the corpus or not the
    code. Rank 0 calls it."""
    check_nats(claims)
    check_corpus(claims, corpus)
    check_terms(claims, corpus, extra)
    check_curve(claims, corpus)
    for span in spans:
        if span.after:
            check_ledger(claims, span)


def check_nats(claims: Claims) -> None:
    path, sums = claims.run_dir / NATS_FILE, read_sums(claims.run_dir)
    if file_sha256(path) != sums.sha256:
        raise RunFailed(f"{path} does not have the SHA-256 of {SUMS_FILE}: it was changed after the run")
    expect(claims, "coded.tokens", claims.report.coded.tokens, len(claims.kept.nats), "the tokens in nats.npy")
    length = claims.report.description_length
    expect(claims, "data_bits", length.data_bits, claims.kept.bits, "the sum of nats.npy")


def check_corpus(claims: Claims, corpus: PreparedCorpus) -> None:
    ours, theirs = corpus.manifest, claims.report.corpus
    for name in ("sha256", "bytes", "documents", "tokens"):
        if (here := getattr(ours, name)) != (there := getattr(theirs, name)):
            raise UsageError(
                f"the corpus here has {name} {here} and that of {claims.run_dir} had {there}: name that one"
            )
    expect(claims, "coded.bytes", claims.report.coded.bytes, ours.bytes, "the bytes of the corpus")


def check_terms(claims: Claims, corpus: PreparedCorpus, extra: dict[str, Any]) -> None:
    """The terms beside the data."""
    report, config, length = claims.report, claims.config, claims.report.description_length
    remedy = "check out the code of the run"
    if report.commit:
        remedy += f" ({report.commit.hash[:12]}{' with changes' if report.commit.changed else ''})"
    values = decoder_values(config, corpus.tokenizer, extra)
    code = refuse_other_code(claims.run_dir, config.run.reference_packages, remedy)
    with refuted():
        refuse_other_settings(claims.run_dir, config, values)
    expect(claims, "code_bits", length.code_bits, code.code_bits, "the code here")
    charged_bytes = 0 if config.run.reference_tokenizer else len(corpus.tokenizer.encoding)
    expect(claims, "tokenizer_bits", length.tokenizer_bits, 8.0 * charged_bytes, "the tokenizer here")
    names_bytes = len(pack_names(corpus.source.names))
    side = side_bits(corpus.manifest.tokens, report.cost.world_size, 1, names_bytes=names_bytes)
    expect(claims, "side_bits", length.side_bits - length.warm_start_bits, side, "what it is made of")


def check_curve(claims: Claims, corpus: PreparedCorpus) -> None:
    """Every row of curve.csv beside the nats that were kept and the bytes of the corpus."""
    lanes, path, rows = claims.kept.lanes, claims.run_dir / CURVE_FILE, claims.rows
    steps = [int(row["step"]) for row in rows]
    if not steps or sorted({*steps}) != steps or steps[0] < 1 or steps[-1] != lanes.steps:
        raise RunFailed(f"{path} does not go on, row by row, to step {lanes.steps}")
    offsets = np.array([0] + [lanes.segment(step - 1)[1] for step in steps])
    sizes = np.array([len(piece) for piece in corpus.tokenizer.pieces])
    nats, coded_bytes, coded = np.zeros(len(rows)), np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64)
    for lane in range(lanes.lanes):
        edges = np.minimum(lane * lanes.lane_tokens + offsets, lanes.tokens)
        first, last = int(edges[0]), int(edges[-1])
        if first < last:
            # Empty ones, past the corpus' end, would get a number of their own from reduceat.
            full = np.diff(edges) > 0
            starts = (edges[:-1] - first)[full]
            nats[full] += np.add.reduceat(claims.kept.nats[first:last].astype(np.float64), starts)
            coded_bytes[full] += np.add.reduceat(sizes[corpus.tokens.read(first, last)], starts)
            coded += np.diff(edges)
    expected = {
        "coded_bytes": coded_bytes.cumsum(),
        "coded_tokens": coded.cumsum(),
        "data_bits": nats.cumsum() / math.log(2),
    }
    expected["total_bits"] = expected["data_bits"] + claims.report.description_length.fixed_bits
    for number, row in enumerate(rows):
        for name, sums in expected.items():
            if not math.isclose(row[name], sums[number], rel_tol=max(SAME, sum_bound(lanes))):
                raise RunFailed(
                    f"{path}: row {number + 1} (step {steps[number]}) has {name} {row[name]:.12g}, and the nats, "
                    f"tokens and bytes up to there give {sums[number]:.12g}"
                )


def check_ledger(claims: Claims, span: Span) -> None:
    """The ledger in the state after a span."""
    assert span.after
    lanes, pointer = claims.kept.lanes, read_kept(span.after, hashed=False)
    offset = lanes.segment(span.stop - 1)[1]
    with refuted(), explain_misfit(span.after):
        files = sorted((span.after / Path(pointer["tag"]).name).glob("rank-*.pt"))
        parts = [torch.load(file, map_location="cpu", weights_only=True)["lane_nats"] for file in files]
        lane_nats = torch.cat(parts).tolist()
    if len(lane_nats) != lanes.lanes:
        raise RunFailed(f"the ledger in {span.after} has {len(lane_nats)} lanes, and the run has {lanes.lanes}")
    if wrong := wrong_lanes(claims.kept.nats, lanes, lane_nats, offset):
        raise RunFailed(f"the ledger in {span.after} has other nats of lane {wrong[0]} than nats.npy up to there")
    coded = sum(lanes.valid_tokens(step) for step in range(span.stop))
    if pointer["tokens"] != coded:
        raise RunFailed(f"{span.after} says that {pointer['tokens']:,} tokens were coded, and they are {coded:,}")


def check_model(claims: Claims, parameters: int, non_embedding: int, model_flops: float) -> None:
    """What the report says of the model, beside the model itself."""
    report, here = claims.report, "the model here"
    expect(claims, "model.parameters", report.model.parameters, parameters, here)
    expect(claims, "model.parameters_non_embedding", report.model.parameters_non_embedding, non_embedding, here)
    expect(claims, "cost.model_flops", report.cost.model_flops, model_flops, here)


def check_rates(claims: Claims, rates: dict[int, float]) -> None:
    """The column of learning rates, by step."""
    for number, row in enumerate(claims.rows, 1):
        step = int(row["step"])
        if not math.isclose(row["learning_rate"], rates[step], rel_tol=SAME):
            path = claims.run_dir / CURVE_FILE
            raise RunFailed(
                f"{path}: row {number} (step {step}) has learning_rate {row['learning_rate']:.12g}, and the schedule "
                f"gives {rates[step]:.12g}"
            )


def expect(claims: Claims, name: str, said: float, found: float, source: str) -> None:
    if not math.isclose(said, found, rel_tol=SAME):
        path = claims.run_dir / "report.json"
        raise RunFailed(f"{path}: {name} is {said:,.12g}, and {source} comes to {found:,.12g}")


def other_machine(claims: Claims, place: Place) -> list[str]:
    """What is not as it was where the run was made, and may change the last bits: empty on the same machine."""
    report, found = claims.report, []
    here: dict[str, Any] = reference_machine()
    here |= describe_run(claims.config, {}, place.device.type, place.world_size)["device"]
    there: dict[str, Any] = {**report.reference_machine, **(report.device.model_dump() if report.device else {})}
    for name, value in here.items():
        if there.get(name) != value:
            found.append(f"{name} {value}, not {there.get(name, 'said')}")
    return found
