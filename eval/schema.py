"""report.json: the contract with other programs. The types below are the file, key by key."""

import math
from pathlib import Path
from typing import Annotated, Any, NotRequired

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from data.errors import UsageError
from data.files import first_complaint, read_json

FORMAT = 1
LIMIT_BYTES = 1 << 20

Count = Annotated[int, Field(ge=0)]
Amount = Annotated[float, Field(ge=0)]


class Corpus(TypedDict):
    name: str
    bytes: Annotated[int, Field(gt=0)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    documents: Count
    tokens: Count


class Model(TypedDict):
    block: str
    width: Count
    depth: Count
    parameters: Count
    parameters_non_embedding: Count


class DescriptionLengthSection(TypedDict):
    data_bits: Amount
    code_bits: Amount
    tokenizer_bits: Amount
    side_bits: Amount
    # Part of side_bits, and only where a run was warm-started.
    warm_start_bits: NotRequired[Amount]
    total_bits: Annotated[float, Field(gt=0)]
    bits_per_byte: Amount
    data_bits_per_byte: Amount
    compression_ratio: Amount


class Coded(TypedDict):
    tokens: Count
    bytes: Count


# All of them, or none where they were not measured.
BaselineSizes = TypedDict(
    "BaselineSizes",
    {"gzip-9": Count, "bzip2-9": Count, "xz-9e": Count, "zstd-22": Count, "brotli-11": Count, "ppmd": Count},
    total=False,
)


# Codes whose length is known by counting, in bytes: eval/reference_codes.py.
References = TypedDict(
    "References",
    {
        "oracle": Annotated[float, Field(ge=0, le=0)],
        "order-2": Amount,
        "order-0": Amount,
        "untrained": Amount,
        "uniform": Amount,
    },
)


class Cost(TypedDict):
    world_size: Count
    optimizer_steps: Count
    elapsed_secs: Amount
    tokens_per_sec: Amount
    model_flops: Amount
    # Left out where the model has operators whose arithmetic is not known: `uncounted` names them.
    mfu: NotRequired[Amount]
    uncounted: NotRequired[list[str]]
    # What MFU is made of (train/cost.py). Reports of before 2026-11-28 have none.
    mfu_6n: NotRequired[Amount]
    elementwise_flops: NotRequired[Amount]
    peak_flops_per_sec: NotRequired[Amount]
    peak_shape: NotRequired[list[Count]]
    peak_dtype: NotRequired[str]
    device: NotRequired[str]
    peak_memory_bytes: Count


class Code(TypedDict):
    modules: list[str]
    source_bytes: Count
    canonical_bytes: Count
    xz_bytes: Count


class Device(TypedDict):
    """What rank 0 ran on, with so many ranks in all and threads a rank; `kind` is cpu or cuda."""

    name: str
    kind: str
    world_size: Count
    threads: Count
    precision: str


class Commit(TypedDict):
    """Of the code; `changed` says whether tracked files differed from it."""

    hash: Annotated[str, Field(pattern="^[0-9a-f]{40,64}$")]
    changed: bool


# Its sections inherit this.
@with_config(ConfigDict(extra="forbid", strict=True, allow_inf_nan=False))
class Report(TypedDict):
    format: Annotated[int, Field(ge=FORMAT, le=FORMAT)]
    corpus: Corpus
    model: Model
    description_length: DescriptionLengthSection
    coded: Coded
    baselines: BaselineSizes
    # Only when the baselines are extrapolated: how many bytes at the start of the corpus they were measured on.
    baselines_measured_bytes: NotRequired[Count]
    # Reports of before 2026-11-26 have none.
    references: NotRequired[References]
    # As that of the baselines.
    references_measured_bytes: NotRequired[Count]
    cost: Cost
    code: Code
    reference_machine: dict[str, str]
    # Packages beyond the reference machine that were declared to be part of it, with their versions.
    reference_packages: NotRequired[dict[str, str]]
    # What was run. Reports of before 2026-11-28 do not say. `deepspeed` are the user's keys, if there were any, and
    # `commit` is null where the code is not in a git checkout.
    config: NotRequired[dict[str, dict[str, Any]]]
    deepspeed: NotRequired[dict[str, Any]]
    command: NotRequired[str]
    commit: NotRequired[Commit | None]
    device: NotRequired[Device]


_SHAPE = TypeAdapter(Report)


def load_report(path: Path) -> Report:
    """Read and check a report.json. Raises UsageError, one line naming the file and what is wrong in it."""
    report = read_json(path, _SHAPE, LIMIT_BYTES)
    try:
        check_sums(report)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
    return report


def finished_report(run: Path) -> Report:
    """The report of a run.dir. Raises UsageError if the run is not finished, or its report is damaged."""
    if not (run / "report.json").exists():
        raise UsageError(f"{run} holds no finished run: a run has a report.json once its epoch is done")
    return load_report(run / "report.json")


def check_report(report: Any) -> Report:
    """The report, if its keys, types and sums are right. Raises UsageError otherwise."""
    try:
        checked = _SHAPE.validate_python(report)
    except ValidationError as error:
        raise UsageError(f"not a report: {first_complaint(error)}") from None
    check_sums(checked)
    return checked


def check_sums(report: Report) -> None:
    """Raise UsageError unless all of the corpus was coded and the numbers follow from the four terms."""
    corpus, length, coded = report["corpus"], report["description_length"], report["coded"]
    if (coded["tokens"], coded["bytes"]) != (corpus["tokens"], corpus["bytes"]):
        raise UsageError(
            f"{coded['tokens']:,} tokens and {coded['bytes']:,} bytes were coded where the corpus has "
            f"{corpus['tokens']:,} and {corpus['bytes']:,}: the number means nothing"
        )
    if length.get("warm_start_bits", 0.0) > length["side_bits"]:
        raise UsageError("description_length.warm_start_bits exceed side_bits, of which they are a part")
    total_bits = length["data_bits"] + length["code_bits"] + length["tokenizer_bits"] + length["side_bits"]
    follows = {
        "total_bits": total_bits,
        "bits_per_byte": total_bits / corpus["bytes"],
        "data_bits_per_byte": length["data_bits"] / corpus["bytes"],
        "compression_ratio": 8 * corpus["bytes"] / total_bits,
    }
    for name, expected in follows.items():
        if not math.isclose(length[name], expected, rel_tol=1e-9):  # type: ignore[literal-required]
            raise UsageError(f"description_length.{name} is {length[name]}, but its terms make it {expected}")  # type: ignore[literal-required]
    if "references" in report and report["references"]["uniform"] != corpus["bytes"]:
        raise UsageError(
            f"references.uniform is {report['references']['uniform']}, but a byte takes a byte: {corpus['bytes']}"
        )
