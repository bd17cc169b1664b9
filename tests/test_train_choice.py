"""What is chosen for a corpus: by its size, its head and a budget; what is given stays; the same on all ranks, in a
resumed run and in an archive."""

import gzip
import json
from math import inf
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from dist import ROOT, run
from small_run import TRAIN, report

from data.errors import UsageError
from train.choice import (
    BYTES,
    COUNTED_BYTES,
    DATA,
    FEW_WORDS,
    HEAD_BYTES,
    LADDERS,
    MANY_WORDS,
    MOST_REPLAY,
    OF_SAMPLES,
    SAMPLES,
    WIDEST,
    Chooser,
    choose,
    describe,
    lags,
    read_head,
    rows_log2,
    settings,
    strides,
)
from train.command_line import load_config, parse_config, parse_given
from train.config import Config, DataConfig, flatten
from train.engine import Place

ALONE = Place(0, 1, torch.device("cpu"))
# Makes a run small, and is not chosen by hand.
LITTLE = [
    "--model.width=32", "--model.head_width=16", "--model.window=32", "--model.ngram_rows_log2=12",
    "--train.segment_tokens=16", "--train.lanes=64", "--engine.threads=1", "--run.baselines=false",
]  # fmt: skip


@pytest.mark.parametrize(("fields", "file"), [(BYTES, "bytes.yaml"), (WIDEST, "enwik7.yaml")])
def test_what_is_chosen_is_what_is_shipped(fields: dict[str, object], file: str) -> None:
    """At the size that a file was made for."""
    shipped = flatten(yaml.safe_load((ROOT / "configs" / file).read_text()))
    size = 10_000_000 if file == "enwik7.yaml" else 1_000_000
    rows = rows_log2(size, fields)
    replay = {"train.replay": f"1@0,0@{MOST_REPLAY}"} if fields is WIDEST else {}
    tables = {"model.ngram_rows_log2": rows} if rows != Config().model.ngram_rows_log2 else {}
    assert tables | fields | replay == shipped


@pytest.mark.parametrize("kind", LADDERS)
def test_more_minutes_never_give_a_setting_further_down(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.choice.describe", lambda head: (kind, {}))
    ladder = settings(kind, 3_000_000)
    assert [one.minutes for one in ladder] == sorted((one.minutes for one in ladder), reverse=True)
    replay = {"train.replay": f"1@0,0@{MOST_REPLAY}"} if ladder[0].replay_minutes else {}
    rows = {"model.ngram_rows_log2": 21}
    for number, one in enumerate(ladder):
        minutes = 3 * one.all_minutes(MOST_REPLAY if replay else 0.0)
        found = choose(3_000_000, b"", minutes, ())
        assert found.fields == rows | one.fields | replay
        assert found.expected_minutes == pytest.approx(minutes)
        less = choose(3_000_000, b"", minutes - 0.001, ())
        assert less.fields.items() >= ladder[min(number + 1, len(ladder) - 1)].fields.items()


@pytest.mark.parametrize("kind", LADDERS)
def test_what_is_too_long_to_be_counted_gets_the_fastest_of_long_corpora(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.choice.describe", lambda head: (kind, {}))
    unknown, long = choose(None, b"", 1e9, ()), choose(COUNTED_BYTES, b"", 1e-9, ())
    assert unknown.fields == long.fields and unknown.expected_minutes is None
    assert unknown.fields.items() >= settings(kind, COUNTED_BYTES)[-1].fields.items()
    assert "train.replay" not in unknown.fields


@pytest.mark.parametrize("kind", LADDERS)
def test_there_is_a_setting_for_every_size(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.choice.describe", lambda head: (kind, {}))
    bounds = {int(bound) for one in LADDERS[kind] for bound in one[:2] if bound != inf}
    for size in {0, 1, 10**9} | bounds | {bound - 1 for bound in bounds if bound}:
        assert choose(size, b"", 3.0, ()).fields


@pytest.mark.parametrize("kind", [FEW_WORDS, MANY_WORDS])
def test_long_plain_text_gets_more_pieces(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.choice.describe", lambda head: (kind, {}))
    for size, vocabulary in [(3_999_999, None), (4_000_000, 4096), (None, 4096)]:
        for minutes in (0.1, 3.0, 100.0):
            chosen = choose(size, b"", minutes, ()).fields
            assert (chosen.get("data.vocabulary"), chosen["model.width"]) == (vocabulary, 160)
            assert "data.tokenizer" not in chosen


def test_replay_takes_the_minutes_that_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.choice.describe", lambda head: (DATA, {}))
    last = settings(DATA, 3_000_000)[-1]
    for tenths, replay in [(-1, None), (0.99, None), (1, "1@0,0@0.1"), (3.5, "1@0,0@0.3"), (7, "1@0,0@0.7")]:
        minutes = 3 * last.all_minutes(tenths / 10)
        chosen = choose(3_000_000, b"", minutes, ())
        assert chosen.fields.get("train.replay") == replay
        assert chosen.expected_minutes is not None
        assert chosen.expected_minutes <= max(minutes, 3 * last.minutes) + 1e-9


def test_small_corpora_do_not_take_what_pays_later() -> None:
    chosen = [choose(size, b"", 1e9, ()).fields for size in (299_999, 300_000)]
    assert [fields.get("train.replay") for fields in chosen] == [None, f"1@0,0@{MOST_REPLAY}"]
    assert [fields["model.width"] for fields in chosen] == [96, 160]
    assert [fields["train.segment_tokens"] for fields in chosen] == ["8@0,16@0.1,32@0.4", "16@0,32@0.05,64@0.3"]
    assert "train.segment_tokens" not in choose(None, b"", 1e9, ()).fields


def test_plain_text_takes_pieces_where_it_is_long_enough() -> None:
    verse = b"And he said unto them, Go ye into the land that I will show you, and they went. "
    assert describe(100 * verse) == (FEW_WORDS, {})
    assert "data.tokenizer" not in choose(700_000, 100 * verse, 3, ()).fields
    assert choose(699_999, 100 * verse, 3, ()).fields["data.tokenizer"] == "bytes"
    # A word of six is new.
    letters = str.maketrans("0123456789", "abcdefghij")
    names = "".join(f"and he saw {number} in it ".translate(letters) for number in range(2_000)).encode()
    assert describe(names) == (MANY_WORDS, {}) and describe(100 * verse + names[:1_000]) == (FEW_WORDS, {})
    assert "data.tokenizer" not in choose(1_500_000, names, 3, ()).fields
    assert choose(1_499_999, names, 3, ()).fields["data.tokenizer"] == "bytes"
    code = b"    def close(self) -> None:\n        self.file.close()\n        self.lock.release()\n"
    for other in (code, "и сказал им: идите в землю, ".encode(), bytes(10_000), b"", b"x"):
        assert describe(100 * other)[0] == DATA


@pytest.mark.parametrize("channels", [1, 2])
def test_sound_is_known_by_its_samples(channels: int) -> None:
    """Of 16 bits; each channel is a walk."""
    walks = np.cumsum(np.random.default_rng(0).normal(0, 300, (30_000, channels)), 0)
    head = (walks.astype(np.int64) % 65536).astype("<u2").tobytes()
    assert strides(head) == [2 * channels]
    sound = choose(400_000, head, 3, ())
    assert sound.kind == OF_SAMPLES and sound.fields["model.ngram_lags"] == lags(2 * channels)


@pytest.mark.parametrize("sample", [1, 3])
def test_pictures_are_known_by_their_rows(sample: int) -> None:
    """A walk along the columns and one along the rows, added up."""
    draw = np.random.default_rng(0)
    across, down = (np.cumsum(draw.normal(0, 3, (200, sample)), 0) for _ in range(2))
    pixels = across[None] + down[:, None] + draw.normal(0, 1, (200, 200, sample))
    head = (pixels.astype(np.int64) % 256).astype(np.uint8).tobytes()
    assert strides(head) == [sample, 200 * sample]


@pytest.mark.parametrize(("sample", "row"), [(1, 0), (2, 0), (8, 0), (1, 32), (2, 640), (3, 1800)])
def test_lags_are_different_contexts(sample: int, row: int) -> None:
    found = lags(sample, row)
    assert len({*map(tuple, found)}) == len(found) and all(len({*one}) == len(one) for one in found)
    assert max(map(max, found)) <= max(4, 3 * sample, 2 * row)
    fields = SAMPLES | {"model.ngram_lags": found}
    assert parse_config("", [f"--{name}={value}" for name, value in fields.items()]).model.ngram_lags == found


def test_tables_grow_with_the_corpus() -> None:
    assert [rows_log2(size, BYTES) for size in (1, 2_600_000, 3_000_000, 10_000_000, 10**9)] == [20, 20, 21, 22, 24]
    assert [rows_log2(size, {}) for size in (1_500_000, 4_556_413, 10_000_000, 10**8)] == [20, 22, 23, 24]


def test_what_is_given_stays(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"a rose is a rose. " * 10_000)
    file = tmp_path / "mine.yaml"
    file.write_text("model: {width: 128}\ntrain: {replay: 0}\n")
    source = f"--data.source={tmp_path / 'text'}"
    _, given = parse_given("", [source, "--config", str(file), "--model.ngram_words=1"])
    chooser = Chooser(given)
    config, _ = parse_given("", [source, "--config", str(file), "--model.ngram_words=1"])
    chosen = chooser(config, ALONE)
    assert (chosen.model.width, chosen.train.replay, chosen.model.ngram_words) == (128, 0, 1)
    assert chosen.data.tokenizer == "bytes" and chosen.model.ngram_orders == BYTES["model.ngram_orders"]
    assert chooser.choice and not chooser.choice.fields.keys() & given
    before, after = flatten(config.to_dict()), flatten(chosen.to_dict())
    assert {name for name in before if before[name] != after[name]} <= chooser.choice.fields.keys()


@pytest.mark.parametrize(
    "options",
    [
        ["--model.ngram_orders=[]"],
        ["--model.ngram_orders=[1,2,3,4,6]"],
        ["--data.tokenizer=bpe"],
        ["--data.tokenizer=bytes"],
        ["--data.vocabulary=1024"],
        ["--run.budget_minutes=0"],
        ["--config=configs/bytes.yaml"],
        ["--config=configs/enwik8.yaml"],
        ["--data.source=tokens:corpus.npy"],
        ["--data.source=/no/such/file"],
        ["--run.warm_start=/a/run"],
    ],
)
def test_comparisons_and_other_choices_stay_as_they_are(
    options: list[str], corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    config, given = parse_given("", [f"--data.source={corpus}", *options])
    chooser = Chooser(given)
    assert chooser(config, ALONE) == config and chooser.choice is None


def test_without_a_command_line_nothing_is_chosen(corpus: Path) -> None:
    config = Config(data=DataConfig(source=str(corpus)))
    assert Chooser()(config, ALONE) is config
    saved = parse_config("", [f"--data.source={corpus}"])
    assert saved == config


def test_recorded_graphs_leave_replay_out(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"a rose is a rose. " * 20_000)
    for more, replay in (["--engine.graphs=on"], 0), ([], f"1@0,0@{MOST_REPLAY}"):
        config, given = parse_given("", [f"--data.source={tmp_path / 'text'}", *more])
        assert Chooser(given)(config, ALONE).train.replay == replay


def test_a_choice_that_contradicts_what_is_given_is_not_made(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"a rose is a rose. " * 20_000)
    config, given = parse_given("", [f"--data.source={tmp_path / 'text'}", "--train.segment_tokens=32768"])
    assert Chooser(given)(config, ALONE) == config


def test_the_size_of_records_is_counted_as_far_as_it_matters(tmp_path: Path) -> None:
    """That of packed records is not known before they are read."""
    path, text = tmp_path / "records.jsonl.gz", "word " * 20_000

    def write(records: int) -> Config:
        path.write_bytes(
            gzip.compress(b"".join(json.dumps({"text": text}).encode() + b"\n" for _ in range(records)), 1)
        )
        return Config(data=DataConfig(source=str(path)))

    size, head = read_head(write(7))
    assert (size, head) == (700_000, (text * 7).encode()[:HEAD_BYTES])
    assert read_head(write(COUNTED_BYTES // 100_000 + 2)) == (None, head)
    with pytest.raises(UsageError):
        read_head(Config(data=DataConfig(source="/no/such/file")))


def test_two_ranks_run_report_and_resume_what_was_chosen(corpus: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    options = [f"--data.source={corpus}", f"--data.cache_dir={tmp_path}/cache", f"--run.dir={run_dir}", *LITTLE]
    stopped = run(TRAIN, *options, "--run.stop_after_steps=2", ranks=2)
    assert stopped.returncode == 0, stopped.stderr
    assert stopped.stderr.count("onepass: chosen for 5,003 bytes of ") == 1
    config = load_config(run_dir / "config.yaml")
    assert (config.model.width, config.data.tokenizer, config.model.ngram_words) == (32, "bytes", 6)
    done = run(TRAIN, f"--run.dir={run_dir}", "--run.resume", "--run.stop_after_steps=0", ranks=2)
    assert done.returncode == 0, done.stderr
    assert "chosen for" not in done.stderr
    choice = report(run_dir)["choice"]
    assert (choice["bytes"], choice["budget_minutes"]) == (5_003, 3) and "model.width" not in choice["fields"]
    for name, value in choice["fields"].items():
        assert flatten(report(run_dir)["config"])[name] == value
    table = (run_dir / "report.html").read_text()
    assert "for 5,003 bytes of" in table and "for 5,003 bytes of" in done.stdout
    assert "differs from defaults" in table and "data.tokenizer bytes, not bpe" not in table
    # The saved configuration gives all fields, so that nothing is left to choose.
    config, given = parse_given("", ["--config", str(run_dir / "config.yaml")])
    assert Chooser(given)(config, ALONE) == config


def test_an_archive_of_what_was_chosen_comes_back(tmp_path: Path) -> None:
    text, archive, back = tmp_path / "text", tmp_path / "a.one", tmp_path / "back"
    pages = [path.read_bytes() for path in sorted((ROOT / "docs").glob("*.md"))]
    text.write_bytes(b"".join(pages)[:36_000])
    options = [f"--data.cache_dir={tmp_path}/cache", "--run.budget_minutes=0.03", *LITTLE, "--train.lanes=256"]
    done = run("launch/compress.py", str(text), str(archive), *options)
    assert done.returncode == 0, done.stderr
    assert "onepass: chosen for 36,000 bytes of " in done.stderr
    assert archive.stat().st_size < 36_000
    done = run("launch/decompress.py", str(archive), str(back))
    assert done.returncode == 0, done.stderr
    assert back.read_bytes() == text.read_bytes()
