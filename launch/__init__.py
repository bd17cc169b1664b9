"""What a person starts: train, sweep, compress, decompress, evaluate, report, check_block."""

import importlib.machinery
import sys
from pathlib import Path

# Each room may import the rooms after it (tests/test_rooms.py).
ROOMS = ("launch", "studies", "archive", "eval", "train", "model", "data")


def refuse_hidden_rooms() -> None:
    """Raise ImportError, which names the file and the remedy, if another module hides one of our packages: their names
    are common words, and Python takes the first that it finds on its path."""
    root = Path(__file__).parents[1]
    for room in ROOMS:
        known = sys.modules.get(room)
        spec = known.__spec__ if known else importlib.machinery.PathFinder.find_spec(room)
        found = getattr(spec, "origin", None) or getattr(known, "__file__", None)
        if found and Path(found).resolve() != (root / room / "__init__.py").resolve():
            raise ImportError(
                f"onepass: {found} hides the package {room!r} of Onepass ({root / room}): rename it, or put {root} "
                "before its folder in PYTHONPATH"
            )


# `python -m launch.train` puts the working directory first on the path, and the entry point will put our root there.
if not (sys.argv and sys.argv[0] == "-m"):
    refuse_hidden_rooms()
