"""The precisions that a model's weights can be sent in: as floats of a format, or as so many bits each."""

from typing import Literal

Point = Literal["fp32", "fp16", "bf16"] | int
FLOATS: tuple[Point, ...] = ("fp32", "fp16", "bf16")
