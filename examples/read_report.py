"""Print the terms of a finished run, and how it compares with xz.

python examples/read_report.py RUN_DIR
"""

import json
import sys
from pathlib import Path


def describe(report_file: Path) -> str:
    report = json.loads(report_file.read_text())
    length, corpus = report["description_length"], report["corpus"]
    lines = [f"{corpus['name']}, {corpus['bytes']:,} bytes, by {report['model']['block']}"]
    for term in ("data", "code", "tokenizer", "side", "total"):
        size = length[f"{term}_bits"] / 8
        lines.append(f"{term:<10}{size:>14,.0f} bytes{8 * size / corpus['bytes']:>9.4f} bits a byte")
    # Runs with --run.baselines false have none.
    if xz := report["baselines"].get("xz-9e"):
        lines.append(f"{'xz -9e':<10}{xz:>14,} bytes, {8 * xz / length['total_bits']:.2f} times our total")
    return "\n".join(lines)


if __name__ == "__main__":
    print(describe(Path(sys.argv[1]) / "report.json"))
