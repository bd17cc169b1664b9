"""The table of benchmarks/modalities.py, and pictures as bytes."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import modalities
from benchmarks.modality_corpora import netpbm, pictures

ROWS = """date,commit,corpus,bytes,coder,coded_bytes,data_bytes,elapsed_secs,options
2026-01-01,abc,speech,1000,flac,500,,,
2026-01-01,abc,speech,1000,xz-9e,700,,,
2026-01-01,abc,speech,1000,brotli-11,710,,,
2026-01-01,abc,speech,1000,ppmd,690,,,
2026-01-01,abc,speech,1000,default,600,500,1.0,
2026-01-02,def,speech,1000,default,400,300,1.0,
2026-01-02,def,speech,1000,bytes,450,300,1.0,
"""


def test_the_latest_row_counts_and_the_smallest_is_bold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rows.csv").write_text(ROWS)
    monkeypatch.setattr(modalities, "RESULTS", tmp_path / "rows.csv")
    head, _, row = modalities.table().splitlines()
    assert head.startswith(
        "| corpus | bytes | the defaults | bytes.yaml | of it data | bits/byte | specialised | xz-9e |"
    )
    assert row == "| speech | 1,000 | **400** | 450 | 300 | 3.200 | flac 500 | 700 | 710 | 690 |"


@pytest.mark.parametrize("shape", [(3, 5), (3, 5, 3)])
def test_a_picture_is_a_header_and_its_pixels(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    content = netpbm(pixels)
    assert content.endswith(pixels.tobytes())
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(content))), pixels)


def test_pictures_come_from_the_package() -> None:
    made = pictures()
    assert {name: [file for file, _ in files] for name, files in made.items()} == {
        "gray pictures": ["camera.pgm", "gravel.pgm"],
        "colour picture": ["astronaut.ppm"],
    }
    (_, camera), _ = made["gray pictures"]
    assert camera.startswith(b"P5 512 512 255\n")
    assert len(camera) == 15 + 512 * 512
