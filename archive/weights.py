"""A model's weights as bytes that are decoded back: the first part of a two-part code.

Weights are rounded to integer levels, symmetric about zero, in groups with a step of their own. The project's entropy
coder codes them under counts that adapt as they go, so that no table of frequencies is sent. Steps are powers of
2^(1/8), of which the one with the least squared error is taken; so outliers are clipped where that pays. What
is kept in floating point goes byte plane by byte plane through xz.

Two-part codes of networks: Blier & Ollivier 2018, arXiv:1802.07044, section 2; quantised and entropy-coded weights: Han
et al. 2016, "Deep compression", arXiv:1510.00149. Shapes: `N` weights of a tensor, `G` a group, `S` symbols.
"""

import json
import lzma
import zlib
from collections.abc import Mapping, Set
from math import prod

import numpy as np
import torch

from archive.coder import Decoder, cumulative, encode
from archive.points import FLOATS, Point
from data.errors import UsageError
from model.lm import LanguageModel

FORMATS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# Steps are 2^((symbol + LOWEST) / STEPS_PER_OCTAVE): 2^-24 .. 2^8.
STEPS_PER_OCTAVE, LOWEST, STEP_SYMBOLS = 8, -192, 256
# Down to an eighth of the largest weight of a group: with three levels and large groups, most is clipped.
CLIPPINGS = 3 * STEPS_PER_OCTAVE
# Symbols that are coded before the counts take them in.
CHUNK = 64


def top_level(bits: int) -> int:
    """Levels go from minus this to this: 2^bits - 1 of them, zero among them."""
    return (1 << bits - 1) - 1


def quantise(weights: np.ndarray, bits: int, group: int) -> tuple[np.ndarray, np.ndarray]:
    """Levels [N] of flattened weights, and step symbols [ceil(N / G)]; a `group` of 0 is the whole tensor."""
    group = group or weights.size
    rows = np.pad(weights.ravel(), (0, -weights.size % group)).reshape(-1, group).astype(np.float64)
    top = top_level(bits)
    largest = np.maximum(np.abs(rows).max(1), 2.0**-60)
    widest = np.ceil(STEPS_PER_OCTAVE * np.log2(largest / top)).astype(np.int64) - LOWEST
    tried = (widest - np.arange(CLIPPINGS)[:, None]).clip(0, STEP_SYMBOLS - 1)
    sizes = step_sizes(tried)[..., None]
    errors = [((np.rint(rows / size).clip(-top, top) * size - rows) ** 2).sum(1) for size in sizes]
    steps = tried[np.argmin(errors, 0), np.arange(len(rows))]
    levels = np.rint(rows / step_sizes(steps)[:, None]).clip(-top, top).astype(np.int64)
    return levels.ravel()[: weights.size], steps


def dequantise(levels: np.ndarray, steps: np.ndarray, group: int) -> np.ndarray:
    """The weights [N], float32, that `quantise` made levels and steps of."""
    return (levels * np.repeat(step_sizes(steps), group or levels.size)[: levels.size]).astype(np.float32)


def step_sizes(steps: np.ndarray) -> np.ndarray:
    return np.exp2((steps + LOWEST) / STEPS_PER_OCTAVE)


def parameters(model: LanguageModel) -> dict[str, np.ndarray]:
    """The trained tensors by name, float32, without the tables of context mixing."""
    return {name: tensor.detach().cpu().numpy() for name, tensor in model.named_parameters()}


def pack(tensors: Mapping[str, np.ndarray], point: Point, group: int, kept: Set[str]) -> bytes:
    """All tensors, in order, as bytes: in the floating point that `point` names, or with so many bits a weight, those
    of `kept` in fp16. `unpack` needs nothing but the bytes.

    Raises UsageError for weights that are no numbers in the format, and for bits other than 2 to 8.
    """
    if point not in FLOATS and not 2 <= int(point) <= 8:
        raise UsageError(f"{point} bits a weight: give 2 to 8, or one of {', '.join(map(str, FLOATS))}")
    formats = {name: float_format(point, name in kept) for name in tensors}
    planes = b"".join(to_bytes(name, tensors[name], kind) for name, kind in formats.items() if kind)
    coded, check, steps_coder = [], 0, Adaptive(STEP_SYMBOLS)
    for name in (name for name, kind in formats.items() if not kind):
        refuse_odd(name, tensors[name])
        levels, steps = quantise(tensors[name], int(point), group)
        top = top_level(int(point))
        coded += [steps_coder.shares(steps), Adaptive(2 * top + 1).shares(levels + top)]
        check = zlib.crc32(levels.data, check)
    payload = encode(np.concatenate(coded)[::-1].tolist(), check) if coded else b""
    about = [point, group, [[list(tensors[name].shape), int(name in kept)] for name in tensors]]
    head = json.dumps(about, separators=(",", ":")).encode() + b"\n"
    # The .lzma container has the shortest header.
    front = lzma.compress(head + planes, format=lzma.FORMAT_ALONE, preset=9 | lzma.PRESET_EXTREME)
    return len(front).to_bytes(4, "little") + front + payload


def unpack(packed: bytes) -> list[np.ndarray]:
    """The tensors, float32, of what `pack` returned. Raises UsageError where levels are not those that were coded."""
    length = 4 + int.from_bytes(packed[:4], "little")
    head, _, planes = lzma.decompress(packed[4:length], format=lzma.FORMAT_ALONE).partition(b"\n")
    point, group, entries = json.loads(head)
    decoder, found, check, steps_coder = Decoder(packed[length:]), [], 0, Adaptive(STEP_SYMBOLS)
    for shape, kept in entries:
        size = prod(shape)
        if kind := float_format(point, kept):
            stop = size * FORMATS[kind].itemsize
            found.append(from_bytes(planes[:stop], kind).reshape(shape))
            planes = planes[stop:]
            continue
        steps = steps_coder.symbols(decoder, -(-size // (group or size)))
        levels = Adaptive(2 * top_level(point) + 1).symbols(decoder, size) - top_level(point)
        check = zlib.crc32(levels.data, check)
        found.append(dequantise(levels, steps, group).reshape(shape))
    if decoder.state != check:
        raise UsageError("the weights decode to other levels than were coded")
    return found


class Adaptive:
    """Counts of symbols, one half each at first (Krichevsky & Trofimov 1981), that take in CHUNK symbols at a time."""

    def __init__(self, alphabet: int):
        self.counts = np.full(alphabet, 0.5)

    def shares(self, symbols: np.ndarray) -> np.ndarray:
        """Start and width [N, 2] of each symbol's share of the coder's number."""
        found = []
        for part in np.split(symbols, range(CHUNK, len(symbols), CHUNK)):
            bounds = cumulative(self.counts[None])[0]
            found.append(np.stack([bounds[part], bounds[part + 1] - bounds[part]], 1))
            self.learn(part)
        return np.concatenate(found)

    def symbols(self, decoder: Decoder, total: int) -> np.ndarray:
        """The same, back: the next `total` symbols."""
        found = [np.empty(0, np.int64)]
        for start in range(0, total, CHUNK):
            bounds = cumulative(self.counts[None])
            found.append(decoder.decode(bounds.repeat(min(CHUNK, total - start), 0)))
            self.learn(found[-1])
        return np.concatenate(found)

    def learn(self, symbols: np.ndarray) -> None:
        self.counts += np.bincount(symbols, minlength=len(self.counts))


def float_format(point: Point, kept: bool) -> str:
    """What a tensor is packed in: a key of FORMATS, or "" for levels."""
    return str(point) if point in FLOATS else "fp16" if kept else ""


def to_bytes(name: str, weights: np.ndarray, kind: str) -> bytes:
    """Weights in floating point, all first bytes before all second ones: exponents have something in common."""
    words = torch.from_numpy(weights).flatten().to(FORMATS[kind])
    refuse_odd(name, words.float().numpy())
    return words.view(torch.uint8).numpy().reshape(-1, words.itemsize).T.tobytes()


def from_bytes(planes: bytes, kind: str) -> np.ndarray:
    """Weights [N], float32, of what `to_bytes` returned."""
    raw = np.frombuffer(planes, np.uint8).reshape(FORMATS[kind].itemsize, -1).T.copy()
    return torch.from_numpy(raw).view(FORMATS[kind]).float().flatten().numpy()


def refuse_odd(name: str, weights: np.ndarray) -> None:
    """Raise UsageError unless all weights are finite."""
    if not np.isfinite(weights).all():
        raise UsageError(f"{name} holds weights that are no numbers, or beyond fp16: the run came to nothing")


def pack_counts(counts: np.ndarray) -> bytes:
    """Tables of counts [rows, words], int16, of model/mixing.py: a bit a row that says whether it is empty, and the
    planes of the others' bytes (zeros and ones of each node, the mark), through xz."""
    full = counts.any(1)
    content = np.packbits(full).tobytes() + counts[full].view(np.uint8).T.tobytes()
    return lzma.compress(content, format=lzma.FORMAT_ALONE, preset=2)


def unpack_counts(packed: bytes, rows: int, words: int) -> np.ndarray:
    """Counts [rows, words] of what `pack_counts` returned."""
    content = lzma.decompress(packed, format=lzma.FORMAT_ALONE)
    full = np.unpackbits(np.frombuffer(content[: -(-rows // 8)], np.uint8), count=rows).astype(bool)
    counts = np.zeros((rows, words), np.int16)
    planes = np.frombuffer(content[-(-rows // 8) :], np.uint8).reshape(2 * words, -1)
    counts[full] = np.ascontiguousarray(planes.T).view(np.int16)
    return counts
