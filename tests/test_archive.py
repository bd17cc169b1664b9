"""Compressing and decompressing as users do: real processes, real archives, and what stands in their way."""

import json
import lzma
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from archive_commands import COMPRESS, DECOMPRESS, complaint, launch_in, names, succeeded, tree
from dist import ROOT, start, wait_until

from archive.format import header_content, open_archive, write_archive
from archive.frames import read_frames
from archive.info import reconcile
from archive.pins import PINS
from eval.code_size import code_identity
from eval.description_length import side_bits

SMALL = [
    "--model.width=32", "--model.head_width=16", "--model.depth=1", "--model.window=16", "--model.ngram_orders=[1,2,3]",
    "--model.ngram_rows_log2=12", "--train.segment_tokens=2", "--train.lanes=32", "--engine.threads=1",
    "--data.tokenizer=bytes", "--run.log_steps=5", "--run.baselines=false",
]  # fmt: skip
QUICK = [*SMALL, "--train.segment_tokens=4", "--train.lanes=64"]
PROSE = b"".join((ROOT / name).read_bytes() for name in ("LICENSE", "README.md", "train/loop.py", "train/run.py"))
# They repeat themselves, so that they come out smaller than they are.
DOCUMENTS = [PROSE[:1_500] * 6, b"", PROSE[:1_500] * 6 + b"\xff\x00\r\n the end"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"--data.cache_dir={tmp_path_factory.mktemp('cache')}"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """18,011 bytes of this project's prose, which repeat themselves: 2 blocks. No lane or segment divides them."""
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    path.write_bytes((b"\xff\x00\xe2\x96\x81\r\n" + PROSE[:1_500] * 13)[:18_011])
    return path


@pytest.fixture(scope="module")
def archive(corpus: Path, cache: str) -> Path:
    """Of `corpus`, written in the corpus' own folder."""
    succeeded(launch_in(corpus.parent, COMPRESS, corpus.name, "archive", *SMALL, cache))
    return corpus.parent / "archive"


@pytest.fixture(scope="module")
def quick_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("quick") / "quick.txt"
    path.write_bytes(b"".join(DOCUMENTS))
    return path


@pytest.fixture(scope="module")
def quick(quick_corpus: Path, cache: str) -> Path:
    """Archive of `quick_corpus`."""
    succeeded(launch_in(quick_corpus.parent, COMPRESS, "quick.txt", "quick", *QUICK, cache))
    return quick_corpus.parent / "quick"


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of DOCUMENTS."""
    folder = tmp_path_factory.mktemp("documents") / "documents"
    folder.mkdir()
    for name, document in zip("abc", DOCUMENTS, strict=True):
        (folder / name).write_bytes(document)
    return folder


@pytest.fixture(scope="module")
def two_ranks(documents: Path, cache: str) -> Path:
    """Archive of `documents`, in pieces of a small vocabulary and growing segments, by two ranks."""
    more = ["--data.tokenizer=bpe", "--data.vocabulary=300", "--train.segment_tokens=4@0,16@0.3", cache]
    succeeded(launch_in(documents.parent, COMPRESS, "documents", "archive", *QUICK, *more, ranks=2))
    return documents.parent / "archive"


def forged(archive: Path, path: Path, header: dict[str, Any], program: bytes | None = None) -> Path:
    """The archive with parts of its header, and its program, replaced, and sound in every checksum."""
    with archive.open("rb") as file:
        frames = dict(enumerate(read_frames(file)))
    frames[0] = (b"H", header_content(open_archive(archive).header | header))
    if program is not None:
        frames[2] = (b"P", program)
    write_archive(path, frames.values())
    return path


def repacked(program: bytes, change: Callable[[list[str]], list[str]]) -> bytes:
    """The program after a change of its texts: configuration, then path and source of each module."""
    text = lzma.decompress(program).decode().split("\0")
    changed = change(text)
    assert changed != text
    return lzma.compress("\0".join(changed).encode(), format=lzma.FORMAT_ALONE)


def test_the_archive_is_as_large_as_the_report_says(archive: Path, corpus: Path) -> None:
    assert open_archive(archive).blocks == 2
    report = json.loads((archive.with_name("archive.run") / "report.json").read_text())
    total_bytes = report["description_length"]["total_bits"] / 8
    assert abs(archive.stat().st_size - total_bytes) <= 0.0005 * total_bytes + 1024
    done = launch_in(corpus.parent, DECOMPRESS, "archive", "--info")
    succeeded(done)
    assert f"the archive is {archive.stat().st_size:,} bytes" in done.stdout
    for name in ("corpus.txt", "18,011", "data", "code", "tokenizer", "side", "total", "model.width 32"):
        assert name in done.stdout
    left = names(archive.with_name("archive.run"))
    assert {"config.yaml", "report.json"} <= left
    assert not {"checkpoints", "blocks"} & left
    assert names(corpus.parent) == {"corpus.txt", "archive", "archive.run"}


def test_each_term_of_the_report_is_in_the_archive(archive: Path, two_ranks: Path) -> None:
    """To the byte, where nothing is rounded: a term that was left out, or given twice, would show."""
    for path, ranks in ((archive, 1), (two_ranks, 2)):
        opened = open_archive(path)
        reported = json.loads((path.with_name("archive.run") / "report.json").read_text())["description_length"]
        terms = {term.name: term for term in reconcile(opened)}
        assert opened.part_bytes["program"] == reported["code_bits"] / 8
        assert opened.part_bytes["tokenizer"] == reported["tokenizer_bits"] / 8
        assert opened.data_bits == reported["data_bits"]
        assert terms["side"].reported_bytes == reported["side_bits"] / 8
        # 48 bits and the rest of a byte for a block and rank; the two forms of the model differ by 2e-5.
        data_bytes, payload_bytes = reported["data_bits"] / 8, opened.part_bytes["payload"]
        assert -2e-5 * data_bytes <= payload_bytes - data_bytes <= 2e-5 * data_bytes + 7 * opened.blocks * ranks
        assert terms["frames of blocks"].archive_bytes == opened.blocks * (9 + 4 * ranks)
        # Magic, end, and the frames of header, tokenizer, program and end are 84 bytes; the rest is the header, and the
        # names of documents with their frame.
        names_bytes = opened.part_bytes["names"] + 9 * bool(opened.names)
        assert terms["side"].archive_bytes == opened.part_bytes["header"] + 84 + names_bytes
        assert opened.part_bytes["header"] < 700
        assert sum(term.archive_bytes for term in terms.values()) == path.stat().st_size
        assert all(term.holds for term in terms.values())
    assert open_archive(two_ranks).part_bytes["tokenizer"] > 50
    assert open_archive(two_ranks).names
    assert open_archive(archive).part_bytes["tokenizer"] == 0


@pytest.mark.usefixtures("device")
def test_the_file_comes_back_in_other_surroundings(archive: Path, corpus: Path, tmp_path: Path) -> None:
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        done = launch_in(tmp_path, DECOMPRESS, archive, "file", TZ="Pacific/Kiritimati", LANG="C", LC_ALL="C")
    finally:
        busy.kill()
        busy.wait()
    succeeded(done)
    assert (tmp_path / "file").read_bytes() == corpus.read_bytes()
    assert names(tmp_path) == {"file"}
    assert open_archive(archive).sha256 in done.stdout
    # Not stored as it is.
    assert open_archive(archive).header["method"] == "model"


def test_the_same_file_elsewhere_gives_the_same_archive(
    quick: Path, quick_corpus: Path, cache: str, tmp_path: Path
) -> None:
    (tmp_path / "quick.txt").write_bytes(quick_corpus.read_bytes())
    succeeded(launch_in(ROOT, COMPRESS, tmp_path / "quick.txt", tmp_path / "named otherwise", *QUICK, cache))
    assert (tmp_path / "named otherwise").read_bytes() == quick.read_bytes()


def test_a_killed_and_resumed_compression_gives_the_same_archive(
    archive: Path, corpus: Path, cache: str, tmp_path: Path
) -> None:
    again = [str(corpus), str(tmp_path / "archive")]
    process = start(COMPRESS, *again, *SMALL, cache, "--run.checkpoint_secs=0.01")
    wait_until(lambda: (tmp_path / "archive.run/checkpoints/latest.json").exists(), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert names(tmp_path) == {"archive.run"}
    succeeded(launch_in(tmp_path, COMPRESS, *again, "--run.resume"))
    assert (tmp_path / "archive").read_bytes() == archive.read_bytes()
    assert not {"checkpoints", "blocks"} & names(tmp_path / "archive.run")


@pytest.fixture(scope="module")
def stopped(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a decompression of `archive` leaves that was asked to stop."""
    folder = tmp_path_factory.mktemp("stopped")
    process = start(DECOMPRESS, str(archive), str(folder / "file"), "--checkpoint_secs=0.01")
    wait_until(lambda: (folder / "file.partial/checkpoints/latest.json").exists(), process)
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert "--resume" in err
    assert names(folder) == {"file.partial"}
    return folder / "file.partial"


def test_a_stopped_decompression_goes_on(stopped: Path, archive: Path, corpus: Path, tmp_path: Path) -> None:
    shutil.copytree(stopped, tmp_path / "file.partial")
    succeeded(launch_in(tmp_path, DECOMPRESS, archive, "file", "--resume"))
    assert (tmp_path / "file").read_bytes() == corpus.read_bytes()
    assert names(tmp_path) == {"file"}


def test_a_stopped_decompression_is_not_mixed_with_another(
    stopped: Path, archive: Path, quick: Path, tmp_path: Path
) -> None:
    shutil.copytree(stopped, tmp_path / "file.partial")
    anew = complaint(launch_in(tmp_path, DECOMPRESS, archive, "file"), 1)
    assert "file.partial holds an unfinished decompression" in anew
    # Of another model too, so that not even the checkpoint fits (test_archive_coding.py has another corpus alone).
    program = open_archive(quick).program
    deeper = repacked(program, lambda text: [text[0].replace('"depth":1', '"depth":2'), *text[1:]])
    other = forged(quick, tmp_path / "deeper", {}, deeper)
    assert str(other) in complaint(launch_in(tmp_path, DECOMPRESS, other, "file", "--resume"), 1)
    assert names(tmp_path) == {"file.partial", "deeper"}


def test_two_ranks_bring_documents_back_in_order(two_ranks: Path, tmp_path: Path) -> None:
    header = open_archive(two_ranks).header
    assert (header["method"], header["world_size"], header["tokenizer"]) == ("model", 2, "bpe")
    assert header["corpus"]["documents"] == 3
    succeeded(launch_in(tmp_path, DECOMPRESS, two_ranks, "folder", ranks=2))
    assert tree(tmp_path / "folder") == dict(zip("abc", DOCUMENTS, strict=True))
    assert names(tmp_path) == {"folder"}


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "optimizer"), [(1, "muon"), (3, "adamw")])
def test_shards_bring_a_file_back(cache: str, tmp_path: Path, stage: int, optimizer: str) -> None:
    """Stage 3 gathers parameters for every step of the decoder, context mixing's outside of the engine's own call."""
    sharded = [f"--engine.zero_stage={stage}", f"--train.optimizer={optimizer}", "--model.block=gru"]
    sharded += ["--train.lanes=64"]
    (tmp_path / "file").write_bytes(PROSE[:500] * 40)
    succeeded(launch_in(tmp_path, COMPRESS, "file", "archive", *QUICK, *sharded, cache, ranks=2))
    assert open_archive(tmp_path / "archive").header["method"] == "model"
    succeeded(launch_in(tmp_path, DECOMPRESS, "archive", "again", ranks=2))
    assert (tmp_path / "again").read_bytes() == PROSE[:500] * 40


def test_another_machine_or_world_is_refused(two_ranks: Path, quick: Path, tmp_path: Path) -> None:
    alone = complaint(launch_in(tmp_path, DECOMPRESS, two_ranks, "file"), 1)
    assert "by 2 ranks" in alone and "a run of 1" in alone and "--num_accelerators 2" in alone
    threads = complaint(launch_in(tmp_path, DECOMPRESS, quick, "file", "--threads", "3"), 1)
    assert "with 1 threads" in threads and "--threads is 3" in threads
    pinned = complaint(
        launch_in(tmp_path, DECOMPRESS, forged(quick, tmp_path / "a", {"pins": {"BASH_ENV": "x"}}), "b"), 1
    )
    assert "BASH_ENV" in pinned
    machine = open_archive(quick).header["machine"]
    newer = forged(quick, tmp_path / "a", {"machine": machine | {"torch": "9.8.7"}})
    version = complaint(launch_in(tmp_path, DECOMPRESS, newer, "file"), 1)
    assert "torch 9.8.7" in version and machine["torch"] in version
    assert names(tmp_path) == {"a"}


def test_damage_is_refused_before_anything_is_loaded(quick: Path, tmp_path: Path) -> None:
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "torch.py").write_text("raise SystemExit('PyTorch was loaded')")
    content, sound = quick.read_bytes(), open_archive(quick)
    offset, length = sound.span(0)
    middle = offset + length // 2
    flipped = content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :]
    damaged = {
        f"block 0 at byte {sound.offsets[0]}: its checksum is": flipped,
        f"block 0 at byte {sound.offsets[0]}: the file ends": content[:middle],
        f"end at byte {sound.offsets[-1]}: the file ends": content[:-1],
    }
    for message, bad in damaged.items():
        (tmp_path / "bad").write_bytes(bad)
        done = launch_in(tmp_path, DECOMPRESS, "bad", "file", PYTHONPATH=str(tmp_path / "path"), REAL_STARTS="1")
        assert f"bad: {message}" in complaint(done, 1)
        assert len(done.stderr.splitlines()) == 1
    assert names(tmp_path) == {"path", "bad"}


@pytest.mark.starts
def test_foreign_code_is_refused_unless_it_is_asked_for(quick: Path, quick_corpus: Path, tmp_path: Path) -> None:
    speech = "import sys\nprint('the archive speaks', file=sys.stderr)\n"

    def speaking(text: list[str]) -> list[str]:
        module = text.index("archive/decoding.py") + 1
        return [*text[:module], speech + text[module], *text[module + 1 :]]

    foreign = repacked(open_archive(quick).program, speaking)
    path = forged(quick, tmp_path / "foreign", {"code": code_identity(foreign)}, foreign)
    refused = launch_in(tmp_path, DECOMPRESS, path, "file")
    assert "differs in archive/decoding.py" in complaint(refused, 1)
    assert "--embedded" in refused.stderr
    assert "the archive speaks" not in refused.stderr
    assert names(tmp_path) == {"foreign"}
    done = launch_in(tmp_path, DECOMPRESS, "foreign", "file", "--embedded")
    succeeded(done)
    assert "the archive speaks" in done.stderr
    assert (tmp_path / "file").read_bytes() == quick_corpus.read_bytes()
    assert names(tmp_path) == {"foreign", "file"}


def test_any_processor_can_be_pinned_to_what_all_have(quick: Path, documents: Path, cache: str, tmp_path: Path) -> None:
    """And several documents can be joined."""
    succeeded(launch_in(tmp_path, COMPRESS, documents, "archive", *QUICK, "--engine.portable", cache))
    header, unpinned = open_archive(tmp_path / "archive").header, open_archive(quick).header
    assert (header["pins"], unpinned["pins"]) == (PINS, {})
    assert header["machine"]["processor"] != unpinned["machine"]["processor"]
    succeeded(launch_in(tmp_path, DECOMPRESS, "archive", "file", "--joined", REAL_STARTS="1"))
    assert (tmp_path / "file").read_bytes() == b"".join(DOCUMENTS)


def test_what_no_model_shortens_is_stored_after_all(cache: str, tmp_path: Path) -> None:
    content = random.Random(1).randbytes(16_000)
    (tmp_path / "noise").write_bytes(content)
    more = ["--train.segment_tokens=8", "--train.lanes=128", cache]
    succeeded(launch_in(tmp_path, COMPRESS, "noise", "archive", *SMALL, *more))
    report = json.loads((tmp_path / "archive.run" / "report.json").read_text())
    assert report["description_length"]["data_bits"] > 8 * 15_000
    assert open_archive(tmp_path / "archive").header["method"] == "stored"
    assert (tmp_path / "archive").stat().st_size <= 16_000 + 1024
    assert not {"checkpoints", "blocks"} & names(tmp_path / "archive.run")
    succeeded(launch_in(tmp_path, DECOMPRESS, "archive", "file"))
    assert (tmp_path / "file").read_bytes() == content


def test_json_lines_come_back_byte_for_byte_through_a_model(tmp_path: Path, cache: str) -> None:
    """A glob of them was once read as the texts in them, and came back as so many numbered files. The model is charged
    for the names, and the archive's own decoder brings them back, too."""
    texts = [PROSE[place : place + 150].decode(errors="replace") for place in range(0, 1_500, 150)] * 4
    for number in range(3):
        lines = (json.dumps({"id": number, "text": text}) + "\n" for text in texts)
        path = tmp_path / f"g/{'deeper/' * number}{number}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(lines))
    succeeded(launch_in(tmp_path, COMPRESS, "g/**/*.jsonl", "g.one", *QUICK, cache))
    archive = open_archive(tmp_path / "g.one")
    assert archive.header["method"] == "model" and archive.header["corpus"]["documents"] == 3
    assert archive.names == ("0.jsonl", "deeper/1.jsonl", "deeper/deeper/2.jsonl")
    length = json.loads((tmp_path / "g.one.run/report.json").read_text())["description_length"]
    bare = side_bits(archive.header["corpus"]["tokens"], 1)
    assert length["side_bits"] == bare + 8 * archive.part_bytes["names"] > bare
    assert abs((tmp_path / "g.one").stat().st_size - length["total_bits"] / 8) < 1024
    succeeded(launch_in(tmp_path, DECOMPRESS, "g.one", "back", "--embedded"))
    assert tree(tmp_path / "back") == tree(tmp_path / "g")
    assert names(tmp_path) == {"g", "g.one", "g.one.run", "back"}
