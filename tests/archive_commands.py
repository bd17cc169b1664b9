"""Starting launch/compress.py and launch/decompress.py, and looking at what they leave."""

from pathlib import Path
from typing import Any

from dist import run

COMPRESS, DECOMPRESS = "launch/compress.py", "launch/decompress.py"


def launch_in(folder: Path, program: str, *arguments: str | Path, ranks: int = 1, **env: Any) -> Any:
    """Run a program of ours to its end, in `folder` and with `env` added to the environment."""
    return run(program, *map(str, arguments), ranks=ranks, timeout_secs=300, cwd=folder, **env)


def succeeded(done: Any) -> None:
    assert done.returncode == 0, done.stderr


def complaint(done: Any, status: int) -> str:
    """The one line of ours on stderr, of a program that failed without a traceback."""
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("onepass: "))
    return line


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def tree(folder: Path) -> dict[str, bytes]:
    """Content of all files below, by path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
