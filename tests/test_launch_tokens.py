"""Runs and archives over token files: the same bits on ranks, files byte for byte, and what cannot be is refused."""

import gzip
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from archive_commands import complaint, succeeded, tree
from dist import ROOT, run
from small_run import MANY_LANES, SMALL, TRAIN, report
from test_data_own_tokenizer import byte_level
from test_data_token_records import write
from token_formats import llm_c, megatron, nano_gpt, npy

from data.tokenizer import Tokenizer
from eval.code_size import decoder_values, measure_code, unpack
from train.config import Config

OPTIONS = [option for option in SMALL if not option.startswith("--data.tokenizer")]


def options(cache: Path, run_dir: Path, *more: str) -> list[str]:
    return [f"--data.cache_dir={cache}", f"--run.dir={run_dir}", *OPTIONS, *MANY_LANES, *more]


def flat(ids: list[list[int]]) -> list[int]:
    return [*itertools.chain.from_iterable(ids)]


def documents(model: tokenizers.Tokenizer) -> list[list[int]]:
    """Paragraphs of prose as ids, each with an end of text, as data/openwebtext/prepare.py of nanoGPT has them."""
    text = (ROOT / "LICENSE").read_text()
    end = model.token_to_id("<|endoftext|>")
    assert end is not None
    return [[*model.encode(part, add_special_tokens=False).ids, end] for part in text.split("\n\n")]


@pytest.fixture(scope="module")
def ids() -> list[list[int]]:
    # As often as makes an archive shorter than the files.
    return documents(byte_level()) * 6


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory, ids: list[list[int]]) -> Path:
    """Two shards, as dev/data/fineweb.py of llm.c and modded-nanogpt have them."""
    folder, half = tmp_path_factory.mktemp("shards"), len(ids) // 2
    llm_c(folder / "text_train_000001.bin", flat(ids[:half]))
    llm_c(folder / "text_train_000002.bin", flat(ids[half:]))
    return folder


def test_one_and_two_ranks_code_the_same_bits_and_the_report_says_what_bytes_are(cache, tmp_path, ids, shards):
    found = []
    for ranks in 1, 2:
        done = run(TRAIN, f"--data.source=tokens:{shards}/*.bin", *options(cache, tmp_path / str(ranks)), ranks=ranks)
        succeeded(done)
        found.append(report(tmp_path / str(ranks)))
    shown = " ".join(done.stdout.split())
    assert "ids of token files (llm.c, GPT-2, uint16), vocabulary 500; bytes are those of the files" in shown
    one, two = found
    count = sum(map(len, ids))
    assert one["corpus"] == two["corpus"] and one["coded"] == {"tokens": count + 2, "bytes": 2 * 1024 + 2 * count}
    bits = [each["description_length"]["data_bits"] for each in found]
    assert bits[0] == pytest.approx(bits[1], rel=1e-6)
    assert one["description_length"]["tokenizer_bits"] == 40
    assert one["token_files"] == {"format": "llm.c, GPT-2, uint16", "vocabulary": 500, "ids": count, "documents": 0}
    assert f"{bits[1] / count:.4f}, " in shown and f"with code and all: {count:,} tokens" in shown
    assert one["references"]["uniform"] == one["corpus"]["bytes"]


def test_a_run_that_was_stopped_goes_on_to_the_same_bits(cache, tmp_path, shards):
    found = []
    for name, more in ("whole", []), ("parts", ["--run.stop_after_steps=7"]):
        source = f"--data.source=tokens:{shards}/*.bin"
        succeeded(run(TRAIN, source, *options(cache, tmp_path / name), *more))
        if more:
            succeeded(run(TRAIN, f"--run.dir={tmp_path / name}", "--run.resume", "--run.stop_after_steps=0"))
        found.append(report(tmp_path / name)["description_length"])
    assert found[0] == found[1]


MAKE: dict[str, Callable[[Path, list[list[int]]], object]] = {
    "bare.bin": lambda path, ids: nano_gpt(path, flat(ids)),
    "ids.npy": lambda path, ids: npy(path, flat(ids)),
    "text_sentence": lambda path, ids: megatron(path, [[each[:9], each[9:]] for each in ids], "int32", rest=1),
}


@pytest.mark.parametrize("name", MAKE)
def test_an_archive_gives_the_files_back(cache, tmp_path, ids, name):
    given, archive, back = tmp_path / "given", tmp_path / "archive", tmp_path / "back"
    given.mkdir()
    MAKE[name](given / name, ids)
    succeeded(run("launch/compress.py", f"tokens:{given / name}", str(archive), *options(cache, tmp_path / "run")))
    assert archive.stat().st_size < sum(map(len, tree(given).values()))
    embedded = ["--embedded"] if name in ("ids.npy", "text_sentence") else []
    succeeded(run("launch/decompress.py", str(archive), str(back), *embedded))
    files = tree(given)
    if len(files) == 1:
        assert back.read_bytes() == files[name]
    else:
        assert tree(back) == files


def test_shards_come_back_under_their_names_from_two_ranks(cache, tmp_path, shards):
    archive, back = tmp_path / "archive", tmp_path / "back"
    given = [*options(cache, tmp_path / "run"), "--data.end_token=1"]
    succeeded(run("launch/compress.py", f"tokens:{shards}", str(archive), *given, ranks=2))
    whole = report(tmp_path / "run")["description_length"]["total_bits"] / 8
    assert abs(archive.stat().st_size - whole) < 0.0005 * whole + 1024
    succeeded(run("launch/decompress.py", str(archive), str(back), ranks=2))
    assert tree(back) == tree(shards)


def test_what_no_model_makes_shorter_is_stored_as_files(cache, tmp_path):
    megatron(tmp_path / "small", [[[1, 2, 3]], [[4]]])
    archive, back = tmp_path / "archive", tmp_path / "back"
    done = run("launch/compress.py", f"tokens:{tmp_path / 'small'}", str(archive), *options(cache, tmp_path / "run"))
    succeeded(done)
    assert "stored as it is" in done.stderr
    succeeded(run("launch/decompress.py", str(archive), str(back)))
    assert tree(back) == {path.name: path.read_bytes() for path in tmp_path.glob("small.*")}


def test_other_decoders_pay_nothing_for_token_files():
    sources = {}
    for kind in "bpe", "tokens":
        values = decoder_values(Config(), Tokenizer(kind, b"", [b""] * 300), {})
        assert values["data"]["tokenizer"] == kind
        sources[kind] = unpack(measure_code(values).packed)[1]
    assert "data/token_pieces.py" not in sources["bpe"] and "token" + "_pieces" not in str(sources["bpe"])
    assert "def file_index" in sources["tokens"]["data/token_pieces.py"]
    assert "grow_pieces" not in sources["tokens"]["data/tokenizer.py"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--data.tokenizer=bytes"], "data.tokenizer bytes has no effect on data.source tokens:"),
        (["--run.reference_tokenizer"], "run.reference_tokenizer has no effect on token files"),
        (["--data.vocabulary=512"], "data.vocabulary 512 has no effect on data.source tokens:"),
        (["--data.tokenizer_sample_bytes=9"], "data.tokenizer_sample_bytes 9 has no effect on data.source tokens:"),
        (["--data.token_ids=499"], "text_train_000001.bin: byte "),
        (["--data.source=kjv", "--data.token_ids=499"], "data.token_ids 499 is for token files: name them as"),
        (["--data.source=kjv", "--data.end_token=0"], "data.end_token 0 is for token files: name them as"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(cache, tmp_path, shards, more, message):
    done = run(TRAIN, f"--data.source=tokens:{shards}", *options(cache, tmp_path / "run", *more))
    assert done.returncode == 2 and message in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_records_are_trained_over_and_not_archived(cache, tmp_path, ids):
    path = write(tmp_path / "ids.parquet", ids)
    more = options(cache, tmp_path / "run", "--data.field=input_ids")
    done = run("launch/compress.py", f"tokens:{path}", str(tmp_path / "archive"), *more)
    assert "its files do not follow from those: save the ids with numpy.save" in complaint(done, 2)
    assert not (tmp_path / "archive").exists() and not (tmp_path / "run").exists()
    succeeded(run(TRAIN, f"--data.source=tokens:{path}", *more))
    found = report(tmp_path / "run")
    count = sum(map(len, ids))
    assert found["coded"] == {"tokens": count + len(ids), "bytes": 4 * count}
    assert found["token_files"] | {"format": ""} == {
        "format": "",
        "vocabulary": 500,
        "ids": count,
        "documents": len(ids),
    }


def test_instruments_that_need_text_say_so_and_the_others_work(cache, tmp_path, shards):
    more = options(cache, tmp_path / "run")
    succeeded(run(TRAIN, f"--data.source=tokens:{shards}", *more))
    text = tmp_path / "text"
    text.write_bytes(b"some text that nobody saw\n" * 9)
    for command in (
        ["sample", str(tmp_path / "run"), "--tokens=5"],
        ["held-out", str(tmp_path / "run"), str(text)],
        ["encode", str(text), str(tmp_path / "archive"), f"--checkpoint={tmp_path / 'run'}"],
    ):
        done = run("launch/evaluate.py", *command)
        assert "ids of token files" in complaint(done, 2)
    succeeded(run("launch/evaluate.py", "two-part", str(tmp_path / "run"), "--points=fp32"))


def test_a_tokenizer_beside_the_ids_measures_the_text(cache, tmp_path, ids):
    model, text = byte_level(), (ROOT / "LICENSE").read_bytes().replace(b"\n\n", b"") * 6
    (tmp_path / "mine.json").write_text(model.to_str())
    path, end = nano_gpt(tmp_path / "train.bin", flat(ids)), model.token_to_id("<|endoftext|>")
    source = [f"--data.source=tokens:{path}", f"--data.tokenizer={tmp_path / 'mine.json'}"]
    done = run(TRAIN, *source, f"--data.end_token={end}", *options(cache, tmp_path / "run"), "--run.baselines=true")
    succeeded(done)
    found, plain = report(tmp_path / "run"), report_without_text(cache, tmp_path, path)
    files = found["token_files"]
    assert files["documents"] == len(ids) and files["text"]["bytes"] == len(text)
    assert files["text"]["tokenizer"] == "mine.json"
    # gzip and xz are those of the text; nothing else changes, and nothing is charged.
    assert files["text"]["baselines"]["gzip-9"] == len(gzip.compress(text, 9, mtime=0))
    assert found["description_length"] == plain["description_length"]
    shown = " ".join(done.stdout.split())
    bits = found["description_length"]["data_bits"] / len(text)
    assert f"as text {len(text):,} bytes by mine.json: {bits:.4f} bits a byte, " in shown
    assert f"{len(ids):,} documents" in shown


def report_without_text(cache: Path, folder: Path, path: Path) -> dict[str, Any]:
    succeeded(run(TRAIN, f"--data.source=tokens:{path}", *options(cache, folder / "plain")))
    return report(folder / "plain")


def test_the_tokenizer_of_other_ids_is_refused(cache, tmp_path, ids):
    model = byte_level()
    (tmp_path / "mine.json").write_text(model.to_str())
    path = nano_gpt(tmp_path / "train.bin", [*flat(ids), 700])
    source = [f"--data.source=tokens:{path}", f"--data.tokenizer={tmp_path / 'mine.json'}"]
    for more, message in (
        ([], "mine.json: it has 500 tokens, and data.source tokens:"),
        (["--data.end_token=650"], "data.end_token 650 is no id in data.source tokens:"),
    ):
        done = run(TRAIN, *source, *more, *options(cache, tmp_path / "run"))
        assert done.returncode == 2 and message in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr
        assert not (tmp_path / "run" / "config.yaml").exists()
