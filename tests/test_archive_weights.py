"""Weights as bytes and back: what is lost, what it costs, what is refused."""

import math

import numpy as np
import pytest
import torch

from archive.weights import (
    FLOATS,
    dequantise,
    pack,
    pack_counts,
    quantise,
    step_sizes,
    top_level,
    unpack,
    unpack_counts,
)

RANDOM = np.random.default_rng(0)
MATRIX = RANDOM.normal(scale=0.1, size=(257, 33)).astype(np.float32)
TENSORS = {
    "matrix": MATRIX,
    "zeros": np.zeros((7, 13), np.float32),
    "vector": RANDOM.uniform(-9, 9, 50).astype(np.float32),
    "tiny": np.full((3, 1, 1), -1e-30, np.float32),
    "scalar": np.array(2.5, np.float32),
}


@pytest.mark.parametrize("group", [0, 1, 64, 10_000])
@pytest.mark.parametrize("point", [*FLOATS, 2, 5, 8])
def test_what_comes_back_is_what_was_quantised(point: int | str, group: int) -> None:
    found = dict(zip(TENSORS, unpack(pack(TENSORS, point, group, {"vector"})), strict=True))  # type: ignore[arg-type]
    half = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
    for name, weights in TENSORS.items():
        assert found[name].shape == weights.shape
        assert found[name].dtype == np.float32
        if point in half or name == "vector":
            kept = half[str(point) if point in half else "fp16"]
            expected = torch.from_numpy(weights).to(kept).float().numpy()
        else:
            assert isinstance(point, int)
            expected = dequantise(*quantise(weights, point, group), group).reshape(weights.shape)
        assert np.array_equal(found[name], expected), name


def test_a_weight_is_off_by_half_a_step_unless_it_is_clipped_and_steps_are_the_best_there_are() -> None:
    for bits in range(2, 9):
        levels, steps = quantise(MATRIX, bits, 64)
        size = np.repeat(step_sizes(steps), 64)[: MATRIX.size]
        clipped = np.abs(levels) == top_level(bits)
        error = np.abs(levels * size - MATRIX.ravel())
        assert (error[~clipped] <= size[~clipped] / 2 + 1e-9).all()
    # Against every step of a fine grid, octaves of it.
    weights = RANDOM.normal(size=1 << 14)
    for bits in range(2, 6):
        top, tried = top_level(bits), np.geomspace(0.05, 4, 400)
        least = min(((np.rint(weights / s).clip(-top, top) * s - weights) ** 2).mean() for s in tried)
        error = ((dequantise(*quantise(weights, bits, 0), 0) - weights) ** 2).mean()
        assert error == pytest.approx(least, rel=0.01)


def test_levels_cost_their_entropy() -> None:
    weights = {"w": RANDOM.laplace(size=(300, 200)).astype(np.float32)}
    levels, _ = quantise(weights["w"], 4, 0)
    _, counts = np.unique(levels, return_counts=True)
    entropy_bytes = -(counts * np.log2(counts / counts.sum())).sum() / 8
    assert entropy_bytes < len(pack(weights, 4, 0, set())) < 1.005 * entropy_bytes + 150
    # Exponents and signs of one scale take less than their bits.
    assert len(pack(weights, "bf16", 0, set())) < 0.75 * 2 * levels.size
    assert len(pack({"z": np.zeros(100_000, np.float32)}, 8, 0, set())) < 150 + 255 * math.log2(1e5) / 16


def test_damage_and_weights_that_are_no_numbers_are_refused() -> None:
    packed = bytearray(pack({"matrix": MATRIX}, 4, 64, set()))
    packed[-100] ^= 1
    with pytest.raises(ValueError, match="other levels"):
        unpack(bytes(packed))
    for point, bad in ((4, math.nan), ("fp32", math.inf), ("fp16", 1e6)):
        with pytest.raises(ValueError, match="w holds weights that are no numbers"):
            pack({"w": np.array([1.0, bad], np.float32)}, point, 64, set())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="9 bits a weight"):
        pack(TENSORS, 9, 64, set())


def test_tables_of_counts_come_back_and_empty_rows_are_cheap() -> None:
    counts = np.zeros((10_001, 8), np.int16)
    counts[::97] = RANDOM.integers(-(1 << 15), 1 << 15, (104, 8))
    packed = pack_counts(counts)
    assert np.array_equal(unpack_counts(packed, *counts.shape), counts)
    assert len(packed) < 16 * 104 + 10_001 / 8
