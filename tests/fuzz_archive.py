"""A campaign against archive.format.open_archive: random damage, which it must refuse by ArchiveError and nothing else.

    python tests/fuzz_archive.py --seconds 60              damages a small made-up archive
    python tests/fuzz_archive.py --seconds 60 ARCHIVE      damages copies of this one

Prints how often each kind of damage was refused, did nothing, or was accepted. The kinds named resealed get new
checksums: those may be accepted, for no check knows which payload was meant. Exit status 1 after a surprise: damage
without new checksums that was accepted, another exception, a message that does not say where. Such files are kept.
"""

import argparse
import io
import json
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from made_up_archive import Frames, made_up_frames, magic_of, seal

from archive.checked_frames import frame
from archive.format import ArchiveError, open_archive, write_archive
from archive.frames import read_frames

HOSTILE = [0, -1, True, None, 1.5, float("nan"), 10**18, 10**30, "", "x", "\udc80", [], [[]], {}, {"a": 1}]


def part(random: Random, content: bytes, longest: int = 40) -> tuple[int, int]:
    start = random.randint(0, len(content))
    return start, min(len(content), start + random.randint(0, longest))


def flip(random: Random, content: bytes) -> bytes:
    if not content:
        return content
    at = random.randrange(len(content))
    return content[:at] + bytes([content[at] ^ 1 << random.randrange(8)]) + content[at + 1 :]


def overwrite(random: Random, content: bytes) -> bytes:
    start, stop = part(random, content)
    return content[:start] + random.randbytes(stop - start) + content[stop:]


def insert(random: Random, content: bytes) -> bytes:
    at = random.randint(0, len(content))
    return content[:at] + random.randbytes(random.randint(0, 40)) + content[at:]


def delete(random: Random, content: bytes) -> bytes:
    start, stop = part(random, content)
    return content[:start] + content[stop:]


def splice(random: Random, content: bytes) -> bytes:
    start, stop = part(random, content, len(content))
    to_start, to_stop = part(random, content, len(content))
    return content[:to_start] + content[start:stop] + content[to_stop:]


def truncate(random: Random, content: bytes) -> bytes:
    return content[: random.randint(0, len(content))]


def append(random: Random, content: bytes) -> bytes:
    return content + random.randbytes(random.randint(0, 40))


def swap(random: Random, items: list) -> list:
    first, second = random.choices(range(len(items)), k=2)
    items[first], items[second] = items[second], items[first]
    return items


def drop(random: Random, items: list) -> list:
    del items[random.randrange(len(items))]
    return items


def double(random: Random, items: list) -> list:
    items.insert(random.randint(0, len(items)), random.choice(items))
    return items


BYTE_KINDS: list[Callable[[Random, bytes], bytes]] = [flip, overwrite, insert, delete, splice, truncate, append]
FRAME_KINDS: list[Callable[[Random, list], list]] = [swap, drop, double]


def length_claim(random: Random, frames: Frames) -> bytes:
    """Another length than the content's in one frame, under a right checksum."""
    sealed = [frame(number, *parts) for number, parts in enumerate(frames)]
    number = random.randrange(len(frames))
    kind, content = frames[number]
    claim = random.choice([0, 1, len(content) + 1, (1 << 32) - 1, random.randrange(1 << 32)])
    body = kind + claim.to_bytes(4, "little") + content
    checksum = zlib.crc32(number.to_bytes(4, "little") + body)
    sealed[number] = body + checksum.to_bytes(4, "little")
    return magic_of(frames) + b"".join(sealed)


def header_value(random: Random, frames: Frames) -> bytes:
    """Another value, or none, for one key of the header."""
    header = json.loads(zlib.decompress(frames[0][1]))
    place = random.choice([header, header, *(value for value in header.values() if isinstance(value, dict))])
    name = random.choice([*place, "surprise"])
    if random.randrange(4):
        place[name] = random.choice(HOSTILE)
    else:
        place.pop(name, None)
    text = json.dumps(header, sort_keys=True, separators=(",", ":"))
    return seal([(b"H", zlib.compress(text.encode())), *frames[1:]])


def header_text(random: Random, frames: Frames) -> bytes:
    """Damaged JSON in the header."""
    text = random.choice(BYTE_KINDS)(random, zlib.decompress(frames[0][1]))
    return seal([(b"H", zlib.compress(text)), *frames[1:]])


def damage(random: Random, original: bytes, frames: Frames) -> tuple[str, bytes]:
    """A kind of damage and the damaged file."""
    change_bytes, change_frames = random.choice(BYTE_KINDS), random.choice(FRAME_KINDS)
    match random.randrange(9):
        case 0 | 1 | 2:
            return change_bytes.__name__, change_bytes(random, original)
        case 3:
            sealed = [frame(number, *parts) for number, parts in enumerate(frames)]
            return f"{change_frames.__name__} frames", magic_of(frames) + b"".join(change_frames(random, sealed))
        case 4:
            return f"{change_frames.__name__} frames, resealed", seal(change_frames(random, list(frames)))
        case 5:
            number = random.randrange(len(frames))
            changed = frames[number][0], change_bytes(random, frames[number][1])
            return "content, resealed", seal([*frames[:number], changed, *frames[number + 1 :]])
        case 6:
            return "length claim, resealed", length_claim(random, frames)
        case 7:
            return "header value, resealed", header_value(random, frames)
        case _:
            return "header text, resealed", header_text(random, frames)


def outcome(path: Path, changed: bool, resealed: bool) -> str:
    """What came of opening the file."""
    try:
        open_archive(path)
    except ArchiveError as error:
        located = str(error).startswith(f"{path}: ") and " at byte " in str(error)
        return "refused" if changed and located else f"SURPRISE: {error}"
    except Exception as error:
        return f"SURPRISE: {type(error).__name__}: {error}"
    if not changed:
        return "unchanged"
    return "accepted" if resealed else "SURPRISE: accepted"


def campaign(original: bytes, seconds: float, seed: int, folder: Path) -> Counter[tuple[str, str]]:
    """Damage the archive for so long, or until nine surprises; returns the number of each (kind, outcome)."""
    frames, random, counts = list(read_frames(io.BytesIO(original))), Random(seed), Counter[tuple[str, str]]()
    assert seal(frames) == original
    path, deadline, surprises = folder / "damaged", time.monotonic() + seconds, 0
    while time.monotonic() < deadline and surprises < 9:
        kind, content = damage(random, original, frames)
        path.write_bytes(content)
        found = outcome(path, content != original, kind.endswith("resealed"))
        counts[kind, found.split(":")[0]] += 1
        if found.startswith("SURPRISE"):
            surprises += 1
            kept = path.rename(folder / f"surprise-{surprises}")
            print(f"{kept}: {kind}: {found}", file=sys.stderr)
    return counts


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", metavar="ARCHIVE", type=Path, nargs="?")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    options = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="onepass-fuzz-"))
    original = folder / "original"
    if options.archive:
        original.write_bytes(options.archive.read_bytes())
    else:
        write_archive(original, made_up_frames())
    open_archive(original)
    counts = campaign(original.read_bytes(), options.seconds, options.seed, folder)
    outcomes = ["refused", "unchanged", "accepted", "SURPRISE"]
    print(f"{f'seed {options.seed}':<30}" + "".join(f"{name:>12}" for name in outcomes))
    for kind in sorted({kind for kind, _ in counts}):
        print(f"{kind:<30}" + "".join(f"{counts[kind, name]:>12,}" for name in outcomes))
    print(f"{'all':<30}" + "".join(f"{sum(counts[key] for key in counts if key[1] == name):>12,}" for name in outcomes))
    for name in ("original", "damaged"):
        (folder / name).unlink(missing_ok=True)
    if any(name == "SURPRISE" for _, name in counts):
        return 1
    folder.rmdir()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
