"""What --info prints: the header, the configuration, and a reconciliation that adds up to the file's size."""

import lzma
import struct
from pathlib import Path
from typing import Any

import pytest
from made_up_archive import HEADER, Frames, made_up_frames, stored, with_names

from archive.format import open_archive, write_archive
from archive.info import info
from data.names import pack_names
from eval.code_size import canonical_text

CONFIG: dict[str, Any] = {
    "data": {"tokenizer": "bpe", "source": "secret.txt"},
    "model": {"block": "attention", "width": 128, "ngram_orders": [1, 2]},
    "train": {"lanes": 4},
    "engine": {"precision": "fp32"},
}


def packed(text: str) -> bytes:
    return lzma.compress(text.encode(), format=lzma.FORMAT_ALONE)


def info_of(folder: Path, frames: Frames) -> str:
    write_archive(folder / "archive", frames)
    return info(open_archive(folder / "archive"))


def rows(text: str) -> dict[str, list[str]]:
    """Words of each line by the first of them."""
    return {words[0]: words[1:] for words in map(str.split, text.splitlines()) if words}


def test_a_coded_archive_is_reconciled_term_by_term(tmp_path):
    program = packed(canonical_text(CONFIG, {"model/lm.py": "x=1\n"}))
    text = info_of(tmp_path, made_up_frames(program=program))
    file_bytes = (tmp_path / "archive").stat().st_size
    found = rows(text)
    assert found["method"] == ["model"] and found["bytes"] == ["1,000"] and found["tokens"] == ["301"]
    assert found["lanes"] == ["x", "segment", "4", "x", "10", "tokens"]
    assert found["blocks"] == ["3", "of", "3", "steps"]
    assert found["pins"] == ["ATEN_CPU_CAPABILITY=avx2", "MKL_CBWR=COMPATIBLE"]
    assert found["code"] == [f"{len(program):.1f}", f"{len(program)}", "+0.0", "0.0"]
    assert HEADER["code"] in text
    # Three blocks of two ranks, each of which may lose 7 bytes.
    assert found["data"] == ["141.5", "141", "-0.5", "42.0"] and found["tokenizer"] == ["19.0", "19", "+0.0", "0.0"]
    # 302 has 9 bits: 8 of them and 7 in Elias gamma; two coders end in 64 bits each: 143 bits are 17.875 bytes.
    # A block's frame takes 9 bytes and 4 for each rank's length.
    rest_bytes = file_bytes - 141 - len(program) - 19 - 51
    assert found["side"] == ["17.9", f"{rest_bytes}", f"{rest_bytes - 17.875:+.1f}", "1,024.0"]
    assert found["frames"] == ["of", "blocks", "0.0", "51", "+51.0", "51.0"]
    reported_bytes = 141.5 + len(program) + 19 + 17.875
    assert found["total"] == [f"{reported_bytes:.1f}", f"{file_bytes}", f"{file_bytes - reported_bytes:+.1f}"]
    over = f"{file_bytes - reported_bytes:.0f} over the reported total; every term within what is allowed"
    assert text.endswith(f"\nthe archive is {file_bytes} bytes, {over}\n")


def test_a_term_beyond_what_is_allowed_is_named(tmp_path):
    frames = list(made_up_frames(program=packed(canonical_text(CONFIG, {}))))
    kind, content = frames[-1]
    frames[-1] = kind, content[:32] + struct.pack("<d", 8 * 80.0)
    text = info_of(tmp_path, frames)
    assert rows(text)["data"] == ["80.0", "141", "+61.0", "42.0"]
    assert text.rstrip().endswith("over the reported total; beyond what is allowed: data")


def test_the_configuration_is_shown_in_columns(tmp_path):
    config = CONFIG | {"train": {f"field_{number}": number for number in range(30)}}
    text = info_of(tmp_path, made_up_frames(program=packed(canonical_text(config, {}))))
    shown = " ".join(text.split())
    for setting in ['data.tokenizer "bpe"', "model.width 128", "model.ngram_orders [1, 2]", "train.field_29 29"]:
        assert f" {setting} " in shown
    assert "secret.txt" not in text
    lines = text.splitlines()
    assert max(map(len, lines[1:])) <= 100 and len(lines) < 40


@pytest.mark.parametrize(
    "program",
    [b"junk", packed("{"), packed("[" * 100_000), packed('{"a":' * 100_000)],
    ids=["junk", "cut", "deep list", "deep object"],
)
def test_a_damaged_program_is_refused(tmp_path, program):
    with pytest.raises(ValueError, match=r"archive: program: .*; fetch the archive again"):
        info_of(tmp_path, made_up_frames(program=program))


def test_a_fixed_archive_without_program(tmp_path):
    header = HEADER | {"method": "fixed", "code": "", "model": "feed" * 16}
    text = info_of(tmp_path, made_up_frames(header, b""))
    assert rows(text)["model"] == ["feed" * 16] and rows(text)["code"] == ["0.0", "0", "+0.0", "0.0"]


def test_a_stored_archive_is_what_it_holds_and_its_frames(tmp_path):
    text = info_of(tmp_path, stored([[b"abc"], [b""]]))
    file_bytes = (tmp_path / "archive").stat().st_size
    found = rows(text)
    assert found["method"] == ["stored"] and found["documents"] == ["2"] and found["chunks"] == ["2"]
    assert found["corpus,"] == ["as", "it", "is", "3.0", "3", "+0.0", "0.0"]
    assert found["header"] == ["and", "framing", "0.0", f"{file_bytes - 3}", f"+{file_bytes - 3}.0", "1,044.0"]
    assert found["total"] == ["3.0", f"{file_bytes}", f"+{file_bytes - 3}.0"]


def test_names_of_documents_have_a_row(tmp_path):
    names = ("a.txt", "b/\x1b[2J\udc80")
    text = info_of(tmp_path, stored([[b"abc"], [b""]], names))
    names_bytes = len(pack_names(names))
    found = rows(text)
    assert found["names"] == [f"{names_bytes}.0", f"{names_bytes}", "+0.0", "0.0"]
    assert "first name          a.txt\n" in text and "last name           b/\\x1b[2J\\udc80\n" in text
    frames = made_up_frames(program=packed("{}"))
    coded = rows(info_of(tmp_path, with_names(frames, pack_names((*names, "c")))))
    plain = rows(info_of(tmp_path, frames))
    assert float(coded["side"][2]) - float(plain["side"][2]) == 9


def test_an_archive_cannot_send_commands_to_the_terminal(tmp_path):
    names = {"name": "\x1b[2J\udc80\u202e", "bytes": 1000, "documents": 3, "tokens": 301}
    program = packed(canonical_text(CONFIG | {"train": {"\x1b]0;": "\x07"}}, {}))
    header = HEADER | {"corpus": names, "pins": {"\x1b": "\n"}, "machine": {"\r": "é"}}
    text = info_of(tmp_path, made_up_frames(header, program))
    text.encode()
    assert text.replace("\n", "").isprintable()
    assert "\\x1b[2J\\udc80\\u202e" in text and "\\x1b=\\n" in text
