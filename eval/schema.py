"""A run's result, and report.json, the contract with other programs: the models below are the file, key by key.

In Python a number is `report.description_length.total_bits`. Numbers that follow from others are computed, written all
the same, and compared with the others when a file is read.
"""

import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    TypeAdapter,
    computed_field,
    model_validator,
)

from data.errors import UsageError
from data.files import read_json

FORMAT = 1
LIMIT_BYTES = 1 << 20

Count = Annotated[int, Field(ge=0)]
Amount = Annotated[float, Field(ge=0)]
Baseline = Literal["gzip-9", "bzip2-9", "xz-9e", "zstd-22", "brotli-11", "ppmd"]
# The shortest extreme first: eval/reference_codes.py.
Reference = Literal["oracle", "order-2", "order-0", "untrained", "uniform"]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Corpus(Section):
    name: str
    bytes: Annotated[int, Field(gt=0)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    documents: Count
    tokens: Count


class Model(Section):
    block: str
    width: Count
    depth: Count
    parameters: Count
    parameters_non_embedding: Count


class DescriptionLength(Section):
    """The four terms, in bits, and what follows from them: L(D) = data + code + tokenizer + side.

    J. Rae, "Compression for AGI" (2023); L. Blier and Y. Ollivier, "The Description Length of Deep Learning Models"
    (2018), arXiv:1802.07044.
    """

    # In the file, it is only in the section of the corpus.
    corpus_bytes: Annotated[int, Field(exclude=True)]
    data_bits: Amount
    code_bits: Amount
    tokenizer_bits: Amount
    # From eval/description_length.py.
    side_bits: Amount
    # Part of side_bits, and only where a run was warm-started.
    warm_start_bits: Amount = 0.0

    @computed_field  # type: ignore[prop-decorator]
    @property
    def total_bits(self) -> float:
        return self.data_bits + self.code_bits + self.tokenizer_bits + self.side_bits

    @computed_field  # type: ignore[prop-decorator]
    @property
    def bits_per_byte(self) -> float:
        return self.total_bits / self.corpus_bytes

    @computed_field  # type: ignore[prop-decorator]
    @property
    def data_bits_per_byte(self) -> float:
        return self.data_bits / self.corpus_bytes

    @computed_field  # type: ignore[prop-decorator]
    @property
    def compression_ratio(self) -> float:
        """Times that the corpus is longer than its description."""
        return 8 * self.corpus_bytes / self.total_bits

    @property
    def fixed_bits(self) -> float:
        """The terms that do not grow while the corpus is coded."""
        return self.code_bits + self.tokenizer_bits + self.side_bits


class CodedTotals(Section):
    tokens: Count
    bytes: Count


class RunCost(Section):
    world_size: Count
    optimizer_steps: Count
    elapsed_secs: Amount
    tokens_per_sec: Amount
    model_flops: Amount
    # Left out where the model has operators whose arithmetic is not known: `uncounted` names them.
    mfu: Amount | None = None
    uncounted: list[str] | None = None
    # What MFU is made of (train/cost.py). Reports from before 2026-11-28 have no such fields.
    mfu_6n: Amount | None = None
    elementwise_flops: Amount | None = None
    peak_flops_per_sec: Amount | None = None
    peak_shape: list[Count] | None = None
    peak_dtype: str | None = None
    device: str | None = None
    peak_memory_bytes: Count


class Code(Section):
    modules: list[str]
    source_bytes: Count
    canonical_bytes: Count
    xz_bytes: Count


class NetworkCode(Section):
    """What the code of a network of transformers would cost (eval/network_code.py): its own modules, and all `modules`,
    with those that it shares with other networks. It is no part of the total."""

    modules: list[str]
    own_xz_bytes: Count
    xz_bytes: Count


class Device(Section):
    """The device of rank 0, the number of ranks, and the threads of each; `kind` is cpu or cuda."""

    name: str
    kind: str
    world_size: Count
    threads: Count
    precision: str


class CorpusChoice(Section):
    """The fields that were chosen for the corpus (train/choice.py), by its bytes, null where nobody states them, by its
    kind in a word, and by the minutes that the run might take."""

    bytes: Count | None
    kind: str
    budget_minutes: Amount
    expected_minutes: Amount | None
    fields: dict[str, Any]


class OwnTokenizer(Section):
    """A tokenizer of the user's, from a file: its name, its format in words, the tokens that it has here, the bytes
    that it would have lost, each of which is a token, and the bytes of the file as xz. `uncharged_bytes` is what its
    description would cost, where the run declared it part of the reference machine."""

    file: str
    # Reports from before 2026-11-29 have no SHA-256.
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    format: str
    vocabulary: Count
    escaped_bytes: Count
    file_xz_bytes: Count
    uncharged_bytes: Count | None = None


class TokenText(Section):
    """The text of token files: the tokenizer that it was made by, and what the baselines make of it, in bytes."""

    tokenizer: str
    bytes: Count
    baselines: dict[Baseline, Count] = Field(default_factory=dict)
    baselines_measured_bytes: Count | None = None


class TokenFilesRead(Section):
    """A corpus of token files: their format in words, the ids of the vocabulary, how many ids they hold, and documents
    by their index or by data.end_token, or 0 where neither says."""

    format: str
    vocabulary: Count
    ids: Count
    documents: Count
    text: TokenText | None = None


class Commit(Section):
    """Of the code; `changed` says whether tracked files differed from it."""

    hash: Annotated[str, Field(pattern="^[0-9a-f]{40,64}$")]
    changed: bool


class Report(Section):
    """Fields with a default may be missing: `model_fields_set` has the others."""

    format: Annotated[int, Field(ge=FORMAT, le=FORMAT)]
    corpus: Corpus
    model: Model
    description_length: DescriptionLength
    coded: CodedTotals
    # In bytes; empty where they were not measured.
    baselines: dict[Baseline, Count]
    # Only when the baselines are extrapolated: how many bytes at the start of the corpus they were measured on.
    baselines_measured_bytes: Count | None = None
    # In bytes. Reports from before 2026-11-26 have no reference codes.
    references: dict[Reference, Amount] = Field(default_factory=dict)
    # As that of the baselines.
    references_measured_bytes: Count | None = None
    cost: RunCost
    code: Code
    reference_machine: dict[str, str]
    # Packages beyond the reference machine that were declared to be part of it, with their versions.
    reference_packages: dict[str, str] = Field(default_factory=dict)
    # Where model.network is one of transformers.
    network_code: NetworkCode | None = None
    # Where fields were left to be chosen.
    choice: CorpusChoice | None = None
    # Only where data.tokenizer names a file.
    tokenizer: OwnTokenizer | None = None
    # Only where data.source names token files.
    token_files: TokenFilesRead | None = None
    # What was run. Reports from before 2026-11-28 do not say. `deepspeed` are the user's keys, if there were any, and
    # `commit` is null where the code is not in a git checkout.
    config: dict[str, dict[str, Any]] | None = None
    deepspeed: dict[str, Any] | None = None
    command: str | None = None
    commit: Commit | None = None
    device: Device | None = None

    @model_validator(mode="wrap")
    @classmethod
    def check(cls, given: Any, build: ModelWrapValidatorHandler[Self]) -> Self:
        """Refuse a report unless the whole corpus was coded and all numbers follow from the terms."""
        length = given.get("description_length") if isinstance(given, dict) else None
        written: dict[str, Any] = {}
        if isinstance(length, dict):
            # From a file, which has the numbers that follow, and the length of the corpus only in its section.
            if "corpus_bytes" in length:
                raise UsageError("description_length.corpus_bytes is not a field")
            written = {name: length.get(name) for name in DescriptionLength.model_computed_fields}
            corpus = given.get("corpus")
            terms = {name: value for name, value in length.items() if name not in written}
            terms["corpus_bytes"] = corpus.get("bytes") if isinstance(corpus, dict) else None
            given = given | {"description_length": terms}
        report = build(given)
        report._refuse_wrong(written)
        return report

    def _refuse_wrong(self, written: dict[str, Any]) -> None:
        """`written` are the numbers that follow from others, as a file has them."""
        corpus, length, coded = self.corpus, self.description_length, self.coded
        sizes: dict[Any, float] = self.references
        assert length.corpus_bytes == corpus.bytes
        if (coded.tokens, coded.bytes) != (corpus.tokens, corpus.bytes):
            raise UsageError(
                f"{coded.tokens:,} tokens and {coded.bytes:,} bytes were coded where the corpus has "
                f"{corpus.tokens:,} and {corpus.bytes:,}: the number means nothing"
            )
        if length.total_bits <= 0:
            raise UsageError("description_length.total_bits must be above 0")
        if length.warm_start_bits > length.side_bits:
            raise UsageError("description_length.warm_start_bits exceed side_bits, of which they are a part")
        if self.tokenizer and self.tokenizer.uncharged_bytes is not None and length.tokenizer_bits:
            raise UsageError("tokenizer.uncharged_bytes and description_length.tokenizer_bits exclude each other")
        for name, value in written.items():
            expected = getattr(length, name)
            if type(value) not in (int, float) or not math.isclose(value, expected, rel_tol=1e-9):
                raise UsageError(f"description_length.{name} is {value}, but its terms make it {expected}")
        if sizes and (missing := {*get_args(Reference)} - sizes.keys()):
            raise UsageError(f"references.{min(missing)} is missing")
        for name, size_bytes in {"oracle": 0, "uniform": corpus.bytes}.items() if sizes else ():
            if sizes[name] != size_bytes:
                raise UsageError(f"references.{name} is {sizes[name]}, but it takes {size_bytes} bytes")

    def values(self) -> dict[str, Any]:
        """As report.json has them."""
        return self.model_dump(exclude_unset=True)

    def content(self) -> bytes:
        """report.json."""
        return (json.dumps(self.values(), indent=1) + "\n").encode()


def load_report(path: Path) -> Report:
    """Read and check a report.json. Raises UsageError, one line naming the file and what is wrong in it."""
    report: Report = read_json(path, TypeAdapter(Report), LIMIT_BYTES)
    return report


def finished_report(run: Path) -> Report:
    """The report of a run.dir. Raises UsageError if the run is not finished, or its report is damaged."""
    if not (run / "report.json").exists():
        raise UsageError(f"{run} holds no finished run: a run has a report.json once its epoch is done")
    return load_report(run / "report.json")
