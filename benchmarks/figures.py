"""What README and docs print, and the commands that measure it: the registry of benchmarks/published.py.

An entry is one measurement: its commands, the results file that they leave, the code that it measures, and the figures
that pages quote from the file. In commands, `{run}` is a new run's folder, `{work}` an empty one, `{enwik8}` the file
that was given, `{enwik8:N}` its first N bytes as a file, `{kjv}` the King James Bible as a file, `{stdlib}` the
modules of Python's library, `{deuterocanon}` what benchmarks/deuterocanon.py makes.
"""

import shlex

from benchmarks.measurement import (
    Entry,
    from_report,
    last_row,
    picture_checksums,
    study_terms,
    whole_enwik8,
    whole_xz,
)
from train.choice import MANY_PIECES, WIDE

TOKENIZER_STUDY = (
    "python benchmarks/tokenizer_study.py --enwik8 {enwik8} --equal parameters --engine.threads=1 --model.width=48"
)

# What the bits of a run follow from. Errors, reports and launchers are not among it.
LEARNING = (
    "model", "train/config.py", "train/loop.py", "train/optim.py", "train/ledger.py", "train/replay.py",
    "data/bpe.py", "data/lanes.py", "data/tokenizer.py",
)  # fmt: skip
CODE_TERM = (
    "eval/code_size.py", "eval/canonical.py", "eval/local_names.py", "eval/reachable.py", "eval/decoder_imports.py",
)  # fmt: skip
TOTALS = (*LEARNING, *CODE_TERM)
VERIFYING = ("train/nats.py", "train/checkpoint.py", "studies/verify")
# What the choice gives long corpora, in the part of the epoch that has long steps and replay.
LONG_STEPS = {"train.segment_tokens": 64, "train.replay": 1}
CHOSEN = [
    " ".join(shlex.quote(f"--{name}={value}") for name, value in (fields | LONG_STEPS).items())
    for fields in (MANY_PIECES, WIDE)
]
CODING = (*LEARNING, "archive/encoding.py", "archive/decoding.py", "archive/coder.py")


def rung(size: int, options: str, *, needs: tuple[str, ...] = ()) -> Entry:
    """A rung of the ladder: the first `size` bytes of enwik8."""
    options = f"--engine.threads=1 {options}"
    columns = {f"{name}_bytes": "bytes" for name in ("total", "data", "code")} | {"cpu_secs": "CPU s"}
    return Entry(
        f"ladder-{size}",
        "minutes" if size <= 1_000_000 else "hours",
        (f"python benchmarks/ladder.py {{enwik8}} --bytes {size} --label published {options}",),
        (*TOTALS, *needs),
        "ladder.csv",
        figures=last_row(columns, corpus="enwik8", bytes=str(size), options=options),
    )


ENWIK8 = "deepspeed launch/train.py --config configs/enwik8.yaml --data.source {enwik8:100000000} --run.dir {run}"
STUDY = "python launch/sweep.py --config configs/architectures.yaml --dir {work}/"
STUDY_BLOCKS = '--blocks attention,s4d,s4,ssd,gated_delta,rglru,lstm,"ssd attention"'
STUDY_GRIDS = [
    f"{STUDY}{name} --data.source {source} --jobs 2 {STUDY_BLOCKS} --widths {widths} --vocabularies {size}"
    for name, source in (("kjv", "kjv"), ("enwik8", "{enwik8:3000000}"))
    for widths, size in (("32,48,64,96", "1024"), ("32,48,64,80", "bytes"))
]
TWO_PART = (
    "deepspeed launch/train.py --config configs/architectures.yaml --model.block=attention --model.ngram_orders=[] "
    "--data.vocabulary=1024 --engine.threads=1"
)
CURVES = "python launch/train.py --run.budget_minutes 0 --engine.threads 1 --run.log_steps 1 --run.dir {work}/"
TWO_PART_RUNS = [
    f"{TWO_PART} --data.source={source} --model.width={width} --run.dir={{work}}/{name}-{width}"
    for name, source in (("kjv", "kjv"), ("enwik8", "{enwik8:3000000}"))
    for width in (16, 32, 64, 128)
]

ENTRIES = [
    # Minutes: on two cores.
    Entry(
        "kjv-default", "minutes", ("deepspeed launch/train.py --run.dir {run}",), (*TOTALS, "train/choice.py"),
        "kjv-default.json", "report.json", from_report, pictures="docs/kjv",
    ),
    Entry(
        "code-outside", "minutes", ("python benchmarks/not_gameable.py {kjv} --dir {work} --only outside",), TOTALS,
        "not_gameable.csv",
    ),
    Entry("code-terms", "minutes", ("python benchmarks/code_terms.py",), TOTALS, "code_terms.csv"),
    rung(
        100_000,
        "--config configs/bytes.yaml --train.segment_tokens=8@0,16@0.1,32@0.4",
        needs=("configs/bytes.yaml",),
    ),
    rung(
        1_000_000,
        "--config configs/bytes.yaml --model.width=160 --model.ngram_rows_log2=22 "
        "--train.segment_tokens=16@0,32@0.05,64@0.3 --train.replay=1@0,0@0.7",
        needs=("configs/bytes.yaml",),
    ),
    Entry(
        "baselines", "minutes", ("python benchmarks/baselines.py {enwik8}",), ("eval/baselines.py",), "baselines.csv",
        figures=whole_xz,
    ),
    Entry(
        "cluster-plan", "minutes", ("python benchmarks/cluster_plan.py --out",),
        ("model", "train/optim.py", "benchmarks/cluster_plan.py"), "cluster_plan.csv", scales=(1, 10**6, 10**9),
    ),
    Entry(
        "coordinate-check", "minutes", ("python benchmarks/coordinate_check.py --model.depth=2 --steps 5",),
        ("model", "train/optim.py"), "coordinate_check.txt", "stdout",
    ),
    Entry("blocks", "minutes", ("python benchmarks/blocks.py",), ("model/blocks",), "blocks.txt", "stdout"),
    Entry(
        "roofline", "minutes",
        (
            "python benchmarks/roofline.py --engine.threads=1",
            "python benchmarks/roofline.py --engine.threads=1 --train.lanes=32 --train.segment_tokens=64",
        ),
        ("model", "train/optim.py", "train/engine.py", "benchmarks/roofline.py"), "roofline.txt", "stdout",
    ),
    Entry(
        "step-profile", "minutes", ("python benchmarks/step_profile.py --engine.threads=1",),
        ("model", "train", "data/lanes.py"), "step_profile.txt", "stdout",
    ),
    Entry(
        "overhead", "minutes", ("python benchmarks/overhead.py --engine.threads=1",),
        ("model", "train", "data/lanes.py"), "overhead.txt", "stdout",
    ),
    Entry(
        "kept-nats", "minutes", ("python benchmarks/kept_nats.py --engine.threads=1",),
        ("model", "train", "data/lanes.py", "benchmarks/kept_nats.py"), "kept_nats.csv",
        figures=last_row({"secs_kept_over_not": "times", "bytes_a_token": "bytes"}),
    ),
    Entry(
        "archive-speed", "minutes",
        tuple(
            f"python benchmarks/archive.py --rounds 6 --steps 12 --engine.threads=1 {options}".rstrip()
            for options in ("", *CHOSEN)
        ),
        CODING, "archive_speed.txt", "stdout",
    ),
    Entry(
        "portable", "minutes", ("python benchmarks/portable.py --bytes 40000",), (*CODING, "archive/pins.py"),
        "portable.csv",
    ),
    Entry(
        "llama", "minutes",
        (
            "python launch/evaluate.py curve research/loss-curves/llama.csv --x billion_tokens --y 65B 33B "
            "--error uncertainty --tokens_per_step 1e9 --vocabulary 32000 --corpus_bytes 5.6e12",
        ),
        ("studies/loss_curve/command.py", "research/loss-curves/llama.csv"), "llama.txt", "stdout",
    ),
    Entry(
        "sampling", "minutes",
        (
            "deepspeed launch/train.py --run.dir {run}",
            "python launch/evaluate.py sample {run} --prompt 'Genesis 1:1 In the beginning God' --bytes 420",
            "python launch/evaluate.py sample {run} --prompt 'Genesis 1:1 In the beginning God' --bytes 420 "
            "--temperature 0.6",
            "python launch/evaluate.py sample {run} --bytes 2000",
        ),
        LEARNING, "sampling.txt", "stdout",
    ),
    Entry(
        "held-out", "minutes",
        (
            "deepspeed launch/train.py --run.dir {run}",
            "python launch/evaluate.py held-out {run} {deuterocanon}",
        ),
        LEARNING, "held_out.txt", "stdout",
    ),
    # Hours.
    rung(
        3_000_000,
        "--config configs/bytes.yaml --model.width=160 --model.ngram_rows_log2=22 "
        "--train.segment_tokens=16@0,32@0.05,64@0.3 --train.replay=1@0,0@0.7",
        needs=("configs/bytes.yaml",),
    ),
    rung(
        10_000_000,
        "--config configs/enwik7.yaml --train.replay=1@0,0@0.25",
        needs=("configs/enwik7.yaml",),
    ),
    Entry(
        "enwik8-cpu", "hours", (ENWIK8,), (*TOTALS, "configs/enwik8.yaml"), "enwik8-cpu.csv", "curve.csv",
        whole_enwik8,
    ),
    Entry(
        "defaults", "hours",
        (
            "python benchmarks/defaults.py {enwik8:1000000} --only none,mixing --engine.threads=1 "
            "--config configs/bytes.yaml",
        ),
        (*TOTALS, "configs/bytes.yaml"), "defaults.csv",
    ),
    Entry(
        "two-corpora", "hours",
        tuple(
            f"python benchmarks/ladder.py {{{name}}} --label 'two more corpora' --engine.threads=1 {options}".rstrip()
            for name in ("kjv", "stdlib")
            for options in ("", "--config configs/bytes.yaml")
        ),
        (*TOTALS, "configs/bytes.yaml"), "ladder.csv",
    ),
    Entry(
        "ranks", "hours",
        (
            "python benchmarks/ranks.py {enwik8:400000} --bytes 400000",
            "python benchmarks/ranks.py {enwik8:400000} --bytes 400000 --train.segment_tokens=128",
        ),
        ("model", "train"), "ranks.txt", "stdout",
    ),
    Entry(
        "preparation", "hours", ("python benchmarks/preparation.py --enwik8 {enwik8}",), ("data",), "preparation.csv",
    ),
    Entry(
        "preparation-speed", "minutes",
        (
            "python benchmarks/preparation_speed.py --enwik8 {enwik8} --megabytes 36 --runs 1 --tokenizers "
            "bytes,bpe,gpt2.json,gpt2.tiktoken --workers 1,2,4",
        ),
        ("data",), "preparation_speed.csv", anew=True,
    ),
    Entry(
        "tokenizer-encoding", "hours", ("python benchmarks/tokenizer_encoding.py --enwik8 {enwik8}",),
        ("data/bpe.py", "data/tokenizer.py", "benchmarks/tokenizer_encoding.py"), "tokenizer_encoding.txt", "stdout",
    ),
    Entry(
        "round-trips", "hours",
        ("python benchmarks/round_trips.py {kjv} {enwik8:1000000} --made -- --engine.threads=1",),
        CODING, "round_trips.txt", "stdout",
    ),
    Entry(
        "architectures", "hours",
        (
            *STUDY_GRIDS,
            f"{STUDY}enwik8 --data.source {{enwik8:3000000}} --jobs 2 {STUDY_BLOCKS} --widths 48 --vocabularies 1024 "
            "--seeds 1",
            "python launch/report.py {work}/kjv --out research/architectures/kjv",
            "python launch/report.py {work}/enwik8 --out research/architectures/enwik8",
            "python benchmarks/study_figure.py research/architectures/kjv research/architectures/enwik8 "
            "--out docs/scaling",
            "python benchmarks/study_tables.py research/architectures/kjv research/architectures/enwik8",
        ),
        (*TOTALS, "configs/architectures.yaml"), "architectures.txt", "stdout",
    ),
    Entry(
        "own-block", "minutes", ("python benchmarks/own_block.py",),
        (*TOTALS, "model/adapter.py", "benchmarks/own_block.py"), "own_block.csv",
    ),
    Entry(
        "gallery", "minutes", ("python benchmarks/gallery.py",),
        ("benchmarks/gallery.py", "eval/plots.py", "eval/templates", "studies/scaling/templates", "train/metrics.py"),
        "gallery.csv", figures=picture_checksums,
    ),
    Entry(
        "networks", "minutes", ("python benchmarks/networks.py",), (*TOTALS, "train/networks.py"), "networks.csv",
        anew=True,
    ),
    Entry(
        "tokenizer-study", "hours",
        (
            "python benchmarks/tokenizer_study.py --tokenizers "
            "bytes,bpe:512,bpe:2048,bpe:8192,mistral-v1.model,gpt2.json --enwik8 {enwik8} --engine.threads=1 "
            "--model.width=48",
        ),
        (*TOTALS, "data/describe.py", "data/joins.py"), "tokenizer_study.csv", figures=study_terms, anew=True,
    ),
    Entry(
        "tokenizer-seeds", "hours",
        tuple(
            f"{TOKENIZER_STUDY} --tokenizers bytes,bpe:512,bpe:2048,bpe:8192 --results tokenizer_seeds "
            f"--train.seed={seed}"
            for seed in range(3)
        ),
        (*TOTALS, "data/describe.py"), "tokenizer_seeds.csv", anew=True,
    ),
    Entry(
        "tokenizer-long", "hours",
        (
            f"{TOKENIZER_STUDY} --tokenizers bpe:2048,bpe:8192,bpe:65536 --results tokenizer_long --corpora enwik8 "
            "--bytes 4000000",
        ),
        (*TOTALS, "data/describe.py"), "tokenizer_long.csv", figures=study_terms, anew=True,
    ),
    Entry(
        "vocabularies", "minutes",
        ("python benchmarks/vocabularies.py --steps 4 --engine.threads=1 --model.width=32",),
        ("model/lm.py", "model/parts.py", "train/loop.py"), "vocabularies.csv", anew=True, scales=(1, 1_000_000),
    ),
    Entry(
        "carried-context", "hours", ("python benchmarks/carried_context.py {enwik8:3000000}",), LEARNING,
        "carried_context.csv", anew=True,
    ),
    Entry(
        "learning-rates", "hours",
        (
            "python benchmarks/learning_rates.py {enwik8:3000000} --train.lanes=16 --train.segment_tokens=64 "
            "--model.depth=2 --model.head_width=16 --engine.threads=1",
        ),
        LEARNING, "learning_rates.csv", anew=True,
    ),
    Entry(
        "generalisation", "hours", ("python benchmarks/generalisation.py {enwik8:100000000} {work}",),
        (*LEARNING, "studies/generalisation/correlation.py"), "generalisation.csv",
    ),
    Entry(
        "pruning", "hours", ("python benchmarks/pruning.py {enwik8:100000000} {deuterocanon} {work}",),
        (*LEARNING, "studies/pruning/report.py", "archive/weights.py"), "pruning.csv",
    ),
    Entry(
        "two-part", "hours",
        (
            *TWO_PART_RUNS,
            "python launch/evaluate.py two-part {work}/kjv-16 {work}/kjv-32 {work}/kjv-64 {work}/kjv-128 "
            "{work}/enwik8-16 {work}/enwik8-32 {work}/enwik8-64 {work}/enwik8-128 "
            "--csv benchmarks/results/two_part.csv",
        ),
        (*LEARNING, "studies/two_part/command.py", "archive/weights.py"), "two_part.csv",
    ),
    Entry(
        "diff-study", "hours", ("python benchmarks/diff_study.py {work}",),
        (*LEARNING, "train/nats.py", "studies/diff", "configs/architectures.yaml"), "diff.csv",
    ),
    Entry(
        "mixture-study", "hours", ("python benchmarks/mixture_study.py {work}",),
        (*LEARNING, "train/nats.py", "studies/mixture", "configs/architectures.yaml"), "mixture.csv",
    ),
    Entry(
        "diff-enwik8", "hours",
        ("python benchmarks/diff_study.py {work} --source {enwik8:10000000} --results diff_enwik8",),
        (*LEARNING, "train/nats.py", "studies/diff", "configs/architectures.yaml"), "diff_enwik8.csv",
    ),
    Entry(
        "mixture-enwik8", "hours",
        (
            "python benchmarks/mixture_study.py {work} --alone --source {enwik8:10000000} --results mixture_enwik8",
        ),
        (*LEARNING, "train/nats.py", "studies/mixture", "configs/architectures.yaml"), "mixture_enwik8.csv",
    ),
    Entry(
        "tampering", "minutes", ("python benchmarks/tampering.py {enwik8:60000} {work}",),
        (*LEARNING, *VERIFYING), "tampering.csv", anew=True,
    ),
    Entry(
        "verify-cost", "minutes",
        (
            "python benchmarks/verify_cost.py {enwik8:300000} {work} --run.record_spans=20 --engine.threads=1",
            "python benchmarks/verify_cost.py {enwik8:300000} {work} --run.record_spans=20 --engine.threads=1 "
            "--model.ngram_orders=[]",
        ),
        (*LEARNING, *VERIFYING), "verify_cost.csv", anew=True,
    ),
    Entry(
        "loss-curves", "hours",
        (
            f"{CURVES}kjv-default",
            f"{CURVES}kjv-ssd-64 --model.block ssd --model.width 64 --model.ngram_orders [] --data.vocabulary 1024",
            f"{CURVES}enwik6-default --data.source {{enwik8:1000000}}",
            f"{CURVES}enwik6-attention --data.source {{enwik8:1000000}} --model.block attention "
            "--model.ngram_orders [] --data.vocabulary 1024",
            f"{CURVES}enwik6-bytes --data.source {{enwik8:1000000}} --config configs/bytes.yaml",
            f"{CURVES}enwik3e6-default --data.source {{enwik8:3000000}}",
            "python benchmarks/loss_curves.py {work}/kjv-default {work}/kjv-ssd-64 {work}/enwik6-default "
            "{work}/enwik6-attention {work}/enwik6-bytes {work}/enwik3e6-default",
        ),
        (*LEARNING, "studies/loss_curve/command.py", "studies/loss_curve/points.py"), "loss_curves.csv",
    ),
    Entry(
        "modalities", "hours", ("python benchmarks/modalities.py {work} --engine.threads=1",),
        (*TOTALS, "configs/bytes.yaml", "benchmarks/modalities.py"), "modalities.csv",
    ),
    Entry(
        "not-gameable", "hours", ("python benchmarks/not_gameable.py {kjv} --dir {work} --engine.threads=1",),
        (*TOTALS, "archive/weights.py", "benchmarks/not_gameable.py"), "not_gameable.csv",
    ),
    Entry(
        "kill-campaign", "hours",
        (
            "python benchmarks/kill_campaign.py --kills 56",
            "python benchmarks/kill_campaign.py --kills 16 --seed 1 --stages 0,3 --moments preparing,saving",
            "python benchmarks/kill_campaign.py --kills 8 --seed 2 --stages 3 --ranks 2",
        ),
        ("train", "launch/train.py"), "kill_campaign.csv",
    ),
    # A GPU.
    Entry(
        "enwik8-h100", "gpu", (f"{ENWIK8} --engine.precision fp32",), (*TOTALS, "configs/enwik8.yaml"),
        "enwik8-h100.csv", "curve.csv", whole_enwik8,
    ),
    Entry(
        "gpu", "gpu", ("python benchmarks/gpu.py",),
        ("model", "train", "archive/decoding.py", "benchmarks/gpu.py", "benchmarks/plain_gpt.py"), "gpu.csv",
        scales=(1, 1_000_000_000),
    ),
]  # fmt: skip
NAMED = {entry.name: entry for entry in ENTRIES}
