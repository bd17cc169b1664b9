"""Forms for CUDA of what the files of the same names in blocks/ and in model/ define. They are faster there, and differ
in rounding alone.

A class here has the name of the class that it derives from, the reference, and replaces the core of it.
`engine.kernels` chooses between the two. A decoder has these files, and is charged for them, only where that is on.
"""

from importlib import import_module
from importlib.util import find_spec

from torch import nn


def use_kernels(model: nn.Module) -> nn.Module:
    """Give the parts of `model` that have a form for CUDA that form; returns the model."""
    for part in model.modules():
        kind = type(part)
        room, _, name = kind.__module__.rpartition(".")
        if room in ("model", "model.blocks") and find_spec(f"{__name__}.{name}"):
            part.__class__ = getattr(import_module(f"{__name__}.{name}"), kind.__name__, kind)
    return model
