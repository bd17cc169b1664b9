"""Does the shorter description predict the better held-out loss? All finished runs of a folder on a file they lack.

    python launch/evaluate.py generalisation runs/study FILE
    python launch/evaluate.py generalisation runs/study FILE --csv rows.csv --json found.json --png picture

Each finished run with a checkpoint scores FILE as held-out does, frozen, and FILE is refused if any run has seen it.
Beside that rate: the run's total description length, its data term, and the last tenth of its training. Agreement of
each with the held-out rates is Kendall's tau, among all runs and among those of equal vocabulary and width, whose
intervals come from drawing the runs again. All runs must code one corpus.

A run keeps its score (held_out.json in its folder) by the SHA-256 of FILE and of its checkpoint: the same command goes
on after a stop, and is quick when nothing is new. Exit status 2: bad arguments, or FILE was refused, and nothing was
scored.
"""

import argparse
import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field, TypeAdapter, with_config
from tqdm import tqdm
from typing_extensions import TypedDict

from data.documents import printable
from data.errors import UsageError
from data.files import file_sha256, output_file, read_json, write_file
from data.streams import publish
from eval.plots import THEMES
from studies.generalisation.correlation import Scored, agreements, as_csv, scored, table
from studies.generalisation.plots import figure
from studies.held_out.command import overlap_arguments, refuse_seen_by
from studies.scaling.runs import Run, load_runs, refuse_mixed
from studies.scoring import connect_alone, held_out_bits
from train.checkpoint import POINTER
from train.command_line import CONFIG_FILE, load_config
from train.engine import Place, disconnect
from train.frozen import load_frozen
from train.run_dir import CHECKPOINTS

SCORES_FILE = "held_out.json"
SCORES_LIMIT_BYTES = 1 << 20


@with_config(ConfigDict(extra="forbid", strict=True, allow_inf_nan=False))
class Scores(TypedDict):
    """Bits of files, by the SHA-256 of the file, that the checkpoint with this SHA-256 took."""

    checkpoint: str
    bits: dict[str, Annotated[float, Field(ge=0)]]


_SCORES = TypeAdapter(Scores)


def generalisation_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs_dir", type=Path, metavar="RUNS_DIR", help="finished runs at or below it are compared")
    parser.add_argument("file", type=Path, metavar="FILE", help="is read as one document of bytes")
    overlap_arguments(parser)
    parser.add_argument("--csv", type=output_file, metavar="FILE", help="write the rows")
    parser.add_argument("--json", type=output_file, metavar="FILE", help="write rows and agreement")
    parser.add_argument("--png", type=output_file, metavar="NAME", help="write NAME-light.png and NAME-dark.png")


def generalisation(
    runs_dir: Path,
    file: Path,
    window: int,
    threshold: float,
    contaminated: bool,
    corpus: str | None,
    csv: Path | None,
    json: Path | None,
    png: Path | None,
) -> None:
    """Raises UsageError for what is wrong with the arguments, and for a file that a run has seen."""
    found = load_runs(runs_dir)
    refuse_mixed(found)
    runs = [run for run in found if pointer_file(run).exists()]
    if len(runs) < 2:
        raise UsageError(
            f"finished runs in {runs_dir}: {len(found)}, with a checkpoint: {len(runs)}; it takes two to compare, and "
            "runs keep a checkpoint if run.checkpoint_secs is above 0"
        )
    (overlap,) = refuse_seen_by([run.directory for run in runs], corpus, [file], window, threshold, contaminated)
    place = connect_alone(load_config(runs[0].directory / CONFIG_FILE).engine.threads)
    rows = score_all(runs, file, place)
    disconnect()
    agreed, trained = agreements(rows), runs[0].report["corpus"]
    verdict = "  CONTAMINATED: not held out" if overlap.share > threshold else ""
    publish(
        f"\n{file}: {overlap.text_bytes:,} bytes, {overlap.share:.2%} of them seen in {trained['name']} "
        f"({trained['bytes']:,} bytes){verdict}"
    )
    for run in found:
        if run not in runs:
            publish(f"{run.name} is left out: it has no checkpoint")
    publish("\n" + table(rows, agreed))
    if csv:
        write_file(csv, as_csv(printable(file.name), rows).encode())
    if json:
        about = {
            "name": printable(file.name),
            "bytes": overlap.text_bytes,
            "sha256": file_sha256(file),
            "seen": overlap.share,
        }
        write_file(json, dump({"held_out": about, "corpus": trained}, rows, agreed))
    if png:
        for name, theme in THEMES.items():
            write_file(png.with_name(f"{png.name}-{name}.png"), figure(rows, agreed, printable(file.name), theme))


def dump(about: dict, rows: list[Scored], agreed: list) -> bytes:
    found = {"format": 1, **about, "runs": [asdict(row) for row in rows], "agreement": [asdict(one) for one in agreed]}
    return json.dumps(found, indent=1, allow_nan=False).encode()


def pointer_file(run: Run) -> Path:
    return run.directory / CHECKPOINTS / POINTER


def score_all(runs: list[Run], file: Path, place: Place) -> list[Scored]:
    rows = []
    file_bytes, digest = file.stat().st_size, file_sha256(file)
    with tqdm(runs, unit="run", desc="scoring") as bar:
        for run in bar:
            bar.set_postfix_str(run.name)
            rows.append(scored(run, score(run, file, digest, place) / file_bytes))
    return rows


def score(run: Run, file: Path, digest: str, place: Place) -> float:
    """Bits of a file with this SHA-256 by a run: as kept in its folder for its checkpoint, or measured and kept."""
    # The pointer holds the SHA-256 of every file of the checkpoint.
    checkpoint = hashlib.sha256(pointer_file(run).read_bytes()).hexdigest()
    path = run.directory / SCORES_FILE
    kept: Scores = read_json(path, _SCORES, SCORES_LIMIT_BYTES) if path.exists() else {"checkpoint": "", "bits": {}}
    if kept["checkpoint"] != checkpoint:
        kept = {"checkpoint": checkpoint, "bits": {}}
    if digest not in kept["bits"]:
        config, model, tokenizer = load_frozen(run.directory)
        kept["bits"][digest] = held_out_bits(file, config, model, tokenizer, place, shown=False)
        write_file(path, json.dumps(kept, indent=1).encode())
    return kept["bits"][digest]
