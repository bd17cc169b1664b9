"""A small run that launch/train.py finished, for the tests of what is asked of one."""

from pathlib import Path

from dist import ROOT, run


def project_text() -> bytes:
    """Some of this project's own tests, one after the other."""
    return b"".join(path.read_bytes() for path in sorted(ROOT.glob("tests/test_data*.py")))


def trained_run(folder: Path, source: Path, *options: str) -> Path:
    """The run.dir, `folder`/run, of a finished run over `source`, whose tokens are in `folder`/cache."""
    done = run(
        "launch/train.py", f"--data.source={source}", f"--data.cache_dir={folder / 'cache'}",
        f"--run.dir={folder / 'run'}", "--run.baselines=false", *options,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder / "run"
