"""MLSTM with chunks as in chunks.py."""

from model.blocks import mlstm
from model.cuda.chunks import Chunked


class MLSTM(Chunked, mlstm.MLSTM):
    pass
