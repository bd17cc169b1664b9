"""What all entry points share: standard output for results alone, one way to refuse, one meaning of an exit status."""

import argparse
import ast
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from dist import ROOT, run
from finished_run import finished_run

import launch.compress
import launch.decompress
import launch.evaluate
import launch.report
import launch.sweep
import launch.train
import studies.fixed_model.command
import studies.generalisation.command
import studies.held_out.command
import studies.loss_curve.command
import studies.pruning.command
import studies.sampling.command
import studies.scoring
import studies.two_part.command
from data.errors import RunFailed, UsageError
from data.files import output_file
from launch.entry import Parser, exit_status, meant
from train.command_line import parse_config
from train.config import Config, ModelConfig
from train.meta import meta_model

SWEEP = ["--dir=sweep", "--blocks=attention,gru", "--widths=32,64"]


def small_program(body: str, *redirections: str) -> subprocess.CompletedProcess[str]:
    """An entry point that does `body`, run by a shell with these redirections."""
    program = f"""
import os, subprocess, sys
from launch import entry
entry.begin(__name__)
from data.streams import publish
def work():
{"".join(f"    {line}{chr(10)}" for line in body.splitlines())}
sys.exit(entry.exit_status(work))
"""
    command = f'"$0" -c "$1" {" ".join(redirections)}'
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    given = ["bash", "-o", "pipefail", "-c", command, sys.executable, program]
    return subprocess.run(given, env=env, text=True, capture_output=True, timeout=60)


def test_whatever_else_is_written_there_goes_to_standard_error() -> None:
    body = """\
print("a library prints")
sys.stdout.write("and writes\\n")
os.write(1, b"so does C++\\n")
subprocess.run(["echo", "and a child"])
publish("a result")
publish(b"\\xff and bytes")"""
    program = small_program(body, "| od -c")
    assert program.returncode == 0, program.stderr
    assert "".join(line[7:] for line in program.stdout.splitlines()).replace(" ", "") == r"aresult\n377andbytes"
    assert program.stderr.splitlines() == ["a library prints", "and writes", "so does C++", "and a child"]


def test_text_that_the_terminal_cannot_show_does_not_end_the_work() -> None:
    done = small_program('publish("caf\\udce9 \\u2581")', "; PYTHONIOENCODING=ascii true")
    assert (done.returncode, done.stdout) == (0, "caf\\udce9 ▁\n"), done.stderr


def test_a_program_that_starts_itself_again_has_its_own_standard_output(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        f"import os, sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom launch import entry\nentry.begin(__name__)\n"
        "from data.streams import publish\n"
        "if 'AGAIN' not in os.environ:\n    entry.restart({'AGAIN': 'yes'})\n"
        "print('noise')\npublish(sys.argv[1])\n"
    )
    done = subprocess.run([sys.executable, program, "result"], text=True, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "result\n", "noise\n")


WORK = """\
for number in range(1000):
    publish(f"line {number}")
    print(f"progress {number}", file=sys.stderr)
open(os.environ["WHOLE"], "w").close()"""


@pytest.mark.parametrize(
    ("redirections", "status", "said"),
    [
        (["| head -1"], 0, ""),
        (["2>&1 | head -1"], 0, ""),
        (["2>&-"], 0, ""),
        (["> /dev/full"], 1, "onepass: standard output could not be written: No space left on device"),
        (["2> /dev/full"], 0, ""),
    ],
    ids=str,
)
def test_no_work_is_lost_to_a_closed_pipe_or_a_full_disk(
    redirections: list[str], status: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHOLE", str(tmp_path / "whole"))
    done = small_program(WORK, *redirections)
    assert done.returncode == status, done.stderr
    assert (tmp_path / "whole").exists()
    assert said in done.stderr
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


def test_a_closed_standard_output_is_refused_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHOLE", str(tmp_path / "whole"))
    done = small_program(WORK, ">&-")
    assert done.returncode == 2
    assert done.stderr.startswith("onepass: standard output is closed")
    assert not (tmp_path / "whole").exists()


def test_a_run_outlives_whoever_read_what_it_says(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes((ROOT / "LICENSE").read_bytes()[:2000])
    options = f"--data.source={tmp_path / 'source'} --data.cache_dir={tmp_path / 'cache'} --data.tokenizer=bytes"
    options += f" --run.dir={tmp_path / 'run'} --model.block=attention --model.width=32 --model.ngram_orders=[]"
    command = f"set -o pipefail; '{sys.executable}' launch/train.py {options} 2>&1 | head -1"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, text=True, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "run/report.html").exists()


def test_each_entry_point_prints_nothing_but_what_is_asked_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = run("launch/train.py", "--print_config", "--model.width=64")
    assert yaml.safe_load(config.stdout)["model"]["width"] == 64
    (tmp_path / "my.yaml").write_text(config.stdout)
    assert parse_config("", [f"--config={tmp_path / 'my.yaml'}"]).model == ModelConfig(width=64)
    assert run("launch/train.py", "--help").stdout.startswith(("usage: train.py", launch.train.__doc__[:20]))

    source, archive = tmp_path / "source", tmp_path / "archive"
    source.write_bytes(b"a few bytes")
    lines = run("launch/compress.py", str(source), str(archive)).stdout.splitlines()
    assert lines[0].split() == ["archive", str(archive)]
    assert lines[1].split() == ["method", "stored"]
    assert run("launch/decompress.py", str(archive), "--info").stdout == "\n".join(lines[:-1]) + "\n"
    told = run("launch/decompress.py", str(archive), str(tmp_path / "again")).stdout
    assert told.startswith(f"{tmp_path / 'again'}: 11 bytes, ") and told.count("\n") == 1

    script = run("launch/sweep.py", *SWEEP, "--emit=slurm").stdout
    assert script.startswith("#!/bin/bash\n#SBATCH")

    finished_run(tmp_path / "runs/one")
    curve = run("launch/evaluate.py", "curve", str(tmp_path / "runs/one/curve.csv"), "--y=data_bits", "--points=total",
                "--unit=bits", "--json")  # fmt: skip
    assert json.loads(curve.stdout)[0]["curve"] == "data_bits"
    table = run("launch/report.py", str(tmp_path / "runs")).stdout.splitlines()
    assert any(line.startswith("one ") or " one " in line for line in table)
    assert not any("wrote" in line or "DeepSpeed" in line or line.startswith("[20") for line in table)


@pytest.mark.parametrize("path", sorted((ROOT / "launch").rglob("*.py")), ids=lambda path: path.name)
def test_results_are_published_not_printed(path: Path) -> None:
    """What is printed in a program of ours goes to standard error."""
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    prints = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]
    assert all(any(word.arg == "file" for word in call.keywords) for call in prints)


def test_an_exit_status_says_who_is_to_blame(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def fail(error: Exception) -> Callable[[], None]:
        def work() -> None:
            raise error

        return work

    assert exit_status(lambda: None) == 0
    assert exit_status(lambda: 143) == 143
    assert exit_status(fail(UsageError("x is 3: it must be 2"))) == 2
    assert exit_status(fail(RunFailed("the loss is no number"))) == 1
    assert exit_status((tmp_path / "nowhere").read_bytes) == 1  # type: ignore[arg-type]
    assert exit_status(fail(KeyboardInterrupt())) == 130  # type: ignore[arg-type]
    assert capsys.readouterr().err.splitlines() == [
        "onepass: x is 3: it must be 2",
        "onepass: the loss is no number",
        f"onepass: {tmp_path / 'nowhere'}: No such file or directory",
        "onepass: interrupted",
    ]
    for bug in (ValueError("a bug"), RuntimeError("a bug"), KeyError("a bug")):
        with pytest.raises(type(bug)):
            exit_status(fail(bug))


@pytest.mark.parametrize(("ranks", "status"), [(2, 1), (1, 128 + signal.SIGABRT)])
def test_a_rank_that_fails_keeps_its_status_although_it_is_connected_still(ranks: int, status: int) -> None:
    """PyTorch may abort such a process at its end, as the function registered here does."""
    body = f"""\
import atexit
from types import SimpleNamespace
from data.errors import RunFailed
atexit.register(os.abort)
connected = SimpleNamespace(is_initialized=lambda: True, get_world_size=lambda: {ranks})
sys.modules["torch.distributed"] = connected
raise RunFailed("rank 1 lost rank 0")"""
    program = small_program(body, "; exit $?")
    assert program.returncode == status
    assert program.stderr.splitlines()[0] == "onepass: rank 1 lost rank 0"


BUGS: list[tuple[Any, str, list[str]]] = [
    (launch.train, "join_ranks", ["--model.width=32"]),
    (launch.compress, "open_source", [str(ROOT / "LICENSE"), "/tmp/no-such-archive"]),
    (launch.decompress, "open_archive", [str(ROOT / "LICENSE"), "/tmp/no-such-file"]),
    (launch.sweep, "multiply", SWEEP),
    (launch.report, "load_runs", ["runs"]),
    (studies.loss_curve.command, "read_points", ["curve", "loss.csv"]),
    (studies.fixed_model.command, "load_frozen", ["encode", "a", "b", "--checkpoint=c"]),
    (studies.fixed_model.command, "open_archive", ["decode", "a", "b", "--checkpoint=c"]),
    (studies.generalisation.command, "load_runs", ["generalisation", "a", "b"]),
    (studies.held_out.command, "finished_report", ["held-out", "a", "b"]),
    (studies.scoring, "open_run", ["prune", "a", "--held_out=b"]),
    (studies.sampling.command, "load_frozen", ["sample", "a"]),
    (studies.two_part.command, "open_run", ["two-part", "a"]),
]


@pytest.mark.parametrize(("module", "function", "arguments"), BUGS, ids=lambda value: getattr(value, "__name__", None))
def test_a_value_error_that_is_a_bug_is_no_bad_argument(
    module: Any, function: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def bug(*_: Any, **__: Any) -> None:
        raise ValueError("not enough values to unpack")

    monkeypatch.setattr(module, function, bug)
    main = module.main if hasattr(module, "main") else launch.evaluate.main
    with pytest.raises(ValueError, match="not enough values to unpack") as raised:
        main(arguments)
    assert not isinstance(raised.value, UsageError)


def test_a_value_error_of_a_block_is_a_bug_unless_it_names_a_field(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"model\.head_width 12"):
        meta_model(ModelConfig(head_width=12, block="attention"), 257)

    def bug(*_: Any) -> None:
        raise ValueError("not enough values to unpack")

    monkeypatch.setattr("model.build.LanguageModel", bug)
    with pytest.raises(ValueError, match="not enough") as raised:
        meta_model(ModelConfig(), 257)
    assert not isinstance(raised.value, UsageError)


REFUSED = [
    (launch.decompress, ["a", "b", "--joind"], "unknown option --joind. Did you mean --joined?"),
    (launch.decompress, ["a", "b", "--threads=two"], "--threads two: give a whole number"),
    (launch.decompress, ["a", "b", "c"], "unknown argument 'c'. See --help"),
    (launch.decompress, ["a"], "FILE is missing: say where the corpus is to go, or ask for --info"),
    (launch.decompress, ["a", "--info", "--joined"], "--info decodes nothing, so --joined has no effect: leave it out"),
    (launch.decompress, ["a", "b", "--embedded", "--checkpoint_secs=0"],
     "--embedded runs the archive's own code, which does not know --checkpoint_secs: leave it out"),
    (launch.report, ["runs", "--outt=x"], "unknown option --outt. Did you mean --out?"),
    (launch.report, [], "the following arguments are required: RUNS_DIR. See --help"),
    (launch.evaluate, ["encod", "a", "b"], "command encod: it must be one of encode, decode, sample, two-part, prune, "
     "held-out, generalisation, mixture, curve. Did you mean encode?"),
    (launch.evaluate, ["encode", "a", "b", "--chekpoint=c"], "unknown option --chekpoint. Did you mean --checkpoint?"),
    (launch.evaluate, ["encode", "a", "/nowhere/b", "--checkpoint=c"],
     "archive /nowhere/b: /nowhere is no folder. Make it first"),
    (launch.evaluate, ["curve", "a", "--unit=bit"], "--unit bit: it must be one of bits, nats. Did you mean bits?"),
    (launch.evaluate, ["curve", "a", "--png=/nowhere/b"], "--png /nowhere/b: /nowhere is no folder. Make it first"),
    (launch.evaluate, ["sample", "a", "--temperature=hot"], "--temperature hot: give a number"),
    (launch.evaluate, ["two-part", "a", "--points=fp32", "--group=8"],
     "--group 8 has no effect on --points fp32: leave it out"),
    (launch.evaluate, ["prune", "a", "--held_out=b", "--remove=0.5,x"],
     "--remove 0.5,x: give rising numbers between 0 and 1, by commas"),
    (launch.compress, ["a", "b", "--data.source=c"],
     "--data.source has no effect in launch/compress.py: name what is compressed as FILE"),
    (launch.compress, ["a", "b", "--data", "c.yaml"],
     "--data may set data.source, which has no effect in launch/compress.py: give fields one by one"),
    (launch.sweep, [*SWEEP, "--width=3"], "unknown option --width. Did you mean --widths?"),
    (launch.compress, [str(ROOT / "LICENSE"), "b", "--data.field=body"],
     "--data.field has no effect in launch/compress.py: FILE is taken byte for byte; leave it out"),
    (launch.sweep, ["--dir=x", "--blocks=gru", "--widths=32,32"], "--widths 32,32: give different values, by commas"),
    (launch.sweep, ["--dir=x", "--blocks=gru,", "--widths=32"], "--blocks gru,: give different values, by commas"),
    (launch.sweep, ["--dir=x", "--blocks=a", "--widths=32,x"], "--widths 32,x: give whole numbers, by commas"),
    (launch.sweep, [*SWEEP, "--match=flop"],
     "--match flop: it must be one of parameters, flops, none. Did you mean flops?"),
    (launch.sweep, [*SWEEP, "--model.width=64"], "--model.width has no effect in a sweep: give --widths"),
    (launch.sweep, [*SWEEP, "--model.width", "64"], "--model.width has no effect in a sweep: give --widths"),
    (launch.sweep, [*SWEEP, "--model.block=gru"], "--model.block has no effect in a sweep: give --blocks"),
    (launch.sweep, [*SWEEP, "--train.seed=1"], "--train.seed has no effect in a sweep: give --seeds"),
    (launch.sweep, [*SWEEP, "--run.dir=x"], "--run.dir has no effect in a sweep: give --dir"),
    (launch.sweep, [*SWEEP, "--run.resume"],
     "--run.resume has no effect in a sweep: start the same command again, and broken cells go on"),
    (launch.sweep, [*SWEEP, "--run.stop_after_steps=3"],
     "--run.stop_after_steps has no effect in a sweep: cells run to their end; stop the sweep with Ctrl-C"),
    (launch.sweep, [*SWEEP, "--vocabularies=bytes", "--data.vocabulary=512"],
     "--data.vocabulary has no effect in a sweep: --vocabularies sets it"),
    (launch.sweep, [*SWEEP, "--vocabularies=bytes", "--data.tokenizer=bpe"],
     "--data.tokenizer has no effect in a sweep: --vocabularies sets it"),
    (launch.sweep, [*SWEEP, "--emit=slurm", "--jobs=2"],
     "--jobs 2 has no effect in a Slurm array, of which a task is a cell: leave it out"),
    (launch.sweep, [*SWEEP, "--emit=slurm", "--cell=2"],
     "--emit prints a script of all cells, so --cell 2 has no effect: leave it out"),
]  # fmt: skip


@pytest.mark.parametrize(("module", "arguments", "message"), REFUSED, ids=str)
def test_what_is_wrong_is_one_line_with_its_remedy(
    module: Any, arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert module.main(arguments) == 2
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", f"onepass: {message}\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        (launch.train, []), (launch.compress, []), (launch.decompress, []), (launch.sweep, []), (launch.report, []),
        (launch.evaluate, []), *((launch.evaluate, [command]) for command in launch.evaluate.COMMANDS),
    ],
    ids=str,
)  # fmt: skip
def test_help_goes_to_standard_output_with_status_0(
    module: Any, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert module.main([*arguments, "--help"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith(("usage: ", module.__doc__[:20]))
    assert said.err == ""


def test_a_configuration_file_gives_way_to_the_sweep_but_may_not_stop_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "whole.yaml").write_text(yaml.safe_dump(Config().to_dict()))
    assert launch.sweep.main([*SWEEP, "--config=whole.yaml", "--emit=slurm"]) == 0
    assert "--array=0-3" in capsys.readouterr().out
    (tmp_path / "stop.yaml").write_text("run: {stop_after_steps: 3}")
    assert launch.sweep.main([*SWEEP, "--config=stop.yaml", "--emit=slurm"]) == 2
    assert "run.stop_after_steps" in capsys.readouterr().err


@pytest.mark.parametrize("file", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda file: file.stem)
def test_sweeps_leave_out_the_context_mixing_of_every_file_that_we_ship(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert launch.sweep.main([*SWEEP, f"--config={file}", "--emit=slurm"]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("wrong", ["--widths=32,0", "--widths=-8"])
def test_a_cell_that_cannot_run_is_refused_before_any_runs(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert launch.sweep.main(["--dir=x", "--blocks=gru", wrong, "--emit=slurm"]) == 2
    assert "onepass: model.width" in capsys.readouterr().err


def test_a_file_may_have_the_name_of_a_section(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").write_bytes(b"a few bytes")
    assert launch.compress.main(["data", "archive"]) == 0
    capsys.readouterr()
    assert launch.decompress.main(["archive", "again"]) == 0
    assert capsys.readouterr().out.startswith("again: 11 bytes")
    assert (tmp_path / "again").read_bytes() == b"a few bytes"


def test_the_closest_word_is_proposed_if_one_is_close() -> None:
    assert meant("--widhts", ["--widths", "--seeds"]) == "Did you mean --widths?"
    assert meant("--xyz", ["--widths", "--seeds"]) == "See --help"


def test_a_file_that_is_written_at_the_end_has_a_folder_at_the_start(tmp_path: Path) -> None:
    assert output_file(str(tmp_path / "new")) == tmp_path / "new"
    for wrong in (tmp_path, tmp_path / "nowhere/new"):
        with pytest.raises(UsageError):
            output_file(str(wrong))


def test_a_parser_that_is_not_alone_hands_on_what_it_does_not_know() -> None:
    parser = Parser(alone=False)
    parser.add_argument("--mine", type=int)
    assert parser.parse_known_args(["--mine=3", "--theirs=4"]) == (argparse.Namespace(mine=3), ["--theirs=4"])
