"""Two runs over one corpus, byte by byte: sums stay those of the ledgers, and classes are what a plain loop finds."""

import csv
import hashlib
import json
import math
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dist import ROOT
from finished_run import made_length, made_report, run_report, sections

from data.errors import RunFailed, UsageError
from data.files import file_sha256
from data.lanes import Lanes
from data.prepare import prepare
from studies.diff import evidence, paired
from studies.diff.classes import KINDS, Distances, Documents, Kinds, Positions, Words, kind_table
from studies.diff.evidence import ClassRow, Course, Tally, half_width_bits
from studies.diff.groups import FILE, group_documents
from studies.diff.paired import DOCUMENT_END, Block, open_runs, pair_blocks, read_blocks
from studies.diff.passages import Passages, spans
from train.command_line import CONFIG_FILE, save_config
from train.config import Config, DataConfig, TrainConfig
from train.nats import NATS_FILE, SUMS_FILE, lane_span
from train.run_dir import TOKENIZER_FILE

LICENSE = (ROOT / "LICENSE").read_bytes()
TEXTS = [LICENSE[:3000], "Maß <b>\u00e9\u4e2d</b> 12".encode() + b"\xff\x80\0", b"", LICENSE[2000:7000]]
UNITS = [unit for text in TEXTS for unit in (*text, DOCUMENT_END)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of four files, and three finished runs over it with nats by chance, by `plain`, 'pieces' and 'other'."""
    where = tmp_path_factory.mktemp("diff")
    (where / "texts").mkdir()
    for number, text in enumerate(TEXTS):
        (where / "texts" / f"{number}.txt").write_bytes(text)
    write_run(where, "plain", DataConfig(tokenizer="bytes"), TrainConfig(lanes=8))
    write_run(where, "pieces", DataConfig(vocabulary=300), TrainConfig(lanes=9, segment_tokens=16))
    write_run(where, "other", DataConfig(tokenizer="bytes"), TrainConfig(lanes=3))
    return where


def write_run(where: Path, name: str, data: DataConfig, train: TrainConfig) -> None:
    """What launch/train.py leaves of a run, as far as a comparison reads it."""
    data = replace(data, source=f"raw:{where / 'texts'}", cache_dir=str(where / "cache"))
    config, run = Config(data, train=train), where / name
    corpus = prepare(data.source, tokenizer=data.tokenizer, vocabulary=data.vocabulary, cache_dir=data.cache_dir)
    lanes = Lanes(corpus.manifest.tokens, train.lanes, train.segment_tokens)
    nats = np.random.default_rng(len(name)).exponential(2, lanes.tokens).astype("<f4")
    sums = [float(nats[slice(*lane_span(lanes, n, 0, lanes.lane_tokens))].sum(dtype=float)) for n in range(lanes.lanes)]
    run.mkdir()
    np.save(run / NATS_FILE, nats)
    kept = {"format": 1, "tokens": lanes.tokens, "sha256": file_sha256(run / NATS_FILE), "lane_nats": sums}
    (run / SUMS_FILE).write_text(json.dumps(kept))
    save_config(config, run / CONFIG_FILE)
    (run / TOKENIZER_FILE).write_bytes(corpus.tokenizer.encoding)
    manifest = corpus.manifest
    about = {key: getattr(manifest, key) for key in ("name", "bytes", "sha256", "documents", "tokens")}
    report = made_report(
        corpus=about, coded={"tokens": manifest.tokens, "bytes": manifest.bytes}, baselines={}, references=None,
        description_length=made_length(math.fsum(sums) / math.log(2) / 8, manifest.bytes),
        model=sections()["model"], config=config.to_dict(),
    )  # fmt: skip
    (run / "report.json").write_bytes(report.content())


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paired, "CHUNK_TOKENS", 700)
    monkeypatch.setattr(paired, "BLOCK_UNITS", 1000)
    monkeypatch.setattr(paired, "LONGEST_WORD", 100)


def blocks_of(folder: Path, *names: str) -> list[Block]:
    return list(pair_blocks(open_runs([folder / name for name in names], None)))


@pytest.mark.usefixtures("small_blocks")
def test_a_piece_is_divided_equally_and_the_sums_stay(folder: Path) -> None:
    runs = open_runs([folder / "plain", folder / "pieces"], None)
    blocks = list(pair_blocks(runs))
    units = np.concatenate([block.units for block in blocks])
    bits = np.concatenate([block.bits for block in blocks], 1)
    assert units.tolist() == UNITS
    for run, own in zip(runs, bits, strict=True):
        pieces, tokens = run.corpus.tokenizer.pieces, run.corpus.tokens.read(0, run.kept.lanes.tokens)
        start = 0
        for token, nats in zip(tokens.tolist(), run.kept.nats.tolist(), strict=True):
            size = max(1, len(pieces[token]))
            assert own[start : start + size] == pytest.approx(nats / math.log(2) / size, rel=1e-12)
            start += size
        assert math.fsum(own) == pytest.approx(run.report.description_length.data_bits, rel=1e-13)
    # The first run's order: a byte is a token, and a lane has as many.
    lane_tokens = runs[0].kept.lanes.lane_tokens
    lane = np.concatenate([block.lane for block in blocks])
    progress = np.concatenate([block.progress for block in blocks])
    assert lane.tolist() == [place // lane_tokens for place in range(len(UNITS))]
    assert progress == pytest.approx([place % lane_tokens / lane_tokens for place in range(len(UNITS))])
    assert len(blocks) > 7
    letters = [[chr(unit).isalpha() or 127 < unit < 256 for unit in block.units[[0, -1]]] for block in blocks]
    assert not any(before[1] and after[0] for before, after in pairwise(letters))


@pytest.mark.usefixtures("small_blocks")
def test_classes_are_those_of_a_plain_loop(folder: Path) -> None:
    blocks = blocks_of(folder, "plain", "pieces")
    runs = open_runs([folder / "plain", folder / "pieces"], None)
    words = Words(read_blocks(runs[0]))

    def labels(classifier: Any) -> list[str]:
        return [classifier.labels[number] for block in blocks for number in classifier.classify(block).tolist()]

    seen: dict[bytes, int] = {}
    distances, before = [], bytes(8)
    content = bytes(unit & 255 for unit in UNITS)
    for place, unit in enumerate(content):
        distances.append(place - seen[before] if before in seen else None)
        seen[before], before = place, before[1:] + bytes([unit])
    found = labels(Distances())
    assert found.count("never") == distances.count(None) < len(UNITS)
    for label, distance in zip(found, distances, strict=True):
        if distance is not None:
            low, high = (int(part.replace(",", "")) for part in label.split(" to "))
            assert low <= distance <= high < 4 * low

    # Words by when they are coded: by place in the lane, then by lane.
    lane_tokens = runs[0].kept.lanes.lane_tokens
    latin = "".join(chr(unit) if unit < 256 else "\n" for unit in UNITS)
    found_words = list(re.finditer("[a-zA-Z\x80-\xff]+", latin))
    earliest: dict[str, Any] = {}
    for word in found_words:
        when = (word.start() % lane_tokens, word.start())
        earliest[word[0]] = min(earliest.get(word[0], when), when)
    expected = ["between words"] * len(UNITS)
    for word in found_words:
        first = earliest[word[0]] == (word.start() % lane_tokens, word.start())
        expected[slice(*word.span())] = [words.labels[not first]] * len(word[0])
    assert labels(words) == expected

    names = [f"{number}.txt" for number, text in enumerate(TEXTS) for _ in range(len(text) + 1)]
    assert labels(Documents(runs[0].corpus.source.names)) == names
    odd = [["even", "odd"][number % 2] for number, text in enumerate(TEXTS) for _ in range(len(text) + 1)]
    assert labels(Documents(("even", "odd"), np.array([0, 1, 0, 1]), "by number")) == odd
    places = [place + 1 for text in TEXTS for place in range(len(text) + 1)]
    for label, place in zip(labels(Positions()), places, strict=True):
        low, high = (int(part.replace(",", "")) for part in label.split(" to "))
        assert low <= place <= high < 4 * low
    kinds = labels(Kinds())
    assert kinds[len(TEXTS[0])] == "document end"
    signs = {"a": "lower case", "Z": "upper case", "7": "digit", "\n": "white space", ".": "punctuation", "<": "markup",
             "\xe9": "beyond ASCII", "\0": "control"}  # fmt: skip
    assert {sign: KINDS[kind_table()[ord(sign)]] for sign in signs} == signs


@pytest.mark.usefixtures("small_blocks")
def test_sums_by_class_and_by_time_are_those_of_the_whole(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "MOST_BLOCKS", 4)
    blocks = blocks_of(folder, "plain", "pieces")
    course = Course(8, len(UNITS))
    tally = Tally(Kinds(), course)
    for block in blocks:
        for part in (course, tally):
            part.add(block, block.bits[0] - block.bits[1])
    saved = math.fsum(np.concatenate([block.bits[0] - block.bits[1] for block in blocks]))
    coded, curve, half = course.curve()
    assert (coded[-1], half) == (len(UNITS), None)
    assert curve[-1] == pytest.approx(saved)
    assert course.by_place.sum() == pytest.approx(saved)
    assert sum(row.units for row in tally.rows()) == len(UNITS)
    assert sum(row.saved_bits for row in tally.rows()) == pytest.approx(saved)
    assert tally.saved_bits.sum(1)[[0, 1]] == pytest.approx([row.saved_bits for row in tally.rows()[:2]])


def test_the_interval_is_that_of_resampled_lanes() -> None:
    saved = np.random.default_rng(0).normal(5, 3, (2, 64))
    drawn = saved[:, np.random.default_rng(1).integers(0, 64, (20_000, 64))].sum(-1)
    # Of the t distribution of 63 degrees of freedom; and a resampled sum is narrower by 1 / 64.
    assert half_width_bits(saved) == pytest.approx(1.9983 * drawn.std(-1) * math.sqrt(64 / 63), rel=0.02)
    assert half_width_bits(saved[:, :7]) is None
    assert ClassRow("", 1, (10.0, 4.0), 5.0).shown
    assert not ClassRow("", 1, (4.0, 10.0), 7.0).shown


@pytest.mark.usefixtures("small_blocks")
def test_passages_are_the_extremes_and_hold_the_text(folder: Path) -> None:
    blocks = blocks_of(folder, "plain", "pieces")
    passages = Passages(3, len(UNITS), b"Licen")
    for block in blocks:
        passages.add(block, block.bits[0] - block.bits[1])
    windows = []
    for block in blocks:
        saved = block.bits[0] - block.bits[1]
        windows += [float(saved[start : start + 320].sum()) for start in range(0, len(saved), 320)]
    assert [one.saved_bits for one in passages.gains] == pytest.approx(
        sorted((w for w in windows if w > 0), reverse=True)[:3]
    )
    assert [one.saved_bits for one in passages.losses] == pytest.approx(sorted(w for w in windows if w < 0)[:3])
    assert len(passages.sample) == len(passages.found) == 3
    for one in passages.found:
        assert b"Licen" in bytes(unit & 255 for unit in one.units)
        assert one.units.tolist() == UNITS[one.start : one.start + len(one.units)]


def test_spans_are_whole_characters_and_sum_to_the_bits() -> None:
    units = np.array([*"a\u4e2d".encode(), 0xFF, DOCUMENT_END, *b"bc"], np.uint16)
    bits = np.array([[1, 2, 3, 4, 5, 6, 7, 7.0], [0.5] * 8])
    assert spans(units, bits) == [
        ("a", 1, 0.5), ("\u4e2d", 9, 1.5), ("\ufffd", 5, 0.5), ("\u23ce", 6, 0.5), ("bc", 14, 1.0)
    ]  # fmt: skip


def test_the_command_writes_what_it_prints(folder: Path, tmp_path: Path) -> None:
    done = run_report(
        "diff", folder / "plain", folder / "pieces", "--out", tmp_path, "--find", "<b>", "--passages", "2"
    )
    assert done.returncode == 0, done.stderr
    reports = [json.loads((folder / name / "report.json").read_text()) for name in ("plain", "pieces")]
    bits = [report["description_length"]["data_bits"] for report in reports]
    with (tmp_path / "diff.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(rows[0][name]) for name in ("a_bits", "b_bits")] == pytest.approx(bits, rel=1e-13)
    for group in {row["group"] for row in rows[1:]}:
        own = [row for row in rows if row["group"] == group]
        assert sum(int(row["bytes"]) for row in own) == len(UNITS)
        assert sum(float(row["saved_bits"]) for row in own) == pytest.approx(bits[0] - bits[1])
    assert f"{(bits[0] - bits[1]) / 8:+,.0f}".replace("-", "−") in done.stdout
    assert "first occurrence of its word" in done.stdout
    with (tmp_path / "diff-curve.csv").open() as file:
        last = list(csv.DictReader(file))[-1]
    assert (int(last["coded_bytes"]), float(last["saved_bits"])) == (len(UNITS), pytest.approx(bits[0] - bits[1]))
    page = (tmp_path / "diff.html").read_text()
    assert not re.search(r"(src|href)=.http|url\((?!#)", page)
    assert "3.txt" in page
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])  # type: ignore[index]
    found = data["passages"]["found"]
    assert "Maß <b>é中</b> 12" in "".join(span[0] for span in found[0]["spans"])
    assert found[0]["saved"] == pytest.approx(sum(a - b for _, a, b in found[0]["spans"]), abs=0.5)
    assert [len(data["passages"][name]) for name in ("gains", "sample", "found")] == [2, 2, 1]
    few = run_report("diff", folder / "other", folder / "plain", "--out", tmp_path / "few")
    assert "too few lanes for an interval" in few.stdout, few.stderr


def test_documents_are_grouped_by_a_field_or_a_file(tmp_path: Path, folder: Path) -> None:
    for name, values in (("a.jsonl", ["de", "en"]), ("b.jsonl", ["de", "", "fr\n"])):
        records = [{"text": "x" * 300, "language": value, "number": 1} for value in values]
        (tmp_path / name).write_text("".join(json.dumps(record) + "\n" for record in records))
    data = DataConfig(source=str(tmp_path))
    names, groups = group_documents(data, "language", 5)
    assert [names[number] for number in groups] == ["de", "en", "de", "(empty)", "fr\\n"]
    names, groups = group_documents(data, FILE, 5)
    assert [names[number] for number in groups] == ["a.jsonl", "a.jsonl", "b.jsonl", "b.jsonl", "b.jsonl"]
    one = replace(data, source=str(tmp_path / "a.jsonl"))
    for wrong, by, documents, message in (
        (data, "text", 5, "--by text: document 1 of .* has more than 200 bytes there; name a field with short values"),
        (data, "tongue", 5, "has no field 'tongue'; fields are text, language, number"),
        (data, "language", 4, "has 5 documents there, and the runs 4"),
        (one, FILE, 2, "--by file: .* is no folder, glob or list of files"),
    ):
        with pytest.raises(UsageError, match=message):
            group_documents(wrong, by, documents)
    done = run_report("diff", folder / "plain", folder / "pieces", "--out", tmp_path / "out", "--by", FILE)
    assert "\nby file\n" in done.stdout, done.stderr
    with (tmp_path / "out" / "diff.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["group"] == "by file"]
    assert {row["class"]: int(row["bytes"]) for row in rows} == {f"{n}.txt": len(t) + 1 for n, t in enumerate(TEXTS)}


def test_runs_that_cannot_be_compared_are_refused(folder: Path, tmp_path: Path) -> None:
    def refusal(*arguments: str | Path) -> str:
        done = run_report("diff", *arguments)
        assert done.returncode == 2, done.stdout
        # Bars may stand before it.
        return done.stderr.splitlines()[-1]

    plain = folder / "plain"
    assert "--passages 0: take 1 to 500" in refusal(plain, plain, "--passages", "0")
    assert "holds no finished run" in refusal(plain, tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    report = made_report(corpus=sections()["corpus"])
    (other / "report.json").write_bytes(report.content())
    assert "code lengths of different corpora cannot be compared" in refusal(plain, other)
    for name in ("report.json", CONFIG_FILE, TOKENIZER_FILE):
        (other / name).write_bytes((plain / name).read_bytes())
    assert f"{other} holds no nats.json" in refusal(plain, other)
    for name in (NATS_FILE, SUMS_FILE):
        (other / name).write_bytes((folder / "pieces" / name).read_bytes())
    (other / CONFIG_FILE).write_bytes((folder / "pieces" / CONFIG_FILE).read_bytes())
    assert "are not those of its report.json" in refusal(plain, other)


def test_sums_that_are_not_the_ledgers_are_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = open_runs([folder / "plain", folder / "pieces"], None)
    halved = runs[0].kept.nats / 2
    wrong = [replace(runs[0], kept=replace(runs[0].kept, nats=halved)), runs[1]]
    with pytest.raises(RunFailed, match=r"the bytes of .*plain take .* bits, and its ledger has"):
        list(pair_blocks(wrong))
    changed = runs[0].report.corpus.model_copy(update={"sha256": hashlib.sha256().hexdigest()})
    wrong = [replace(runs[0], report=runs[0].report.model_copy(update={"corpus": changed})), runs[1]]
    with pytest.raises(UsageError, match="are not the corpus: delete that folder"):
        list(pair_blocks(wrong))
