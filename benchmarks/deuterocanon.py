"""Text of the Bible's kind that the King James Bible does not hold, for held-out evaluation: seven more books.

    apt-get download sword-text-web && dpkg-deb -x sword-text-web_*.deb web
    python benchmarks/deuterocanon.py web/usr/share/sword/modules/texts/ztext/engWEB2015eb > deuterocanon.txt

The deuterocanonical books of the World English Bible (public domain), as Debian packages it for SWORD: zlib streams of
OSIS XML, verses by an index. They come out as data.source kjv has it, a line a verse: citation, space, text. Notes are
dropped, quotation marks too (the King James Bible has none), apostrophes and dashes are ASCII. Their English is ours.
"""

import re
import struct
import sys
import zlib
from pathlib import Path

BOOKS = {"Jdt": "Judith", "Wis": "Wisdom", "1Esd": "1 Esdras", "2Esd": "2 Esdras", "1Macc": "1 Maccabees",
         "2Macc": "2 Maccabees", "3Macc": "3 Maccabees"}  # fmt: skip
CHAPTER = re.compile(rb'<chapter[^>]*osisID="(\w+)\.(\d+)"')


def verses(folder: Path) -> list[str]:
    blocks, index, packed = (Path(folder, f"ot.bz{kind}").read_bytes() for kind in "svz")
    texts = [zlib.decompress(packed[start : start + size]) for start, size, _ in struct.iter_unpack("<III", blocks)]
    found, book, chapter, verse, before = [], "", 0, 0, (0, 0)
    for block, start, size in struct.iter_unpack("<IIH", index):
        entry = texts[block][start : start + size]
        if b'type="book"/>' in entry:
            book = ""  # till its first chapter there are titles
        if mark := CHAPTER.search(entry):
            book, chapter, verse = BOOKS.get(mark[1].decode(), ""), int(mark[2]), 0
        text = plain(entry)
        if text and (block, start) != before:
            verse += 1
            if book:
                found.append(f"{book} {chapter}:{verse} {text}\n")
        before = block, start
    return found


def plain(entry: bytes) -> str:
    text = re.sub(r"<(note|title)\b.*?</\1>", "", entry.decode(), flags=re.DOTALL)
    text = re.sub(r"<[^>]*>", "", text).translate(str.maketrans("’—", "'-", "“”‘"))
    return " ".join(text.split())


if __name__ == "__main__":
    sys.stdout.writelines(verses(Path(sys.argv[1])))
