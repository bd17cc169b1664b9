"""Every Python file of the project, for tests that go over them all."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT_FILES = sorted(path for path in ROOT.glob("[!.]*/**/*.py") if "site-packages" not in path.parts)
