"""Mamba by the kernel of scans.py."""

from typing import Any

from torch import Tensor

from model.blocks import mamba
from model.cuda.scans import selective_scan


class Mamba(mamba.Mamba):
    def scan(self, *inputs: Tensor) -> Any:
        return selective_scan(*inputs)[:2]
