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
from collections.abc import Iterator, Mapping, Set
from math import prod
from typing import Literal

import numpy as np

from archive.coder import Decoder, cumulative, encode
from data.errors import UsageError
from model.lm import LanguageModel

Point = Literal["fp32", "fp16", "bf16"] | int
FLOATS: tuple[Point, ...] = ("fp32", "fp16", "bf16")
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
    best, steps = np.full(len(rows), np.inf), np.zeros(len(rows), np.int64)
    for clipping in range(CLIPPINGS):
        tried = (widest - clipping).clip(0, STEP_SYMBOLS - 1)
        size = step_sizes(tried)[:, None]
        error = ((np.rint(rows / size).clip(-top, top) * size - rows) ** 2).sum(1)
        better = error < best
        best[better], steps[better] = error[better], tried[better]
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
    floating = [(name, point if point in FLOATS else "fp16") for name in tensors if point in FLOATS or name in kept]
    planes = b"".join(to_bytes(name, tensors[name], str(kind)) for name, kind in floating)
    others = [name for name in tensors if point not in FLOATS and name not in kept]
    coded = []
    check, steps_coder = 0, Adaptive(STEP_SYMBOLS)
    for name in others:
        refuse_odd(name, tensors[name])
        levels, steps = quantise(tensors[name], int(point), group)
        coded.append(steps_coder.shares(steps))
        coded.append(Adaptive(2 * top_level(int(point)) + 1).shares(levels + top_level(int(point))))
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
        if point in FLOATS or kept:
            kind = point if point in FLOATS else "fp16"
            part, planes = planes[: size * width_bytes(kind)], planes[size * width_bytes(kind) :]
            found.append(from_bytes(part, kind).reshape(shape))
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

    def chunks(self, total: int) -> Iterator[tuple[int, np.ndarray]]:
        """How many symbols come next, and their bounds [S + 1], for `total` symbols."""
        for start in range(0, total, CHUNK):
            yield min(CHUNK, total - start), cumulative(self.counts[None])[0]

    def learn(self, symbols: np.ndarray) -> None:
        self.counts += np.bincount(symbols, minlength=len(self.counts))

    def shares(self, symbols: np.ndarray) -> np.ndarray:
        """Start and width [N, 2] of each symbol's share of the coder's number."""
        found, at = [np.empty((0, 2), np.int64)], 0
        for count, bounds in self.chunks(len(symbols)):
            part = symbols[at : at + count]
            found.append(np.stack([bounds[part], bounds[part + 1] - bounds[part]], 1))
            self.learn(part)
            at += count
        return np.concatenate(found)

    def symbols(self, decoder: Decoder, total: int) -> np.ndarray:
        """The same, back: the next `total` symbols."""
        found = [np.empty(0, np.int64)]
        for count, bounds in self.chunks(total):
            found.append(decoder.decode(np.broadcast_to(bounds, (count, len(bounds)))))
            self.learn(found[-1])
        return np.concatenate(found)


def width_bytes(kind: str) -> int:
    return 4 if kind == "fp32" else 2


def to_bytes(name: str, weights: np.ndarray, kind: str) -> bytes:
    """Weights in floating point, all first bytes before all second ones: exponents have something in common."""
    refuse_odd(name, weights)
    flat = weights.ravel().astype("<f4")
    if kind == "fp16":
        with np.errstate(over="ignore"):
            words = flat.astype("<f2")
        refuse_odd(name, words)
    elif kind == "bf16":
        # To the nearest, and to even halfway.
        whole = flat.view("<u4").astype(np.uint64)
        words = ((whole + 0x7FFF + (whole >> np.uint64(16) & np.uint64(1))) >> np.uint64(16)).astype("<u2")
    else:
        words = flat
    return words.view(np.uint8).reshape(-1, width_bytes(kind)).T.tobytes()


def from_bytes(planes: bytes, kind: str) -> np.ndarray:
    """Weights [N], float32, of what `to_bytes` returned."""
    raw = np.frombuffer(planes, np.uint8).reshape(width_bytes(kind), -1).T.copy()
    if kind == "bf16":
        return (raw.view("<u2").astype("<u4") << 16).view("<f4").ravel()
    return raw.view("<f2" if kind == "fp16" else "<f4").astype(np.float32).ravel()


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
