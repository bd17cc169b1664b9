"""Files through launch/compress.py and launch/decompress.py, and what came back.

    python benchmarks/round_trips.py [FILE ...] [--made] [--ranks N] [-- any option of launch/compress.py]

`--made` adds files that are made on the spot: an empty one, one byte, a WAV of 2 s (16-bit stereo chords with noise),
a PPM (every other pixel of the README's figure), 1 MB of random bytes and 10 MB of zeros; `--made NAME,NAME` some.
Prints a Markdown table: bytes, reported total, archive, difference, whether the SHA-256 came back, and seconds.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)
from launch import entry

entry.begin(__name__)

import hashlib
import subprocess
import tempfile
import time
import wave

import numpy as np
from matplotlib import image

from archive.format import open_archive
from eval.description_length import side_bits
from train.ranks import free_port

MADE = ("empty", "one", "chords.wav", "figure.ppm", "random", "zeros")


def make(folder: Path) -> list[Path]:
    """The made files."""
    random = np.random.default_rng(0)
    secs = np.arange(2 * 44100) / 44100
    chord = sum(np.sin(2 * np.pi * pitch * secs) * np.exp(-secs % 1.1) for pitch in (220, 277.18, 329.63, 440))
    sides = np.stack([chord, np.roll(chord, 300)], 1) * 5000 + random.normal(0, 20, (len(secs), 2))
    with wave.open(str(folder / "chords.wav"), "wb") as file:
        file.setparams((2, 2, 44100, 0, "NONE", ""))
        file.writeframes(sides.astype("<i2").tobytes())
    pixels = (image.imread(ROOT / "docs/kjv-light.png")[::2, ::2, :3] * 255).astype(np.uint8)
    (folder / "figure.ppm").write_bytes(b"P6 %d %d 255\n" % (pixels.shape[1], pixels.shape[0]) + pixels.tobytes())
    (folder / "random").write_bytes(random.bytes(1_000_000))
    (folder / "zeros").write_bytes(bytes(10_000_000))
    (folder / "empty").touch()
    (folder / "one").write_bytes(b"x")
    return [folder / name for name in MADE]


def timed(ranks: int, program: str, *arguments: str) -> float:
    """Seconds that a program of ours took. Raises RuntimeError with what it said if it failed."""
    command = [sys.executable, str(ROOT / program), *arguments]
    if ranks > 1:
        launcher = [sys.executable, "-m", "deepspeed.launcher.runner", f"--num_accelerators={ranks}"]
        command = [*launcher, f"--master_port={free_port()}", *command[1:]]
    start = time.monotonic()
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: status {done.returncode}: {done.stderr[-2000:]}")
    return time.monotonic() - start


def main() -> None:
    own = sys.argv[1 : sys.argv.index("--")] if "--" in sys.argv else sys.argv[1:]
    parser = entry.Parser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--made", nargs="?", const=",".join(MADE), help="add the made files, or those named")
    parser.add_argument("--ranks", type=int, default=1)
    options = parser.parse_args(own)
    more = sys.argv[len(own) + 2 :]
    entry.publish("| file | bytes | reported total | archive | difference | same SHA-256 | compress | decompress |")
    entry.publish("|---|---:|---:|---:|---:|---|---:|---:|")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        made = [path for path in make(folder) if path.name in (options.made or "").split(",")]
        for path in [*options.files, *made]:
            archive, back = folder / f"{path.name}.onepass", folder / f"{path.name}.back"
            there = timed(options.ranks, "launch/compress.py", str(path), str(archive), *more)
            again = timed(options.ranks, "launch/decompress.py", str(archive), str(back))
            same = hashlib.sha256(back.read_bytes()).digest() == hashlib.sha256(path.read_bytes()).digest()
            opened = open_archive(archive)
            total_bytes = opened.data_bits / 8
            if opened.header["method"] == "model":
                total_bytes += len(opened.program) + len(opened.encoding)
                total_bytes += side_bits(opened.header["corpus"]["tokens"], opened.header["world_size"]) / 8
            size = archive.stat().st_size
            stored = " (stored)" if opened.header["method"] == "stored" else ""
            entry.publish(
                f"| {path.name} | {path.stat().st_size:,} | {total_bytes:,.0f}{stored} | {size:,} | "
                f"{size - total_bytes:+,.0f} | {'yes' if same else 'NO'} | {there:.0f} s | {again:.0f} s |",
                flush=True,
            )


if __name__ == "__main__":
    sys.exit(entry.exit_status(main))
