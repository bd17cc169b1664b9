"""A tokenizer that is declared part of the reference machine: shown beside the total, named, and needed to decode."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from archive_commands import COMPRESS, DECOMPRESS, complaint, succeeded
from dist import run
from small_run import MANY_LANES, TRAIN, arguments, report
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_data_own_tokenizer import byte_level

from archive.format import open_archive
from archive.reference_tokenizer import needed_tokenizer, supply_tokenizer, whole_archive
from data.describe import tokenizer_of
from data.errors import UsageError
from data.files import file_sha256
from eval.schema import load_report
from studies.fixed_model.command import Decode, execute, refuse_other_tokenizer
from studies.scaling.runs import load_run

DECLARE = "--run.reference_tokenizer"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "mine.json"
    path.write_text(byte_level().to_str())
    return path


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text"
    lines = (b"%d bottles of beer on the wall, take %d down\n" % (n * n, n) for n in range(600))
    path.write_bytes(b"".join(lines) + b"\xff")
    return path


@pytest.fixture(scope="module")
def archive(tmp_path_factory, cache, file, text) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    options = arguments(text, cache, folder / "run", f"--data.tokenizer={file}", DECLARE, *MANY_LANES)[1:]
    succeeded(run(COMPRESS, str(text), str(folder / "archive"), *options))
    return folder / "archive"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def test_its_cost_stands_beside_the_total_and_the_report_names_it(corpus, cache, runs, file):
    charged, declared = runs / "charged", runs / "declared"
    for folder, more in (charged, []), (declared, [DECLARE]):
        done = run(TRAIN, *arguments(corpus, cache, folder, f"--data.tokenizer={file}", *more))
        succeeded(done)
    before, after = report(charged), report(declared)
    length, other = before["description_length"], after["description_length"]
    assert other["data_bits"] == length["data_bits"] and other["tokenizer_bits"] == 0
    cost = int(length["tokenizer_bits"]) // 8
    assert cost > 0
    assert other["total_bits"] == pytest.approx(length["total_bits"] - 8 * cost)
    assert after["tokenizer"] == before["tokenizer"] | {"uncharged_bytes": cost}
    assert after["tokenizer"]["sha256"] == file_sha256(file)
    assert after["reference_machine"]["tokenizer"] == f"mine.json (SHA-256 {file_sha256(file)})"
    assert "tokenizer" not in before["reference_machine"]
    for shown in done.stdout, (declared / "report.md").read_text(), (declared / "report.html").read_text():
        assert "tokenizer, not charged" in shown and "total with it" in shown
        assert f"{length['total_bits'] / 8:,.0f}" in shown
    assert f"described in {cost:,} bytes that are not charged" in " ".join(done.stdout.split())
    events = EventAccumulator(str(declared))
    events.Reload()
    values = {scalar.value for scalar in events.Scalars("description_length/reference_tokenizer_bytes")}
    assert values == {cost}
    assert {scalar.value for scalar in events.Scalars("description_length/tokenizer_bytes")} == {0}
    settings = [load_run(folder, "").settings["data.vocabulary"] for folder in (charged, declared)]
    assert settings[1] == f"{settings[0]}, not charged"


def test_a_report_that_charges_it_and_does_not_is_refused(corpus, cache, tmp_path, file):
    succeeded(run(TRAIN, *arguments(corpus, cache, tmp_path / "run", f"--data.tokenizer={file}")))
    path = tmp_path / "run" / "report.json"
    path.write_text(path.read_text().replace('"file_xz_bytes"', '"uncharged_bytes": 3, "file_xz_bytes"'))
    with pytest.raises(UsageError, match=r"uncharged_bytes and description_length.tokenizer_bits exclude each other"):
        load_report(path)


def test_an_archive_is_as_long_as_the_total_without_it_and_decodes_with_the_file_alone(archive, text, file, tmp_path):
    found = load_report(archive.with_name("run") / "report.json")
    assert found.tokenizer is not None and found.tokenizer.uncharged_bytes > 0
    total_bytes = found.description_length.total_bits / 8
    assert abs(archive.stat().st_size - total_bytes) < 0.0005 * total_bytes + 1024
    done = run(DECOMPRESS, str(archive), "--info")
    succeeded(done)
    assert f"file, 'mine.json' with SHA-256 {file_sha256(file)}, which is not in the archive" in done.stdout
    assert "every term within what is allowed" in done.stdout
    for name, more in ("back", []), ("by its own code", ["--embedded"]):
        succeeded(run(DECOMPRESS, str(archive), str(tmp_path / name), f"--tokenizer={file}", *more))
        assert (tmp_path / name).read_bytes() == text.read_bytes()


def test_no_file_or_another_one_is_refused_before_any_work(archive, file, tmp_path):
    line = complaint(run(DECOMPRESS, str(archive), str(tmp_path / "back")), 1)
    assert f"needs the tokenizer 'mine.json' (SHA-256 {file_sha256(file)}): add --tokenizer FILE" in line
    other = tmp_path / "other.json"
    other.write_text(file.read_text() + " ")
    line = complaint(run(DECOMPRESS, str(archive), str(tmp_path / "back"), f"--tokenizer={other}"), 1)
    assert f"--tokenizer {other}: its SHA-256 is {file_sha256(other)}" in line and "give that file" in line
    line = complaint(run(DECOMPRESS, str(archive), str(tmp_path / "back"), "--tokenizer=gone.json"), 1)
    assert "--tokenizer gone.json cannot be read" in line
    assert {path.name for path in tmp_path.iterdir()} == {"other.json"}


def test_an_archive_by_a_finished_model_names_the_file_and_the_run_has_the_pieces(runs, archive, text, tmp_path):
    coded, declared = tmp_path / "coded", runs / "declared"
    done = run("launch/evaluate.py", "encode", str(text), str(coded), f"--checkpoint={declared}")
    succeeded(done)
    opened = open_archive(coded)
    assert opened.encoding == b"" and needed_tokenizer(opened) == needed_tokenizer(open_archive(archive))
    [pieces] = [line for line in done.stdout.splitlines() if line.startswith("tokenizer, not charged")]
    assert int(pieces.split()[3].replace(",", "")) == (declared / "tokenizer.bin").stat().st_size
    # Whoever has the run needs no file.
    execute(Decode(coded, tmp_path / "back", declared))
    assert (tmp_path / "back").read_bytes() == text.read_bytes()
    with pytest.raises(UsageError, match=r"with the tokenizer 'mine.json', and other has another one: name the run"):
        refuse_other_tokenizer(opened, Path("other"), tokenizer_of({b"ab"}))


def test_pieces_that_are_described_otherwise_than_before_are_refused(archive, file, monkeypatch):
    opened = open_archive(archive)
    again = supply_tokenizer(opened, str(file))
    with whole_archive(again) as path:
        assert open_archive(path).encoding == again.encoding
    listed = SimpleNamespace(encoding=b"another")
    monkeypatch.setattr("archive.reference_tokenizer.tokenizer_of", lambda pieces: listed)
    with pytest.raises(UsageError, match=r"described in another way than when .* was written"):
        supply_tokenizer(opened, str(file))


def test_an_archive_that_holds_its_tokenizer_takes_no_file(cache, text, file, tmp_path):
    options = arguments(text, cache, tmp_path / "run", *MANY_LANES)[1:]
    succeeded(run(COMPRESS, str(text), str(tmp_path / "archive"), *options))
    line = complaint(run(DECOMPRESS, str(tmp_path / "archive"), str(tmp_path / "back"), f"--tokenizer={file}"), 1)
    assert f"holds its tokenizer, so --tokenizer {file} has no effect: leave it out" in line


@pytest.mark.parametrize(
    ("kind", "reason"), [("bpe", "its pieces come from the corpus"), ("bytes", "it costs nothing")]
)
def test_only_a_file_can_be_declared(corpus, cache, tmp_path, kind, reason):
    done = run(TRAIN, *arguments(corpus, cache, tmp_path / "run", f"--data.tokenizer={kind}", DECLARE))
    line = complaint(done, 2)
    assert f"run.reference_tokenizer declares a file, and data.tokenizer is {kind} ({reason})" in line
    assert not (tmp_path / "run").exists()


def test_a_resumed_run_keeps_what_it_declared(corpus, cache, tmp_path, file):
    given = arguments(corpus, cache, tmp_path / "run", f"--data.tokenizer={file}", DECLARE)
    succeeded(run(TRAIN, *given, "--run.stop_after_steps=3"))
    done = run(TRAIN, f"--run.dir={tmp_path / 'run'}", "--run.resume", "--run.reference_tokenizer=false")
    assert "run.reference_tokenizer was True" in complaint(done, 2)
    succeeded(run(TRAIN, f"--run.dir={tmp_path / 'run'}", "--run.resume", "--run.stop_after_steps=0"))
    assert report(tmp_path / "run")["tokenizer"]["uncharged_bytes"] > 0
