"""The two-part code of a finished run: bits of its weights, and bits of the corpus given the weights.

Weights are quantised in groups, coded by the entropy coder of the archives, decoded again and compared; what is decoded
then codes the corpus, learning nothing. Shapes, steps and all else that the weights' decoder reads is counted. Code,
tokenizer and side information are charged as in the run's own, prequential, total, which stands beside it.

Context mixing keeps tables of counts beside the weights. `charged`: they are sent as they are at the end of the run.
`emptied`: they are not, and stay empty. `learned`: they begin empty and count what is decoded; only weights are sent.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from archive.weights import FLOATS, Point, pack, pack_counts, parameters, unpack, unpack_counts
from data.errors import RunFailed, UsageError
from data.files import output_file, write_file
from data.streams import publish
from eval.plots import THEMES
from model.lm import LanguageModel
from studies.scoring import FinishedRun, connect_alone, corpus_bits, open_run, small_vectors, with_parameters
from studies.two_part import terms as code
from train.engine import Place, disconnect
from train.loop import Learner, TokenSource

POINTS: tuple[Point, ...] = (*FLOATS, 8, 7, 6, 5, 4, 3, 2)
TABLES = ("charged", "emptied", "learned")
# Weights that share a step.
GROUP = 64


def two_part_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run.dir of a finished run")
    parser.add_argument("--corpus", metavar="FILE", help="the runs' corpus, if it is no longer where data.source says")
    parser.add_argument(
        "--points", type=points, default=POINTS, help="2 to 8 bits a weight, fp32, fp16, bf16, by commas (default: all)"
    )
    parser.add_argument("--group", type=int, help=f"weights that share a step; 0 is a whole tensor (default: {GROUP})")
    parser.add_argument("--tables", choices=TABLES, nargs="+", help="of context mixing, if any (default: all three)")
    parser.add_argument("--png", type=output_file, metavar="NAME", help="write NAME-light.png and NAME-dark.png")
    parser.add_argument("--csv", type=output_file, metavar="FILE", help="write the rows")


def points(text: str) -> list[Point]:
    """The type of --points. Raises UsageError for what `pack` would refuse."""
    known: dict[str, Point] = {str(point): point for point in POINTS}
    if any(part not in known for part in text.split(",")):
        raise UsageError(f"give 2 to 8 bits a weight, or {', '.join(map(str, FLOATS))}, by commas")
    return [known[part] for part in text.split(",")]


def group_size(group: int | None, points: list[Point]) -> int:
    """The value of --group. Raises UsageError if it is out of range, or given without an effect."""
    if group is not None and all(point in FLOATS for point in points):
        raise UsageError(f"--group {group} has no effect on --points {','.join(map(str, points))}: leave it out")
    if group is not None and group < 0:
        raise UsageError(f"--group {group}: give 1 or more weights, or 0 for whole tensors")
    return GROUP if group is None else group


def two_part(
    runs: list[Path],
    corpus: str | None,
    points: list[Point],
    group: int | None,
    tables: list[str] | None,
    png: Path | None,
    csv: Path | None,
) -> None:
    """Raises UsageError for what is wrong with the arguments, RunFailed if weights do not come back as they were."""
    size = group_size(group, points)
    opened = [open_run(run, corpus) for run in runs]
    if tables and all(run.model.mixing is None for run in opened):
        raise UsageError(f"--tables {' '.join(tables)} has no effect on runs without context mixing: leave it out")
    place = connect_alone(opened[0].config.engine.threads)
    rows: list[code.TwoPart] = []
    for run in opened:
        for treatment in ["none"] if run.model.mixing is None else tables or TABLES:
            rows += run_rows(run, treatment, points, size, place)
    if png:
        for name, theme in THEMES.items():
            write_file(png.with_name(f"{png.name}-{name}.png"), code.figure(rows, theme))
    if csv:
        write_file(csv, code.as_csv(rows).encode())
    disconnect()


def run_rows(run: FinishedRun, treatment: str, points: list[Point], group: int, place: Place) -> list[code.TwoPart]:
    """A row for each of `points`, printed as it is found."""
    total_bytes = run.report.description_length.total_bits / 8
    told = "" if treatment == "none" else f", tables {treatment}"
    publish(f"\n{run.folder}{told}\n{code.heading(total_bytes, run.fixed_bits / 8)}")
    tensors, kept = parameters(run.model), small_vectors(run.model)
    table_bytes = tables_bytes(run.model) if treatment == "charged" else 0
    rows = []
    for point in points:
        packed = pack(tensors, point, group, kept)
        decoded = unpack(packed)
        if point == "fp32" and any(not np.array_equal(a, b) for a, b in zip(decoded, tensors.values(), strict=True)):
            raise RunFailed("fp32 weights do not come back as they were")
        model = with_parameters(run.model, decoded)
        if model.mixing is not None and treatment != "charged":
            model.mixing.counts = torch.zeros_like(model.mixing.counts)
        data_bits = corpus_bits(run, model, place, CountingSource if treatment == "learned" else lambda source: source)
        rows.append(
            code.TwoPart(
                str(run.folder.name), treatment, point, len(packed), table_bytes, data_bits / 8, run.fixed_bits / 8,
                total_bytes,
            )
        )  # fmt: skip
        publish(code.line(rows[-1]))
    publish(code.verdict(rows))
    return rows


def tables_bytes(model: LanguageModel) -> int:
    """What the tables take. Raises RunFailed if they do not come back as they are."""
    assert model.mixing is not None
    counts = model.mixing.counts.cpu().numpy()
    packed = pack_counts(counts)
    if not np.array_equal(unpack_counts(packed, *counts.shape), counts):
        raise RunFailed("the tables do not come back as they were")
    return len(packed)


class CountingSource:
    """A token source whose learner counts each segment in its tables before it is asked for the next."""

    def __init__(self, source: TokenSource):
        self.source = source
        self.coded: tuple[torch.Tensor, torch.Tensor] | None = None

    def segment(self, step: int, learner: Learner) -> np.ndarray:
        assert learner.model.mixing is not None
        if self.coded is not None:
            learner.model.mixing.learn(*self.coded)
        targets = self.source.segment(step, learner)
        tokens = torch.from_numpy(targets).to(learner.recent.device)
        history = torch.cat([learner.recent, tokens.clamp(min=0)], 1)
        self.coded = history[:, :-1], tokens
        return targets
