"""Corpora of several kinds, out of packages: pictures, sound, source code, DNA, one text in six languages.

    apt-get update; apt-get install flac optipng zopfli libjxl-tools; pip install scikit-image
    python benchmarks/modality_corpora.py FOLDER

Writes FOLDER/NAME.bin, what is to be coded, and beside it FOLDER/NAME/, the files that it is made of. Debian packages
are fetched by apt-get download and unpacked in FOLDER, not installed. Sizes are such that a run takes a minute or two.
"""

import gzip
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import numpy as np
import skimage
from skimage.io import imread

DEBIAN = ["alsa-utils", "abacas-examples", "debian-faq"]
DEBIAN += [f"debian-faq-{language}" for language in ("de", "fr", "ru", "ja", "zh-cn")]
LANGUAGES = {"english": "en", "german": "de", "french": "fr", "russian": "ru", "japanese": "ja", "chinese": "zh-cn"}
MOST_BYTES = 500_000
PICTURE_ROWS = 320


def make(folder: Path) -> list[str]:
    """All corpora; returns their names."""
    unpacked = unpack(folder / "debian", DEBIAN)
    made = pictures() | sound(unpacked) | {"source code": [("library.py", library())]} | dna(unpacked) | texts(unpacked)
    for name, files in made.items():
        parts = folder / file_name(name)
        parts.mkdir(exist_ok=True)
        for file, content in files:
            (parts / file).write_bytes(content)
        (folder / f"{file_name(name)}.bin").write_bytes(b"".join(content for _, content in files))
    return list(made)


def unpack(folder: Path, packages: list[str]) -> Path:
    """`folder` with the files of Debian packages, which are fetched unless it exists."""
    if not folder.exists():
        with tempfile.TemporaryDirectory() as fetched:
            subprocess.run(["apt-get", "download", *packages], cwd=fetched, check=True)
            folder.mkdir(parents=True)
            for package in sorted(Path(fetched).glob("*.deb")):
                subprocess.run(["dpkg-deb", "-x", str(package), str(folder)], check=True)
    return folder


def file_name(corpus: str) -> str:
    return corpus.replace(" ", "-")


Files = dict[str, list[tuple[str, bytes]]]


def pictures() -> Files:
    """8-bit pictures as binary PGM and PPM: a line of header, then rows of pixels."""
    source = Path(skimage.__file__).parent / "data"
    gray = [(f"{name}.pgm", netpbm(imread(source / f"{name}.png"))) for name in ("camera", "gravel")]
    colour = netpbm(imread(source / "astronaut.png")[:PICTURE_ROWS])
    return {"gray pictures": gray, "colour picture": [("astronaut.ppm", colour)]}


def netpbm(pixels: np.ndarray) -> bytes:
    """Pixels [rows, columns] or [rows, columns, 3], uint8."""
    kind = "P5" if pixels.ndim == 2 else "P6"
    return f"{kind} {pixels.shape[1]} {pixels.shape[0]} 255\n".encode() + pixels.tobytes()


def sound(unpacked: Path) -> Files:
    """Speech, 16 bits, one channel, 48,000 samples a second, as WAV."""
    files = [
        unpacked / "usr/share/sounds/alsa" / f"{name}.wav" for name in ("Front_Center", "Front_Left", "Rear_Right")
    ]
    return {"speech": [(path.name, path.read_bytes()) for path in files]}


def library(most_bytes: int = MOST_BYTES) -> bytes:
    """Python's own library: whole modules in the order of their names."""
    text = b"".join(path.read_bytes() for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")))
    return text[:most_bytes]


def dna(unpacked: Path) -> Files:
    """Bases without line ends: the first of Streptococcus suis SC84, and as many thrown by a fair die of four sides,
    which nothing can describe in less than 2 bits each."""
    text = gzip.decompress((unpacked / "usr/share/doc/abacas-examples/SS_SC84.dna.gz").read_bytes())
    bases = b"".join(text.split(b"\n")[1:])[:MOST_BYTES]
    thrown = np.frombuffer(b"acgt", np.uint8)[np.random.default_rng(0).integers(0, 4, MOST_BYTES)].tobytes()
    return {"DNA": [("suis.txt", bases)], "random DNA": [("random.txt", thrown)]}


def texts(unpacked: Path) -> Files:
    """The Debian FAQ, translated in part."""
    folder = unpacked / "usr/share/doc/debian/FAQ"
    return {
        name: [(f"{code}.txt", gzip.decompress((folder / f"debian-faq.{code}.txt.gz").read_bytes()))]
        for name, code in LANGUAGES.items()
    }


if __name__ == "__main__":
    target = Path(sys.argv[1])
    for corpus in make(target):
        path = target / f"{file_name(corpus)}.bin"
        print(f"{path.stat().st_size:>9,} bytes  {path}")
