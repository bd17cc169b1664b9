"""Corpora that the choice of a configuration is measured on: those that it was found with, and those that are held out.

    apt-get update; pip install scikit-image

Each corpus is a function of a folder, where Debian packages are unpacked and pictures, sound and DNA are made
(benchmarks/modality_corpora.py). It returns bytes, of which the first so many are used.
"""

import gzip
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy
import skimage
from skimage.io import imread

from benchmarks.ladder import first_bytes
from benchmarks.modality_corpora import file_name, library, make, netpbm, unpack
from data.documents import open_source

LONGEST_BYTES = 10_000_000
DEBIAN = ["anarchism", "fortunes-de", "fortunes-cs", "fortunes-ru", "manpages-de", "emacs-common", "emacs-el"]
SWORD = ["sword-text-web", "sword-text-sparv"]


def king_james(folder: Path) -> bytes:
    return b"".join(chunk for chunk, _ in open_source("kjv").chunks())


def enwik8(folder: Path) -> bytes:
    """FOLDER/enwik8.xz: English Wikipedia in its markup."""
    return first_bytes(folder / "enwik8.xz", LONGEST_BYTES)


def python(folder: Path) -> bytes:
    return library(LONGEST_BYTES)


def modality(name: str) -> Callable[[Path], bytes]:
    """One of benchmarks/modality_corpora.py."""

    def read(folder: Path) -> bytes:
        path = folder / "modalities" / f"{file_name(name)}.bin"
        if not path.exists():
            make(folder / "modalities")
        return path.read_bytes()

    return read


def picture(name: str, rows: int) -> Callable[[Path], bytes]:
    """The first rows of a picture of scikit-image."""
    return lambda folder: netpbm(imread(Path(skimage.__file__).parent / "data" / name)[:rows])


def other_speech(folder: Path) -> bytes:
    """As modality("speech"), other words."""
    modality("speech")(folder)
    sounds = folder / "modalities/debian/usr/share/sounds/alsa"
    return b"".join((sounds / f"{name}.wav").read_bytes() for name in ("Rear_Center", "Rear_Left", "Side_Left"))


def packaged(pattern: str, unlike: str = r"^$") -> Callable[[Path], bytes]:
    """The files of Debian packages by a glob, .gz unpacked, in the order of their paths; no links, nor what matches
    `unlike`."""

    def read(folder: Path) -> bytes:
        paths = sorted(unpack(folder / "choice", DEBIAN).glob(pattern))
        files = [
            path for path in paths if path.is_file() and not path.is_symlink() and not re.search(unlike, path.name)
        ]
        contents = (path.read_bytes() for path in files)
        return b"".join(gzip.decompress(one) if one[:2] == b"\x1f\x8b" else one for one in contents)[:LONGEST_BYTES]

    return read


def prose(folder: Path) -> bytes:
    """The Anarchist FAQ without its markup: plain English."""
    markup = packaged("usr/share/doc/anarchism/html/*.html")(folder)
    return re.sub(rb"\n\s*\n+", b"\n\n", re.sub(rb"<[^>]*>", b"", markup))


def scripture(module: str) -> Callable[[Path], bytes]:
    """A Bible of the SWORD project, without its markup: blocks of verses, each packed by zlib, and an index of offset,
    packed and unpacked bytes, in 32 bits each."""

    def read(folder: Path) -> bytes:
        place = unpack(folder / "sword", SWORD) / "usr/share/sword/modules/texts/ztext" / module
        blocks = []
        for part in ("ot", "nt"):
            packed = (place / f"{part}.bzz").read_bytes()
            for offset, size, _ in struct.iter_unpack("<III", (place / f"{part}.bzs").read_bytes()):
                blocks.append(zlib.decompress(packed[offset : offset + size]))
        return re.sub(rb"<[^>]*>", b"", b"\n".join(blocks))

    return read


def program(folder: Path) -> bytes:
    """NumPy's core, as machine code for this processor."""
    [library] = Path(numpy.__file__).parent.glob("_core/_multiarray_umath.*.so")
    return library.read_bytes()[:LONGEST_BYTES]


FORTUNES = "usr/share/games/fortunes/{}/*"
# By these the rule was found.
SEEN: dict[str, Callable[[Path], bytes]] = {
    "kjv": king_james,
    "enwik8": enwik8,
    "python": python,
    **{
        name: modality(name)
        for name in ("english", "german", "russian", "chinese", "DNA", "speech", "gray pictures", "colour picture")
    },
}
# On these it was checked.
HELD_OUT: dict[str, Callable[[Path], bytes]] = {
    "prose": prose,
    "html": packaged("usr/share/doc/anarchism/html/*.html"),
    "quotations, german": packaged(FORTUNES.format("de"), r"\.(dat|u8)$"),
    "quotations, czech": packaged(FORTUNES.format("cs"), r"\.(dat|u8)$"),
    "quotations, russian": packaged(FORTUNES.format("ru"), r"\.(dat|u8)$"),
    "manual pages": packaged("usr/share/man/de/man*/*.gz"),
    "lisp": packaged("usr/share/emacs/*/lisp/**/*.el.gz"),
    "program": program,
    "bible, modern": scripture("engWEB2015eb"),
    "bible, spanish": scripture("spaRV1909eb"),
    **{name: modality(name) for name in ("french", "japanese", "random DNA")},
    "other speech": other_speech,
    "bricks": picture("brick.png", 512),
    "coffee": picture("coffee.png", 200),
}
CORPORA = SEEN | HELD_OUT
