"""KDA with chunks as in chunks.py."""

from model.blocks import kda
from model.cuda.chunks import Chunked


class KDA(Chunked, kda.KDA):
    pass
