"""A finished run with round numbers, for the tests of reports: 1,000 bytes described in 500, by a straight curve."""

import contextlib
import io
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import yaml

import launch.report
from eval.code_size import CodeSize
from eval.reference_codes import CountedCodes, reference_codes
from eval.report import write_report
from eval.schema import Code, DescriptionLength, Report
from train.config import Config
from train.metrics import Metrics

SIZES = {"gzip-9": 1000, "bzip2-9": 625, "xz-9e": 500, "zstd-22": 550, "brotli-11": 520, "ppmd": 400}
REFERENCES = reference_codes(CountedCodes(8.0 * 550, 8.0 * 625, 1000, 1000), 300, 256)
CODE = CodeSize({"data/tokenizer.py": 30, "train/loop.py": 50}, 200, 100, b"x" * 80, {})


def made_length(data_bytes: float = 400.0, corpus_bytes: int = 1000, **terms: float) -> DescriptionLength:
    """A description length, in bytes: code 80, tokenizer 15, side 5 unless `terms` say otherwise."""
    terms = {"code": 80.0, "tokenizer": 15.0, "side": 5.0} | terms | {"data": data_bytes}
    return DescriptionLength(corpus_bytes=corpus_bytes, **{f"{name}_bits": 8.0 * size for name, size in terms.items()})


def sections(name: str = "text", sha256: str = "a" * 64, data_bytes: float = 400.0) -> dict[str, Any]:
    """A report as it is given to `made_report`: data 400 bytes, code 80, tokenizer 15, side 5."""
    return {
        "format": 1,
        "corpus": {"name": name, "bytes": 1000, "sha256": sha256, "documents": 2, "tokens": 300},
        "model": {
            "block": "attention",
            "width": 64,
            "depth": 2,
            "parameters": 12_345,
            "parameters_non_embedding": 10_000,
        },
        "description_length": made_length(data_bytes),
        "coded": {"tokens": 300, "bytes": 1000},
        "baselines": SIZES,
        "references": REFERENCES.sizes,
        "cost": {
            "world_size": 1,
            "optimizer_steps": 10,
            "elapsed_secs": 172.4,
            "tokens_per_sec": 7.5,
            "model_flops": 2e9,
            "elementwise_flops": 1e8,
            "mfu": 0.25,
            "mfu_6n": 0.2,
            "peak_flops_per_sec": 4.65e13,
            "peak_shape": [2048, 2048, 2048],
            "peak_dtype": "bfloat16",
            "device": "A Fast Device",
            "peak_memory_bytes": 2_000_000,
        },
        "code": Code.model_validate(CODE, from_attributes=True),
        "reference_machine": {"python": "3.11.7", "torch": "2.13.0"},
        "config": Config().to_dict(),
        "command": "launch/train.py --data.source text",
        "commit": {"hash": "0123456789abcdef" * 2 + "01234567", "changed": False},
        "device": {"name": "a processor", "kind": "cpu", "world_size": 1, "threads": 2, "precision": "fp32"},
    }


RUN_SECTIONS = ("config", "command", "commit", "device")


def made_report(**changes: Any) -> Report:
    """The report of `sections`, with other sections in place of some of them, or without those that are None."""
    return Report.model_validate({k: v for k, v in (sections() | changes).items() if v is not None})


def finished_run(run_dir: Path, run: dict[str, Any] | None = None, **changes: Any) -> Report:
    """Write a run directory, except its checkpoints. `changes` are arguments of `sections`; `run` are the sections
    that say what was run."""
    given = sections(**changes)
    if run is not None:
        given |= dict.fromkeys(RUN_SECTIONS) | run
    report = made_report(**given)
    length = report.description_length
    run_dir.mkdir(parents=True)
    metrics = Metrics(run_dir, None)
    fixed_bits = {"code": length.code_bits, "tokenizer": length.tokenizer_bits, "side": length.side_bits}
    metrics.begin(fixed_bits, SIZES, {"model": given["model"]})
    for step in range(1, 11):
        scalars = {"machine/tokens_per_sec": 7.5, "optim/learning_rate": 0.01}
        metrics.record(step, 100 * step, 30 * step, length.data_bits * step / 10, length.data_bits / 1000, scalars)
    metrics.end(report.values())
    metrics.close()
    (run_dir / "config.yaml").write_text(yaml.safe_dump(Config().to_dict()))
    write_report(run_dir, report, CODE.module_bytes)
    return report


def finished_cell(
    run_dir: Path,
    data_bytes: float,
    width: int,
    parameters: int,
    block: str = "attention",
    vocabulary: int = 2048,
    seed: int = 0,
    tokenizer_bytes: float = 15.0,
    code_bytes: float = 80.0,
    noise: int | None = None,
    **settings: dict[str, Any],
) -> None:
    """Write what a comparison reads of a run directory. `parameters` are those beside the embedding; `settings` are
    changes to sections of the configuration. With a seed of `noise`, the chunks of the curve vary by chance, by
    2 %, and come to `data_bytes` all the same."""
    config = Config().to_dict()
    config["model"] |= {"block": block, "width": width}
    config["data"] |= {"tokenizer": "bpe", "vocabulary": vocabulary}
    config["train"] |= {"seed": seed}
    for name, changes in settings.items():
        config[name] |= changes
    model = {"block": block, "width": width, "depth": config["model"]["depth"]}
    model |= {"parameters": parameters + vocabulary * width, "parameters_non_embedding": parameters}
    length = made_length(float(data_bytes), 10_000_000, code=code_bytes, tokenizer=tokenizer_bytes)
    given = sections()
    report = made_report(
        corpus=given["corpus"] | {"bytes": 10_000_000},
        coded=given["coded"] | {"bytes": 10_000_000},
        model=model,
        cost=given["cost"] | {"model_flops": 6.0 * 300 * parameters},
        baselines={},
        references=None,
        config=config,
        description_length=length,
    )
    run_dir.mkdir(parents=True)
    (run_dir / "config.yaml").write_text(yaml.safe_dump(config))
    (run_dir / "report.json").write_bytes(report.content())
    fixed_bits = length.fixed_bits
    coded_bytes = np.linspace(0, 10_000_000, 21)[1:]
    data_bits = length.data_bits * (coded_bytes / coded_bytes[-1]) ** 0.9
    if noise is not None:
        chunk_bits = np.diff(data_bits, prepend=0) * np.random.default_rng(noise).normal(1, 0.02, 20)
        data_bits = length.data_bits * np.cumsum(chunk_bits) / chunk_bits.sum()
    rows = [f"{x:.0f},{y!r},{y + fixed_bits!r}" for x, y in zip(coded_bytes, data_bits.tolist(), strict=True)]
    (run_dir / "curve.csv").write_text("\n".join(["coded_bytes,data_bits,total_bits", *rows]) + "\n")


def run_report(*arguments: str | Path, cwd: Path = Path()) -> subprocess.CompletedProcess[str]:
    """launch/report.py as in `cwd`, in this process."""
    given, out, err = [str(argument) for argument in arguments], io.StringIO(), io.StringIO()
    with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = launch.report.main(given)
    return subprocess.CompletedProcess(given, status, out.getvalue(), err.getvalue())
