"""What was run: the command, the commit of the code, the device, and the settings that matter or are not defaults."""

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from data.lanes import read_stages
from eval.schema import Commit, DescriptionLength, NetworkCode, Report, TokenText
from train.choice import choice_words
from train.config import BYTE_SYMBOLS, LEFT_TO_MACHINE, Config
from train.cost import processor_name

GIT_SECS = 30.0
# Where a run is kept, and what it leaves to the machine: these are said elsewhere, and change no bits by themselves.
NOT_LISTED = {
    *("run.dir", "run.resume", "run.log_steps", "run.checkpoint_secs", "run.keep_checkpoints", "run.stop_after_steps"),
    *("run.budget_minutes", "run.baselines", "run.keep_nats", "run.record_spans"),
    *("data.cache_dir", "data.stream", "data.workers"),
    *("engine.timeout_secs", *(f"engine.{name}" for name in LEFT_TO_MACHINE)),
}


def read_commit() -> Commit | None:
    """The git commit of this code; None where the code is not in a git checkout, as after `pip install` of a wheel."""
    here = Path(__file__).resolve()
    # Git's hooks and scripts set these for another repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}

    def git(*arguments: str) -> str:
        command = ["git", "--no-optional-locks", "-C", str(here.parent), *arguments]
        done = subprocess.run(
            command, env=environment, check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=GIT_SECS
        )
        return done.stdout.decode(errors="replace").strip()

    try:
        # A wheel may be installed below somebody else's checkout, which does not track this file.
        git("ls-files", "--error-unmatch", "--", here.name)
        changed = bool(git("status", "--porcelain", "--untracked-files=no"))
        return Commit(hash=git("rev-parse", "HEAD"), changed=changed)
    except (OSError, subprocess.SubprocessError):
        return None


def commit_text(commit: Commit | None) -> str:
    """ "1a71b45d95a8", "1a71b45d95a8, changed"; empty without a commit."""
    return f"{commit.hash[:12]}{', changed' if commit.changed else ''}" if commit else ""


def describe_run(config: Config, deepspeed_keys: dict[str, Any], kind: str, world_size: int) -> dict[str, Any]:
    """The sections of a report that say what was run: the resolved configuration, command, commit and device. `kind` is
    "cpu" or "cuda". The configuration only names a file of DeepSpeed keys, so these are beside it."""
    name = torch.cuda.get_device_name() if kind == "cuda" else processor_name()
    machine = {"threads": config.engine.threads, "precision": config.engine.precision}
    found = {
        "config": config.to_dict(),
        "command": shlex.join(sys.argv),
        "device": {"name": name, "kind": kind, "world_size": world_size, **machine},
    }
    if deepspeed_keys:
        found["deepspeed"] = deepspeed_keys
    return escape_text(found) | {"commit": read_commit()}


def settings_rows(report: Report) -> list[tuple[str, str]]:
    """What somebody who compares numbers has to know of a run, as rows of a name and words; empty for reports that do
    not say what was run."""
    config, device = report.config, report.device
    if config is None or device is None:
        return []
    data, model, train = config["data"], config["model"], config["train"]
    of_bytes = data["tokenizer"] == "bytes"
    symbols = f"bytes, {BYTE_SYMBOLS}" if of_bytes else f"{data['tokenizer']}, vocabulary {data['vocabulary']:,}"
    if own := report.tokenizer:
        described = f"described in {report.description_length.tokenizer_bits / 8:,.0f} bytes"
        if own.uncharged_bytes is not None:
            described = f"reference machine; described in {own.uncharged_bytes:,} bytes that are not charged"
        symbols = f"{own.file} ({own.format}), vocabulary {own.vocabulary:,}, {described}"
        symbols += f" (xz of the file: {own.file_xz_bytes:,}), {own.escaped_bytes:,} bytes of the corpus escaped"
    if read := report.token_files:
        documents = f", {_count(read.documents, 'document')}" if read.documents else ""
        symbols = f"ids of token files ({read.format}), vocabulary {read.vocabulary:,}; bytes are those of the files"
        total = report.description_length.total_bits / read.ids
        token_bits = f"{report.description_length.data_bits / read.ids:.4f}, {total:.4f} with code and all"
    rates = " ".join(f"{train[f'{name}_lr']:g}" for name in ("matrix", "table", "vector"))
    ranks = f"{_count(device.world_size, 'rank')} x {_count(device.threads, 'thread')}"
    replay = f", replay {schedule_words(train['replay'])}" if train["replay"] else ""
    batch = f"{train['lanes']:,} lanes x {schedule_words(train['segment_tokens'], ' tokens')}"
    chosen = report.choice.fields if report.choice else {}
    differing = [
        f"{name} {value}, not {default}" for name, (value, default) in not_default(config).items() if name not in chosen
    ]
    uncharged = ", ".join(f"{name} {version}" for name, version in report.reference_packages.items())
    return [
        ("context mixing", mixing_words(model, of_bytes)),
        ("symbols", symbols),
        *([("bits per token", f"{token_bits}: {_count(read.ids, 'token')}{documents}")] if read else []),
        *([("as text", text_words(read.text, report.description_length))] if read and read.text else []),
        ("optimiser", f"{train['optimizer']}, learning rates {rates} (matrices, tables, vectors)"),
        ("batch and seed", f"{batch}{replay}, seed {train['seed']}"),
        ("machine", f"{ranks}, {device.precision}, {device.name}"),
        *([("packages not charged", uncharged)] if uncharged else []),
        *([("code of the network", network_code_words(report.network_code))] if report.network_code else []),
        *([("chosen", choice_words(report.choice))] if report.choice else []),
        ("differs from defaults", "; ".join(differing) or "nothing"),
    ]


def text_words(text: TokenText, length: DescriptionLength) -> str:
    rates = f"{length.data_bits / text.bytes:.4f} bits a byte, {length.total_bits / text.bytes:.4f} with code and all"
    sizes = ", ".join(f"{name} {size:,}" for name, size in sorted(text.baselines.items(), key=lambda entry: entry[1]))
    part = f", extrapolated from the first {text.baselines_measured_bytes:,}" if text.baselines_measured_bytes else ""
    return f"{text.bytes:,} bytes by {text.tokenizer}: {rates}" + (f"; {sizes}{part}" if sizes else "")


def network_code_words(code: NetworkCode) -> str:
    return (
        f"{code.own_xz_bytes:,} bytes in xz, {code.xz_bytes:,} with what its {len(code.modules)} modules share with "
        "other networks; the total leaves them out"
    )


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' if number != 1 else ''}"


def schedule_words(schedule: int | str, unit: str = "") -> str:
    """ "1", "32 tokens", "16 tokens, 32 from 10 %, 64 from 50 % of the epoch"."""
    (first, _), *later = read_stages(schedule)
    words = [f"{number:,} from {100 * fraction:g} %" for number, fraction in later]
    return ", ".join([f"{first:,}{unit}", *words]) + " of the epoch" * bool(words)


def mixing_words(model: dict[str, Any], of_bytes: bool) -> str:
    """ "of orders 1 2 3 4 6", or "none"."""
    if not model["ngram_orders"]:
        return "none"
    words = [f"of orders {' '.join(map(str, model['ngram_orders']))}"]
    words += [f"lags {model['ngram_lags']}"] if model["ngram_lags"] else []
    words += [f"highest {model['ngram_highest']}"] if model["ngram_highest"] else []
    words += [f"local {model['ngram_local']}"] if model["ngram_local"] else []
    words += [f"{model['ngram_words']} of words"] if of_bytes and model["ngram_words"] else []
    words += [f"embeddings of {model['ngram_embeddings']}"] if model["ngram_embeddings"] else []
    return ", ".join(words)


def not_default(config: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """The fields of the report's `config` that differ from the defaults: {"model.width": ("32", "128")}, the value and
    the default."""
    found = {}
    for section, defaults in Config().to_dict().items():
        for name, default in defaults.items():
            value = config.get(section, {}).get(name, default)
            if value != default and f"{section}.{name}" not in NOT_LISTED:
                found[f"{section}.{name}"] = setting_text(value), setting_text(default)
    # Bytes have one vocabulary, and ignore that field.
    if config["data"]["tokenizer"] == "bytes":
        found.pop("data.vocabulary", None)
    return found


def setting_text(value: Any) -> str:
    """A value as a table shows it: "1 2 3", "none", "0.02"."""
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value) or "none"


def escape_text(value: Any) -> Any:
    """The same, with text that UTF-8 cannot hold (names of files can be any bytes) escaped."""
    if isinstance(value, dict):
        return {name: escape_text(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [escape_text(entry) for entry in value]
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
