"""RWKV7 with chunks as in chunks.py."""

from model.blocks import rwkv7
from model.cuda.chunks import Chunked


class RWKV7(Chunked, rwkv7.RWKV7):
    pass
