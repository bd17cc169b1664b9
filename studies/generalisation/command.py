"""Held-out scores of all finished runs of a folder, beside their description lengths."""

import hashlib
import json
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter
from tqdm import tqdm

from data.documents import make_printable
from data.errors import UsageError
from data.files import file_sha256, read_json, write_file
from data.streams import publish
from eval.schema import Section
from studies.common import write_figures
from studies.generalisation.correlation import ScoredRun, agreements, rows_csv, score_run, table
from studies.generalisation.options import Generalisation
from studies.generalisation.plots import draw_agreement
from studies.held_out.command import search_all
from studies.scaling.runs import ComparedRun, load_runs, refuse_mixed
from studies.scoring import connect_alone, held_out_bits
from train.checkpoint import POINTER
from train.command_line import CONFIG_FILE, load_config
from train.engine import Place
from train.frozen import load_frozen
from train.run_dir import CHECKPOINTS

SCORES_FILE = "held_out.json"
SCORES_LIMIT_BYTES = 1 << 20


class Scores(Section):
    """Bits of files, by the SHA-256 of the file, that the checkpoint with this SHA-256 took."""

    checkpoint: str
    bits: dict[str, Annotated[float, Field(ge=0)]]


def execute(options: Generalisation) -> None:
    """Raises UsageError for what is wrong with the arguments, and for a file that a run has seen."""
    found = load_runs(options.runs_dir)
    refuse_mixed(found)
    runs = [run for run in found if pointer_file(run).exists()]
    if len(runs) < 2:
        raise UsageError(
            f"finished runs in {options.runs_dir}: {len(found)}, with a checkpoint: {len(runs)}; it takes two to "
            "compare, and runs keep a checkpoint if run.checkpoint_secs is above 0"
        )
    (overlap,) = search_all(options, [run.directory for run in runs], [options.file])
    with connect_alone(load_config(runs[0].directory / CONFIG_FILE).engine.threads) as place:
        rows = score_all(runs, options.file, place)
    agreed, trained = agreements(rows), runs[0].report.corpus
    verdict = "  CONTAMINATED: not held out" if overlap.share > options.threshold else ""
    publish(
        f"\n{options.file}: {overlap.text_bytes:,} bytes, {overlap.share:.2%} of them seen in {trained.name} "
        f"({trained.bytes:,} bytes){verdict}"
    )
    for run in found:
        if run not in runs:
            publish(f"{run.name} is left out: it has no checkpoint")
    publish("\n" + table(rows, agreed))
    name = make_printable(options.file.name)
    if options.csv:
        write_file(options.csv, rows_csv(name, rows).encode())
    if options.json:
        sha256 = file_sha256(options.file)
        about = {"name": name, "bytes": overlap.text_bytes, "sha256": sha256, "seen": overlap.share}
        found_lists = {"runs": rows, "agreement": agreed}
        write_json(options.json, {"format": 1, "held_out": about, "corpus": trained, **found_lists})
    write_figures(options.png, draw_agreement, rows, agreed, name)


def write_json(path: Path, values: dict) -> None:
    """Dataclasses and models are written as their fields."""
    write_file(path, json.dumps(values, indent=1, allow_nan=False, default=vars).encode())


def pointer_file(run: ComparedRun) -> Path:
    return run.directory / CHECKPOINTS / POINTER


def score_all(runs: list[ComparedRun], file: Path, place: Place) -> list[ScoredRun]:
    rows = []
    file_bytes, digest = file.stat().st_size, file_sha256(file)
    with tqdm(runs, unit="run", desc="scoring") as bar:
        for run in bar:
            bar.set_postfix_str(run.name)
            rows.append(score_run(run, bits_of_file(run, file, digest, place) / file_bytes))
    return rows


def bits_of_file(run: ComparedRun, file: Path, digest: str, place: Place) -> float:
    """Bits of a file with this SHA-256 by a run: as kept in its folder for its checkpoint, or measured and kept."""
    # The pointer holds the SHA-256 of every file of the checkpoint.
    checkpoint = hashlib.sha256(pointer_file(run).read_bytes()).hexdigest()
    path = run.directory / SCORES_FILE
    bits: dict[str, float] = {}
    if path.exists():
        kept: Scores = read_json(path, TypeAdapter(Scores), SCORES_LIMIT_BYTES)
        bits = kept.bits if kept.checkpoint == checkpoint else {}
    if digest not in bits:
        bits[digest] = held_out_bits(file, load_frozen(run.directory), place, shown=False)
        write_json(path, {"checkpoint": checkpoint, "bits": bits})
    return bits[digest]
