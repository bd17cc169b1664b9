"""Train two widths over one file in one process and compare their descriptions.

python examples/train_from_python.py FILE [RUNS_DIR]
"""

import sys
from pathlib import Path

from launch.train import train
from train.command_line import parse_config


def compare_widths(source: str, runs: Path, widths: tuple[int, ...] = (32, 64)) -> dict[int, float]:
    """Train a run per width. Returns the data term of each in bytes."""
    data_bytes = {}
    for width in widths:
        options = [
            f"--data.source={source}",
            "--model.block=ssd attention",
            f"--model.width={width}",
            "--model.ngram_orders=[]",  # compare networks, without the counts beside them
            "--run.baselines=false",
            f"--run.dir={runs / f'width-{width}'}",
        ]
        report = train(parse_config("", options))
        assert report is not None  # it is None on ranks other than 0
        data_bytes[width] = report.description_length.data_bits / 8
    return data_bytes


if __name__ == "__main__":
    found = compare_widths(sys.argv[1], Path(sys.argv[2] if len(sys.argv) > 2 else "runs/widths"))
    for width, size in found.items():
        print(f"width {width}: {size:,.0f} bytes of data")
