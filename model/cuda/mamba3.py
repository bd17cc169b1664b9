"""Mamba3 with chunks as in chunks.py."""

from model.blocks import mamba3
from model.cuda.chunks import Chunked


class Mamba3(Chunked, mamba3.Mamba3):
    pass
