"""Token files as other projects' own scripts write them, by the rules of those scripts."""

import struct
from pathlib import Path
from typing import Any

import numpy as np

MEGATRON_TYPES = {"uint8": 1, "int8": 2, "int16": 3, "int32": 4, "int64": 5, "float64": 6, "float32": 7, "uint16": 8}


def nano_gpt(path: Path, ids: list[int]) -> Path:
    """data/openwebtext/prepare.py of karpathy/nanoGPT: a memmap of uint16 and nothing else."""
    path.touch()
    if ids:
        into = np.memmap(path, np.uint16, "w+", shape=(len(ids),))
        into[:] = ids
        into.flush()
    return path


def llm_c(path: Path, ids: list[int], magic: int = 20240520, version: int = 1, dtype: Any = np.uint16) -> Path:
    """write_datafile in dev/data/data_common.py of karpathy/llm.c, also that of KellerJordan/modded-nanogpt; Llama 3
    has another magic, version and type."""
    header = np.zeros(256, dtype=np.int32)
    header[0], header[1], header[2] = magic, version, len(ids)
    path.write_bytes(header.tobytes() + np.array(ids, dtype=dtype).tobytes())
    return path


def llama_3(path: Path, ids: list[int]) -> Path:
    return llm_c(path, ids, 20240801, 7, np.uint32)


def npy(path: Path, ids: list[int], dtype: Any = np.int32) -> Path:
    np.save(path, np.array(ids, dtype))
    return path


def megatron(prefix: Path, documents: list[list[list[int]]], dtype: str = "uint16", rest: int = 0) -> list[Path]:
    """IndexedDatasetBuilder and _IndexWriter in megatron/core/datasets/indexed_dataset.py of NVIDIA/Megatron-LM, for
    documents of sequences; the last `rest` documents do not end."""
    sequences = [sequence for document in documents for sequence in document]
    ends = np.cumsum([0, *map(len, documents)])[: len(documents) + 1 - rest]
    data, index = prefix.with_suffix(".bin"), prefix.with_suffix(".idx")
    data.write_bytes(b"".join(np.array(sequence, dtype).tobytes(order="C") for sequence in sequences))
    pointers, pointer = [], 0
    for sequence in sequences:
        pointers.append(pointer)
        pointer += len(sequence) * np.dtype(dtype).itemsize
    with index.open("wb") as file:
        file.write(b"MMIDIDX\x00\x00")
        file.write(struct.pack("<Q", 1))
        file.write(struct.pack("<B", MEGATRON_TYPES[dtype]))
        file.write(struct.pack("<Q", len(sequences)))
        file.write(struct.pack("<Q", len(ends)))
        file.write(np.array([*map(len, sequences)], dtype=np.int32).tobytes(order="C"))
        file.write(np.array(pointers, dtype=np.int64).tobytes(order="C"))
        file.write(np.array(ends, dtype=np.int64).tobytes(order="C"))
    return [data, index]
