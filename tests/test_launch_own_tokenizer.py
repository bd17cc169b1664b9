"""Runs and archives with a tokenizer from a file: the same bits on ranks, no need for the file to decode, refusals."""

from pathlib import Path

import pytest
from dist import run
from small_run import MANY_LANES, TRAIN, arguments, report
from test_data_own_tokenizer import byte_level

from data.tokenizer import Tokenizer
from eval.code_size import decoder_values, measure_code, unpack
from train.config import Config


def own(corpus: Path, cache: Path, run_dir: Path, file: Path, *more: str) -> list[str]:
    return [*arguments(corpus, cache, run_dir, *more), f"--data.tokenizer={file}"]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "mine.json"
    path.write_text(byte_level().to_str())
    return path


def test_one_and_two_ranks_code_the_same_bits_and_the_report_names_the_file(corpus, cache, tmp_path, file):
    found = []
    for ranks in 1, 2:
        done = run(TRAIN, *own(corpus, cache, tmp_path / str(ranks), file), ranks=ranks)
        assert done.returncode == 0, done.stderr
        found.append(report(tmp_path / str(ranks)))
    assert "mine.json (tokenizer.json, BPE), vocabulary" in done.stdout
    one, two = found
    assert one["coded"] == two["coded"] and one["coded"]["bytes"] == 5003
    bits = [each["description_length"]["data_bits"] for each in found]
    assert bits[0] == pytest.approx(bits[1], rel=1e-6)
    assert one["description_length"]["tokenizer_bits"] > 0
    entry = one["tokenizer"]
    assert (entry["file"], entry["escaped_bytes"]) == ("mine.json", 1)
    assert entry["file_xz_bytes"] > one["description_length"]["tokenizer_bits"] / 8


def test_an_archive_decodes_without_the_file(cache, tmp_path, file):
    text, archive, gone = tmp_path / "text", tmp_path / "archive", tmp_path / "gone.json"
    lines = (b"%d bottles of beer on the wall, take %d down\n" % (n * n, n) for n in range(400))
    text.write_bytes(b"".join(lines) + b"\xff")
    gone.write_bytes(file.read_bytes())
    options = own(text, cache, tmp_path / "run", gone, *MANY_LANES)[1:]
    done = run("launch/compress.py", str(text), str(archive), *options)
    assert done.returncode == 0, done.stderr
    gone.unlink()
    assert str(gone).encode() not in archive.read_bytes()
    for name, more in ("back", []), ("by its own code", ["--embedded"]):
        done = run("launch/decompress.py", str(archive), str(tmp_path / name), *more)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / name).read_bytes() == text.read_bytes()


def test_a_decoder_is_charged_for_its_own_kind_of_tokenizer_alone():
    sources = {}
    for kind in "bpe", "file":
        values = decoder_values(Config(), Tokenizer(kind, b"", [b""] * 300), {})
        assert values["data"]["tokenizer"] == kind
        sources[kind] = unpack(measure_code(values).packed)[1]
    assert "data/joins.py" not in sources["bpe"] and "joins" not in sources["bpe"]["data/tokenizer.py"]
    assert "def grow_pieces" in sources["bpe"]["data/tokenizer.py"]
    assert "data/joins.py" in sources["file"] and "grow_pieces" not in sources["file"]["data/tokenizer.py"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data.vocabulary=512"], "data.vocabulary 512 is for pieces that are learned, and data.tokenizer"),
        (["--data.tokenizer_sample_bytes=9"], "data.tokenizer_sample_bytes 9 is for pieces that are learned"),
        (["--data.tokenizer=missing.json"], "data.tokenizer is 'missing.json': it must be bytes, bpe or the name of a"),
        (["--data.tokenizer=LICENSE"], "data.tokenizer LICENSE: line 1 is"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(corpus, cache, tmp_path, file, options, message):
    done = run(TRAIN, *own(corpus, cache, tmp_path / "run", file), *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr.strip().splitlines()[-1]
    assert not (tmp_path / "run" / "config.yaml").exists()
