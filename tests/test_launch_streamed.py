"""A run over a streamed corpus: the bits of one over a prepared corpus, through ranks, stops and archives."""

import json
from pathlib import Path

import pytest
from archive_commands import COMPRESS, DECOMPRESS, launch_in, succeeded
from dist import ROOT, run
from small_run import SMALL, TRAIN, arguments, curve, report

BPE = ["--data.tokenizer=bpe", "--data.vocabulary=300"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Several documents, some of which are records."""
    folder = tmp_path_factory.mktemp("corpus") / "in"
    folder.mkdir()
    text = (ROOT / "LICENSE").read_bytes()[3_000:5_600]
    (folder / "a.txt").write_bytes(b"\xff\x00" + text)
    (folder / "b.jsonl").write_bytes(
        b"".join(json.dumps({"text": line}).encode() + b"\n" for line in text.decode().split("\n")[:20])
    )
    (folder / "c.txt").write_bytes(text[500:900])
    return folder


def test_two_ranks_that_stop_and_resume_give_the_bits_of_a_prepared_corpus(
    folder: Path, cache: Path, tmp_path: Path
) -> None:
    plain, streamed = tmp_path / "plain", tmp_path / "streamed"
    succeeded(run(TRAIN, *arguments(folder, cache, plain, *BPE), ranks=2))
    more = ["--data.stream=true", "--run.stop_after_steps=7"]
    succeeded(run(TRAIN, *arguments(folder, cache, streamed, *BPE, *more), ranks=2))
    succeeded(run(TRAIN, f"--run.dir={streamed}", "--run.resume", "--run.stop_after_steps=0", ranks=2))
    a, b = report(plain), report(streamed)
    assert a["corpus"] == b["corpus"] and a["corpus"]["documents"] == 22
    assert a["description_length"] == b["description_length"]
    assert curve(plain) == curve(streamed)


def test_an_archive_is_the_same_file_and_decodes(folder: Path, cache: Path, tmp_path: Path) -> None:
    options = [option for option in SMALL if not option.startswith("--run")]
    for name, more in (("plain", []), ("streamed", ["--data.stream=true"])):
        given = [*options, f"--data.cache_dir={cache}", *more]
        succeeded(launch_in(tmp_path, COMPRESS, folder / "a.txt", tmp_path / name, *given))
    assert (tmp_path / "plain").read_bytes() == (tmp_path / "streamed").read_bytes()
    succeeded(launch_in(tmp_path, DECOMPRESS, "streamed", "back"))
    assert (tmp_path / "back").read_bytes() == (folder / "a.txt").read_bytes()
