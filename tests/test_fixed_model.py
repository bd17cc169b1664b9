"""Coding with the frozen model of a finished run, as its users start it."""

from pathlib import Path

import pytest
from dist import run
from small_run import SMALL
from trained_run import project_text, trained_run

from archive.format import open_archive
from data.tokenizer import load_tokenizer
from studies.scoring import tokenize

EVALUATE = "launch/evaluate.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run over half of this project's tests, and the other half as a file that it has not seen."""
    folder = tmp_path_factory.mktemp("fixed")
    text = project_text()
    (folder / "seen.txt").write_bytes(text[:12_000])
    (folder / "new.txt").write_bytes(text[12_000:15_000] + b"\xff\x00\r\n")
    trained_run(folder, folder / "seen.txt", *SMALL)
    return folder


def test_a_file_comes_back_and_both_accountings_are_told(folder: Path) -> None:
    archive, out = folder / "new.one", folder / "new.out"
    done = run(EVALUATE, "encode", str(folder / "new.txt"), str(archive), f"--checkpoint={folder / 'run'}")
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if "bytes" in line]
    told = {line[:24].strip(): int(line[24:38].replace(",", "")) for line in lines}
    assert told["archive, model shared"] == archive.stat().st_size
    charged = told["archive, model shared"] + told["model, zstd"] + told["code"]
    assert told["archive, model charged"] == charged
    opened = open_archive(archive)
    assert opened.header["method"] == "fixed"
    payload_bytes = opened.part_bytes["payload"]
    assert opened.data_bits / 8 < payload_bytes < 1.0001 * opened.data_bits / 8 + 64

    # An untrained model takes 8.006 bits a byte.
    assert 8 * payload_bytes < 4 * (folder / "new.txt").stat().st_size

    done = run(EVALUATE, "decode", str(archive), str(out), f"--checkpoint={folder / 'run'}")
    assert done.returncode == 0, done.stderr
    assert out.read_bytes() == (folder / "new.txt").read_bytes()

    again = run(EVALUATE, "encode", str(folder / "new.txt"), str(archive), f"--checkpoint={folder / 'run'}")
    assert again.returncode == 2
    assert "exists" in again.stderr

    wrong_tool = run("launch/decompress.py", str(archive), str(folder / "x"))
    assert wrong_tool.returncode == 1
    assert "launch/evaluate.py decode" in wrong_tool.stderr


def test_another_model_is_refused_by_name_and_a_folder_without_one_too(folder: Path) -> None:
    archive, other = folder / "empty.one", folder / "other"
    (folder / "empty.txt").touch()
    done = run(EVALUATE, "encode", str(folder / "empty.txt"), str(archive), f"--checkpoint={folder / 'run'}")
    assert done.returncode == 0, done.stderr
    more = ["--train.seed=1", f"--data.source={folder / 'new.txt'}", f"--data.cache_dir={folder / 'cache'}"]
    assert run("launch/train.py", *more, f"--run.dir={other}", "--run.baselines=false", *SMALL).returncode == 0
    refused = run(EVALUATE, "decode", str(archive), str(folder / "x"), f"--checkpoint={other}")
    assert refused.returncode == 2
    assert "holds" in refused.stderr
    assert open_archive(archive).header["model"][:16] in refused.stderr
    nothing = run(EVALUATE, "decode", str(archive), str(folder / "x"), f"--checkpoint={folder / 'cache'}")
    assert nothing.returncode == 2
    assert "holds no run" in nothing.stderr
    assert not (folder / "x").exists()
    decoded = run(EVALUATE, "decode", str(archive), str(folder / "empty.out"), f"--checkpoint={folder / 'run'}")
    assert decoded.returncode == 0, decoded.stderr
    assert (folder / "empty.out").read_bytes() == b""


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a folder: give a file"):
        tokenize(tmp_path, load_tokenizer("bytes", b""))
