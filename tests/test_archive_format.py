"""The archive: what is written opens again; whatever else a file holds is refused, by name, place and reason."""

import bisect
import dataclasses
import hashlib
import io
import itertools
import re
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import fuzz_archive
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_up_archive import (
    HEADER,
    Frames,
    chunks_of,
    made_up_frames,
    magic_of,
    refused,
    seal,
    stored,
    stored_header,
    with_names,
)

from archive.checked_frames import frame
from archive.format import block_content, documents_of, header_content, open_archive, stored_frames, write_archive
from archive.frames import MAGIC, rank_payload, read_frames, read_header
from data.names import pack_names

ROOT = Path(__file__).parents[1]
FRAMES = made_up_frames()
DOCUMENTS = [[b"first ", b"document"], [b""], [b"third"], [b""]]
NAMES = ("a.txt", "b/c.jsonl", "b/d \u00e9\udce9\n", "z")


def starts(frames: Frames) -> list[int]:
    """Where the magic and each frame begins, and where the file ends."""
    lengths = [len(MAGIC), *(len(content) + 9 for _, content in frames)]
    return [0, *itertools.accumulate(lengths)]


def test_a_coded_archive_opens_as_it_was_written(tmp_path):
    path = tmp_path / "archive"
    write_archive(path, FRAMES)
    archive = open_archive(path)
    assert (archive.header, archive.encoding, archive.program) == (HEADER, FRAMES[1][1], b"program")
    assert (archive.sha256, archive.data_bits) == (hashlib.sha256(b"corpus").hexdigest(), 1132.0)
    content = path.read_bytes()
    spans = [archive.span(block) for block in range(archive.blocks)]
    assert [content[offset : offset + length] for offset, length in spans] == [block for _, block in FRAMES[3:6]]
    assert list(archive.offsets) == starts(FRAMES)[4:8]
    assert sum(archive.part_bytes.values()) == len(content)
    # Of framing there are the magic, 9 bytes a frame, and the lengths of two payloads a block.
    assert archive.part_bytes["framing"] == 8 + 9 * 7 + 4 * 2 * 3
    assert archive.part_bytes["payload"] == 3 * (20 + 27)


def test_a_decoder_reads_the_same_frames_without_checks(tmp_path):
    write_archive(tmp_path / "archive", FRAMES)
    with (tmp_path / "archive").open("rb") as file:
        frames = list(read_frames(file))
    assert frames == FRAMES
    assert read_header(frames[0][1]) == HEADER
    payloads = [b"", b"second", b"", b"fourth"]
    block = block_content(payloads)
    assert [rank_payload(block, rank) for rank in range(4)] == payloads


@pytest.mark.parametrize("kind", ["coded", "stored"])
def test_names_come_back_and_change_nothing_else(tmp_path, kind):
    plain = FRAMES if kind == "coded" else stored(DOCUMENTS)
    names = NAMES[: 3 if kind == "coded" else 4]
    frames = with_names(plain, pack_names(names))
    write_archive(tmp_path / "plain", plain)
    write_archive(tmp_path / "named", frames)
    before, archive = open_archive(tmp_path / "plain"), open_archive(tmp_path / "named")
    assert (before.names, archive.names) == ((), names)
    assert archive.offsets == before.offsets and archive.sha256 == before.sha256 and archive.header == before.header
    packed_bytes = len(pack_names(names))
    assert archive.part_bytes == before.part_bytes | {
        "names": packed_bytes,
        "framing": before.part_bytes["framing"] + 9,
    }
    content, plainly = (path.read_bytes() for path in (tmp_path / "named", tmp_path / "plain"))
    assert (content[:8], plainly[:8]) == (b"ONEPASS\2", b"ONEPASS\1")
    assert content == seal(frames) and plainly == seal(plain)
    assert len(content) == len(plainly) + 9 + packed_bytes
    # What an archive's own decoder reads, names or not: it takes the blocks that it needs, and the last frame.
    for path in (tmp_path / "plain", tmp_path / "named"):
        with path.open("rb") as file:
            first, *_, (kind_of_last, _) = read_frames(file)
        assert (first, kind_of_last) == (plain[0], b"E")


def test_names_stand_in_format_2_alone_and_always(tmp_path):
    named = with_names(FRAMES, pack_names(NAMES[:3]))
    offset = starts(FRAMES)[6 + 1]
    refused(tmp_path / "a", b"ONEPASS\1" + seal(named)[8:], f": end at byte {offset}: its kind is b'N', not b'E'")
    refused(tmp_path / "a", b"ONEPASS\2" + seal(FRAMES)[8:], f": names at byte {offset}: its kind is b'E', not b'N'")
    for content, message in [(b"", "not a .lzma stream|does not end"), (pack_names(NAMES), "4 names for 3 documents")]:
        refused(tmp_path / "a", seal(with_names(FRAMES, content)), f": names at byte {offset}: .*({message})")


def test_refusals_name_the_frame(tmp_path):
    names = ["magic", "header", "tokenizer", "program", "block 0", "block 1", "block 2", "end"]
    for name, start in zip(names, starts(FRAMES), strict=False):
        refused(
            tmp_path / "archive", seal(FRAMES)[: start + 6], f": {name} at byte {start}: the file ends 6 bytes into"
        )
    damaged = bytearray(seal(FRAMES))
    damaged[starts(FRAMES)[5] + 9] ^= 1
    refused(tmp_path / "archive", bytes(damaged), "block 1 at byte .*: its checksum is 0x[0-9a-f]{8}, its content's 0x")


@pytest.mark.parametrize("program", [b"", b"program"])
def test_a_fixed_archive_may_have_no_program(tmp_path, program):
    header = HEADER | {"method": "fixed", "code": "", "model": "0" * 64}
    write_archive(tmp_path / "archive", made_up_frames(header, program))
    assert open_archive(tmp_path / "archive").program == program
    refused(tmp_path / "archive", seal(made_up_frames(program=b"")), "program at byte .*: it is empty")


@pytest.mark.parametrize(
    "frames",
    [FRAMES, stored(DOCUMENTS), with_names(FRAMES, pack_names(NAMES[:3])), stored(DOCUMENTS, NAMES)],
    ids=["coded", "stored", "coded with names", "stored with names"],
)
class TestDamage:
    """To one byte or one frame; always named is the frame where the damage begins."""

    def test_every_truncation_is_found_where_it_is(self, tmp_path, frames):
        content, bounds = seal(frames), starts(frames)
        for length in range(len(content)):
            offset = bounds[bisect.bisect_right(bounds, length) - 1]
            refused(tmp_path / "a", content[:length], f" at byte {offset}: the file ends {length - offset} bytes into")

    def test_every_flipped_bit_is_found_where_it_is(self, tmp_path, frames):
        content, bounds = seal(frames), starts(frames)
        for byte, bit in itertools.product(range(len(content)), range(8)):
            damaged = content[:byte] + bytes([content[byte] ^ 1 << bit]) + content[byte + 1 :]
            refused(tmp_path / "a", damaged, f" at byte {bounds[bisect.bisect_right(bounds, byte) - 1]}: ")

    def test_swapped_lost_and_doubled_frames_are_found(self, tmp_path, frames):
        sealed = [frame(number, *parts) for number, parts in enumerate(frames)]
        for first, second in itertools.combinations(range(len(frames)), 2):
            swapped = list(sealed)
            swapped[first], swapped[second] = swapped[second], swapped[first]
            refused(tmp_path / "a", magic_of(frames) + b"".join(swapped), f" at byte {starts(frames)[first + 1]}: ")
        for number in range(len(frames)):
            refused(tmp_path / "a", magic_of(frames) + b"".join(sealed[:number] + sealed[number + 1 :]))
            refused(tmp_path / "a", magic_of(frames) + b"".join(sealed[: number + 1] + sealed[number:]))

    def test_nothing_may_follow(self, tmp_path, frames):
        for surplus in b"\0", MAGIC, seal(frames):
            refused(tmp_path / "a", seal(frames) + surplus, f"end at byte .*: {len(surplus)} bytes follow it")

    @settings(suppress_health_check=list(HealthCheck), deadline=None)
    @given(data=st.data())
    def test_any_damage_is_refused(self, tmp_path, frames, data):
        content = original = seal(frames)
        for _ in range(data.draw(st.integers(1, 3))):
            places = st.integers(0, len(content))
            start, stop = sorted((data.draw(places), data.draw(places)))
            source, target = sorted((data.draw(places), data.draw(places)))
            filler = data.draw(st.one_of(st.binary(max_size=30), st.just(content[source:target]), st.just(b"")))
            content = content[:start] + filler + content[stop:]
        if content != original:
            refused(tmp_path / "a", content, " at byte ")
        else:
            (tmp_path / "a").write_bytes(content)
            open_archive(tmp_path / "a")


def test_a_large_archive_is_not_held_in_memory(tmp_path):
    path = tmp_path / "archive"
    write_archive(path, [*FRAMES[:3], *[(b"B", block_content([bytes(24 << 20), b""]))] * 3, FRAMES[6]])
    tracemalloc.start()
    assert open_archive(path).part_bytes["payload"] == 72 << 20
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 4 << 20


@pytest.mark.parametrize(
    "documents",
    [[[b""]], [[b"x"]], DOCUMENTS, [[bytes(1 << 20)]], [[bytes(1 << 20), b"x"], [b"\xff" * (1 << 20)]]],
    ids=["empty", "one byte", "documents", "one chunk", "chunks"],
)
def test_stored_corpora_come_back(tmp_path, documents):
    path = tmp_path / "archive"
    write_archive(path, stored_frames(stored_header(documents), chunks_of(documents)))
    archive = open_archive(path)
    assert list(documents_of(archive)) == list(chunks_of(documents))
    content = b"".join(itertools.chain(*documents))
    assert (archive.sha256, archive.data_bits) == (hashlib.sha256(content).hexdigest(), 8 * len(content))
    assert archive.part_bytes["payload"] == len(content)
    assert sum(archive.part_bytes.values()) == path.stat().st_size
    assert archive.blocks == sum(map(len, documents))
    if documents == [[b""]]:
        assert list(read_frames(io.BytesIO(path.read_bytes())))[1] == (b"S", b"\1")


def test_a_corpus_that_changes_while_it_is_stored_leaves_no_archive(tmp_path):
    frames = stored_frames(stored_header([[b"x"]]), chunks_of([[b"xy"]]))
    with pytest.raises(ValueError, match=r"there are 2 bytes in 1 documents, not 1 in 1 .*; run again"):
        write_archive(tmp_path / "archive", frames)
    assert not list(tmp_path.iterdir())


def test_writing_is_whole_or_not_at_all(tmp_path):
    def failing() -> Iterator[tuple[bytes, bytes]]:
        yield from FRAMES[:4]
        raise KeyboardInterrupt

    path = tmp_path / "archive"
    with pytest.raises(KeyboardInterrupt):
        write_archive(path, failing())
    assert not list(tmp_path.iterdir())
    write_archive(path, FRAMES)
    with pytest.raises(KeyboardInterrupt):
        write_archive(path, failing())
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == seal(FRAMES)


def test_a_header_that_no_reader_would_take_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="lanes is 0, not an integer"):
        header_content(HEADER | {"lanes": 0})
    machine = {str(number): hashlib.sha256(bytes(number)).hexdigest() for number in range(3000)}
    with pytest.raises(ValueError, match=r"the header takes .* bytes, more than 65536: shorten its texts"):
        header_content(HEADER | {"machine": machine})


@pytest.mark.parametrize("name", ["", "Bücher.txt", b"caf\xe9".decode("utf-8", "surrogateescape"), "\0\x1b[2J"])
def test_any_file_name_can_be_a_corpus_name(tmp_path, name):
    header = HEADER | {"corpus": HEADER["corpus"] | {"name": name}}
    write_archive(tmp_path / "archive", made_up_frames(header))
    assert open_archive(tmp_path / "archive").header == header


def test_an_archive_is_opened_without_the_packages_of_training(tmp_path):
    write_archive(tmp_path / "archive", FRAMES)
    blocked = dict.fromkeys(["torch", "deepspeed", "sentencepiece", "yaml", "datasets", "pyarrow"])
    program = f"import sys; sys.modules.update({blocked}); sys.path.insert(0, {str(ROOT)!r})\n"
    program += (
        f"from pathlib import Path; from archive.format import open_archive; open_archive(Path({str(tmp_path)!r})"
    )
    run = subprocess.run([sys.executable, "-c", f"{program} / 'archive')"], check=False, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_files_that_cannot_be_read_say_so(tmp_path):
    for path in tmp_path / "missing", tmp_path:
        with pytest.raises(OSError, match=re.escape(str(path))):
            open_archive(path)


def test_archives_do_not_change(tmp_path):
    write_archive(tmp_path / "archive", FRAMES)
    archive = open_archive(tmp_path / "archive")
    with pytest.raises(dataclasses.FrozenInstanceError):
        archive.program = b""  # type: ignore[misc]


def test_the_campaign_finds_no_surprise(capsys):
    assert fuzz_archive.main(["--seconds", "1", "--seed", "1"]) == 0
    *rows, total = capsys.readouterr().out.splitlines()
    assert len(rows) > 15 and re.fullmatch(r"all +[\d,]+ +[\d,]+ +[\d,]+ +0", total)


def test_the_campaign_reports_surprises(tmp_path, capsys, monkeypatch):
    def damaged_only(path: Path) -> None:
        if path.name == "damaged":
            raise KeyError("no ArchiveError")

    monkeypatch.setattr("tempfile.mkdtemp", lambda prefix: str(tmp_path))
    monkeypatch.setattr("fuzz_archive.open_archive", damaged_only)
    assert fuzz_archive.main(["--seconds", "9", "--seed", "1"]) == 1
    assert re.search("surprise-9: .*: SURPRISE: KeyError: 'no ArchiveError'", capsys.readouterr().err)
    assert len(list(tmp_path.iterdir())) == 9
