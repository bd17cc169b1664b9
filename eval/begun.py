"""What a run began with. A resumed run goes on with the same code and settings, or is refused before any work."""

import json
from pathlib import Path
from typing import Any

from data.errors import UsageError
from data.files import refuse_long_name
from eval.code_size import CodeSize, code_identity, different_modules, measure_code, unpack
from train.command_line import CONFIG_FILE, MAY_CHANGE
from train.config import Config, flatten
from train.run_dir import CODE_FILE, LOCK_FILE

GO_ON = "go on with the code that began it, or start a new run"


def refuse_other_run(config: Config, values: dict[str, Any]) -> CodeSize | None:
    """Raise UsageError if config.run.dir cannot hold this run, or holds another one. Rank 0 calls it, before all work.
    Returns the code of a run that goes on.

    `values` are what a decoder needs (eval.code_size.decoder_values), as far as they are known without the corpus.
    """
    run_dir = Path(config.run.dir)
    if any("\ud800" <= character <= "\udfff" for character in str(run_dir)):
        raise UsageError(f"run.dir {run_dir} is not UTF-8, and TensorBoard writes no files in such: name another")
    refuse_long_name(run_dir)
    if config.run.resume:
        code = refuse_other_code(run_dir, config.run.reference_packages)
        refuse_other_settings(run_dir, config, values)
        return code
    # A run that stopped before it had a configuration left nothing that could be resumed, or that is worth keeping.
    stillborn = (run_dir / LOCK_FILE).exists() and not (run_dir / CONFIG_FILE).exists()
    if not stillborn and run_dir.exists() and any(run_dir.iterdir()):
        raise UsageError(f"run.dir {run_dir} is not empty: name a new one, or add --run.resume to go on with its run")
    return None


def refuse_other_code(run_dir: Path, declared: list[str], remedy: str = GO_ON) -> CodeSize:
    """The code of the run, measured here. Raises UsageError, which ends with `remedy`, unless it was begun by this
    code, as far as a decoder needs it."""
    path = run_dir / CODE_FILE
    if not path.exists():
        raise UsageError(f"{run_dir} does not say with what code it began: start a new run")
    begun = path.read_bytes()
    here = measure_code(unpack(begun)[0], declared)
    if foreign := different_modules(begun, here.packed):
        raise UsageError(
            f"{run_dir} was begun by code {code_identity(begun)[:16]} and here is {code_identity(here.packed)[:16]}, "
            f"which differs in {', '.join(foreign)}: {remedy}"
        )
    return here


def refuse_other_settings(run_dir: Path, config: Config, values: dict[str, Any]) -> None:
    """Raise UsageError if a decoder would need other `values` than when the run began. The packed code of the run has
    those; the new ones may come from any file or option."""
    begun = flatten(unpack((run_dir / CODE_FILE).read_bytes())[0])
    # As they come back from JSON.
    now = flatten(json.loads(json.dumps(values)))
    keys = "engine.deepspeed_config."
    for name in {**begun, **now}:
        section = name.split(".")[0]
        here = section in ("model", "train", "engine") or (name == "data.tokenizer" and name in now)
        if here and name not in MAY_CHANGE and begun.get(name) != now.get(name):
            was, is_now = (json.dumps(one[name]) if name in one else "not set" for one in (begun, now))
            where = config.engine.deepspeed_config if name.startswith(keys) else str(run_dir / CONFIG_FILE)
            raise UsageError(
                f"{name} was {was} when the run began and is {is_now} now, by {where or 'no file'} or an option: put "
                "it back, or start a new run"
            )
